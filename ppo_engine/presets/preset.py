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
    longer: Patch | None = None
    """What trainings of twice its timesteps or more take of `ppo` beside more data to each update, see `patch`; None:
    they are as short ones."""

    def patch(self, ppo: Mapping[str, JsonValue]) -> Patch:
        """The spec as it is for what the user set of `ppo`.

        Longer trainings, of k times the preset's timesteps, may take k times as many steps to an iteration, and
        minibatches k times as large: there are as many updates, and each knows more, so that what was learned is kept.
        """
        own, timesteps = self.spec["ppo"], ppo.get("total_timesteps")
        if self.longer is None or not isinstance(own, dict) or not isinstance(timesteps, int) or _SIZES & ppo.keys():
            return self.spec
        times = min(round(timesteps / _number(own["total_timesteps"])), LARGEST_GROWTH)
        if times <= 1:
            return self.spec
        sizes = {name: times * _number(own[name]) for name in _SIZES}
        return {**self.spec, "ppo": {**own, **sizes, **self.longer}}


def _number(value: JsonValue) -> int:
    assert isinstance(value, int)
    return value
