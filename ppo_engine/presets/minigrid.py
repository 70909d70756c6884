"""MiniGrid's worlds: one preset for all of them."""

from ppo_engine.presets.preset import TANH_64, ZOO, Preset

PRESETS = (
    Preset(
        "MiniGrid-*",
        {
            "env": {"n_envs": 8},
            "policy": TANH_64,
            "ppo": {
                "total_timesteps": 100_000,
                "n_steps": 128,
                "batch_size": 64,
                "n_epochs": 10,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "ent_coef": 0.0,
                "vf_coef": 0.5,
                "learning_rate": {"kind": "linear", "initial": 1e-3, "final": 0.0},
            },
            "normalize": {"observations": False, "rewards": True},
        },
        f"{ZOO}, for all of MiniGrid, but for the rate, whose decay keeps likeliest actions from going in circles",
    ),
)
