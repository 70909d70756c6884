"""`python -m worker.describe`: what this worker can train on, as one JSON object on stdout.

A process of its own, since environments may import anything, print, or fail.
"""

import json
import os
import platform
import sys
from importlib import metadata

import torch
from pydantic import JsonValue

from ppo_engine.envs.catalogue import catalogue
from ppo_engine.fingerprint import fingerprint, installed_versions, processor
from worker.compile import is_compiled


def main() -> None:
    """Prints environments, devices, versions and fingerprint; whatever environments print goes to stderr."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    described = {
        "environments": [environment.model_dump(mode="json") for environment in catalogue()],
        "devices": devices(),
        "versions": versions(),
        "is_compiled": is_compiled(),
        "fingerprint": fingerprint(torch.device("cpu"), backend="torch", threads=1),
    }
    with os.fdopen(answer, "w") as stdout:
        json.dump(described, stdout)


def devices() -> list[dict[str, JsonValue]]:
    """The CPU, and the GPUs that torch can use."""
    model, _ = processor()
    found: list[dict[str, JsonValue]] = [{"kind": "cpu", "model": model}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory
        found.append({"kind": "cuda", "index": index, "name": properties.name, "memory_bytes": memory})
    return found


def versions() -> dict[str, JsonValue]:
    """Of Python, this service, and what its numbers depend on."""
    return {"python": platform.python_version(), "ppo-service": metadata.version("ppo-service"), **installed_versions()}


if __name__ == "__main__":
    main()
    # Threads and exit hooks of an environment's library must not keep the worker waiting.
    sys.stdout.flush()
    os._exit(0)
