"""`python -m worker.forkserver`: has imported the engine and loaded its compiled code, and forks a slot's children.

A child that starts anew imports for two seconds; one that is forked trains after some milliseconds. The server itself
runs no job, so that none leaves anything behind for the next one; what it has read of machine code stays as it is,
whatever an environment writes to the file. It forks only while it has a single thread: what other threads hold at that
moment would be held in the child for ever.
"""

import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import numpy as np
from pydantic import BaseModel

from ppo_engine import packs
from ppo_jobs.kernel import adopt_orphans, die_with_parent, end_orphans, exit_with_parent
from worker.protocol import BUSY, READY, Ended, Forked, Order

logger = logging.getLogger(__name__)

IMPORTED_LATE = (
    "worker.child", "ppo_engine.fused.compile", "gymnasium.envs.classic_control", "ppo_engine.envs.native",
    "ppo_engine.envs.process", "ppo_engine.envs.sync", "scipy.stats",
)  # fmt: skip
"""The engine, which takes seconds, and what a trainer imports only when it needs it, as nearly every one does."""

MESSAGE_BYTES = 1 << 16
THREADS_SECONDS = 2.0
"""For threads that loading the compiled code has started to end."""

COMPILER_SECONDS = 10.0
"""For the first part of the engine to be compiled."""

LOOK_SECONDS = 1.0
"""How often it looks whether the code that it could not load at its start has been compiled meanwhile."""


def main() -> NoReturn:
    """Fork a child for every order that comes on stdin, a UNIX socket; ends with it, and with its slot."""
    signal.signal(signal.SIGTERM, end_all)
    exit_with_parent()
    adopt_orphans()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    # Out of the reach of what may use the child's stdin.
    slot = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    await_use(slot)
    for module in IMPORTED_LATE:
        importlib.import_module(module)
    lacking = load(packs.PARTS)
    slot.send(READY)
    while True:
        if lacking and not select.select([slot], [], [], LOOK_SECONDS)[0]:
            if any(map(packs.is_kept, lacking)):
                slot.send(BUSY)
                lacking = load(lacking)
                slot.send(READY)
            continue
        data, descriptors, _, _ = socket.recv_fds(slot, MESSAGE_BYTES, 2)
        if not data:
            sys.exit()
        serve(slot, Order.model_validate_json(data), descriptors)


def await_use(slot: socket.socket) -> None:
    """While the engine is being compiled, its cores are the compiler's: nothing is imported before it is of use.

    Raises:
        SystemExit: the slot died before this process had asked to die with it.
    """
    deadline = time.monotonic() + COMPILER_SECONDS
    while True:
        is_wanted = bool(select.select([slot], [], [], 0)[0])
        if is_wanted and is_abandoned(slot):
            sys.exit()
        if is_wanted or any(map(packs.is_kept, packs.PARTS)) or time.monotonic() >= deadline:
            return
        select.select([slot], [], [], LOOK_SECONDS)


def is_abandoned(slot: socket.socket) -> bool:
    """Whether the slot died before this process had asked to die with it."""
    try:
        return not slot.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def load(parts: Sequence[str]) -> list[str]:
    """Load what is compiled of these, which is then shared with the children; returns the others."""
    from ppo_engine import compiled

    lacking = [part for part in parts if not compiled.load(part)]
    gc.collect()
    gc.freeze()
    require_one_thread()
    return lacking


def require_one_thread() -> None:
    """Nothing may run beside this thread when it forks.

    Raises:
        SystemExit: something does, perhaps a library that was imported.
    """
    deadline = time.monotonic() + THREADS_SECONDS
    while (threads := len(os.listdir("/proc/self/task"))) > 1:
        if time.monotonic() >= deadline:
            sys.exit(f"the fork server has {threads} threads, and cannot fork")
        time.sleep(0.01)


def serve(slot: socket.socket, order: Order, descriptors: list[int]) -> None:
    """Fork a child, and tell the slot how it ended."""
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            become_child(slot, server, order, descriptors)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for descriptor in descriptors:
        os.close(descriptor)
    # The dead child stays until its group is gone, so that its number is nobody else's.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    # What has left its group, as daemons do, has become this process's own child by now.
    end_orphans(kept={pid})
    _, status, used = os.wait4(pid, 0)
    tell(slot, Ended(returncode=os.waitstatus_to_exitcode(status), processor_seconds=used.ru_utime + used.ru_stime))


def end_all(number: int, frame: FrameType | None) -> NoReturn:
    """The slot is gone, or wants this process gone: nothing that was started below it stays."""
    end_orphans(kept=())
    os._exit(128 + number)


def become_child(slot: socket.socket, server: int, order: Order, descriptors: list[int]) -> NoReturn:
    """In the forked process: have a session, a log, a pipe and random numbers of its own, and train."""
    from worker import child

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    os.setsid()
    stdin, log = descriptors
    for descriptor, number in ((stdin, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.chdir(order.directory)
    if os.getppid() != server:
        sys.exit("the fork server is gone")
    # The standard library sees to its own generator after a fork.
    np.random.seed()
    tell(slot, Forked(pid=os.getpid()), os.pidfd_open(os.getpid()))
    slot.close()
    child.run()


def tell(slot: socket.socket, message: BaseModel, *descriptors: int) -> None:
    """Send it; a slot that is gone hears nothing."""
    with suppress(ConnectionError):
        socket.send_fds(slot, [message.model_dump_json().encode()], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    main()
