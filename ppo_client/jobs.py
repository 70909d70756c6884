"""One job, as its user handles it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

from ppo_client.checkpoints import CheckpointHandle
from ppo_client.errors import NotFound, WaitTimedOut
from ppo_client.paging import items, segment
from ppo_client.stream import LedgerStream
from ppo_client.transport import Transport
from ppo_jobs.schemas import (
    Attempt,
    Checkpoint,
    Job,
    JobPatch,
    LedgerEvent,
    LogChunk,
    MetricsTable,
    Page,
    RetryRequest,
)
from ppo_jobs.states import TERMINAL, JobStatus

LONGEST_POLL_SECONDS = 30.0
SHORTEST_POLL_SECONDS = 0.25
"""Between two polls of a service that answers at once instead of holding the answer back."""

CheckpointLabel = Literal["best", "latest", "final"]


class JobHandle:
    """A job and what can be done with it. `data` is what was last read of it; `refresh` reads it again."""

    def __init__(self, transport: Transport, data: Job) -> None:
        self._transport = transport
        self._path = f"/v1/jobs/{segment(data.id)}"
        self.data = data

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r}, {self.status.value})"

    @property
    def id(self) -> str:
        return self.data.id

    @property
    def status(self) -> JobStatus:
        return self.data.status

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.data.status in TERMINAL

    def refresh(self) -> Self:
        """Read the job again."""
        self._read()
        return self

    def wait(self, timeout_seconds: float | None = None) -> Self:
        """Return when the job has ended, however it ended: look at `status`.

        Raises:
            WaitTimedOut: it had not ended in time; it goes on.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self.is_finished:
            remaining = LONGEST_POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if remaining <= 0:
                raise WaitTimedOut(f"{self.id} is still {self.status.value} after {timeout_seconds:g} s.")
            self._poll(min(LONGEST_POLL_SECONDS, remaining))
        return self

    def stream(self, *, after: int = 0) -> Iterator[LedgerEvent]:
        """The ledger from `after` on, live until the job has ended; then `data` is what it ended as.

        Broken connections are made again where they broke: no event is missing and none comes twice.

        Raises:
            ServiceUnreachable: nothing answered for `RetryPolicy.interrupted_seconds`.
        """
        stream = LedgerStream(self._transport, f"{self._path}/stream", after)
        yield from stream
        self._read(is_patient=True)
        if self.data.last_seq > stream.last_seq:
            yield from self.events(after=stream.last_seq)

    def events(self, *, after: int = 0, page_size: int = 1000) -> Iterator[LedgerEvent]:
        """The ledger from `after` to where it is now; pages are read as they are needed."""
        path, filters = f"{self._path}/events", {"limit": page_size}
        yield from items(self._transport, Page[LedgerEvent], path, filters, after=after)

    def metrics(
        self, *, keys: Sequence[str] | None = None, after: int = 0, max_points: int | None = None
    ) -> MetricsTable:
        """The metrics as columns, one row per iteration.

        Args:
            keys: such as `rollout/ep_rew_mean`; by default all.
            after: only rows whose event is newer than this `seq`.
            max_points: thin out to so many rows that keep the curve's look.
        """
        params = {"keys": ",".join(keys) if keys else None, "after": after or None, "max_points": max_points}
        return self._transport.get(MetricsTable, f"{self._path}/metrics", params=params)

    def logs(self, *, attempt: int | None = None) -> LogChunk:
        """What environment and training process wrote, in the latest attempt unless told otherwise."""
        return self._transport.get(LogChunk, f"{self._path}/logs", params={"attempt": attempt})

    def attempts(self) -> list[Attempt]:
        """The tries at this job, oldest first."""
        return list(items(self._transport, Page[Attempt], f"{self._path}/attempts"))

    def checkpoints(self) -> list[CheckpointHandle]:
        """The checkpoints that are kept, newest first."""
        found = items(self._transport, Page[Checkpoint], f"{self._path}/checkpoints", {"limit": 100})
        return [CheckpointHandle(self._transport, checkpoint) for checkpoint in found]

    def checkpoint(self, which: CheckpointLabel | str) -> CheckpointHandle:
        """The best, latest or final checkpoint, or the one with this id.

        Raises:
            NotFound: the job has none such, or none yet.
        """
        self.refresh()
        labelled = {
            "best": self.data.best_checkpoint_id,
            "latest": self.data.latest_checkpoint_id,
            "final": self.data.final_checkpoint_id,
        }
        checkpoint_id = labelled.get(which, which)
        if checkpoint_id is None:
            yet = "" if self.is_finished else " yet"
            raise NotFound(f"{self.id} has no {which} checkpoint{yet}.", status=404, code="checkpoint_not_found")
        path = f"/v1/checkpoints/{segment(checkpoint_id)}"
        return CheckpointHandle(self._transport, self._transport.get(Checkpoint, path))

    def cancel(self) -> Self:
        """Ask for the job to be stopped; a running one keeps a checkpoint. Cancelling twice is no error.

        Raises:
            Conflict: the job has already succeeded or failed.
        """
        self.data = self._transport.post(Job, f"{self._path}/cancel")
        return self

    def retry(self, *, checkpoint_id: str | None = None, from_start: bool = False) -> "JobHandle":
        """A new job like this one, from its newest checkpoint, from the one given, or from the start.

        Raises:
            Conflict: this job has not ended.
        """
        body = RetryRequest(checkpoint_id=checkpoint_id, from_start=from_start).model_dump(mode="json")
        return JobHandle(self._transport, self._transport.post(Job, f"{self._path}/retry", body=body))

    def update(self, patch: JobPatch) -> Self:
        """Rename or tag the job; only the fields that are set in `patch` change."""
        body = patch.model_dump(mode="json", exclude_unset=True)
        response = self._transport.send("PATCH", self._path, body=body)
        self.data = self._transport.decode(Job, response)
        return self

    def delete(self) -> None:
        """Delete the job, its ledger and its checkpoints.

        Raises:
            Conflict: the job has not ended.
        """
        self._transport.send("DELETE", self._path)

    def _poll(self, seconds: float) -> None:
        """One long poll: returns when something happened, or after `seconds`."""
        before, started = self.data.last_seq, time.monotonic()
        self._read({"wait": round(seconds, 3), "after": before}, held_seconds=seconds, is_patient=True)
        if not self.is_finished:
            time.sleep(max(0.0, min(seconds, SHORTEST_POLL_SECONDS) - (time.monotonic() - started)))

    def _read(
        self, params: Mapping[str, float] | None = None, *, held_seconds: float = 0.0, is_patient: bool = False
    ) -> None:
        response = self._transport.send(
            "GET", self._path, params=params, held_seconds=held_seconds, is_patient=is_patient
        )
        self.data = self._transport.decode(Job, response)
