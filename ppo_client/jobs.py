"""One job, as its user handles it."""

from collections.abc import Iterator, Sequence
from typing import Literal, Self

from ppo_client.checkpoints import CheckpointHandle
from ppo_client.errors import NotFound
from ppo_client.evaluations import EvaluationHandle, budget, request_evaluation, wish_for
from ppo_client.handles import Handle
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
from ppo_jobs.states import EventType

CheckpointLabel = Literal["best", "latest", "final"]


class JobHandle(Handle[Job]):
    """A job and what can be done with it. `data` is what was last read of it; `refresh` reads it again."""

    def __init__(self, transport: Transport, data: Job) -> None:
        super().__init__(transport, f"/v1/jobs/{segment(data.id)}", data)

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

    def events(self, *, after: int = 0, page_size: int = 1000, type: EventType | None = None) -> Iterator[LedgerEvent]:
        """The ledger from `after` to where it is now, or its events of one type; pages are read as they are needed."""
        path, filters = f"{self._path}/events", {"limit": page_size, "type": type}
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

    def evaluate(
        self,
        *,
        checkpoint: CheckpointLabel = "final",
        n_episodes: int = 100,
        seed: int | None = None,
        deterministic: bool = True,
        max_episode_steps: int | None = None,
        max_wall_seconds: float | None = None,
    ) -> EvaluationHandle:
        """Have the service play whole episodes with one of the job's policies; `wait` for its `data.result`.

        Args:
            seed: determines the episodes; drawn if it is missing, and none that training had.
            deterministic: take the likeliest actions instead of sampled ones.
            max_episode_steps: truncate episodes there; by default where training did.
            max_wall_seconds: give it up after so long; by default after an hour.

        Raises:
            Conflict: the job has no such checkpoint, or not yet.
        """
        given = {"job_id": self.id, "checkpoint": checkpoint, "n_episodes": n_episodes, "seed": seed}
        more = {
            "deterministic": deterministic,
            "max_episode_steps": max_episode_steps,
            "budget": budget(max_wall_seconds),
        }
        return request_evaluation(self._transport, wish_for({**given, **more}))

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
