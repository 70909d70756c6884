"""What this machine is and has installed, without importing any of it: a worker asks, which never imports torch."""

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

DISTRIBUTIONS = ("torch", "numpy", "gymnasium", "mujoco", "box2d")
"""What numbers depend on."""


MISLEADING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables by which OpenBLAS takes the kernels of another CPU than the one that it runs on."""


def misleading(variables: Mapping[str, str]) -> list[str]:
    """Of these variables those that slow the compiled loops down: with them, CartPole trained at 0.53 of its speed."""
    return [name for name in MISLEADING if name in variables]


def installed_versions(distributions: Iterable[str] = DISTRIBUTIONS) -> dict[str, JsonValue]:
    versions: dict[str, JsonValue] = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def processor() -> tuple[str, list[str]]:
    """Model name and feature flags of the CPU; what the platform knows where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    return first.get("model name", platform.machine()), first.get("flags", first.get("Features", "")).split()
