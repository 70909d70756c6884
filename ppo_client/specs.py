"""From what a user writes to a `TrainingSpec`, and from what is wrong with it to words."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeAlias

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
    """Every field of a spec as a dotted path: `seed`, `env`, `env.id`, …"""
    return list(_paths(TrainingSpec, ""))


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
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
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
    """Whether the path leads to a field, into an open mapping, or into a value that may be an object."""
    model: type[BaseModel] = TrainingSpec
    names = path.split(".")
    for name in names:
        if name not in model.model_fields:
            return False
        inner = _model_of(model, name)
        if inner is None:
            annotation = str(model.model_fields[name].annotation)
            is_open = "dict" in annotation or "LinearSchedule" in annotation
            return name == names[-1] or is_open
        model = inner
    return True


def _model_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name in model.model_fields:
        yield prefix + name
        inner = _model_of(model, name)
        if inner is not None:
            yield from _paths(inner, f"{prefix}{name}.")


def _suggestion(path: str) -> str:
    """`; did you mean …?`: the same name elsewhere in the spec, else names that are spelt much like it."""
    known = field_paths()
    parent, _, last = path.rpartition(".")
    if parent in known and not any(candidate.startswith(f"{parent}.") for candidate in known):
        return ""
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2] == last]
    similar_name = get_close_matches(last, {candidate.rpartition(".")[2] for candidate in known}, n=2, cutoff=0.8)
    similar = [candidate for name in similar_name for candidate in known if candidate.rpartition(".")[2] == name]
    matches = same_name or similar or get_close_matches(path, known, n=2)
    return f"; did you mean {' or '.join(dict.fromkeys(matches))}?" if matches else ""


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
