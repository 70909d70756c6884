"""The recipe behind the best published PPO for continuous control in a million steps."""

from collections.abc import Mapping

from pydantic import JsonValue

from ppo_engine.presets.preset import Patch

TIANSHOU = "tianshou's MuJoCo recipe (Weng et al. 2022, arXiv:2107.14171)"
_PPO: Mapping[str, JsonValue] = {
    "total_timesteps": 1_000_000,
    "n_steps": 256,
    "batch_size": 64,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "vf_coef": 0.25,
    "ent_coef": 0.0,
    "recompute_advantages": True,
    "normalize_advantage": "off",
}


def recipe(
    ppo: Mapping[str, JsonValue] | None = None,
    *,
    log_std_init: float = -0.5,
    learning_rate: float = 3e-4,
    n_envs: int = 8,
    normalize: Mapping[str, JsonValue] | None = None,
) -> Patch:
    """The recipe but for what is given; the learning rate falls to zero."""
    rate: JsonValue = {"kind": "linear", "initial": learning_rate, "final": 0.0}
    return {
        "env": {"n_envs": n_envs},
        "policy": {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": log_std_init},
        "ppo": {**_PPO, "learning_rate": rate, **(ppo or {})},
        "normalize": {"observations": True, "rewards": True, **(normalize or {})},
    }
