"""The operator's plugins, as their installed metadata tells of them: nothing of theirs is imported here."""

import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from pathlib import Path

ENTRY_POINT_GROUP = "ppo_service.environments"

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


def stamp_of(plugin: Plugin) -> str:
    """Changes with whatever a plugin's environments may depend on: its files, and what is installed beside it."""
    digest = hashlib.sha256()
    facts = [plugin.name, plugin.origin, platform.python_version(), version("ppo-service")]
    for line in (*facts, *sorted(_installed()), *sorted(_sources(plugin.name.partition(":")[0]))):
        digest.update(line.encode(errors="replace") + b"\0")
    return digest.hexdigest()


def _installed() -> Iterator[str]:
    """What names each distribution and its version, without reading any."""
    for folder in sys.path:
        if Path(folder).is_dir():
            yield from (path.name for path in Path(folder).iterdir() if path.suffix in (".dist-info", ".egg-info"))


def _sources(module: str) -> Iterator[str]:
    """Each source file of the package that a module is in, with what tells when it changed."""
    spec = find_spec(module.partition(".")[0])
    if spec is None:
        return
    for folder in spec.submodule_search_locations or ():
        for parent, _, names in os.walk(folder):
            yield from (_dated(Path(parent, name)) for name in names if not name.endswith(".pyc"))
    if spec.submodule_search_locations is None and spec.origin is not None:
        yield _dated(Path(spec.origin))


def _dated(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return f"{path} {status.st_mtime_ns} {status.st_size}"
