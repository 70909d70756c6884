"""The keyword arguments that users may give an environment: which there are, and of what type.

Derived from the constructor's signature, for plugins as for Gymnasium's own. What JSON can say can be given: numbers,
booleans, null, lists, objects, choices and unions of these. Text can be given only where it is known which texts mean
something: any other could be the path of a file, so that arguments such as `xml_file` are not among them.
"""

import inspect
import json
import math
import sys
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias

from gymnasium.envs.registration import EnvSpec as Registration
from gymnasium.envs.registration import load_env_creator
from pydantic import JsonValue, TypeAdapter, ValidationError

from ppo_engine.spec import InvalidSpec, SpecFault

RESERVED = frozenset({"self", "render_mode", "default_camera_config"})
"""Not the users': how an environment is drawn changes nothing that is learned."""
KNOWN_STRINGS: Mapping[tuple[str, str], tuple[str, ...]] = {("FrozenLakeEnv", "map_name"): ("4x4", "8x8")}
"""The strings that an argument takes, by class and argument, where its annotation does not say."""

Schema: TypeAlias = dict[str, JsonValue]
Number: TypeAlias = int | float
Plain: TypeAlias = bool | int | float | None
UNSUPPORTED = "unsupported"
"""Key of a schema: why an argument that the constructor has cannot be given."""


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor."""

    adapter: TypeAdapter[Any] | None
    """Makes the argument of what JSON says; None where JSON cannot say it."""
    schema: Schema
    is_required: bool
    wanted: str
    """Its type, in words."""


def arguments_of(registration: Registration) -> dict[str, Argument]:
    """What the constructor of an environment takes, by name, in its order."""
    entry_point: Any = registration.entry_point
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    try:
        parameters = inspect.signature(creator).parameters
    except (TypeError, ValueError):
        # Written in C, or with a `__signature__` that is none.
        return {}
    author = _author(creator)
    annotations = _annotations(author)
    # A bare default such as `goal_velocity=0` says no more than that a number is wanted; MiniGrid's count cells.
    counts = str(getattr(author, "__module__", "")).startswith("minigrid.")
    arguments = {}
    for name, parameter in parameters.items():
        if name in RESERVED or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        default = registration.kwargs.get(name, parameter.default)
        annotation = annotations.get(name, _type_of(default, counts=counts))
        if strings := KNOWN_STRINGS.get((getattr(author, "__name__", ""), name)):
            annotation = Literal[strings]
        arguments[name] = _argument(annotation, default)
    return arguments


def kwargs_schema(arguments: Mapping[str, Argument]) -> Schema:
    """The JSON Schema of an environment's keyword arguments."""
    given = {name: argument for name, argument in arguments.items() if argument.adapter is not None}
    schema: Schema = {
        "type": "object",
        "properties": {name: argument.schema for name, argument in given.items()},
        "additionalProperties": False,
    }
    if required := [name for name, argument in given.items() if argument.is_required]:
        schema["required"] = typing.cast(JsonValue, required)
    if others := {name: _refusal(argument) for name, argument in arguments.items() if argument.adapter is None}:
        schema[UNSUPPORTED] = typing.cast(JsonValue, others)
    return schema


