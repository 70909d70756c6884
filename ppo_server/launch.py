"""`python -m ppo_server.launch MODULE …`: become a service of `ppo up`, which the kernel kills when that dies.

It imports next to nothing: each service is started through here.
"""

import ctypes
import os
import signal
import sys
from typing import NoReturn

PARENT_VARIABLE = "PPO_UP_PID"
"""Tells a service which process it must not outlive."""

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def die_with_parent() -> None:
    """Called by a service at its start: the kernel kills it when `ppo up` dies, which must leave nothing behind."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the process that started this service is gone")


def become(module: str, *arguments: str) -> NoReturn:
    """Go on as `python -m module`, under the same process id."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


if __name__ == "__main__":
    die_with_parent()
    become(*sys.argv[1:])
