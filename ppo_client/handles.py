"""What a job and an evaluation have in common for whoever waits for them."""

import time
from collections.abc import Mapping
from typing import Generic, Self, TypeVar

from ppo_client.errors import WaitTimedOut
from ppo_client.transport import Transport
from ppo_jobs.schemas import Evaluation, Job
from ppo_jobs.states import TERMINAL, JobStatus

LONGEST_POLL_SECONDS = 30.0
SHORTEST_POLL_SECONDS = 0.25
"""Between two polls of a service that answers at once instead of holding the answer back."""

Data = TypeVar("Data", Job, Evaluation)


class Handle(Generic[Data]):
    """A thing that runs. `data` is what was last read of it; `refresh` reads it again."""

    def __init__(self, transport: Transport, path: str, data: Data) -> None:
        self._transport = transport
        self._path = path
        self.data: Data = data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.status.value})"

    @property
    def id(self) -> str:
        return self.data.id

    @property
    def status(self) -> JobStatus:
        return self.data.status

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.data.status in TERMINAL

    def refresh(self) -> Self:
        """Read it again."""
        self._read()
        return self

    def wait(self, timeout_seconds: float | None = None) -> Self:
        """Return when it has ended, however it ended: look at `status`.

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

    def cancel(self) -> Self:
        """Ask for it to be stopped; a job that runs keeps a checkpoint. Cancelling twice is no error.

        Raises:
            Conflict: it has already succeeded or failed.
        """
        self.data = self._transport.post(type(self.data), f"{self._path}/cancel")
        return self

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
        self.data = self._transport.decode(type(self.data), response)
