"""Secrets are handed down in memory, not in variables: those of a process can be read by others of its user."""

import os
from collections.abc import MutableMapping

NAMES = ("PPO_DATABASE_URL", "PPO_BROKER_URL", "PPO_ARTIFACTS_URL", "PPO_API_KEY")


def put_away(variables: MutableMapping[str, str]) -> None:
    """Move secrets to files that have no name; the variables then say where whoever inherits them finds them.

    Only on Linux; elsewhere they stay where they are.
    """
    if not hasattr(os, "memfd_create"):
        return
    for name in NAMES:
        if secret := variables.pop(name, None):
            descriptor = os.memfd_create(name, 0)
            os.write(descriptor, secret.encode())
            variables[f"{name}_FILE"] = f"/dev/fd/{descriptor}"


def inherited(variables: MutableMapping[str, str]) -> tuple[int, ...]:
    """The descriptors that a process must be given along with the variables."""
    paths = [variables.get(f"{name}_FILE", "") for name in NAMES]
    return tuple(int(path.removeprefix("/dev/fd/")) for path in paths if path.startswith("/dev/fd/"))
