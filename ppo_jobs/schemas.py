"""What crosses the wire: the objects that the API answers with and the client reads."""

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from ppo_engine.spec import EnvironmentDescription, EvaluationBudgetSpec
from ppo_jobs.states import AttemptOutcome, EventType, JobStatus, QueueName


class WireModel(BaseModel):
    """Readers ignore fields that they do not know, so that the service may add some."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class StatusReason(WireModel):
    code: str
    """Stable and machine-readable, such as `user_request`, `env_error` or `worker_lost`."""
    message: str
    at: datetime
    retryable: bool
    """Whether the same job could succeed if it were retried as it is."""


class Progress(WireModel):
    timesteps: int
    total_timesteps: int
    fraction: float
    """0 to 1."""
    iteration: int
    fps: float | None
    """Environment steps per second of late."""
    eta_seconds: float | None
    last_iteration_at: datetime | None


class QueuePlace(WireModel):
    position: int | None
    """1 is next; null unless the job is queued."""
    reason: str | None
    """Why the job waits, in words; null unless it is queued."""


class Parent(WireModel):
    job_id: str
    checkpoint_id: str | None
    mode: Literal["retry", "fork"]


class Usage(WireModel):
    cpu_seconds: float
    gpu_seconds: float
    env_steps: int
    """Steps that were really taken, those that were done again after a crash too."""
    storage_bytes: int


class Attempt(WireModel):
    number: int
    """Also the fencing token."""
    worker_id: str
    started_at: datetime
    finished_at: datetime | None
    outcome: AttemptOutcome | None
    reason: StatusReason | None
    resumed_from_checkpoint_id: str | None
    runtime: dict[str, JsonValue]


class Job(WireModel):
    object: Literal["job"] = "job"
    id: str
    kind: Literal["train"] = "train"
    name: str | None
    metadata: dict[str, str]
    group: str | None
    status: JobStatus
    status_reason: StatusReason | None
    spec: dict[str, JsonValue]
    """As it was sent."""
    resolved_spec: dict[str, JsonValue]
    """With every default filled in, the seed too."""
    spec_version: int
    wants: QueueName
    progress: Progress
    queue: QueuePlace
    attempt: int
    """How many attempts were started."""
    max_attempts: int
    cancel_requested: bool
    runtime: dict[str, JsonValue] | None
    """What the latest attempt decided: device, backend, vectorization, versions and why."""
    latest_metrics: dict[str, float]
    latest_checkpoint_id: str | None
    best_checkpoint_id: str | None
    final_checkpoint_id: str | None
    parent: Parent | None
    usage: Usage
    last_seq: int
    """The newest `seq` of the ledger."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class LedgerEvent(WireModel):
    seq: int
    """1, 2, 3 … without a gap."""
    type: EventType
    attempt: int
    created_at: datetime
    data: dict[str, JsonValue]


class CheckpointFile(WireModel):
    name: str
    size_bytes: int
    sha256: str
    media_type: str


class Checkpoint(WireModel):
    object: Literal["checkpoint"] = "checkpoint"
    id: str
    job_id: str
    timesteps: int
    iteration: int
    attempt: int
    labels: list[Literal["latest", "best", "final", "pinned"]]
    metrics: dict[str, float]
    resume: Literal["exact", "approximate"]
    size_bytes: int
    files: list[CheckpointFile]
    created_at: datetime


