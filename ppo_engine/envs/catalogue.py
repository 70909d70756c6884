"""What is known of each environment before it is trained on: spaces, arguments, limits."""

from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium import spaces
from pydantic import JsonValue

from ppo_engine.envs.atari_games import INCOMPLETE, MINIMAL_ACTIONS, SAVED_IN_PART
from ppo_engine.envs.batched import is_batched
from ppo_engine.envs.masks import masks_method
from ppo_engine.envs.registry import (
    Registered,
    argument_schema,
    find_environment,
    make_unlimited,
    registered_environments,
)
from ppo_engine.envs.spaces import action_space_of, flat_size
from ppo_engine.errors import UnsupportedSpace
from ppo_engine.spec import AtariSpec, EnvironmentDescription, EnvSpec

MOST_LISTED_BOUNDS = 1000
NONDETERMINISTIC = "its author says that seed and actions do not determine what it does"


def catalogue() -> list[EnvironmentDescription]:
    """Every environment that is installed or registered by a plugin, those that cannot be trained on among them."""
    return [describe_environment(env_id) for env_id in registered_environments()]


@lru_cache(maxsize=1024)
def describe_environment(env_id: str) -> EnvironmentDescription:
    """One environment as it is with its default arguments. Raises UnknownEnvironment."""
    found = find_environment(env_id)
    if found.family == "atari":
        return _describe_game(env_id, found)
    try:
        env = make_unlimited(EnvSpec(id=env_id))
    except Exception as error:
        # Whatever keeps it from being made, such as a missing dependency, is a fact about it.
        return _unusable(env_id, found, f"it cannot be made: {error}")
    try:
        observation_size = flat_size(env.observation_space)
        action_size = action_space_of(env.action_space).outputs
        reason = None if observation_size else "its observations hold no numbers"
    except UnsupportedSpace as error:
        observation_size, action_size, reason = 0, 0, str(error)
    # Not closed: that could hang, and there is nothing to close in what was never reset.
    registration = found.registration
    return EnvironmentDescription(
        id=env_id,
        origin=found.origin,
        supported=reason is None,
        unsupported_reason=reason,
        observation_space=space_to_json(env.observation_space),
        action_space=space_to_json(env.action_space),
        observation_size=observation_size,
        action_size=action_size,
        max_episode_steps=registration.max_episode_steps,
        kwargs_schema=argument_schema(env_id),
        native_vector=registration.vector_entry_point is not None,
        batched_vector=is_batched(EnvSpec(id=env_id)),
        action_masks=masks_method(env) is not None,
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
        kwargs_schema=argument_schema(env_id),
        native_vector=True,
        resume="approximate" if game in SAVED_IN_PART else "exact",
        resume_note=INCOMPLETE if game in SAVED_IN_PART else None,
    )


def space_to_json(space: spaces.Space[Any]) -> dict[str, JsonValue]:
    """A space as JSON: its type, and what defines it; infinite bounds are null."""
    described: dict[str, JsonValue] = {"type": type(space).__name__}
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
            return described | {"spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
        case spaces.Tuple():
            return described | {"spaces": [space_to_json(part) for part in space.spaces]}
        case _:
            return described


def _bound(bound: Any) -> JsonValue:
    """A bound in its space's shape; one number where a large space has the same everywhere, as images have."""
    if bound.size > MOST_LISTED_BOUNDS and (bound == bound.flat[0]).all():
        return _finite(bound.flat[0])
    return _nested(bound)


def _nested(numbers: Any) -> JsonValue:
    if isinstance(numbers, np.ndarray):
        return [_nested(part) for part in numbers]
    return _finite(numbers)


def _finite(number: Any) -> JsonValue:
    return float(number) if np.isfinite(number) else None


def _unusable(env_id: str, found: Registered, reason: str) -> EnvironmentDescription:
    return EnvironmentDescription(
        id=env_id,
        origin=found.origin,
        supported=False,
        unsupported_reason=reason,
        observation_space={},
        action_space={},
        observation_size=0,
        action_size=0,
        max_episode_steps=found.registration.max_episode_steps,
        kwargs_schema={"type": "object", "properties": {}, "additionalProperties": False},
    )
