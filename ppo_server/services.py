"""The processes of `ppo up`: each in a session of its own, started again when it crashes, stopped in order."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ppo_jobs.pulse import PULSE_VARIABLE, Stillness
from ppo_server.launch import PARENT_VARIABLE
from ppo_server.secrets import inherited

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0
STEADY_SECONDS = 30.0
"""A service that ran so long starts its backoff anew."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to run, and how long it may take to stop."""

    name: str
    command: tuple[str, ...]
    stop_seconds: float
    still_seconds: float = float("inf")
    """A process that has said that it works, and has not for so long, hangs and is replaced."""


class RunningService:
    """One service with its process, which is replaced when it ends unasked."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self.crashes = 0
        self._backoff = FIRST_BACKOFF_SECONDS
        self._restart_at: float | None = None
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def keep_running(self) -> None:
        """Start it again if it ended; each time in a row waits twice as long, so that a broken one burns no CPU."""
        now = time.monotonic()
        if self._restart_at is not None:
            if now >= self._restart_at:
                self._restart_at = None
                try:
                    self._process = self._start()
                except OSError as error:
                    self._wait(now, f"could not be started: {error}")
            return
        if (returncode := self._process.poll()) is None:
            if (still := self._stillness.look()) >= self.service.still_seconds:
                logger.warning("%s does nothing any more for %.0f s and is killed", self.service.name, still)
                self._end_group()
            return
        self._end_group()
        if now - self._started_at >= STEADY_SECONDS:
            self._backoff = FIRST_BACKOFF_SECONDS
        self._wait(now, f"ended with status {returncode}")

    def _wait(self, now: float, why: str) -> None:
        """Before it is started again."""
        self.crashes += 1
        logger.warning("%s %s; it starts again in %g s", self.service.name, why, self._backoff)
        self._restart_at = now + self._backoff
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF_SECONDS)

    def ask_to_stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def stop(self, is_urgent: Callable[[], bool]) -> None:
        """Wait until it has stopped; kill what stays after its time, or at once when it becomes urgent."""
        deadline = time.monotonic() + self.service.stop_seconds
        while self.is_running and time.monotonic() < deadline and not is_urgent():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
        if self.is_running:
            logger.warning("%s did not stop in time and is killed", self.service.name)
        self._end_group()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self._started_at = time.monotonic()
        pulse = self.log.with_suffix(".pulse")
        pulse.unlink(missing_ok=True)
        self._stillness = Stillness(pulse)
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self.service.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid()), PULSE_VARIABLE: str(pulse)},
                pass_fds=inherited(os.environ),
                start_new_session=True,
            )

    def _end_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def stop_all(services: Sequence[RunningService], is_urgent: Callable[[], bool]) -> None:
    """Stop them in their order: each is asked when those before it are gone."""
    for running in services:
        running.ask_to_stop()
        running.stop(is_urgent)
