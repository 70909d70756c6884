"""The catalogue that comes with this package: the environments of the supported versions of known distributions.

`python -m ppo_engine.envs.shipped` writes what is installed beside this file; a test fails where it differs. Reading it
imports no environment, so that a worker knows what it can train before anything else is there.
"""

import json
from importlib import metadata
from pathlib import Path

from ppo_engine.spec import EnvironmentDescription

FOLDER = Path(__file__).parent
DISTRIBUTIONS = {"gymnasium": ("mujoco", "box2d"), "ale-py": (), "minigrid": ()}
"""Known distributions, and those that their environments need besides."""


def installed() -> list[str]:
    """The known distributions that are installed."""
    return [name for name in DISTRIBUTIONS if _version(name) is not None]


def shipped(distribution: str) -> list[EnvironmentDescription] | None:
    """The environments of a distribution as it is installed; None of a version that is not known."""
    path = path_of(distribution)
    if not path.exists() or any(_version(name) is None for name in DISTRIBUTIONS[distribution]):
        return None
    return [EnvironmentDescription.model_validate(entry) for entry in json.loads(path.read_bytes())]


def path_of(distribution: str) -> Path:
    return FOLDER / f"{distribution}-{_version(distribution)}.json"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
