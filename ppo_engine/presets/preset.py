"""What a preset is, and what several of them share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

Patch: TypeAlias = Mapping[str, JsonValue]

# A preset names every field that the general defaults name, so that those never show through.
TANH_64: JsonValue = {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": 0.0}
ZOO = "RL Baselines3 Zoo, hyperparams/ppo.yml"


@dataclass(frozen=True, slots=True)
class Preset:
    """Hyperparameters that were tuned for one environment, or for a family of them."""

    env_id: str
    """An id, or a pattern with `*` for those of a family, which holds where an id has no preset of its own."""
    spec: Patch
    """A patch of `TrainingSpec`, as JSON."""
    source: str
    """Where the numbers come from."""