class EvaluationRequest(BaseModel):
    """Which policy plays how many episodes: name a checkpoint, or a job and which of its checkpoints."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    checkpoint_id: Annotated[str, StringConstraints(max_length=100)] | None = None
    job_id: Annotated[str, StringConstraints(max_length=100)] | None = None
    checkpoint: Literal["final", "best", "latest"] | None = None
    """Of the job; `final` unless told otherwise."""
    n_episodes: int = Field(default=100, ge=1, le=10_000)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Null: one is drawn at acceptance and recorded. No environment is seeded as one of training."""
    deterministic: bool = True
    """The likeliest actions instead of sampled ones."""
    max_episode_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Truncate episodes after so many steps; by default where training did. An episode that has no limit at all is cut
    after 27,000."""
    budget: EvaluationBudgetSpec = EvaluationBudgetSpec()


class EvaluationProgress(WireModel):
    episodes: int
    """Played and kept: an evaluation that has to go on elsewhere does not play them again."""
    n_episodes: int
    fraction: float
    """0 to 1."""
    timesteps: int
    """Environment steps so far, those of episodes that have not ended among them."""


class EvaluationResult(WireModel):
    """What the episodes came to. Intervals are of 95 %, by percentile bootstrap; null for a single episode."""

    n_episodes: int
    mean_reward: float
    """Of the undiscounted raw returns."""
    ci95: tuple[float, float] | None
    """Of the mean."""
    iqm_reward: float
    """The interquartile mean: without the lowest and the highest quarter."""
    iqm_ci95: tuple[float, float] | None
    std_reward: float
    mean_length: float
    n_cut: int = 0
    """Episodes that were cut because they had neither an end nor a limit: set `max_episode_steps`."""
    returns: list[float] | None = None
    """Of each episode, in order; null in lists."""
    lengths: list[int] | None = None


class Evaluation(WireModel):
    """Episodes that a checkpoint's policy plays in environments of their own."""

    object: Literal["evaluation"] = "evaluation"
    id: str
    job_id: str
    """The job that trained the policy."""
    checkpoint_id: str
    env_id: str
    status: JobStatus
    status_reason: StatusReason | None
    spec: dict[str, JsonValue] = Field(title="AsSent")
    """As it was sent."""
    resolved_spec: dict[str, JsonValue]
    """The episodes that are played, with the seed and the environment as it was in training."""
    wants: QueueName
    progress: EvaluationProgress
    queue: QueuePlace
    attempt: int
    """How many attempts were started."""
    max_attempts: int
    cancel_requested: bool
    runtime: dict[str, JsonValue] | None
    result: EvaluationResult | None
    """Null until it has succeeded."""
    usage: Usage
    last_seq: int
    """Grows with every change: what `after` takes."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class Seed(WireModel):
    """One training of a group, and how well it did."""

    job_id: str
    seed: int
    score: float


class LeftOut(WireModel):
    """A job of a group that does not count."""

    job_id: str
    reason: str
    """Such as `is running`, or that a newer job has the same seed."""
    superseded: bool
    """Whether a newer job counts in its place; if not, the group is incomplete."""


class GroupSummary(WireModel):
    """How well a group does over its seeds. Intervals are of 95 %, by percentile bootstrap over the seeds."""

    name: str
    n_seeds: int
    mean: float | None
    mean_ci95: tuple[float, float] | None
    iqm: float | None
    """The interquartile mean: without the lowest and the highest quarter."""
    iqm_ci95: tuple[float, float] | None
    seeds: list[Seed]
    left_out: list[LeftOut]


class GroupPair(WireModel):
    """How likely a seed of `a` does better than one of `b`; equal ones count half."""

    a: str
    b: str
    probability_of_improvement: float | None
    ci95: tuple[float, float] | None
    """Stratified: each group is resampled by itself."""


class Comparison(WireModel):
    """Groups of jobs on one environment, compared over their seeds."""

    object: Literal["comparison"] = "comparison"
    score: Literal["evaluation", "eval/mean_reward", "rollout/ep_rew_mean"]
    env_id: str
    groups: list[GroupSummary]
    pairs: list[GroupPair]
    winner: str | None
    """The group that is better than every other one; null where the data do not carry that."""
    reason: str
    """Why there is that winner, or none."""


class MetricsTable(WireModel):
    """Columns of equal length, one row per iteration."""

    object: Literal["metrics"] = "metrics"
    job_id: str
    columns: dict[str, list[int | float | None]]
    """`iteration`, `timesteps`, then the keys; null where an iteration has no value."""
    last_seq: int
    """Pass it as `after` to read only what is newer."""


class LogChunk(WireModel):
    """What environment and child wrote to stdout and stderr in one attempt."""

    object: Literal["log"] = "log"
    job_id: str
    attempt: int
    text: str
    truncated: bool
    """Whether the middle was left out because it was too long."""


class Preset(WireModel):
    object: Literal["preset"] = "preset"
    env_id: str
    spec: dict[str, JsonValue]
    source: str


class Worker(WireModel):
    object: Literal["worker"] = "worker"
    id: str
    queue: QueueName
    slots: int
    free_slots: int
    devices: list[dict[str, JsonValue]]
    versions: dict[str, str]
    draining: bool
    alive: bool
    """Whether its heartbeat is recent."""
    started_at: datetime
    heartbeat_at: datetime


class Environment(EnvironmentDescription):
    object: Literal["environment"] = "environment"
    preset: bool
    """Whether tuned hyperparameters are known."""


class JobPatch(BaseModel):
    """Only what names a job may be changed; null clears."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(min_length=1, max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None


class CheckpointPatch(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    pinned: bool
    """A pinned checkpoint is never deleted by retention."""


class RetryRequest(BaseModel):
    """A new job like the old one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    checkpoint_id: str | None = None
    """Go on from this checkpoint of the old job; null: from its newest one, or the start if it has none."""
    from_start: bool = False
    """Start again without a checkpoint."""


class Fault(WireModel):
    """One entry of `errors`."""

    pointer: str
    """JSON Pointer into the request body, or the name of a parameter."""
    message: str


class Problem(WireModel):
    """Every error that the API answers: RFC 9457, `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[Fault] = []


Item = TypeVar("Item")


class Page(WireModel, Generic[Item]):
    """One page of a list; pass `last_id` as `after` for the next."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Health(WireModel):
    status: Literal["ok", "unavailable"]
    version: str
    checks: dict[str, str] = {}
