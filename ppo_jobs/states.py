"""The states of a job, and which may follow which. `repository` makes every transition; a database check backs it."""

from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
"""Never left again."""

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, JobStatus.PAUSED, *TERMINAL}),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    **{status: frozenset[JobStatus]() for status in TERMINAL},
}


class JobKind(StrEnum):
    """What a job does."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    """Its ids begin with `eval_`; `parent` names the checkpoint, and `result` is what comes out."""


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its lease ran out, or its child died: the job was queued again, or given up."""
    RELEASED = "released"
    """Its worker drained and gave the job back; never counted against `max_attempts`."""


class EventType(StrEnum):
    """What a ledger event tells."""

    STATUS = "status"
    METRICS = "metrics"
    CHECKPOINT = "checkpoint"
    EVALUATION = "evaluation"
    DIAGNOSIS = "diagnosis"
    REWIND = "rewind"


class QueueName(StrEnum):
    """The queues that jobs wait in."""

    CPU = "cpu"
    CUDA = "cuda"


class ReasonCode(StrEnum):
    """Why a job has its status: `status_reason.code`, beside the engine's own error codes."""

    TARGET_REACHED = "target_reached"
    """`timesteps` reached `total_timesteps`."""
    STOP_RULE = "stop_rule"
    EPISODES_PLAYED = "episodes_played"
    """Every episode of an evaluation has been played."""
    USER_REQUEST = "user_request"
    WORKER_LOST = "worker_lost"
    CHILD_DIED = "child_died"
    CHILD_HUNG = "child_hung"
    """The training process lived and got nowhere for so long that it was killed."""
    WORKER_DRAINING = "worker_draining"
    BUDGET_EXHAUSTED = "budget_exhausted"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    CHECKPOINT_UNREADABLE = "checkpoint_unreadable"
    STORAGE_FULL = "storage_full"
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL = "internal"
    ENGINE_COMPILING = "engine_compiling"
    """The job runs, and begins to train once the loops that it needs are compiled for this machine."""
