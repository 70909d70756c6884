"""What a training ran on: whatever may change a bit of its numbers."""

import hashlib
import platform

import torch
from pydantic import JsonValue

from ppo_engine.machine import DISTRIBUTIONS, installed_versions, processor

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
            **installed_versions(DISTRIBUTIONS + _COMPILER * (backend == "fused")),
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
