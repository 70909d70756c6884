"""What an environment may set for its whole process, and whoever else computes there does not expect."""

import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import numpy as np

from ppo_engine.envs.state.generators import apart

Switches: TypeAlias = Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]]
"""What is one for the process: how it is read, and how it is set."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FIRST_CALLS, EVERY = 8, 256
"""What takes microseconds to look at is looked at in the first calls, which make, reset and step, and now and then."""


class Surroundings(threading.local):
    """Lets environments' code run under what it has set for the process, and everybody else under what was before.

    Of torch, where it is loaded: the default type and device, whether gradients are recorded, threads, whether only
    deterministic algorithms are used. Of Python and NumPy: what becomes of warnings and of floating-point errors, the
    working directory, the locale, and the handlers of SIGINT and SIGTERM. To be entered around each call.
    """

    def __init__(self) -> None:
        self._theirs: dict[str, Any] = {}
        self._depth = self._calls = 0
        self._before: list[Any] = []
        self._dear: list[Any] = []
        self._quick, self._slow = _quick_switches(), _slow_switches()

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        if len(self._quick) == 1 and "torch" in sys.modules:
            self._quick, self._slow = _quick_switches(), _slow_switches()
            self._dear = []
        self._before = [read() for read, _ in self._quick.values()]
        self._dear = self._dear or [read() for read, _ in self._slow.values()]
        if self._theirs:
            for name, value in self._theirs.items():
                _set(self._quick.get(name) or self._slow.get(name), value)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._calls += 1
        self._put_back(self._quick, self._before)
        if self._theirs or self._calls < FIRST_CALLS or not self._calls % EVERY:
            self._put_back(self._slow, self._dear)

    def _put_back(self, switches: Switches, before: list[Any]) -> None:
        for (name, switch), was in zip(switches.items(), before, strict=True):
            now = switch[0]()
            if now != was:
                _set(switch, was)
                # Whoever ends this process, its handlers are ours.
                if name != "signals":
                    self._theirs[name] = now
            else:
                self._theirs.pop(name, None)


@contextmanager
def isolated() -> Iterator[None]:
    """Lets code of environments run without a trace in the process's switches and global generators."""
    with apart(), SURROUNDINGS:
        yield


def _quick_switches() -> Switches:
    torch = sys.modules.get("torch")
    switches: dict[str, Any] = {"warnings": (lambda: tuple(warnings.filters), _set_filters)}
    if torch is None:
        return switches
    return switches | {
        "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
        "threads": (torch.get_num_threads, torch.set_num_threads),
        "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    }


def _slow_switches() -> Switches:
    torch = sys.modules.get("torch")
    switches: dict[str, Any] = {
        "floating-point errors": (np.geterr, lambda value: np.seterr(**value)),
        "directory": (_directory, lambda value: os.chdir(value) if value else None),
        "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
        "signals": (lambda: [signal.getsignal(number) for number in SIGNALS], _set_handlers),
    }
    if torch is None:
        return switches
    cpu = torch.device("cpu")
    device = (torch.get_default_device, lambda value: torch.set_default_device(None if value == cpu else value))
    return switches | {"default device": device}


def _set(switch: Any, value: Any) -> None:
    # What cannot be set, such as a directory that is gone, is left as it is.
    with suppress(OSError, ValueError, locale.Error):
        switch[1](value)


def _set_filters(value: tuple[Any, ...]) -> None:
    # Entering and leaving tells the interpreter that the filters have changed.
    with warnings.catch_warnings():
        pass
    warnings.filters[:] = value  # type: ignore[index]  # it is a list
    with warnings.catch_warnings():
        pass


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _set_handlers(value: list[Any]) -> None:
    for number, handler in zip(SIGNALS, value, strict=True):
        # None is one that no Python code has installed; handlers are set in the main thread alone.
        if handler is not None:
            signal.signal(number, handler)


SURROUNDINGS = Surroundings()
"""Those of this process, in each of its threads."""
