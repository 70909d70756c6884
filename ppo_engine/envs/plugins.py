"""The operator's plugins: which there are, without running code of theirs, and what each registers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

import gymnasium

from ppo_engine.envs.packages import PACKAGES
from ppo_engine.envs.state.surroundings import isolated

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "ppo_service.environments"

_ids: dict[str, tuple[str, ...]] = {}
_preferred: list[str] = []


@dataclass(frozen=True)
class Plugin:
    """An entry point of an installed distribution."""

    name: str
    """What it refers to: `module:function`."""
    distribution: str
    version: str
    entry_point: EntryPoint = field(compare=False)

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@lru_cache(maxsize=8)
def installed_plugins(_import_path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """All plugins on the import path; `sys.path` is the key, so that one that is installed meanwhile is found."""
    return tuple(
        Plugin(
            name=entry_point.value,
            distribution=entry_point.dist.name if entry_point.dist else entry_point.value,
            version=entry_point.dist.version if entry_point.dist else "",
            entry_point=entry_point,
        )
        for entry_point in entry_points(group=ENTRY_POINT_GROUP)
    )


def prefer_plugin(name: str | None) -> None:
    """Have this process look for an environment in that plugin before it runs the code of any other."""
    _preferred[:] = [] if name is None else [name]


def preferred_first(plugins: Sequence[Plugin]) -> list[Plugin]:
    return sorted(plugins, key=lambda plugin: plugin.name not in _preferred)


def ids_of(plugin: Plugin) -> tuple[str, ...]:
    """The environments that a plugin registers, in order of id; a line in the log where it fails."""
    if plugin.name not in _ids:
        _ids[plugin.name], error = register(plugin)
        if error is not None:
            log.error("plugin %s of %s failed", plugin.name, plugin.origin, exc_info=error)
    return _ids[plugin.name]


def register(plugin: Plugin) -> tuple[tuple[str, ...], BaseException | None]:
    """Have a plugin register its environments: the ids of those that it came to, and what it raised if it did."""
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
    return tuple(sorted(own)), failure
