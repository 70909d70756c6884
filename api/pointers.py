"""Validation errors as faults: one per thing that is wrong, with its JSON Pointer, and without what was sent."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ppo_jobs.schemas import Fault

MAX_DEPTH = 64
"""Objects and arrays inside each other in a body."""
MAX_NAME_CHARACTERS = 256
"""Of a name in an object of a body: every fault below it repeats it."""

_Path: TypeAlias = "tuple[_Path, str | int] | None"
"""Where a value is: in what, and under which name or index there. Made for every value, so it shares what is above."""

_PLAINER = {"extra_forbidden": "unknown field", "missing": "this field is required"}


def body_faults(entries: Sequence[Mapping[str, Any]], body: object) -> list[Fault]:
    """Pydantic's error entries, without the input that they echo, those of one place joined.

    Where a value fits no branch of a union, each branch complains; when one of them found a fault further inside, the
    others only say that the value is not of their kind, and are left out.
    """
    found: dict[str, list[str]] = {}
    for entry in entries:
        messages = found.setdefault(_pointer(entry, body), [])
        if (message := _message(entry)) not in messages:
            messages.append(message)
    outside = {pointer[:end] for pointer in found for end, character in enumerate(pointer) if end and character == "/"}
    return [
        Fault(pointer=pointer, message=", or: ".join(messages))
        for pointer, messages in found.items()
        if pointer not in outside
    ]


def unstorable(value: object) -> Iterator[Fault]:
    """What is valid JSON, or passes for it, and cannot be stored: NUL, half a surrogate pair, NaN, too deep a nest.

    An integer beyond every float is infinite to most readers of JSON, and to whoever computes with it.
    """
    pending: list[tuple[object, _Path, int]] = [(value, None, 0)]
    while pending:
        current, path, depth = pending.pop()
        for message in _value_faults(current, depth):
            yield Fault(pointer=_written(path), message=message)
        if depth == MAX_DEPTH:
            continue
        if isinstance(current, dict):
            short = ((name, item) for name, item in current.items() if len(name) <= MAX_NAME_CHARACTERS)
            pending += [(item, (path, name), depth + 1) for name, item in short]
        elif isinstance(current, list):
            pending += [(item, (path, index), depth + 1) for index, item in enumerate(current)]


def _value_faults(value: object, depth: int) -> Iterator[str]:
    """What is wrong with the value itself and, of an object, with its names."""
    if isinstance(value, str):
        yield from _text_faults(value)
    elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:  # Nor is NaN.
        yield "must be a finite number"
    elif isinstance(value, dict | list) and depth == MAX_DEPTH:
        yield f"is nested deeper than {MAX_DEPTH} levels"
    elif isinstance(value, dict):
        for name in value:
            yield from _text_faults(name)
            if len(name) > MAX_NAME_CHARACTERS:
                yield f"must not contain a name of more than {MAX_NAME_CHARACTERS} characters"


def _written(path: _Path) -> str:
    parts = []
    while path is not None:
        path, part = path
        parts.append(f"/{escape(part)}")
    return "".join(reversed(parts))


def escape(part: object) -> str:
    """One reference token of a JSON Pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()


def _text_faults(text: str) -> Iterator[str]:
    if "\x00" in text:
        yield "must not contain the character NUL"
    try:
        text.encode()
    except UnicodeEncodeError:
        yield "must not contain half of a surrogate pair"


def _pointer(entry: Mapping[str, Any], body: object) -> str:
    """Where in the body the fault is; parts of a location that name a branch of a union are in no body."""
    source, *parts = entry["loc"]
    if source != "body":
        return ".".join(str(part) for part in parts)
    pointer, current = "", body
    for index, part in enumerate(parts):
        is_there, child = _child(current, part)
        is_missing = entry["type"] == "missing" and index == len(parts) - 1
        if is_there or is_missing:
            pointer, current = f"{pointer}/{escape(part)}", child
    return pointer


def _child(current: object, part: str | int) -> tuple[bool, object]:
    if isinstance(current, dict) and part in current:
        return True, current[part]
    if isinstance(current, list) and isinstance(part, int) and 0 <= part < len(current):
        return True, current[part]
    return False, None


def _message(entry: Mapping[str, Any]) -> str:
    if entry["type"] in _PLAINER:
        return _PLAINER[entry["type"]]
    message = str(entry["msg"])
    return message[0].lower() + message[1:] if message.startswith("Input ") else message
