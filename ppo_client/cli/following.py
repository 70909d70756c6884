"""Jobs that are being watched: their ledgers as they grow, and what a reader needs to know of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from ppo_client.cli.findings import findings_in_words
from ppo_client.cli.jobs import environment_of, mean_return
from ppo_client.cli.output import count, decimal, headline
from ppo_jobs.states import EventType, JobStatus

if TYPE_CHECKING:
    from ppo_client.jobs import JobHandle
    from ppo_jobs.schemas import LedgerEvent

TICK_SECONDS = 2.0
"""How often a display hears of time that passed without an event."""


@dataclass(frozen=True, slots=True)
class Update:
    """Something became known of one of the followed jobs."""

    index: int
    event: "LedgerEvent | None"
    """None: the job has ended, and nothing more will come."""


def follow(handles: "Sequence[JobHandle]", *, after: Sequence[int]) -> Iterator[Update | None]:
    """What happens to the jobs until all have ended; None when nothing did for a while.

    Each ledger is read by a thread of its own, so that a quiet job holds up no other.

    Raises:
        ClientError: the service refused, or could not be reached for too long.
    """
    inbox: SimpleQueue[Update | Exception] = SimpleQueue()
    for index, handle in enumerate(handles):
        Thread(target=_pump, args=(handle, index, after[index], inbox), daemon=True).start()
    open_count = len(handles)
    while open_count:
        try:
            update = inbox.get(timeout=TICK_SECONDS)
        except Empty:
            yield None
            continue
        if isinstance(update, Exception):
            raise update
        open_count -= update.event is None
        yield update


def _pump(handle: "JobHandle", index: int, after: int, inbox: "SimpleQueue[Update | Exception]") -> None:
    try:
        for event in handle.stream(after=after):
            inbox.put(Update(index, event))
        inbox.put(Update(index, None))
    except Exception as error:
        inbox.put(error)


@dataclass
class Watched:
    """What is known of one job, from its last reading and the events since."""

    handle: "JobHandle"
    status: JobStatus = field(init=False)
    timesteps: int = field(init=False)
    metrics: dict[str, float] = field(init=False)
    fps: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Take over what the handle has read last."""
        job = self.handle.data
        self.status = job.status
        self.timesteps = job.progress.timesteps
        self.metrics = dict(job.latest_metrics)
        self.fps = job.progress.fps

    @property
    def label(self) -> str:
        """What tells this job from others that are watched: its name, else its environment."""
        return self.handle.data.name or environment_of(self.handle.data)

    @property
    def total(self) -> int:
        return self.handle.data.progress.total_timesteps

    @property
    def fraction(self) -> float:
        if self.status == JobStatus.SUCCEEDED:
            return 1.0
        return min(1.0, self.timesteps / self.total) if self.total else 0.0

    @property
    def mean_return(self) -> float | None:
        return mean_return(self.metrics)

    @property
    def eta_seconds(self) -> float | None:
        if not self.fps or self.status != JobStatus.RUNNING:
            return None
        return max(0, self.total - self.timesteps) / self.fps

    @property
    def waiting_for(self) -> str:
        """Why a job does not train yet, in words."""
        queue, reason = self.handle.data.queue, self.handle.data.status_reason
        if self.status == JobStatus.RUNNING:
            return reason.message if reason is not None and not self.timesteps else ""
        return queue.reason or (f"position {queue.position}" if queue.position else "")

    def apply(self, event: "LedgerEvent") -> str | None:
        """Take over what an event says; returns what of it is worth a line of its own."""
        data = event.data
        match event.type:
            case EventType.STATUS:
                return self._apply_status(event)
            case EventType.METRICS:
                self._apply_metrics(event)
                return None
            case EventType.CHECKPOINT:
                return None
            case EventType.EVALUATION:
                metrics = data.get("metrics")
                mean = metrics.get("eval/mean_reward") if isinstance(metrics, dict) else None
                return f"evaluated: mean return {decimal(_number(mean))} after {count(self.timesteps)} timesteps"
            case EventType.DIAGNOSIS:
                return "; ".join(f"diagnosis: {finding}" for finding in findings_in_words(data))
            case EventType.REWIND:
                return f"rewound to iteration {data.get('to_iteration')}: {data.get('reason')}"
            case _:
                return str(data.get("message") or event.type.value)

    def _apply_metrics(self, event: "LedgerEvent") -> None:
        timesteps, metrics = event.data.get("timesteps"), event.data.get("metrics")
        if isinstance(timesteps, int):
            self.timesteps = timesteps
        if isinstance(metrics, dict):
            self.metrics.update({key: value for key, value in metrics.items() if isinstance(value, int | float)})
        self.status = JobStatus.RUNNING
        self.fps = self.metrics.get("time/fps", self.fps)

    def _apply_status(self, event: "LedgerEvent") -> str:
        self.status = JobStatus(str(event.data.get("status", self.status.value)))
        attempt = f", attempt {event.attempt}" if self.status == JobStatus.RUNNING and event.attempt > 1 else ""
        reason = event.data.get("reason")
        message = reason.get("message") if isinstance(reason, dict) else reason
        return f"{self.status.value}{attempt}" + (f": {headline(str(message))}" if message else "")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
