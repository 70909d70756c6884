"""The child's journal: appended by the child, followed by the supervisor.

Nothing is synced to disk here. What a process wrote survives its death, and records that a crash of the machine took
are trained again, to the same bits, from the newest checkpoint; checkpoints themselves are synced.
"""

import os
from pathlib import Path

from worker.protocol import Record, frame, unframe

READ_BYTES = 1 << 20
"""At most so much is read, and so committed in one transaction, at once."""


class JournalCorrupt(Exception):
    """A whole line of the journal fails its checksum."""


class JournalWriter:
    """Appends whole records; one that does not fit on the disk leaves no trace."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def append(self, record: Record) -> None:
        """Hand the record to the operating system.

        Raises:
            OSError: It could not be written, for want of space perhaps; the journal is as it was.
        """
        line = frame(record)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)


class JournalReader:
    """Reads what is new, and stays where it is until told that it was dealt with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[tuple[Record, int]]:
        """Whole records behind the place that was reached, each with the offset to `advance` to once it is dealt with.

        Raises:
            JournalCorrupt: A line that ended is not what was written.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return []
        found = list(unframe(data))
        consumed = found[-1][1] if found else 0
        if b"\n" in data[consumed:]:
            raise JournalCorrupt(f"record at byte {self._offset + consumed} of {self._path}")
        return [(record, self._offset + behind) for record, behind in found]

    def advance(self, offset: int) -> None:
        """Everything before `offset` is in the ledger."""
        self._offset = offset
