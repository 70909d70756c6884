"""What a process asks of Linux for itself and what it starts; elsewhere these do nothing. Imports nothing of ours."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
"""From linux/prctl.h."""

KILL_SECONDS = 5.0
"""For orphans to be gone: the kernel may take a while over one that waits for a device."""

_adopter: int | None = None


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    It works even while an environment holds the interpreter and nothing can read a pipe.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_with_parent() -> None:
    """The same with SIGTERM, for a process that has something to clear away first."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of whatever is started below this process and loses its own parent.

    A daemon leaves its group and its session, and has no parent any more; who started it can be told by this alone.
    """
    global _adopter
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _adopter = os.getpid()


def hide_secrets() -> None:
    """Keep variables, memory and open files of this process from others of its user; until it executes another program.

    There is no core dump of it then, and a debugger needs the right to trace.
    """
    _prctl(PR_SET_DUMPABLE, 0)


def children() -> set[int]:
    """The processes whose parent this process is, adopted ones among them; none where the kernel does not tell."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def end_orphans(kept: Collection[int]) -> None:
    """In a process that adopts orphans, kill all children but those that are kept, and whatever then becomes a child.

    A child that nobody waited for keeps its number, so no process of anybody else is hit.
    """
    if _adopter != os.getpid():
        return
    deadline = time.monotonic() + KILL_SECONDS
    while (orphans := children().difference(kept)) and time.monotonic() < deadline:
        for pid in orphans:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
