"""Which environments there are, and how one is made: Gymnasium's own, those of known packages, the operator's plugins.

A plugin is an installed distribution with an entry point in the group `ppo_service.environments` that names a function;
the function is called once per process and registers its environments with `gymnasium.register`.
Nothing is ever imported because a user named it.
"""

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registration
from gymnasium.wrappers import TimeLimit

from ppo_engine.envs.arguments import Schema, checked_kwargs, kwargs_schema
from ppo_engine.envs.box2d import with_fresh_worlds
from ppo_engine.envs.packages import LONGEST_GAME_FRAMES, PACKAGES, environments_of
from ppo_engine.envs.stacking import FrameStack
from ppo_engine.errors import UnknownEnvironment
from ppo_engine.spec import AtariSpec, EnvSpec, InvalidSpec, SpecFault

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "ppo_service.environments"
GYMNASIUM_FAMILIES = ("classic_control", "box2d", "mujoco", "toy_text")

_plugin_ids: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Registered:
    """An environment that may be trained on, and the distribution that provides it."""

    registration: Registration
    origin: str
    plugin: bool
    family: str | None = None
    """`atari` for games of ale-py, `minigrid` for MiniGrid's worlds."""


def registered_environments() -> Mapping[str, Registered]:
    """All environments by id: Gymnasium's, those of plugins, those of packages; each group in order of id."""
    # Keyed by the import path, so that a distribution that becomes importable is found.
    found = dict(_registered(tuple(sys.path)))
    for package in PACKAGES:
        for env_id, registration in environments_of(package).items():
            found.setdefault(env_id, Registered(registration, package.origin, plugin=False, family=package.family))
    return found


def find_environment(env_id: str) -> Registered:
    """The environment of that id. Raises UnknownEnvironment."""
    if ":" in env_id:
        raise UnknownEnvironment(f"{env_id!r}: an environment is named by its id alone, without a module")
    found = _registered(tuple(sys.path)).get(env_id)
    if found is not None:
        return found
    for package in PACKAGES:
        if package.may_have(env_id) and (registration := environments_of(package).get(env_id)) is not None:
            return Registered(registration, package.origin, plugin=False, family=package.family)
    raise UnknownEnvironment(f"no environment {env_id!r} is installed")


def make_environment(env: EnvSpec) -> gymnasium.Env[Any, Any]:
    """One environment, with its time limit and without Gymnasium's checking wrappers.

    Raises: UnknownEnvironment; InvalidSpec for keyword arguments that it does not take, and settings of other ones.
    """
    made = make_unlimited(env)
    limit = episode_limit(env)
    return made if limit is None else TimeLimit(made, limit)


def make_unlimited(env: EnvSpec) -> gymnasium.Env[Any, Any]:
    """As `make_environment`, for a caller that cuts episodes at `episode_limit` itself."""
    found = find_environment(env.id)
    registration = replace(found.registration, order_enforce=False)
    kwargs = checked_kwargs(env.id, argument_schema(env.id), env.kwargs) if env.kwargs else {}
    if found.family == "atari":
        kwargs["settings"] = env.atari or AtariSpec()
    elif env.atari is not None:
        raise InvalidSpec([SpecFault("/env/atari", f"{env.id} is no Atari game")])
    made = gymnasium.make(registration, max_episode_steps=-1, disable_env_checker=True, **kwargs)
    made = _symbolic(made) if found.family == "minigrid" else with_fresh_worlds(made)
    return made if env.frame_stack == 1 else FrameStack(made, env.frame_stack)


def _symbolic(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    # Imported here, since it imports MiniGrid.
    from ppo_engine.envs.mini_grid import SymbolicView

    return SymbolicView(env)


def episode_limit(env: EnvSpec) -> int | None:
    """Steps after which an episode is truncated: the spec's, else what the environment is registered with."""
    if env.max_episode_steps is not None:
        return env.max_episode_steps
    found = find_environment(env.id)
    if found.family == "atari":
        return math.ceil(LONGEST_GAME_FRAMES / (env.atari or AtariSpec()).frame_skip)
    return found.registration.max_episode_steps


@lru_cache(maxsize=1024)
def argument_schema(env_id: str) -> Schema:
    """The JSON Schema of `EnvSpec.kwargs` for an environment. Raises UnknownEnvironment."""
    return kwargs_schema(find_environment(env_id).registration)


@lru_cache(maxsize=8)
def _registered(_import_path: tuple[str, ...]) -> Mapping[str, Registered]:
    gymnasium_origin = f"gymnasium {version('gymnasium')}"
    found = {
        env_id: Registered(registration, gymnasium_origin, plugin=False)
        for env_id, registration in sorted(gymnasium.registry.items())
        if _is_of_gymnasium(registration)
    }
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        origin = f"{entry_point.dist.name} {entry_point.dist.version}" if entry_point.dist else entry_point.value
        for env_id in _ids_of_plugin(entry_point):
            found[env_id] = Registered(gymnasium.registry[env_id], origin, plugin=True)
    return found


def _is_of_gymnasium(registration: Registration) -> bool:
    if not isinstance(registration.entry_point, str):
        return False
    package, _, family = registration.entry_point.partition(":")[0].rpartition(".")[0].rpartition(".")
    return package == "gymnasium.envs" and family in GYMNASIUM_FAMILIES


def _ids_of_plugin(entry_point: EntryPoint) -> tuple[str, ...]:
    if entry_point.value not in _plugin_ids:
        before = set(gymnasium.registry)
        try:
            entry_point.load()()
        except Exception:
            # One broken plugin must not take the other environments with it.
            log.exception("plugin %s could not be loaded", entry_point.value)
            return ()
        _plugin_ids[entry_point.value] = tuple(sorted(set(gymnasium.registry) - before))
    return _plugin_ids[entry_point.value]
