"""Run directories: one per attempt, locked for as long as its supervisor lives.

The kernel drops the lock with the process that holds it, whatever killed it. So a directory that can be locked belongs
to an attempt whose supervisor is dead, and nobody on this host has to wait for its lease to expire.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.protocol import PULSE

RUNS = "runs"
"""Below the data directory."""

LOCK = "lock"
HIDDEN = "."
"""Starts the names of directories that are being made or removed."""

REMOVED = ".removed"
"""Ends the names of the latter: whoever sees one may go on removing it."""

LEFTOVER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where one attempt's child works."""

    path: Path
    job_id: str
    attempt: int

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def pulse(self) -> Path:
        return self.path / PULSE

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def resume(self) -> Path:
        """The checkpoint that the attempt goes on from."""
        return self.path / "resume"

    @property
    def scratch(self) -> Path:
        """Where the child runs, and environments may leave their files."""
        return self.path / "scratch"

    def remove(self) -> None:
        """Nothing of the attempt is needed any more."""
        hidden = self.path.with_name(f"{HIDDEN}{self.path.name}{REMOVED}")
        with suppress(FileNotFoundError):
            self.path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def run_directory(root: Path, job_id: str, attempt: int) -> Iterator[RunDirectory]:
    """A new directory, locked while the context lasts; whoever has dealt with all of it calls `remove`.

    It appears under its name only when it is locked already, so nobody ever takes it for an orphan's.
    """
    root.mkdir(parents=True, exist_ok=True)
    unfinished = root / f"{HIDDEN}{job_id}.{attempt}"
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("checkpoints", "scratch"):
        (unfinished / part).mkdir(parents=True)
    (unfinished / LOCK).touch(mode=0o600)
    run = RunDirectory(root / f"{job_id}.{attempt}", job_id, attempt)
    with ExitStack() as held:
        assert lock(unfinished, held)
        unfinished.rename(run.path)
        yield run


@contextmanager
def orphans(root: Path) -> Iterator[list[RunDirectory]]:
    """Directories whose supervisor is dead, locked against others who look for them."""
    with ExitStack() as held:
        runs = [run for run in runs_in(root) if lock(run.path, held)]
        yield runs


def runs_in(root: Path) -> Iterator[RunDirectory]:
    for path in sorted(root.glob("*.*")):
        job_id, _, attempt = path.name.rpartition(".")
        if not path.name.startswith(HIDDEN) and attempt.isdecimal():
            yield RunDirectory(path, job_id, int(attempt))


def lock(directory: Path, held: ExitStack) -> bool:
    """Whether the directory's lock could be had; `held` lets go of it."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    held.callback(os.close, descriptor)
    return True


def remove_leftovers(root: Path) -> None:
    """Remove what a crash left half made or half removed."""
    oldest = time.time() - LEFTOVER_SECONDS
    for path in root.glob(f"{HIDDEN}*"):
        with suppress(FileNotFoundError):
            if path.name.endswith(REMOVED) or path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
