"""`python -m ppo_engine.fused.compile [--ahead] [PART …]`: compiles parts of the engine before a training needs them.

A training never compiles in its own process: what a process compiles may differ in a last bit from what it loads, and
the training could not be resumed exactly. Two parts are compiled at the same time, each in a process that is forked
after the imports. Whoever wants a part that another process compiles waits for that one.
"""

import argparse
import ctypes
import fcntl
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from ppo_engine import packs

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Parts, where there are as many cores: what one job needs is two large ones and some small ones."""

FIRST = ("bookkeeping", "learning", "batched")
"""What most first jobs want, of whom some will be there before it is compiled."""

WARM_MODULE = "ppo_engine.fused.warm"
PR_SET_PDEATHSIG = 1
SECONDS = {"learning": 6, "batched": 5, "stepwise": 4, "divergence": 7, "environments": 2, "lstm": 3, "gru": 3}
"""About what a part takes on a core of 2020, for who tells how long a job will wait."""


def missing(parts: Collection[str]) -> list[str]:
    """Those of which no machine code is kept, in the order in which they are best compiled."""
    return [part for part in packs.PARTS if part in parts and packs.read(part) is None]


def seconds_for(parts: Collection[str]) -> int:
    """About how long these take on idle cores."""
    times = [SECONDS.get(part, 1) for part in parts]
    cores = min(AT_ONCE, len(os.sched_getaffinity(0)))
    return 2 + max([-(-sum(times) // cores), *times])


def require(parts: Collection[str]) -> None:
    """Make these parts ready to be called, compiled by another process where no machine code is kept.

    Where that fails, each function is compiled when it is first called.
    """
    if lacking := missing(parts):
        command = [sys.executable, "-P", "-m", "ppo_engine.fused.compile", *lacking]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        for part in lacking:
            packs.trust(part)
    from ppo_engine.compiled import load

    for part in packs.PARTS:
        if part in parts:
            load(part)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles what is missing; the exit status is 1 where a part could not be compiled and kept."""
    parser = argparse.ArgumentParser(prog="python -m ppo_engine.fused.compile", description=main.__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(packs.PARTS)}; all, unless named")
    parser.add_argument("--ahead", action="store_true", help="nobody waits for it: few parts at once, others when idle")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts).difference(packs.PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    die_with_parent()
    if packs.directory() is None:
        return 1
    wanted = missing(asked.parts or packs.PARTS)
    began = time.monotonic()
    done = compile_all(wanted, urgent=FIRST if asked.ahead else packs.PARTS)
    if wanted:
        log.info("compiled %s in %.1f s", ", ".join(wanted), time.monotonic() - began)
    if not asked.parts:
        packs.prune()
    return 0 if done else 1


def compile_all(parts: Sequence[str], *, urgent: Collection[str]) -> bool:
    """Whether all of these parts are kept now, be it by this process or by another that was at it already.

    Args:
        urgent: those that are not left until the machine has nothing else to do.
    """
    left, children, succeeded = list(parts), dict[int, IO[str]](), True
    cores = min(AT_ONCE, len(os.sched_getaffinity(0)))
    while left or children:
        for part in list(left):
            is_free = len(children) < cores and len(being_compiled()) < cores
            if is_free and (lock := locked(part)) is not None:
                left.remove(part)
                if packs.read(part) is not None:
                    lock.close()
                    continue
                children[_fork(part, lock, others=children.values(), is_urgent=part in urgent)] = lock
        if children:
            pid, status = os.wait()
            children.pop(pid).close()
            succeeded &= status == 0
        elif left:
            await_others(left)
    return succeeded


@cache
def prepare() -> None:
    """Import what is compiled, and have the compiler ready, so that what is forked need not."""
    import numba

    importlib.import_module(WARM_MODULE)
    numba.njit(lambda number: number)(1)
    # Nothing that a compiler makes is ever let go of: it takes a fifth of its time to find that out.
    gc.disable()
    gc.freeze()


def compile_part(part: str) -> None:
    """Compile and keep it, in a process that has compiled nothing of the engine yet."""
    from ppo_engine.compiled import kept_as

    with kept_as(part, packs.PARTS.index(part)):
        importlib.import_module(WARM_MODULE).WARM[part]()


def locked(part: str) -> IO[str] | None:
    """The lock of a part, which one process compiles; None where another has it. It is let go of when it is closed."""
    lock = lock_file(part).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    # The number of an earlier holder may be another process's by now.
    lock.truncate(0)
    return lock


def being_compiled() -> list[str]:
    """The parts that some process compiles at this moment, and not only while the machine is idle."""
    return [part for part in packs.PARTS if is_locked(part) and not lock_file(part).read_text()]


def is_locked(part: str) -> bool:
    lock = locked(part)
    if lock is not None:
        lock.close()
    return lock is None


def await_others(parts: Sequence[str]) -> None:
    """Wait until whoever compiles one of these parts, or something else that has the cores, is done, or dead."""
    ours = [part for part in parts if is_locked(part)]
    for part in ours:
        hurry(lock_file(part))
    if waited_for := ours or being_compiled():
        with lock_file(waited_for[0]).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)


def lock_file(part: str) -> Path:
    file = packs.file_of(part)
    assert file is not None, "there is a directory for packs, or nothing is compiled ahead"
    return file.with_suffix(".lock")


def hurry(file: Path) -> None:
    """Have whoever holds the lock compile as one who is waited for; who may not is ended, and we take over."""
    if idle := file.read_text():
        with suppress(ProcessLookupError, ValueError):
            try:
                os.sched_setscheduler(int(idle), os.SCHED_OTHER, os.sched_param(0))
            except PermissionError:
                os.kill(int(idle), signal.SIGKILL)
        file.write_text("")


def be_idle() -> None:
    """Leave the cores to whatever else wants them."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _fork(part: str, lock: IO[str], *, others: Iterable[IO[str]], is_urgent: bool) -> int:
    """A process that compiles a part; the lock says which one it is, and is free when both have closed it."""
    prepare()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent()
        for other in others:
            other.close()
        if not is_urgent:
            be_idle()
            lock.write(str(os.getpid()))
            lock.flush()
        compile_part(part)
        status = 0
    except BaseException:
        log.warning("part %s of the engine could not be compiled ahead", part, exc_info=True)
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
