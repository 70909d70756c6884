"""The other engines, in an environment of their own: what is there of them, and getting those that pip cannot install.

Nothing of theirs is in this repository. `make bench-peers` makes `.bench-venv`, which sees our own torch, NumPy and
Gymnasium, installs `peers.txt` there, and has this module clone the rest.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from benchmarks.record import REPOSITORY

VENV = REPOSITORY / ".bench-venv"
PYTHON = VENV / "bin" / "python"
REMEDY = "`make bench-peers` gets what the network gives"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A repository that is no package."""

    name: str
    url: str
    commit: str
    variable: str
    """The environment variable that names another repository to clone from: a directory will do."""

    @property
    def home(self) -> Path:
        """Where the clone lies."""
        return VENV / "src" / self.name


CLEANRL = Checkout(
    "cleanrl",
    "https://github.com/vwxyzjn/cleanrl",
    "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb",
    "PPO_BENCH_CLEANRL",
)
PUREJAXRL = Checkout(
    "purejaxrl",
    "https://github.com/luchris429/purejaxrl",
    "31756b197773a52db763fdbe6d635e4b46522a73",
    "PPO_BENCH_PUREJAXRL",
)
CHECKOUTS = (CLEANRL, PUREJAXRL)
PACKAGES = {"sb3": "stable-baselines3", "sbx": "sbx-rl", "purejaxrl": "gymnax", "cleanrl": "tyro"}
"""The package that a contestant cannot do without."""
ENVIRONMENTS = {"purejaxrl": ("CartPole-v1",)}
"""What a peer can train on, where that is not everything."""


def clone(peer: Checkout) -> str | None:
    """Checks the pinned commit out; the reason why not, if it cannot be had."""
    if (peer.home / ".git").exists():
        return None
    source = os.environ.get(peer.variable) or peer.url
    commands = (
        ["git", "clone", "--quiet", "--no-checkout", source, str(peer.home)],
        ["git", "-C", str(peer.home), "-c", "advice.detachedHead=false", "checkout", "--quiet", peer.commit],
    )
    for command in commands:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            return f"{peer.name} cannot be had from {source}: {finished.stderr.strip().splitlines()[-1]}"
    return None


def interpreter() -> str:
    """The Python that has the peers: our own where they have none, since they may be installed there."""
    return str(PYTHON) if PYTHON.exists() else sys.executable


def installed(packages: Sequence[str]) -> dict[str, JsonValue]:
    """The versions that the peers' environment has, null for what is absent."""
    program = "import json, sys; from benchmarks.record import versions; print(json.dumps(versions(*sys.argv[1:])))"
    command = [interpreter(), "-c", program, *packages]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    found: dict[str, JsonValue] = json.loads(finished.stdout)
    return found


def absence(contestant: str, env_id: str, versions: dict[str, JsonValue]) -> str | None:
    """Why a contestant cannot take part, as a sentence; None if it can."""
    package = PACKAGES.get(contestant)
    if package is None:
        return None
    if env_id not in ENVIRONMENTS.get(contestant, (env_id,)):
        return f"{contestant} is left out: it has no {env_id}."
    if versions.get(package) is None:
        return f"{contestant} is left out: {package} is not installed; {REMEDY}."
    checkout = next((peer for peer in CHECKOUTS if peer.name == contestant), None)
    if checkout is not None and not (checkout.home / ".git").exists():
        return f"{contestant} is left out: there is no clone of {checkout.url}; {REMEDY}."
    return None


def main() -> int:
    """Clones what is missing and says of the rest why it is not there; a benchmark runs without."""
    for peer in CHECKOUTS:
        reason = clone(peer)
        print(reason or f"{peer.name} is at {peer.commit[:8]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
