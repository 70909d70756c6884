"""Presets of Gymnasium's Box2D environments."""

from ppo_engine.presets.preset import TANH_64, ZOO, Patch, Preset
from ppo_engine.presets.tianshou import TIANSHOU, recipe

_LUNAR_LANDER: Patch = {
    "env": {"n_envs": 16},
    "policy": TANH_64,
    "ppo": {
        "total_timesteps": 1_000_000,
        "n_steps": 1024,
        "batch_size": 64,
        "n_epochs": 4,
        "gamma": 0.999,
        "gae_lambda": 0.98,
        "ent_coef": 0.01,
        "vf_coef": 0.5,
        "learning_rate": 3e-4,
    },
    "normalize": {"observations": False, "rewards": False},
}

PRESETS = (
    Preset("LunarLander-v3", _LUNAR_LANDER, f"{ZOO}, for LunarLander-v2"),
    Preset("LunarLanderContinuous-v3", _LUNAR_LANDER, f"{ZOO}, for LunarLanderContinuous-v2"),
    # With the recipe's discount it learns, in the end, to run so fast that it falls.
    Preset("BipedalWalker-v3", recipe(), TIANSHOU, longer={"gamma": 0.999}),
)
