"""What is known of each environment before it is trained on: spaces, arguments, limits."""

from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pydantic import JsonValue

from ppo_engine.envs.arguments import Schema, kwargs_schema
from ppo_engine.envs.atari_games import INCOMPLETE, MINIMAL_ACTIONS, SAVED_IN_PART
from ppo_engine.envs.batched import is_batched
from ppo_engine.envs.masks import masks_method
from ppo_engine.envs.mishaps import fault_of
from ppo_engine.envs.registry import (
    Registered,
    environment_arguments,
    find_environment,
    make_unlimited,
    registered_environments,
)
from ppo_engine.envs.spaces import action_space_of, flat_size
from ppo_engine.errors import EngineError, EnvironmentPlace, UnsupportedSpace
from ppo_engine.spec import AtariSpec, EnvironmentDescription, EnvSpec, InvalidSpec

GYMNASIUM_SPACES = frozenset(vars(spaces)[name] for name in spaces.__all__ if isinstance(vars(spaces)[name], type))
LONGEST_REASON = 1000
MOST_LISTED_BOUNDS = 1000
NONDETERMINISTIC = "its author says that seed and actions do not determine what it does"


def catalogue() -> list[EnvironmentDescription]:
    """Every environment that is installed or registered by a plugin, those that cannot be trained on among them."""
    return [describe_environment(env_id) for env_id in registered_environments()]


@lru_cache(maxsize=1024)
def describe_environment(env_id: str) -> EnvironmentDescription:
    """One environment as it is with its default arguments. Raises UnknownEnvironment.

    Whatever keeps it from being made or described, such as a missing dependency, is a fact about it.
    """
    found = find_environment(env_id)
    if found.family == "atari":
        return _describe_game(env_id, found)
    doing = "made"
    try:
        arguments = environment_arguments(env_id)
        if any(argument.is_required and argument.adapter is not None for argument in arguments.values()):
            return _unmade(env_id, found, kwargs_schema(arguments))
        made = make_unlimited(EnvSpec(id=env_id))
        doing = "described"
        # Not closed: that could hang, and there is nothing to close in what was never reset.
        return _described(EnvSpec(id=env_id), found, made)
    except (Exception, SystemExit) as error:
        return unusable(
            env_id, f"it cannot be {doing}: {in_words(error)}", origin=found.origin, plugin=found.plugin
        ).model_copy(update={"max_episode_steps": found.registration.max_episode_steps})


def describe_with_arguments(env: EnvSpec) -> EnvironmentDescription:
    """An environment as it is with the arguments and the settings for Atari of a spec.

    Raises: UnknownEnvironment, UnsupportedSpace, InvalidSpec, EnvironmentFailed.
    """
    if not env.kwargs and env.atari in (None, AtariSpec()):
        return describe_environment(env.id)
    alone = env.model_copy(update={"frame_stack": 1})
    try:
        return _described(alone, find_environment(env.id), make_unlimited(alone))
    except (EngineError, InvalidSpec):
        raise
    except (Exception, SystemExit) as error:
        raise fault_of(error, EnvironmentPlace(env.id, 0, 0, 0), expired=None) from error


def _described(env: EnvSpec, found: Registered, made: gymnasium.Env[Any, Any]) -> EnvironmentDescription:
    try:
        observation_size = flat_size(made.observation_space)
        action_size = action_space_of(made.action_space).outputs
        reason = None if observation_size else "its observations hold no numbers"
    except UnsupportedSpace as error:
        observation_size, action_size, reason = 0, 0, str(error)
    registration = found.registration
    return EnvironmentDescription(
        id=env.id,
        origin=found.origin,
        plugin=found.plugin,
        arguments=env.kwargs,
        supported=reason is None,
        unsupported_reason=reason,
        observation_space=space_to_json(made.observation_space),
        action_space=space_to_json(made.action_space),
        observation_size=observation_size,
        action_size=action_size,
        max_episode_steps=registration.max_episode_steps,
        kwargs_schema=kwargs_schema(environment_arguments(env.id)),
        native_vector=registration.vector_entry_point is not None,
        batched_vector=is_batched(env),
        action_masks=masks_method(made) is not None,
        resume="approximate" if registration.nondeterministic else "exact",
        resume_note=NONDETERMINISTIC if registration.nondeterministic else None,
    )


