"""What a preset is, and what several of them share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

Patch: TypeAlias = Mapping[str, JsonValue]

# A preset names every field that the general defaults name, so that those never show through.
TANH_64: JsonValue = {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": 0.0}
ZOO = "RL Baselines3 Zoo, hyperparams/ppo.yml"

LARGEST_GROWTH = 32
"""Iterations are of 65,536 steps then, which the zoo's are for BipedalWalker."""

_SIZES = {"n_steps", "batch_size"}


@dataclass(frozen=True, slots=True)
class Preset:
    """Hyperparameters that were tuned for one environment, or for a family of them."""

    env_id: str
    """An id, or a pattern with `*` for those of a family, which holds where an id has no preset of its own."""
    spec: Patch
    """A patch of `TrainingSpec`, as JSON."""
    source: str
    """Where the numbers come from."""
    grows: bool = False
    """Whether longer trainings than the preset's own take more data to each update; see `patch`."""

    def patch(self, ppo: Mapping[str, JsonValue]) -> Patch:
        """The spec as it is for what the user set of `ppo`.

        A preset that grows has iterations of k times as many steps, in minibatches k times as large, where training
        takes k times its timesteps: as many updates, each of which knows more, so that what was learned is kept.
        """
        own, timesteps = self.spec["ppo"], ppo.get("total_timesteps")
        if not self.grows or not isinstance(own, dict) or not isinstance(timesteps, int) or _SIZES & ppo.keys():
            return self.spec
        times = min(round(timesteps / _number(own["total_timesteps"])), LARGEST_GROWTH)
        if times <= 1:
            return self.spec
        return {**self.spec, "ppo": {**own, **{name: times * _number(own[name]) for name in _SIZES}}}


def _number(value: JsonValue) -> int:
    assert isinstance(value, int)
    return value
