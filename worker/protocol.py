"""What supervisor, fork server and child say to each other: an assignment and commands on stdin, a journal on disk.

The child appends records to the journal, each one line: the CRC-32 of the payload in eight hex digits, a space, the
payload as JSON, a newline. A line without its newline is still being written; one whose CRC differs was torn by a
crash, and nothing after it counts.
"""

from collections.abc import Iterator
from typing import Annotated, Literal
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from ppo_engine.spec import EvaluationPlan, TrainingSpec

PULSE = "pulse"
"""File in the run directory that the child touches while it gets somewhere."""

STORAGE_FULL_STATUS = 74
"""Exit status of a child that could not even journal that the disk is full; EX_IOERR of sysexits.h."""


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Episodes(Message):
    """Undiscounted raw returns and lengths of a block of episodes, in order."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    n_cut: int = 0
    """Episodes that had no end and no limit of their own."""


class Assignment(Message):
    """First line of the child's stdin. It holds no secret and no address of the database."""

    job_id: str
    attempt: int
    spec: TrainingSpec | EvaluationPlan
    """What to do, resolved."""
    run_directory: str
    """Holds `journal`, `log` and `checkpoints/`."""
    resume_from: str | None
    """Directory of a verified checkpoint: to go on from, or to evaluate."""
    played: tuple[Episodes, ...] = ()
    """The blocks of an evaluation that earlier attempts have played."""
    plugin: str | None = None
    """The one whose code may run to make the environment."""
    threads: int = 1


READY = b"ready"
BUSY = b"busy"
"""Notices of a fork server; it is busy until it says that it is ready, and an order waits for that."""


class Order(Message):
    """What a slot sends its fork server, with two descriptors: the read end of the child's stdin, and its log."""

    directory: str
    """Where the child runs."""


class Forked(Message):
    """What a forked child says first, with a descriptor of its process; from now on it is like any other."""

    pid: int


class Ended(Message):
    """What the fork server says when the child has ended and nothing is left of its process group."""

    returncode: int
    """As of `subprocess`."""
    processor_seconds: float
    """Of the child, and of what it started and waited for."""


class Command(Message):
    """Every later line of stdin; obeyed at the next iteration, or between two steps of an evaluation."""

    command: Literal["cancel", "drain"]
    """Both save a checkpoint and end; `cancel` for good, `drain` so that another worker goes on. Of an evaluation, the
    blocks of episodes that are done were saved by being journaled; the one under way is played again."""


class WaitingRecord(Message):
    """Before the first record: why training does not begin yet."""

    type: Literal["waiting"] = "waiting"
    code: str
    message: str


class RuntimeRecord(Message):
    """What the child decided; it waits for nothing any more. Written before the first iteration."""

    type: Literal["runtime"] = "runtime"
    runtime: dict[str, JsonValue]
    resumed_iteration: int
    """0 for a fresh start."""
    resume: Literal["exact", "approximate"] | None
    resume_reason: str | None
    settled_spec: dict[str, JsonValue] | None = None
    """Where the environment had to be made for it: the spec as it is trained."""


class MetricsRecord(Message):
    type: Literal["metrics"] = "metrics"
    iteration: int
    timesteps: int
    metrics: dict[str, float]


class EvaluationRecord(Message):
    type: Literal["evaluation"] = "evaluation"
    iteration: int
    timesteps: int
    metrics: dict[str, float]


class DiagnosisRecord(Message):
    type: Literal["diagnosis"] = "diagnosis"
    iteration: int
    timesteps: int
    findings: list[dict[str, JsonValue]]
    """Each with `code`, `message`, `evidence` and `spec_patch`."""


class CheckpointRecord(Message):
    """Written after the checkpoint's own manifest is on disk."""

    type: Literal["checkpoint"] = "checkpoint"
    iteration: int
    timesteps: int
    directory: str
    """Name below `run_directory/checkpoints`."""
    metrics: dict[str, float]
    evaluated: bool = True
    """Whether `eval/…` in the metrics is of this policy, not of an earlier one."""
    resume: Literal["exact", "approximate"]
    final: bool


class EpisodesRecord(Episodes):
    """A block of an evaluation that is done."""

    type: Literal["episodes"] = "episodes"
    iteration: int
    """Number of the block, from 1."""
    timesteps: int
    """Of all blocks so far."""
    metrics: dict[str, float]


class PlayingRecord(Message):
    """How far an evaluation is whose block is not done: so that it can be told, and seen to go on."""

    type: Literal["playing"] = "playing"
    iteration: int
    """Blocks that are done."""
    timesteps: int
    """Of all episodes so far, those that have not ended among them."""


class ResultRecord(Message):
    """What all episodes of an evaluation came to."""

    type: Literal["result"] = "result"
    result: dict[str, JsonValue]


class EndRecord(Message):
    """The last record: how the child ended by itself."""

    type: Literal["end"] = "end"
    outcome: Literal["succeeded", "cancelled", "drained", "failed"]
    code: str
    message: str
    retryable: bool = False
    timesteps: int | None
    """None when it failed."""
    episodes: int | None = None
    """Of an evaluation."""


def interrupted(command: Literal["cancel", "drain"], timesteps: int) -> EndRecord:
    """The end that a command asked for."""
    if command == "cancel":
        return EndRecord(outcome="cancelled", code="user_request", message="cancelled by its user", timesteps=timesteps)
    return EndRecord(
        outcome="drained", code="worker_draining", message="the worker is shutting down", timesteps=timesteps
    )


Record = Annotated[
    WaitingRecord
    | RuntimeRecord
    | MetricsRecord
    | EvaluationRecord
    | DiagnosisRecord
    | CheckpointRecord
    | EpisodesRecord
    | PlayingRecord
    | ResultRecord
    | EndRecord,
    Field(discriminator="type"),
]
_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def frame(record: Record) -> bytes:
    """One line of the journal."""
    payload = record.model_dump_json().encode()
    return b"%08x %s\n" % (crc32(payload), payload)


def unframe(data: bytes) -> Iterator[tuple[Record, int]]:
    """The whole records at the start of `data`, each with the offset just behind it, up to a torn or unfinished one."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        checksum, _, payload = data[start:end].partition(b" ")
        if checksum != b"%08x" % crc32(payload):
            return
        start = end + 1
        yield _RECORD.validate_json(payload), start
