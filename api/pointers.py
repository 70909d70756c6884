"""Validation errors as faults: one per thing that is wrong, with its JSON Pointer, and without what was sent."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ppo_jobs.schemas import Fault

MAX_DEPTH = 64
"""Objects and arrays inside each other in a body."""
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
    return [
        Fault(pointer=pointer, message=", or: ".join(messages))
        for pointer, messages in found.items()
        if not any(other.startswith(f"{pointer}/") for other in found if pointer)
    ]


def unstorable(value: object) -> Iterator[Fault]:
    """What is valid JSON, or passes for it, and cannot be stored: NUL, half a surrogate pair, NaN, too deep a nest."""
    pending: list[tuple[object, str, int]] = [(value, "", 0)]
    while pending:
        current, pointer, depth = pending.pop()
        if isinstance(current, str):
            yield from _text_faults(current, pointer)
        elif isinstance(current, float) and not math.isfinite(current):
            yield Fault(pointer=pointer, message="must be a finite number")
        elif isinstance(current, dict | list) and depth == MAX_DEPTH:
            yield Fault(pointer=pointer, message=f"is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(current, dict):
            for key, item in current.items():
                yield from _text_faults(key, pointer)
                pending.append((item, f"{pointer}/{escape(key)}", depth + 1))
        elif isinstance(current, list):
            pending += [(item, f"{pointer}/{index}", depth + 1) for index, item in enumerate(current)]


def escape(part: object) -> str:
    """One reference token of a JSON Pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()


def _text_faults(text: str, pointer: str) -> Iterator[Fault]:
    if "\x00" in text:
        yield Fault(pointer=pointer, message="must not contain the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        yield Fault(pointer=pointer, message="must not contain half of a surrogate pair")


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
