"""Presets of Gymnasium's classic control."""

from ppo_engine.presets.preset import TANH_64, ZOO, Preset

PRESETS = (
    Preset(
        "CartPole-v1",
        {
            "env": {"n_envs": 8},
            "policy": TANH_64,
            "ppo": {
                "total_timesteps": 100_000,
                "n_steps": 128,
                "batch_size": 256,
                "n_epochs": 10,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "ent_coef": 0.01,
                "vf_coef": 0.5,
                "learning_rate": {"kind": "linear", "initial": 1e-3, "final": 0.0},
            },
            "normalize": {"observations": True, "rewards": True},
        },
        "a sweep around the settings of RL Baselines3 Zoo: 60 of 60 seeds reached 500, 18 of 20 without entropy bonus",
    ),
    Preset(
        "Acrobot-v1",
        {
            "env": {"n_envs": 8},
            "policy": TANH_64,
            "ppo": {
                "total_timesteps": 1_000_000,
                "n_steps": 128,
                "batch_size": 64,
                "n_epochs": 10,
                "gamma": 0.99,
                "gae_lambda": 0.94,
                "ent_coef": 0.0,
                "vf_coef": 0.5,
                "learning_rate": {"kind": "linear", "initial": 1e-3, "final": 0.0},
            },
            "normalize": {"observations": True, "rewards": True},
        },
        f"{ZOO}, but for rollouts, epochs and learning rate: the best of 3 trials of benchmarks/tune.py of 5 seeds "
        "and 200,000 steps each",
    ),
    Preset(
        "MountainCar-v0",
        {
            "env": {"n_envs": 16},
            "policy": TANH_64,
            "ppo": {
                "total_timesteps": 1_000_000,
                "n_steps": 16,
                "batch_size": 64,
                "n_epochs": 4,
                "gamma": 0.99,
                "gae_lambda": 0.98,
                "ent_coef": 0.0,
                "vf_coef": 0.5,
                "learning_rate": 3e-4,
            },
            "normalize": {"observations": True, "rewards": True},
        },
        ZOO,
    ),
    Preset(
        "MountainCarContinuous-v0",
        {
            "env": {"n_envs": 4},
            "policy": TANH_64,
            "ppo": {
                "total_timesteps": 50_000,
                "n_steps": 256,
                "batch_size": 64,
                "n_epochs": 10,
                "gamma": 0.999,
                "gae_lambda": 0.95,
                "ent_coef": 0.0,
                "vf_coef": 0.25,
                "learning_rate": {"kind": "linear", "initial": 1e-3, "final": 0.0},
            },
            "normalize": {"observations": True, "rewards": True},
        },
        "the better of 2 trials of benchmarks/tune.py, 4 seeds each",
    ),
    Preset(
        "Pendulum-v1",
        {
            "env": {"n_envs": 8},
            "policy": {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": 0.5},
            "ppo": {
                "total_timesteps": 100_000,
                "n_steps": 128,
                "batch_size": 64,
                "n_epochs": 10,
                "gamma": 0.95,
                "gae_lambda": 0.9,
                "normalize_advantage": "batch",
                "ent_coef": 0.0,
                "vf_coef": 0.5,
                "learning_rate": {"kind": "linear", "initial": 1e-3, "final": 0.0},
            },
            "normalize": {"observations": True, "rewards": True},
        },
        "the best of 13 trials of benchmarks/tune.py, 5 or 8 seeds each",
    ),
)
