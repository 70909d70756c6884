"""The job spec: what to train. One frozen model per concern; imports neither torch nor Gymnasium.

A `TrainingSpec` checks shape: types, bounds, unknown fields. What depends on several fields at once, or on the
environment, is checked on the *resolved* spec (`ppo_engine.presets.resolve`), because a preset may fill one of them in.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

SPEC_VERSION = 1
"""Stored beside each spec; a change of meaning raises it and adds an upgrade function."""


class SpecModel(BaseModel):
    """Strict and frozen: `"7"` is no integer, `true` no float, NaN no number, and an unknown field is a fault."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class SpecFault:
    """One thing that is wrong with a spec, and where: `pointer` is a JSON Pointer into it (RFC 6901)."""

    pointer: str
    message: str


class InvalidSpec(ValueError):
    """The spec cannot be trained; `faults` says why, one entry per fault."""

    def __init__(self, faults: list[SpecFault]) -> None:
        super().__init__("; ".join(f"{fault.pointer}: {fault.message}" for fault in faults))
        self.faults = faults


class LinearSchedule(SpecModel):
    """A value that moves in a straight line from `initial` at the start of training to `final` at its end."""

    kind: Literal["linear"] = "linear"
    initial: float = Field(gt=0, le=1e3)
    final: float = Field(default=0.0, ge=0, le=1e3)


Schedule: TypeAlias = Annotated[float, Field(gt=0, le=1e3)] | LinearSchedule
"""A constant, or a `LinearSchedule`."""

EnvironmentId: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?$", max_length=100)
]


class EnvSpec(SpecModel):
    """The environment, and how copies of it are stepped."""

    id: EnvironmentId
    """A Gymnasium id, such as `CartPole-v1`, of the catalogue `GET /v1/environments`."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict, max_length=50)
    """Arguments of the environment, checked against the schema that the catalogue shows."""
    n_envs: int = Field(default=8, ge=1, le=4096)
    """How many copies are stepped side by side (N)."""
    vectorization: Literal["auto", "sync", "process", "batched", "device", "native", "envpool"] = "auto"
    """`sync`: in the training process; `process`: in worker processes; `batched`: our compiled form of a
    classic-control environment; all three give the same bits. `device`: our form of the same environments as tensors
    on the training's device, in float32. `native`: the environment's own vector form, where it has one. `envpool`:
    EnvPool's environment of that id, where EnvPool is installed. `auto` picks the fastest of the first three, or
    `device` where the device is CUDA and the environment has that form."""
    max_episode_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Truncate episodes after so many steps; by default what the environment is registered with."""
    step_timeout_seconds: float = Field(default=60.0, gt=0, le=86_400)
    """A reset or a step that takes longer fails the job."""


class PolicySpec(SpecModel):
    """The networks of actor and critic."""

    network: Literal["mlp"] = "mlp"
    hidden_sizes: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=1, le=4096)], ...], Field(strict=False, max_length=8)
    ] = (64, 64)
    """Units of each hidden layer, for actor and critic alike."""
    activation: Literal["tanh", "relu"] = "tanh"
    share_features: bool = False
    """One trunk for actor and critic instead of two."""
    log_std_init: float = Field(default=0.0, ge=-20, le=2)
    """Initial logarithm of the standard deviation of continuous actions."""
    squash_output: bool = False
    """Actions are the tanh of a Gaussian, scaled to the environment's bounds, instead of a Gaussian that is clipped to
    them. For Box actions whose bounds are finite."""