def _describe_game(env_id: str, found: Registered) -> EnvironmentDescription:
    """An Atari game, which is not loaded for that: all of them would take a quarter of a minute."""
    game, screen = found.registration.kwargs["game"], AtariSpec().screen_size
    actions = spaces.Discrete(MINIMAL_ACTIONS[game])
    return EnvironmentDescription(
        id=env_id,
        origin=found.origin,
        supported=True,
        observation_space=space_to_json(spaces.Box(0, 255, (screen, screen), np.uint8)),
        action_space=space_to_json(actions),
        observation_size=screen**2,
        action_size=int(actions.n),
        max_episode_steps=found.registration.max_episode_steps,
        kwargs_schema=kwargs_schema(environment_arguments(env_id)),
        native_vector=True,
        resume="approximate" if game in SAVED_IN_PART else "exact",
        resume_note=INCOMPLETE if game in SAVED_IN_PART else None,
    )


def space_to_json(space: spaces.Space[Any]) -> dict[str, JsonValue]:
    """A space as JSON: the class of Gymnasium's that it is of, and what defines it; infinite bounds are null."""
    described: dict[str, JsonValue] = {"type": _class_of(space).__name__}
    match space:
        case spaces.Box():
            bounds: dict[str, JsonValue] = {"low": _bound(space.low), "high": _bound(space.high)}
            return described | {"shape": list(space.shape), "dtype": str(space.dtype)} | bounds
        case spaces.Discrete():
            return described | {"n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return described | {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        case spaces.MultiBinary():
            return described | {"shape": list(space.shape)}
        case spaces.Dict():
            if len({str(key) for key in space.spaces}) < len(space.spaces):
                raise UnsupportedSpace("keys of a Dict space are not told apart by their text")
            return described | {"spaces": {str(key): space_to_json(part) for key, part in space.spaces.items()}}
        case spaces.Tuple():
            return described | {"spaces": [space_to_json(part) for part in space.spaces]}
        case _:
            return described


def _class_of(space: object) -> type:
    """Gymnasium's class, where the space is of one derived from it."""
    return next((kind for kind in type(space).__mro__ if kind in GYMNASIUM_SPACES), type(space))


def _bound(bound: Any) -> JsonValue:
    """A bound in its space's shape; one number where a large space has the same everywhere, as images have."""
    if bound.size > MOST_LISTED_BOUNDS and (bound == bound.flat[0]).all():
        return _finite(bound.flat[0])
    return _nested(bound)


def _nested(numbers: Any) -> JsonValue:
    if isinstance(numbers, np.ndarray) and numbers.ndim:
        return [_nested(part) for part in numbers]
    return _finite(numbers)


def _finite(number: Any) -> JsonValue:
    return float(number) if np.isfinite(number) else None


def _unmade(env_id: str, found: Registered, schema: Schema) -> EnvironmentDescription:
    """One that needs arguments, without which its spaces are not known."""
    limit = found.registration.max_episode_steps
    return unusable(env_id, "", origin=found.origin, plugin=found.plugin).model_copy(
        update={"supported": True, "unsupported_reason": None, "kwargs_schema": schema, "max_episode_steps": limit}
    )


def unusable(env_id: str, reason: str, *, origin: str, plugin: str | None) -> EnvironmentDescription:
    """One that cannot be trained on."""
    return EnvironmentDescription(
        id=env_id,
        origin=origin,
        plugin=plugin,
        supported=False,
        unsupported_reason=reason,
        observation_space={},
        action_space={},
        observation_size=0,
        action_size=0,
        kwargs_schema={"type": "object", "properties": {}, "additionalProperties": False},
    )


def in_words(error: BaseException) -> str:
    """What was raised, as text that every reader takes, whatever its author made of it."""
    kind = type(error).__name__
    try:
        message = str(error).strip()
    except Exception:
        return kind
    message = message[:LONGEST_REASON].encode("utf-8", "replace").decode()
    is_plain = isinstance(error, RuntimeError | OSError | ImportError | gymnasium.error.Error) and message
    return message if is_plain else f"{kind}: {message}" if message else kind
