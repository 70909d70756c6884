"""`python -m worker.compile`: compiles the engine's loops once for this machine, before a job needs them.

The machine code lies below NUMBA_CACHE_DIR, in a directory named for the sources that it was made from. A mark beside
it says that all of it is there for this model of CPU. Code that no worker has asked for in a day is deleted.
"""

import fcntl
import hashlib
import importlib
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ppo_engine.compiled import CODE, all_kept
from ppo_engine.machine import processor
from ppo_jobs.kernel import die_with_parent

logger = logging.getLogger(__name__)

STALE_SECONDS = 86_400.0
WARM_MODULE = "ppo_engine.fused.warm"


SOON = "--soon"
"""Compiles at the priority of its parent, and beside whoever compiles already: somebody waits for it."""


def main() -> int:
    """Compile what is missing, at the lowest priority; the exit status is 1 where that failed."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if CODE is None:
        return 1
    if SOON in sys.argv[1:]:
        return 0 if compile_missing(CODE) else 1
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
    return 0 if compile_once(CODE) else 1


def compile_once(code: Path) -> bool:
    """Whether all machine code is in `code` now; of several processes that want it, one compiles and others wait."""
    with (code.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not compile_missing(code):
            return False
        prune(code)
    return True


def compile_missing(code: Path) -> bool:
    """Whether all machine code is in `code` now, compiled by this process where it was not there."""
    if not is_compiled(code):
        began = time.monotonic()
        compile_halves()
        if not (load_compiled() and all_kept()):
            return False
        mark_of(code).touch()
        logger.info("the engine was compiled in %.1f s", time.monotonic() - began)
    return True


def compile_halves() -> None:
    """Compile most of it on two cores. What fails here, or is left, `load_compiled` does alone."""
    other = subprocess.Popen([sys.executable, "-P", "-m", WARM_MODULE], stdin=subprocess.DEVNULL)
    try:
        importlib.import_module(WARM_MODULE).warm_collecting()
    except Exception:  # As in `load_compiled`, which will tell.
        logger.debug("one half could not be compiled", exc_info=True)
    other.wait()


def compile_apart() -> None:
    """Have another process compile what is missing.

    What a process compiles itself may differ in a last bit from what it loads: of a function that several others call
    it has several copies then, of which the first counts. A training that compiled could not be resumed exactly.
    """
    if CODE is not None and not is_compiled():
        command = [sys.executable, "-P", "-m", "worker.compile", SOON]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=False)


def is_compiled(code: Path | None = CODE) -> bool:
    """Whether all machine code is there for this CPU; asking keeps it from being deleted."""
    if code is None:
        return False
    try:
        os.utime(mark_of(code))
    except OSError:
        return False
    return True


def load_compiled() -> bool:
    """Load all machine code, compiling what is missing; whether that worked, which training does not depend on."""
    try:
        importlib.import_module(WARM_MODULE).warm()
    except Exception:  # Whatever a compiler may raise: every loop is compiled when it is first called, or raises there.
        logger.warning("the engine could not be compiled ahead", exc_info=True)
        return False
    return True


def prune(code: Path) -> None:
    """Delete the machine code of other sources that nobody has asked for in a day."""
    oldest = time.time() - STALE_SECONDS
    for directory in code.parent.iterdir():
        if directory != code and directory.is_dir():
            used = max(path.stat().st_mtime for path in [directory, *directory.glob("compiled.*")])
            if used < oldest:
                shutil.rmtree(directory, ignore_errors=True)


def mark_of(code: Path) -> Path:
    """The file that says that `code` is whole for this machine's CPU."""
    model, flags = processor()
    name = hashlib.sha256("\n".join([model, *sorted(flags)]).encode()).hexdigest()[:16]
    return code / f"compiled.{name}"


if __name__ == "__main__":
    sys.exit(main())
