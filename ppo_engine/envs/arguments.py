"""The keyword arguments that users may give an environment: which there are, and of what type.

Derived from the constructor's signature, for plugins as for Gymnasium's own. Only plain values can be given: booleans,
integers, numbers, tuples of numbers, and strings where it is known which ones mean something. Any other string could be
the path of a file, so that arguments such as `xml_file` are not among them.
"""

import inspect
import math
import sys
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias

from gymnasium.envs.registration import EnvSpec as Registration
from gymnasium.envs.registration import load_env_creator
from pydantic import JsonValue

from ppo_engine.spec import InvalidSpec, SpecFault

RESERVED = frozenset({"self", "render_mode"})
KNOWN_STRINGS: Mapping[tuple[str, str], tuple[str, ...]] = {("FrozenLakeEnv", "map_name"): ("4x4", "8x8")}
"""The strings that an argument takes, by class and argument, where its annotation does not say."""

Schema: TypeAlias = dict[str, JsonValue]


def kwargs_schema(registration: Registration) -> Schema:
    """The JSON Schema of an environment's keyword arguments."""
    entry_point: Any = registration.entry_point
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    annotations = _annotations(creator)
    properties: dict[str, JsonValue] = {}
    for name, parameter in inspect.signature(creator).parameters.items():
        if name in RESERVED or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        default = registration.kwargs.get(name, parameter.default)
        strings = KNOWN_STRINGS.get((creator.__name__, name))
        # A bare default such as `goal_velocity=0` says no more than that a number is wanted; MiniGrid's count cells.
        counts = creator.__module__.startswith("minigrid.")
        annotation = annotations.get(name, float if type(default) is int and not counts else type(default))
        kind = _string_schema(strings) if strings else _value_schema(annotation, default)
        if kind is not None:
            properties[name] = kind | _stated_default(default)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def checked_kwargs(env_id: str, schema: Schema, kwargs: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The arguments as the constructor takes them. Raises InvalidSpec where they do not fit the schema."""
    properties = typing.cast(dict[str, Schema], schema["properties"])
    faults: list[SpecFault] = []
    for name, value in kwargs.items():
        pointer = "/env/kwargs/" + name.replace("~", "~0").replace("/", "~1")
        if name not in properties:
            faults.append(SpecFault(pointer, f"{env_id} takes no such argument"))
        elif not _is_finite(value):
            faults.append(SpecFault(pointer, "must be a finite number"))
        elif not _fits(value, properties[name]):
            faults.append(SpecFault(pointer, f"{value!r} is not what it takes: {_in_words(properties[name])}"))
    if faults:
        raise InvalidSpec(faults)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in kwargs.items()}


def _annotations(creator: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(
            inspect.getattr_static(creator, "__init__") if inspect.isclass(creator) else creator
        )
    except (NameError, TypeError):
        # Names that exist for a type checker alone.
        return {}


def _value_schema(annotation: Any, default: Any) -> Schema | None:
    """The schema of values of a type, or None where they cannot be given."""
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        parts = typing.get_args(annotation)
        schemas = [schema for part in parts if part is not NoneType and (schema := _value_schema(part, default))]
        wider = [schema for schema in schemas if schema.get("type") == "number"]
        return next(iter(wider or schemas), None)
    if typing.get_origin(annotation) is Literal and all(
        isinstance(value, str) for value in typing.get_args(annotation)
    ):
        return _string_schema(typing.get_args(annotation))
    if annotation is bool:
        return {"type": "boolean"}
    if annotation is int or annotation is float:
        return {"type": "integer" if annotation is int else "number"}
    if _is_number_tuple(default) and (annotation is tuple or typing.get_origin(annotation) is tuple):
        return {"type": "array", "items": {"type": "number"}, "minItems": len(default), "maxItems": len(default)}
    return None


def _string_schema(strings: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(strings)}


def _is_number_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, int | float) for part in value)


def _stated_default(default: Any) -> Schema:
    """The default, where there is one that JSON can hold."""
    parts = default if _is_number_tuple(default) else (default,)
    plain = all(
        isinstance(part, bool | str | int) or (isinstance(part, float) and math.isfinite(part)) for part in parts
    )
    if not plain:
        return {}
    return {"default": list(default) if isinstance(default, tuple) else default}


def _is_finite(value: JsonValue) -> bool:
    """Whether a float can hold every number of the value: environments make floats of integers, too."""
    match value:
        case int() | float():
            return abs(value) <= sys.float_info.max
        case list():
            return all(map(_is_finite, value))
        case dict():
            return all(map(_is_finite, value.values()))
    return True


def _fits(value: JsonValue, schema: Schema) -> bool:
    match schema["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return value in typing.cast(list[JsonValue], schema["enum"])
        case _:
            number: Schema = {"type": "number"}
            return isinstance(value, list) and len(value) == schema["minItems"] and all(_fits(v, number) for v in value)


def _in_words(schema: Schema) -> str:
    match schema["type"]:
        case "string":
            return "one of " + ", ".join(map(str, typing.cast(list[JsonValue], schema["enum"])))
        case "array":
            return f"{schema['minItems']} numbers"
        case kind:
            return f"a value of type {kind}"