def checked_kwargs(env_id: str, arguments: Mapping[str, Argument], kwargs: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The arguments as the constructor takes them. Raises InvalidSpec where it does not take them, or needs others."""
    checked, faults = {}, []
    for name, value in kwargs.items():
        pointer = "/env/kwargs/" + name.replace("~", "~0").replace("/", "~1")
        argument = arguments.get(name)
        if argument is None:
            faults.append(SpecFault(pointer, f"{env_id} takes no such argument"))
        elif argument.adapter is None:
            faults.append(SpecFault(pointer, _refusal(argument)))
        elif not _is_finite(value):
            faults.append(SpecFault(pointer, "must be a finite number"))
        else:
            try:
                checked[name] = argument.adapter.validate_json(json.dumps(value), strict=True)
            except ValidationError:
                faults.append(SpecFault(pointer, f"{value!r} is not what it takes: {argument.wanted}"))
    missing = [name for name, argument in arguments.items() if argument.is_required and name not in kwargs]
    faults += [SpecFault("/env/kwargs", f"{env_id} needs the argument {name}") for name in missing]
    if faults:
        raise InvalidSpec(faults)
    return checked


def _argument(annotation: Any, default: Any) -> Argument:
    is_required = default is inspect.Parameter.empty
    wanted = annotation.__name__ if inspect.isclass(annotation) and not typing.get_args(annotation) else str(annotation)
    unsupported = Argument(None, {}, is_required, wanted)
    found = _givable(_spelled_out(annotation, default))
    if found is None:
        return unsupported
    stated = json.loads(json.dumps({"default": default})) if _is_json(default) else {}
    return Argument(found[0], found[1] | stated, is_required, wanted)


def _refusal(argument: Argument) -> str:
    allowed = "only what JSON can say can be given, and no text, which could name a file"
    return f"is of type {argument.wanted}: {allowed}"


def _author(creator: Any) -> Any:
    """The class or the function in which the arguments stand."""
    while isinstance(creator, partial):
        creator = creator.func
    return creator if inspect.isclass(creator) or inspect.isroutine(creator) else type(creator).__call__


def _annotations(author: Any) -> dict[str, Any]:
    """Of each argument whose annotation means something here; others may be names for a type checker alone."""
    function = inspect.getattr_static(author, "__init__") if inspect.isclass(author) else author
    found: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = type("Alone", (), {"__annotations__": {name: annotation}})
        try:
            found |= typing.get_type_hints(alone, getattr(function, "__globals__", None))
        except Exception:  # Whatever evaluating an author's expression may raise.
            continue
    return found


def _type_of(default: Any, *, counts: bool) -> Any:
    """What an argument without an annotation may be given."""
    if default is inspect.Parameter.empty:
        return Plain | list[Plain]
    return Number if type(default) is int and not counts else type(default)


def _spelled_out(annotation: Any, default: Any) -> Any:
    """A collection of anything as one of numbers: as many and of the types that its default has, if it has any."""
    if annotation is tuple or typing.get_origin(annotation) is tuple:
        if default and isinstance(default, tuple) and all(isinstance(part, int | float) for part in default):
            return tuple[(Number,) * len(default)]  # type: ignore[misc]  # as long as the default
        return tuple[Number, ...] if annotation is tuple else annotation
    if annotation is list or annotation is dict:
        return list[Number] if annotation is list else dict[str, Number]
    return annotation


def _givable(annotation: Any) -> tuple[TypeAdapter[Any], Schema] | None:
    """What takes values of a type, of a union those of its members that JSON can say; None where it can say none."""
    if annotation is NoneType:
        return None
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        parts = [_spelled_out(part, None) for part in typing.get_args(annotation)]
        possible = [part for part in parts if _givable(part) is not None]
        if not possible:
            return None
        annotation = reduce(or_, [*possible, NoneType] if NoneType in parts else possible)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter: TypeAdapter[Any] = TypeAdapter(annotation)
            schema = adapter.json_schema()
    except Exception:  # Whatever types there are that JSON knows nothing of.
        return None
    return (adapter, _simplified(schema)) if _is_plain(schema, schema) else None


def _simplified(schema: Schema) -> Schema:
    """Integers are numbers; and a list of so many of one kind is said in short."""
    options, items = schema.get("anyOf"), schema.get("prefixItems")
    if isinstance(options, list):
        options = [_simplified(typing.cast(Schema, option)) for option in options]
        if {"type": "number"} in options:
            options = [option for option in options if option != {"type": "integer"}]
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        left: Schema = {"anyOf": typing.cast(JsonValue, options)}
        return rest | (typing.cast(Schema, options[0]) if len(options) == 1 else left)
    if isinstance(items, list) and items:
        kinds = [_simplified(typing.cast(Schema, item)) for item in items]
        if all(kind == kinds[0] for kind in kinds):
            return {key: value for key, value in schema.items() if key != "prefixItems"} | {"items": kinds[0]}
    return schema


def _is_plain(schema: Any, root: Any) -> bool:
    """Whether no text fits a schema but those that it names, and nothing that it says nothing of."""
    if not isinstance(schema, dict):
        return schema is False
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        # Types that hold themselves go on for ever.
        others = {key: value for key, value in root.get("$defs", {}).items() if key != name}
        return name in root.get("$defs", {}) and _is_plain(root["$defs"][name], root | {"$defs": others})
    if "enum" in schema or "const" in schema:
        return True
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return all(_is_plain(option, root) for option in schema[key])
    match schema.get("type"):
        case "integer" | "number" | "boolean" | "null":
            return True
        case "array":
            inside = [*schema.get("prefixItems", []), *([schema["items"]] if "items" in schema else [])]
            return bool(inside) and all(_is_plain(item, root) for item in inside)
        case "object":
            inside = [*schema.get("properties", {}).values(), schema.get("additionalProperties", False)]
            return len(inside) + (inside[-1] is not False) > 1 and all(_is_plain(item, root) for item in inside)
    return False


def _is_json(value: Any) -> bool:
    match value:
        case None | bool() | str() | int():
            return True
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(map(_is_json, value))
        case dict():
            return all(isinstance(key, str) and _is_json(part) for key, part in value.items())
    return False


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
