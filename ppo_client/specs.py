"""From what a user writes to a `TrainingSpec`, and from what is wrong with it to words."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ppo_client.errors import FieldFault, InvalidRequest
from ppo_engine.spec import TrainingSpec

Document: TypeAlias = dict[str, object]

_TEXT_FIELDS = frozenset({"name", "group", "env.id"})


def training_spec(document: Mapping[str, object]) -> TrainingSpec:
    """The spec that a document describes.

    Raises:
        InvalidRequest: it describes none; one fault for each field that is wrong.
    """
    try:
        return TrainingSpec.model_validate(dict(document))
    except ValidationError as error:
        raise invalid_spec(_faults(error.errors(include_url=False), document)) from None


def invalid_spec(faults: Sequence[FieldFault]) -> InvalidRequest:
    """The error for a spec that was not even sent."""
    return InvalidRequest("The spec is not valid.", status=422, code="invalid_spec", errors=faults)


def with_settings(document: Mapping[str, object], assignments: Sequence[str]) -> Document:
    """A copy of the document in which each `path.to.field=value` holds.

    Values are JSON, or else strings: `ppo.gamma=0.98`, `env.kwargs={"gravity": -9}`, `preset=default`.

    Raises:
        InvalidRequest: an assignment has no `=`, or its path leads to no field of a spec.
    """
    changed: Document = json.loads(json.dumps(document))
    faults = [fault for assignment in assignments for fault in _assign(changed, assignment)]
    if faults:
        raise invalid_spec(faults)
    return changed


def field_paths() -> list[str]:
    """Every field of a spec as a dotted path: `seed`, `env`, `env.id`, …; those of optional sections, too."""
    return list(_paths([TrainingSpec], ""))


def _assign(document: Document, assignment: str) -> Iterator[FieldFault]:
    """Make one assignment in place; yields what is wrong with it instead."""
    path, equals, text = assignment.partition("=")
    path = path.strip()
    pointer = "/" + path.replace(".", "/")
    if not equals or not path:
        yield FieldFault("", f"{assignment!r} is no setting of the form ppo.gamma=0.98")
        return
    if not _is_known(path):
        yield FieldFault(pointer, "unknown field" + _suggestion(path))
        return
    *parents, name = path.split(".")
    place: object = document
    for parent in parents:
        if isinstance(place, dict) and place.get(parent) is None:
            place[parent] = {}
        place = place[parent] if isinstance(place, dict) else None
    if isinstance(place, dict):
        place[name] = _value(path, text)
    else:
        yield FieldFault(pointer, "what stands above it is no object")


def _value(path: str, text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    is_text = path in _TEXT_FIELDS or path.startswith("metadata.")
    return text if is_text and not isinstance(value, str | None) else value


def _is_known(path: str) -> bool:
    """Whether the path leads to a field, or into an open mapping."""
    kinds: Sequence[object] = [TrainingSpec]
    for name in path.split("."):
        if dict in kinds:
            return True
        fields = _fields_of(kinds)
        if name not in fields:
            return False
        kinds = fields[name]
    return True


def _fields_of(kinds: Sequence[object]) -> dict[str, list[object]]:
    """The fields of those types that are models, each with the types that it may have."""
    fields: dict[str, list[object]] = {}
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                fields.setdefault(name, []).extend(_kinds(field.annotation))
    return fields


def _kinds(annotation: object) -> Iterator[object]:
    """The types that an annotation allows: of `AtariSpec | None` both, of `dict[str, str]` dict."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    elif origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    else:
        yield origin or annotation


def _paths(kinds: Sequence[object], prefix: str) -> Iterator[str]:
    for name, inner in _fields_of(kinds).items():
        yield prefix + name
        yield from _paths(inner, f"{prefix}{name}.")


def _suggestion(path: str) -> str:
    """`; did you mean …?`: a name beside it that is spelt much like it, else the same or such a one elsewhere."""
    known = sorted(field_paths(), key=lambda candidate: candidate.count("."))
    parent, _, last = path.rpartition(".")
    beside = [candidate for candidate in known if candidate.rpartition(".")[0] == parent]
    if parent in known and not beside:
        return ""
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2] == last]
    matches = _alike(last, beside) or same_name or _alike(last, known) or get_close_matches(path, known, n=2)
    return f"; did you mean {' or '.join(dict.fromkeys(matches))}?" if matches else ""


def _alike(name: str, candidates: Sequence[str]) -> list[str]:
    """The paths whose last name is spelt much like this one, the closest first."""
    names = get_close_matches(name, {candidate.rpartition(".")[2] for candidate in candidates}, n=2, cutoff=0.8)
    return [candidate for near in names for candidate in candidates if candidate.rpartition(".")[2] == near]


def _faults(errors: Sequence[ErrorDetails], document: Mapping[str, object]) -> list[FieldFault]:
    """One fault for each place: of a field that may have several types, the one that its value comes closest to."""
    found: dict[str, FieldFault] = {}
    for error in errors:
        pointer = _pointer(error, document)
        found.setdefault(pointer, FieldFault(pointer, _message(error, pointer)))
    return [fault for fault in found.values() if not any(other.startswith(fault.pointer + "/") for other in found)]


def _pointer(error: ErrorDetails, document: object) -> str:
    """JSON Pointer of the value that is wrong; Pydantic's names for the members of a union are no part of it."""
    pointer, place = "", document
    for index, part in enumerate(error["loc"]):
        is_last = index == len(error["loc"]) - 1
        is_inside, place = _step(place, part)
        if not is_inside and not (is_last and error["type"] == "missing"):
            continue
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer


def _step(place: object, part: str | int) -> tuple[bool, object]:
    """Whether `part` is inside of `place`, and then what stands there, else `place` itself."""
    match place:
        case dict() if part in place:
            return True, place[part]
        case list() | tuple() if isinstance(part, int) and part < len(place):
            return True, place[part]
        case BaseModel() if isinstance(part, str) and part in type(place).model_fields:
            return True, getattr(place, part)
    return False, place


def _message(error: ErrorDetails, pointer: str) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field" + _suggestion(pointer.removeprefix("/").replace("/", "."))
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "string_pattern_mismatch" and pointer == "/env/id":
        return f"{error['input']!r} is no id of an environment, such as CartPole-v1"
    message = error["msg"].removeprefix("Input ")
    return message[:1].lower() + message[1:]