class PPOSpec(SpecModel):
    """The hyperparameters of PPO-Clip, under Stable-Baselines3's names."""

    total_timesteps: int = Field(default=1_000_000, ge=1, le=10**12)
    """Environment steps to train for; the last iteration is finished, so a little more may be done."""
    n_steps: int = Field(default=256, ge=1, le=1_000_000)
    """Steps per environment in one rollout (T)."""
    batch_size: int = Field(default=64, ge=1, le=10_000_000)
    """Rows of one minibatch (B)."""
    n_epochs: int = Field(default=10, ge=1, le=1000)
    gamma: float = Field(default=0.99, ge=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    learning_rate: Schedule = 3e-4
    clip_range: Schedule = 0.2
    clip_range_vf: Schedule | None = None
    """Clip the value function's change as well; off by default, since its scale is that of the returns."""
    normalize_advantage: Literal["minibatch", "batch", "off"] = "minibatch"
    ent_coef: float = Field(default=0.0, ge=0, le=10)
    vf_coef: float = Field(default=0.5, ge=0, le=100)
    max_grad_norm: float = Field(default=0.5, gt=0, le=1e6)
    target_kl: float | None = Field(default=None, gt=0, le=100)
    """End an iteration's epochs when approx_kl exceeds 1.5 times this, before the step that would follow."""


class NormalizeSpec(SpecModel):
    """Running normalisation, with statistics in float64 that are saved, and frozen in evaluation."""

    observations: bool = True
    rewards: bool = True
    """Divide rewards by the standard deviation of the discounted return."""
    clip_observations: float = Field(default=10.0, gt=0, le=1e6)
    clip_rewards: float = Field(default=10.0, gt=0, le=1e6)


class EvaluationSpec(SpecModel):
    """Evaluation during training, in an environment of its own, on raw returns."""

    every_timesteps: int | None = Field(default=None, ge=1, le=10**12)
    """None: no evaluation during training."""
    n_episodes: int = Field(default=10, ge=1, le=10_000)
    deterministic: bool = True


class CheckpointSpec(SpecModel):
    """When checkpoints are written, and which are kept. One is always written at the end."""

    every_timesteps: int | None = Field(default=None, ge=1, le=10**12)
    every_seconds: float | None = Field(default=30.0, gt=0, le=86_400)
    keep_last: int = Field(default=3, ge=1, le=1000)
    keep_best: int = Field(default=1, ge=0, le=1000)


class MetricsSpec(SpecModel):
    """How often metrics become an event of the ledger."""

    every_iterations: int | None = Field(default=None, ge=1, le=100_000_000)
    """Events hold means over so many iterations; by default as many as keep a job under 10,000 events."""


class StopSpec(SpecModel):
    """Stop before `total_timesteps` when a metric reaches a threshold; the job has then succeeded."""

    metric: Literal["rollout/ep_rew_mean", "eval/mean_reward"] = "rollout/ep_rew_mean"
    threshold: float | None = None
    """None: never stop early."""


class BudgetSpec(SpecModel):
    """Limits that the user sets; none is hidden."""

    max_wall_seconds: float | None = Field(default=None, gt=0, le=10**8)
    """Wall-clock time of training, summed over attempts; beyond it the job fails, keeping its checkpoints."""


class TrainingSpec(SpecModel):
    """What to train. Only `env.id` is required: the preset fills in the rest, and whatever is set here wins."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    metadata: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=512)],
        ],
        Field(max_length=16),
    ] = Field(default_factory=dict)
    preset: Literal["tuned", "default"] = "tuned"
    """`tuned`: start from the hyperparameters that were tuned for this environment, where there are any;
    `default`: start from the general ones."""
    env: EnvSpec
    policy: PolicySpec = PolicySpec()
    ppo: PPOSpec = PPOSpec()
    normalize: NormalizeSpec = NormalizeSpec()
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """None: one is drawn at acceptance and recorded."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is the CPU for an MLP, which is faster there."""
    backend: Literal["auto", "torch", "fused"] = "auto"
    """`torch`: any policy on any device; `fused`: compiled loops for MLP policies on the CPU, the same algorithm on the
    same numbers. `auto` picks the faster one that can do it; which one and why stands in the attempt's `runtime`."""
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    metrics: MetricsSpec = MetricsSpec()
    stop: StopSpec = StopSpec()
    budget: BudgetSpec = BudgetSpec()
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Attempts that may end without a new checkpoint; a job that makes progress is never given up."""
    group: str | None = Field(default=None, min_length=1, max_length=100)
    """Jobs that belong together, such as the seeds of one experiment."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Higher is claimed first; within a priority, the older job."""


class EnvironmentDescription(BaseModel):
    """What a worker knows of one environment: an entry of the catalogue."""

    model_config = ConfigDict(frozen=True)

    id: str
    origin: str
    """Distribution that provides it, with its version."""
    supported: bool
    unsupported_reason: str | None = None
    observation_space: dict[str, JsonValue]
    """`{"type": "Box", "shape": [4], "dtype": "float32", "low": [...], "high": [...]}` and so on; nested for Dict and
    Tuple; infinite bounds are null."""
    action_space: dict[str, JsonValue]
    observation_size: int
    """Features of one flattened observation (D)."""
    action_size: int
    """Outputs of the policy head: logits, or means."""
    max_episode_steps: int | None = None
    kwargs_schema: dict[str, JsonValue]
    """JSON Schema of `env.kwargs`."""
    native_vector: bool = False
    """Whether it may be stepped with `vectorization: "native"`."""
    batched_vector: bool = False
    """Whether it may be stepped with `vectorization: "batched"` or `"device"`."""
    resume: Literal["exact", "approximate"] = "exact"
    resume_note: str | None = None


def wanted_queue(spec: TrainingSpec) -> Literal["cpu", "cuda"]:
    """The queue that a resolved spec waits in: an MLP trains on the CPU unless its user asks for CUDA."""
    return "cuda" if spec.device == "cuda" else "cpu"


def settings_made(model: BaseModel) -> dict[str, Any]:
    """Exactly the fields that were set, nested, as JSON values: what wins over a preset."""
    return model.model_dump(mode="json", exclude_unset=True)
