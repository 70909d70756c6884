"""Server-sent events, from bytes to messages (WHATWG HTML, 9.2).

Lines end with CR, LF or both and nothing else: the line splitters of `str` and of httpx2 also split at U+2028 and its
like, which may stand inside JSON.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Message:
    """One event of a stream."""

    event: str
    data: str
    id: str | None


def messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """The whole messages of a stream; one that was cut off before its blank line is left out, as the standard says."""
    fields: dict[str, str] = {}
    data: list[str] = []
    for line in _lines(chunks):
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            else:
                fields[name] = value
        elif data or fields.get("event"):
            yield Message(fields.get("event", "message"), "\n".join(data), fields.get("id"))
            fields, data = {}, []
        else:
            fields = {}


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        *whole, buffer = _split_ended(buffer)
        for line in whole:
            yield line.decode("utf-8", "replace")


def _split_ended(buffer: bytes) -> list[bytes]:
    """Lines, then the rest; a CR at the very end stays in the rest, since its LF may follow."""
    held_back = b"\r" if buffer.endswith(b"\r") else b""
    parts = _LINE_END.split(buffer.removesuffix(held_back) if held_back else buffer)
    return [*parts[:-1], parts[-1] + held_back]
