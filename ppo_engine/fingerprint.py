"""What a training ran on: whatever may change a bit of its numbers."""

import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch
from pydantic import JsonValue

_DISTRIBUTIONS = ("torch", "numpy", "gymnasium", "mujoco", "box2d")
_COMPILER = ("numba", "llvmlite", "scipy")
"""What the bits of the fused backend depend on besides: numba's products of matrices are those of SciPy's BLAS."""


def fingerprint(device: torch.device, *, backend: str, threads: int) -> dict[str, JsonValue]:
    """As JSON. Two trainings of one spec with equal fingerprints give equal bits."""
    model, flags = processor()
    return {
        "cpu": model,
        "cpu_flags": hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:16],
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "backend": backend,
        "threads": threads,
        "versions": {
            "python": platform.python_version(),
            **installed_versions(_DISTRIBUTIONS + _COMPILER * (backend == "fused")),
        },
    }


def differences(before: dict[str, JsonValue], now: dict[str, JsonValue]) -> list[str]:
    """What differs between two fingerprints, one sentence each."""
    sentences = []
    for key in sorted(before.keys() | now.keys()):
        then, today = before.get(key), now.get(key)
        if isinstance(then, dict) and isinstance(today, dict):
            sentences += differences(then, today)
        elif then != today:
            sentences.append(f"{key} was {then}, is {today}")
    return sentences


def installed_versions(distributions: Iterable[str] = _DISTRIBUTIONS) -> dict[str, JsonValue]:
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
