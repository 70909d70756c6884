"""What Stable-Baselines3 reaches with the hyperparameters of its zoo, on the environments that we train on.

A seed's score is, as in `benchmarks.learning`, the mean of deterministic episodes after training on raw returns, with
the normaliser frozen. Finished runs are kept in `results/learning_sb3.jsonl`, where `benchmarks.learning` finds them.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, Record, append, machine, read, run_module, table, versions
from ppo_engine.aggregates import mean_interval

FILE = RESULTS / "learning_sb3.jsonl"
PACKAGES = ("stable-baselines3", "torch", "gymnasium", "mujoco", "box2d", "numpy")
SEEDS = 3
EPISODES = 100
EVALUATION_SEED = 1_000_000

_WIDE: Mapping[str, Any] = {
    "log_std_init": -2.0,
    "ortho_init": False,
    "activation": "relu",
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
_LUNAR_LANDER: Mapping[str, Any] = {
    "n_envs": 16,
    "timesteps": 1_000_000,
    "n_steps": 1024,
    "n_epochs": 4,
    "gamma": 0.999,
    "gae_lambda": 0.98,
    "ent_coef": 0.01,
}
ZOO: Mapping[str, Mapping[str, Any]] = {
    "CartPole-v1": {
        "n_envs": 8,
        "timesteps": 100_000,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "learning_rate": "linear 1e-3",
        "clip_range": "linear 0.2",
    },
    "Acrobot-v1": {
        "normalize": True,
        "n_envs": 16,
        "timesteps": 1_000_000,
        "n_steps": 256,
        "gae_lambda": 0.94,
        "n_epochs": 4,
    },
    "MountainCar-v0": {
        "normalize": True,
        "n_envs": 16,
        "timesteps": 1_000_000,
        "n_steps": 16,
        "gae_lambda": 0.98,
        "n_epochs": 4,
    },
    "MountainCarContinuous-v0": {
        "normalize": True,
        "n_envs": 1,
        "timesteps": 20_000,
        "n_steps": 8,
        "batch_size": 8,
        "gamma": 0.9999,
        "learning_rate": 7.77e-5,
        "ent_coef": 0.00429,
        "clip_range": 0.1,
        "gae_lambda": 0.9,
        "max_grad_norm": 5,
        "vf_coef": 0.19,
        "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
    },
    "Pendulum-v1": {
        "n_envs": 4,
        "timesteps": 100_000,
        "n_steps": 1024,
        "gamma": 0.9,
        "learning_rate": 1e-3,
        "use_sde": True,
        "sde_sample_freq": 4,
    },
    "LunarLander-v3": _LUNAR_LANDER,
    "LunarLanderContinuous-v3": _LUNAR_LANDER,
    "Swimmer-v5": {"normalize": True, "n_envs": 1, "timesteps": 1_000_000, "gamma": 0.9999},
    "Ant-v5": {"normalize": True, "n_envs": 1, "timesteps": 1_000_000},
    "HalfCheetah-v5": {
        "normalize": True,
        "n_envs": 1,
        "timesteps": 1_000_000,
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
        "policy_kwargs": _WIDE,
    },
    "Hopper-v5": {
        "normalize": True,
        "n_envs": 1,
        "timesteps": 1_000_000,
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.999,
        "learning_rate": 9.80828e-05,
        "ent_coef": 0.00229519,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
        "policy_kwargs": _WIDE,
    },
}
"""`hyperparams/ppo.yml` of RL Baselines3 Zoo, July 2025, for the environments' newer versions; what is not named is
Stable-Baselines3's default. MountainCarContinuous asks there for minibatches of 256 from rollouts of 8 rows."""


def hyperparameters(env_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The zoo's settings as arguments of `PPO`, and those of its surroundings: n_envs, timesteps, normalize."""
    from torch import nn

    settings = {"normalize": False, **ZOO[env_id]}
    around = {name: settings.pop(name) for name in ("n_envs", "timesteps", "normalize")}
    policy = dict(settings.pop("policy_kwargs", {}))
    if policy.pop("activation", None) == "relu":
        policy["activation_fn"] = nn.ReLU
    for name in ("learning_rate", "clip_range"):
        if isinstance(settings.get(name), str):
            settings[name] = _linear(float(settings[name].removeprefix("linear ")))
    return {**settings, "policy_kwargs": policy}, around


def run(env_id: str, seed: int) -> Record:
    """Trains one seed and scores it."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    settings, around = hyperparameters(env_id)
    environment = make_vec_env(env_id, n_envs=around["n_envs"], seed=seed)
    judge = make_vec_env(env_id, n_envs=1, seed=EVALUATION_SEED + seed)
    if around["normalize"]:
        environment = VecNormalize(environment, gamma=settings.get("gamma", 0.99))
        judge = VecNormalize(judge, training=False, norm_reward=False)
    started = time.perf_counter()
    model = PPO("MlpPolicy", environment, seed=seed, device="cpu", **settings)
    model.learn(around["timesteps"])
    seconds = time.perf_counter() - started
    if isinstance(environment, VecNormalize) and isinstance(judge, VecNormalize):
        judge.obs_rms = environment.obs_rms
    returns, _ = evaluate_policy(model, judge, n_eval_episodes=EPISODES, return_episode_rewards=True)
    return {
        "mean_return": float(np.mean(returns)),
        "std_return": float(np.std(returns)),
        "train_seconds": round(seconds, 1),
    }


def identity(env_id: str, seed: int) -> Record:
    """What makes a run the same as another."""
    return {
        "benchmark": "learning_sb3",
        "env_id": env_id,
        "seed": seed,
        "episodes": EPISODES,
        "settings": json.loads(json.dumps(ZOO[env_id])),
        "machine": machine(),
        "versions": versions(*PACKAGES),
    }


def kept(env_id: str) -> list[float]:
    """Scores of finished runs with the zoo's present settings, whatever the machine."""
    settings = json.loads(json.dumps(ZOO.get(env_id)))
    runs = [record for record in read(FILE) if record["env_id"] == env_id and record["settings"] == settings]
    by_seed = {record["seed"]: record["mean_return"] for record in runs}
    return [score for score in by_seed.values() if isinstance(score, float)]


def main() -> int:
    """Finishes the runs that are missing and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_sb3", description=__doc__)
    parser.add_argument("--envs", nargs="+", choices=ZOO, default=list(ZOO), metavar="ENV")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--run", nargs=2, metavar=("ENV", "SEED"), help="one run, in this process")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run[0], int(options.run[1]))))
        return 0
    for env_id in options.envs:
        for seed in range(options.seeds):
            wish = identity(env_id, seed)
            if not any(wish.items() <= record.items() for record in read(FILE)):
                append(FILE, {**wish, **run_module("benchmarks.learning_sb3", ["--run", env_id, str(seed)])})
    rows = []
    for env_id in options.envs:
        scores = kept(env_id)
        interval = mean_interval(scores)
        between = "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
        rows.append(
            [env_id, f"{sum(scores) / len(scores):.1f}", between, ", ".join(f"{score:.1f}" for score in scores)]
        )
    print(table(("environment", "SB3 + zoo", "95 % interval", "each seed"), rows))
    return 0


def _linear(initial: float) -> Callable[[float], float]:
    return lambda remaining: initial * remaining


if __name__ == "__main__":
    sys.exit(main())
