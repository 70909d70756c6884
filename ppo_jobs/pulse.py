"""Hung is not dead: a process that works says so by touching a file, and who watches it measures how long it does not.

A file's time can be set on a full disk, too. It is compared with what it was, never with a clock.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PULSE_VARIABLE = "PPO_PULSE"
"""Tells a service which file to touch while it works, so that `ppo up` can tell when it hangs."""

BEAT_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 2.0
"""A watcher that looked no more often than this stood still itself."""


def touch(path: Path) -> None:
    """Say that there was progress; a failure to say so is none of the caller's business."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)


def own_pulse() -> Path | None:
    """The file that this service is to touch, if somebody watches it."""
    path = os.environ.get(PULSE_VARIABLE)
    return Path(path) if path else None


class Pulse:
    """A thread that touches a file every second in which there was progress, as the process itself knows it."""

    def __init__(self, path: Path, has_progressed: Callable[[], bool]) -> None:
        self._path = path
        self._has_progressed = has_progressed

    def start(self) -> None:
        """Beat from now on, for as long as the process lives."""
        touch(self._path)
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            if self._has_progressed():
                touch(self._path)


class Stillness:
    """How long a process has said nothing, as seen from another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: int | None = None
        self._looked_at = time.monotonic()
        self._seconds = 0.0

    def look(self) -> float:
        """Seconds without progress; 0 for a process that has not begun to say so. To be called twice a second or more.

        Time in which the caller stood still, too, is no time in which the other could be heard.
        """
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, LONGEST_LOOK_SECONDS), now
        try:
            seen = self._path.stat().st_mtime_ns
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            self._seen, self._seconds = seen, 0.0
        else:
            self._seconds += passed
        return self._seconds
