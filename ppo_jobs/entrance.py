"""How every program of the service begins: in private, in a data directory of use, and in plain words if it cannot."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppo_jobs import kernel
from ppo_jobs.errors import DataDirectoryUnusable, JobsError
from ppo_jobs.settings import DATABASE, Settings

OURS = frozenset(
    {"api_key", "api_url", "artifacts", "broker", "compiled", "draining", "logs", "runs", "up.lock"}
    | {f"{DATABASE}{ending}" for ending in ("", "-wal", "-shm", "-journal")}
)
"""What the service keeps in its data directory."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def enter(settings: Settings) -> None:
    """Keep this process and what it writes private, and see that the data directory can be used.

    Raises:
        DataDirectoryUnusable: it cannot.
    """
    os.umask(0o077)
    kernel.hide_secrets()
    prepare(settings.data_dir)


def prepare(directory: Path) -> None:
    """Make the data directory, or what is ours in it, private, wherever it came from.

    Raises:
        DataDirectoryUnusable: it cannot be made or written, or anybody else may write to it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=directory):
            pass
        entries = {path.name for path in directory.iterdir()}
        if os.geteuid() == directory.stat().st_uid and entries <= OURS:
            directory.chmod(0o700)
    except FileExistsError:
        raise DataDirectoryUnusable(directory, "it is a file") from None
    except OSError as error:
        raise DataDirectoryUnusable(directory, error.strerror or str(error)) from error
    if directory.stat().st_mode & stat.S_IWOTH:
        raise DataDirectoryUnusable(directory, "anybody may write to it, and it holds other things: name another one")
    # Another user's rights below a directory end with it.
    for name in entries & OURS:
        with suppress(OSError):  # What belongs to another user was made private by that one, or shared on purpose.
            path = directory / name
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)


def in_words(error: Exception) -> str:
    """An error as one sentence, for whoever started a program."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, JobsError) and first else f"{type(error).__name__}: {first}"


def wants_traceback() -> bool:
    return os.environ.get("PPO_LOG_LEVEL", "").upper() == "DEBUG"


@contextmanager
def in_plain_words() -> Iterator[None]:
    """End this program with one sentence where it cannot go on; with PPO_LOG_LEVEL=DEBUG, by the traceback."""
    try:
        yield
    except Exception as error:  # Whatever it is: who starts a program is no reader of tracebacks.
        if wants_traceback():
            raise
        sys.exit(f"Error: {in_words(error)}")
