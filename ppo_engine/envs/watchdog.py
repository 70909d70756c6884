"""Notices an environment that does not come back, in the process that steps it.

A `Watchdog` costs its owner two attribute writes per environment step: one thread of the process looks at all of them a
few times per timeout. What then happens is up to the program, see `install_timeout_handler`.
"""

import contextlib
import faulthandler
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol, TypeAlias

from ppo_engine.errors import EnvironmentPlace, EnvironmentTimedOut

TimeoutHandler: TypeAlias = Callable[[EnvironmentTimedOut], None]

IDLE = -1
POLLS_PER_TIMEOUT = 5
SLOWEST_POLL_SECONDS = 1.0
STUCK_MARGIN_SECONDS = 30.0


def interrupt_main_thread(error: EnvironmentTimedOut) -> None:
    """The handler until another is installed: dumps all tracebacks to stderr and interrupts the main thread.

    The interrupted environment's `step` or `reset` then raises `error`. It cannot be interrupted where it runs in
    another thread, or keeps SIGINT from raising KeyboardInterrupt.
    """
    print(f"{error.code}: {error}", file=sys.stderr)
    # Under a stderr that is no file there is nowhere to dump to.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
    identity = threading.main_thread().ident
    if identity is not None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.pthread_kill(identity, signal.SIGINT)


def install_timeout_handler(handler: TimeoutHandler, *, exit_when_stuck: bool) -> None:
    """Sets what this process does about an environment that exceeds `step_timeout_seconds`.

    Args:
        handler: called once per hang, in the watchdog's thread. It may end the process.
        exit_when_stuck: also end the process, with status 1 and tracebacks on stderr, when something holds the
            interpreter's lock for STUCK_MARGIN_SECONDS longer than that, so that no thread gets to call the handler.
    """
    _program.handler = handler
    _program.exit_when_stuck = exit_when_stuck


def beat() -> None:
    """An environment has come back to this process."""
    _program.beats += 1


def beats() -> int:
    """Has grown if an environment came back since it was asked before, or within the second before that."""
    return _program.beats


class Watch(Protocol):
    """What a caller of environments tells about its calls."""

    env_index: int
    """The environment that is being called, or IDLE; written by the caller."""
    calls: int
    """Grows with each call; written by the caller."""

    @property
    def expired(self) -> EnvironmentTimedOut | None:
        """What was found, where this process notices by itself that an environment does not come back."""
        ...

    def close(self) -> None:
        """Stops watching. May be called again."""
        ...


class Watchdog:
    """A `Watch` of the process's own environments."""

    def __init__(self, timeout_seconds: float, place: Callable[[int], EnvironmentPlace]) -> None:
        """`place` tells where in its life an environment is, given its index; called in the watchdog's thread."""
        self.timeout_seconds = timeout_seconds
        self.env_index = IDLE
        self.calls = 0
        self.expired: EnvironmentTimedOut | None = None
        # Weak, since `place` is its owner's method and the owner holds the watchdog.
        self._place = weakref.WeakMethod(place)
        self._seen = (0, IDLE)
        self._looked_at = time.monotonic()
        self._waited_seconds = 0.0
        _program.watch(self)

    def close(self) -> None:
        """Stops watching."""
        _program.forget(self)

    def is_overdue(self) -> bool:
        """Whether the call that is under way has been so at every look for longer than the timeout."""
        now = time.monotonic()
        # Time in which the whole process was stopped is no time that the environment took.
        passed, self._looked_at = min(now - self._looked_at, 2 * SLOWEST_POLL_SECONDS), now
        seen = (self.calls, self.env_index)
        if seen[0] != self._seen[0]:
            beat()
        if seen != self._seen or self.env_index == IDLE:
            self._seen, self._waited_seconds = seen, 0.0
            return False
        self._waited_seconds += passed
        return self._waited_seconds > self.timeout_seconds

    def expire(self) -> EnvironmentTimedOut | None:
        """Records the timeout; None when its owner is gone or it has expired already."""
        place = self._place()
        if place is None or self.expired is not None:
            return None
        fault = f"took longer than step_timeout_seconds = {self.timeout_seconds:g}"
        self.expired = EnvironmentTimedOut(fault, place(self.env_index))
        return self.expired


class _Program:
    """The one watching thread of a process, and what it does; the thread lives while there is something to watch."""

    def __init__(self) -> None:
        self.handler: TimeoutHandler = interrupt_main_thread
        self.exit_when_stuck = False
        self.beats = 0
        self._watched: weakref.WeakSet[Watchdog] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, watchdog: Watchdog) -> None:
        with self._lock:
            self._watched.add(watchdog)
            self._arm(watchdog.timeout_seconds)
            # In a forked process there is the object, but not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look, name="environment-watchdog", daemon=True)
                self._thread.start()
        self._wake.set()

    def forget(self, watchdog: Watchdog) -> None:
        with self._lock:
            self._watched.discard(watchdog)
        self._wake.set()

    def _look(self) -> None:
        while True:
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._thread = None
                    self._disarm()
                    return
            for watchdog in watched:
                if watchdog.is_overdue() and (error := watchdog.expire()) is not None:
                    self.handler(error)
            self._arm(max(watchdog.timeout_seconds for watchdog in watched))
            shortest = min(watchdog.timeout_seconds for watchdog in watched)
            # What is held here would keep its owner from being collected.
            del watched, watchdog
            self._wake.wait(min(SLOWEST_POLL_SECONDS, shortest / POLLS_PER_TIMEOUT))
            self._wake.clear()

    def _arm(self, timeout_seconds: float) -> None:
        """(Re)starts faulthandler's own clock, which needs no interpreter lock to end the process.

        Between steps too: once the lock is taken for good, it is too late to do so.
        """
        if self.exit_when_stuck:
            faulthandler.dump_traceback_later(timeout_seconds + STUCK_MARGIN_SECONDS, exit=True)

    def _disarm(self) -> None:
        if self.exit_when_stuck:
            faulthandler.cancel_dump_traceback_later()


_program = _Program()
