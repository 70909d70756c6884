"""The child's log: followed like the journal, bounded where an environment writes without end."""

import codecs
import os
from pathlib import Path

READ_BYTES = 1 << 18
LONGEST_FILE_BYTES = 64 << 20
"""Beyond it the file starts anew; what the ledger keeps of a log is far less."""


class LogReader:
    """Reads what is new as text, and stays where it is until told that it was dealt with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> tuple[str, int]:
        """What was written since, and the offset to pass to `advance`; of very much, only the end."""
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = max(self._offset, size - READ_BYTES)
                file.seek(start)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return "", self._offset
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # PostgreSQL's text holds no NUL.
        text = decoder.decode(data).replace("\x00", "\ufffd")
        unfinished = len(decoder.getstate()[0])
        skipped = start - self._offset
        note = f"\n[{skipped} bytes left out]\n" if skipped else ""
        return note + text, start + len(data) - unfinished

    def advance(self, offset: int) -> None:
        """Everything before `offset` is stored."""
        self._offset = offset
        if offset > LONGEST_FILE_BYTES:
            os.truncate(self._path, 0)
            self._offset = 0

    def tail(self, length: int) -> str:
        """The last `length` bytes, for a reason why the child died."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - length))
                return file.read().decode(errors="replace").replace("\x00", "\ufffd")
        except FileNotFoundError:
            return ""
