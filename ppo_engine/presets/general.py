"""What holds where neither the user nor a preset says anything: `image` where a network of convolutions sees images,
else by the kind of the action space."""

from ppo_engine.presets.preset import Patch

GENERAL: dict[str, Patch] = {
    # After Weng et al. 2022 (tianshou), arXiv:2107.14171, the best published PPO on MuJoCo at a million steps.
    "box": {
        "env": {"n_envs": 8},
        "policy": {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": -0.5},
        "ppo": {
            "n_steps": 256,
            "batch_size": 64,
            "n_epochs": 10,
            "learning_rate": {"kind": "linear", "initial": 3e-4, "final": 0.0},
            "vf_coef": 0.25,
            "ent_coef": 0.0,
        },
        "normalize": {"observations": True, "rewards": True},
    },
    # After Huang et al. 2022, "The 37 Implementation Details of Proximal Policy Optimization".
    "discrete": {
        "env": {"n_envs": 8},
        "policy": {"hidden_sizes": [64, 64], "activation": "tanh"},
        "ppo": {
            "n_steps": 128,
            "batch_size": 256,
            "n_epochs": 4,
            "learning_rate": {"kind": "linear", "initial": 2.5e-4, "final": 0.0},
            "ent_coef": 0.01,
        },
        "normalize": {"observations": True, "rewards": True},
    },
    # The settings for Atari of Schulman et al. 2017, table 5, arXiv:1707.06347, as Huang et al. 2022 have them.
    "image": {
        "env": {"n_envs": 8},
        "policy": {"hidden_sizes": [], "activation": "relu"},
        "ppo": {
            "n_steps": 128,
            "batch_size": 256,
            "n_epochs": 4,
            "learning_rate": {"kind": "linear", "initial": 2.5e-4, "final": 0.0},
            "clip_range": {"kind": "linear", "initial": 0.1, "final": 0.0},
            "ent_coef": 0.01,
        },
        "normalize": {"observations": True, "rewards": True},
    },
}
