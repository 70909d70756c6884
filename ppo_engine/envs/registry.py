"""Which environments there are, and how one is made: Gymnasium's own, those of known packages, the operator's plugins.

A plugin is an installed distribution with an entry point in the group `ppo_service.environments` that names a function;
the function is called once per process and registers its environments with `gymnasium.register`. It is called only
where one of its environments may be asked for: whatever it does, it does to those alone.
Nothing is ever imported because a user named it.
"""

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registration
from gymnasium.wrappers import TimeLimit

from ppo_engine.envs.arguments import Argument, arguments_of, checked_kwargs
from ppo_engine.envs.box2d import with_fresh_worlds
from ppo_engine.envs.packages import LONGEST_GAME_FRAMES, PACKAGES, Package, environments_of
from ppo_engine.envs.plugins import Plugin, installed_plugins, preferred_first
from ppo_engine.envs.stacking import FrameStack
from ppo_engine.envs.state.surroundings import isolated
from ppo_engine.errors import UnknownEnvironment
from ppo_engine.spec import AtariSpec, EnvSpec, InvalidSpec, SpecFault

log = logging.getLogger(__name__)

GYMNASIUM_FAMILIES = ("classic_control", "box2d", "mujoco", "toy_text")

_ids: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Registered:
    """An environment that may be trained on, and the distribution that provides it."""

    registration: Registration
    origin: str
    plugin: str | None = None
    """The entry point of the plugin that registers it."""
    family: str | None = None
    """`atari` for games of ale-py, `minigrid` for MiniGrid's worlds."""


def registered_environments() -> Mapping[str, Registered]:
    """All environments by id: Gymnasium's, those of packages, those of plugins; each group in order of id."""
    found = dict(gymnasium_environments())
    for package in PACKAGES:
        found |= package_environments(package)
    for plugin in installed_plugins(tuple(sys.path)):
        found = {**plugin_environments(plugin), **found}
    return found


def find_environment(env_id: str) -> Registered:
    """The environment of that id. Raises UnknownEnvironment."""
    if ":" in env_id:
        raise UnknownEnvironment(f"{env_id!r}: an environment is named by its id alone, without a module")
    if (found := gymnasium_environments().get(env_id)) is not None:
        return found
    for package in PACKAGES:
        if package.may_have(env_id) and (found := package_environments(package).get(env_id)) is not None:
            return found
    # Keyed by the import path, so that a distribution that becomes importable is found.
    for plugin in preferred_first(installed_plugins(tuple(sys.path))):
        if env_id in ids_of(plugin):
            return Registered(gymnasium.registry[env_id], plugin.origin, plugin.name)
    raise UnknownEnvironment(f"no environment {env_id!r} is installed")


@lru_cache(maxsize=8)
def package_environments(package: Package) -> Mapping[str, Registered]:
    """What a package offers, which is imported for that; nothing where it is not installed."""
    offered = environments_of(package)
    origin = package.origin if offered else ""
    return {env_id: Registered(found, origin, family=package.family) for env_id, found in offered.items()}


def plugin_environments(plugin: Plugin) -> Mapping[str, Registered]:
    """What a plugin registers; its code runs for that, once per process."""
    return {env_id: Registered(gymnasium.registry[env_id], plugin.origin, plugin.name) for env_id in ids_of(plugin)}


def environments_of_distribution(name: str) -> Mapping[str, Registered]:
    """What Gymnasium or a known package offers."""
    if name == "gymnasium":
        return gymnasium_environments()
    return next(package_environments(package) for package in PACKAGES if package.distribution == name)


def ids_of(plugin: Plugin) -> tuple[str, ...]:
    """The environments that a plugin registers, in order of id; a line in the log where it fails."""
    if plugin.name not in _ids:
        error = register(plugin)
        if error is not None:
            log.error("plugin %s of %s failed", plugin.name, plugin.origin, exc_info=error)
    return _ids[plugin.name]


def register(plugin: Plugin) -> BaseException | None:
    """Have a plugin register its environments; those that it came to count, whatever it raised then."""
    before, failure = set(gymnasium.registry), None
    try:
        with isolated():
            plugin.entry_point.load()()
    except (Exception, SystemExit) as error:
        # One broken plugin must not take the other environments with it.
        failure = error
    new = set(gymnasium.registry) - before
    # A plugin may import a package whose environments are offered already.
    own = (id for id in new if not any(package.has(gymnasium.registry[id]) for package in PACKAGES))
    _ids[plugin.name] = tuple(sorted(own))
    return failure


@lru_cache(maxsize=1)
def gymnasium_environments() -> Mapping[str, Registered]:
    """Gymnasium's own environments, as they were before any plugin could register its own under their ids."""
    origin = f"gymnasium {version('gymnasium')}"
    return {
        env_id: Registered(registration, origin)
        for env_id, registration in sorted(gymnasium.registry.items())
        if _is_of_gymnasium(registration)
    }


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
    kwargs = checked_kwargs(env.id, environment_arguments(env.id), env.kwargs)
    if found.family == "atari":
        kwargs["settings"] = env.atari or AtariSpec()
    elif env.atari is not None:
        raise InvalidSpec([SpecFault("/env/atari", f"{env.id} is no Atari game")])
    # Wrappers that it is registered with may look for the limit: in a spec, or in the wrapper that keeps to it.
    limit = episode_limit(env) if registration.additional_wrappers else None
    made = gymnasium.make(registration, max_episode_steps=limit or -1, disable_env_checker=True, **kwargs)
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
def environment_arguments(env_id: str) -> Mapping[str, Argument]:
    """What `EnvSpec.kwargs` may hold for an environment. Raises UnknownEnvironment."""
    found = find_environment(env_id)
    arguments = arguments_of(found.registration)
    # Which game it is, and how it is shown, is not said by arguments.
    hidden = ("game", "settings") if found.family == "atari" else ()
    return {name: argument for name, argument in arguments.items() if name not in hidden}


def _is_of_gymnasium(registration: Registration) -> bool:
    if not isinstance(registration.entry_point, str):
        return False
    package, _, family = registration.entry_point.partition(":")[0].rpartition(".")[0].rpartition(".")
    return package == "gymnasium.envs" and family in GYMNASIUM_FAMILIES
