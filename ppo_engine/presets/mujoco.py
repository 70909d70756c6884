"""Presets of Gymnasium's MuJoCo environments, for a million steps.

Published results are of versions 2 to 4. Version 5 differs: Ant observes contact forces and pays for them; Ant, Hopper,
Walker2d and both inverted pendulums are no longer rewarded for the step in which they fall; Walker2d's right foot
slides less; Reacher is rewarded by the state after the step.
"""

from pydantic import JsonValue

from ppo_engine.presets.preset import Patch, Preset

_TIANSHOU = "tianshou's MuJoCo recipe (arXiv:2107.14171) without its recomputed advantages"


def _patch(log_std_init: float, learning_rate: float, **ppo: JsonValue) -> Patch:
    """Tianshou's recipe but for what is given; the learning rate falls to zero."""
    return {
        "env": {"n_envs": ppo.pop("n_envs", 8)},
        "policy": {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": log_std_init},
        "ppo": {
            "total_timesteps": 1_000_000,
            "n_steps": 256,
            "batch_size": 64,
            "n_epochs": 10,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "vf_coef": 0.25,
            "ent_coef": 0.0,
            "learning_rate": {"kind": "linear", "initial": learning_rate, "final": 0.0},
            **ppo,
        },
        "normalize": {"observations": True, "rewards": True},
    }


PRESETS = (
    Preset(
        "HalfCheetah-v5",
        _patch(-1.0, 1e-3, gamma=0.98),
        f"{_TIANSHOU}; learning rate, discount and first deviation by benchmarks/tune.py, the better of 2 trials",
    ),
    Preset(
        "Swimmer-v5",
        _patch(-0.5, 6e-4, n_envs=4, n_steps=1024, batch_size=256, gamma=0.9999, gae_lambda=0.98),
        f"{_TIANSHOU}, with discount, rollouts and learning rate of RL Baselines3 Zoo; 1 trial of benchmarks/tune.py",
    ),
    Preset(
        "Reacher-v5",
        _patch(-1.0, 1e-3, gamma=0.95),
        f"{_TIANSHOU}; learning rate, discount and first deviation were the first trial of benchmarks/tune.py",
    ),
)
