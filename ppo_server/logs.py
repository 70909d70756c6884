"""The services' logs: each in a file of its own, what matters of them on the terminal too."""

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LONGEST_LOG_BYTES = 16 << 20

NOTEWORTHY = re.compile(
    r"\b(WARNING|ERROR|CRITICAL)\b|^Traceback|^\w*(Error|Exception)\b|\bjob job_\w+ is (?!running)"
    r"|\bis being compiled\b"
    r'|"level": "(WARNING|ERROR|CRITICAL)"'
)
"""Trouble, the ends of jobs, and what takes a minute before the first one."""


def start_afresh(path: Path) -> Path:
    """The log's file; one that has grown long is put aside as `.1`, replacing the one before."""
    if path.exists() and path.stat().st_size > LONGEST_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    path.touch(mode=0o600)
    return path


@dataclass(slots=True)
class _Followed:
    name: str
    path: Path
    offset: int


class LogFollower:
    """Shows what is new and noteworthy in the logs that it follows."""

    def __init__(self) -> None:
        self._followed: list[_Followed] = []

    def follow(self, name: str, path: Path) -> None:
        """From its end as it is now."""
        self._followed.append(_Followed(name, path, path.stat().st_size))

    def show_new(self) -> None:
        width = max((len(log.name) for log in self._followed), default=0)
        for log in self._followed:
            for line in _new_lines(log):
                if NOTEWORTHY.search(line):
                    tell(f"{log.name:{width}} | {line}", sys.stderr)


def tell(words: str, file: TextIO) -> None:
    """Print; a terminal that is gone, or a file on a full disk, ends no service."""
    with suppress(OSError, ValueError):
        print(words, file=file, flush=True)


def _new_lines(log: _Followed) -> list[str]:
    """Whole lines written since the last look; none of a file that is gone."""
    try:
        with log.path.open("rb") as file:
            file.seek(log.offset)
            data = file.read(1 << 20)
    except OSError:
        return []
    whole = data[: data.rfind(b"\n") + 1]
    log.offset += len(whole)
    return whole.decode(errors="replace").splitlines()
