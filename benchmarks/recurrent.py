"""What memory brings, and what it costs: `python -m benchmarks.recurrent [cartpole|tmaze|cost ...] [--seeds N]`.

cartpole   CartPole without velocities, mean return of 100 episodes at 100k and at 200k steps
tmaze      a T-maze with a delay of 20, share of 200 episodes that end well, with memory and without
cost       CPU seconds per step of training beside the feed-forward policy, on the torch path

The environments are those of the tests' plugin.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.record import with_own_kernels
from ppo_engine.evaluate import evaluate
from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import PLUGIN_PATH

KINDS = ("lstm", "gru")
CARTPOLE: dict[str, Any] = {
    "preset": "default",
    "env": {"id": "test/CartPolePositions-v0", "n_envs": 8},
    "policy": {"memory_size": 64, "sequence_length": 32},
    "ppo": {
        "n_steps": 128,
        "batch_size": 256,
        "n_epochs": 6,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "learning_rate": {"kind": "linear", "initial": 1e-3, "final": 0.0},
        "ent_coef": 0.0,
    },
    "normalize": {"observations": True, "rewards": True},
}
TMAZE: dict[str, Any] = {
    "preset": "default",
    "env": {"id": "test/TMaze-v0", "n_envs": 16},
    "policy": {"memory_size": 32, "sequence_length": 64, "hidden_sizes": [32]},
    "ppo": {
        "total_timesteps": 100_000,
        "n_steps": 128,
        "batch_size": 512,
        "n_epochs": 6,
        "gamma": 0.98,
        "learning_rate": {"kind": "linear", "initial": 2e-3, "final": 0.0},
        "ent_coef": 0.01,
    },
    "normalize": {"observations": False, "rewards": False},
}
COST: dict[str, Any] = {
    "preset": "default",
    "env": {"id": "CartPole-v1", "n_envs": 16},
    "ppo": {"total_timesteps": 16_384, "n_steps": 128, "batch_size": 512, "n_epochs": 4},
    "backend": "torch",
}


def spec_of(settings: dict[str, Any], *, seed: int, memory: str, **sections: Any) -> TrainingSpec:
    """Those settings with a seed, a memory, and more in some sections."""
    merged = {**settings, "seed": seed, "policy": {**settings.get("policy", {}), "memory": memory}}
    for name, section in sections.items():
        merged[name] = {**merged.get(name, {}), **section}
    return TrainingSpec.model_validate_json(TrainingSpec.model_validate(merged).model_dump_json(exclude_unset=True))


def returns_of(spec: TrainingSpec, episodes: int) -> tuple[tuple[float, ...], float]:
    """Returns of deterministic episodes after a training, and the CPU seconds that it took."""
    began = time.process_time()
    trainer = Trainer(spec)
    for _ in trainer.iterations():
        pass
    seconds = time.process_time() - began
    evaluation = evaluate(trainer.acting(), trainer.spec.env, n_episodes=episodes, seeds=np.random.SeedSequence(1))
    trainer.close()
    return evaluation.returns, seconds


def cartpole(seeds: int) -> Iterator[str]:
    for memory in (*KINDS, "none"):
        for steps in (100_000, 200_000):
            means = []
            for seed in range(seeds):
                spec = spec_of(CARTPOLE, seed=seed, memory=memory, ppo={"total_timesteps": steps})
                means.append(float(np.mean(returns_of(spec, 100)[0])))
            yield f"CartPole without velocities, {memory}, {steps} steps: {listed(means, 1)}"


def tmaze(seeds: int) -> Iterator[str]:
    for memory in (*KINDS, "none"):
        shares = []
        for seed in range(seeds):
            returns, _ = returns_of(spec_of(TMAZE, seed=seed, memory=memory), 200)
            shares.append(float(np.mean(np.array(returns) > 0)))
        yield f"T-maze with a delay of 20, {memory}: share of right turns {listed(shares, 3)}"


def cost(seeds: int) -> Iterator[str]:
    """The variants take turns, so that what else the machine does meets all of them."""
    for units in (64, 128):
        seconds: dict[str, list[float]] = {memory: [] for memory in ("none", *KINDS)}
        for seed in range(max(seeds, 3)):
            for memory, measured in seconds.items():
                policy = {"memory_size": units, "hidden_sizes": [64, 64]}
                spec = spec_of(COST, seed=seed, memory=memory, policy=policy)
                measured.append(seconds_of_iterations(spec))
        plain = statistics.median(seconds["none"])
        for memory, measured in seconds.items():
            per_step = statistics.median(measured)
            yield f"{memory} of {units}: {per_step * 1e6:.1f} µs CPU per step, {per_step / plain:.2f} × feed-forward"


def seconds_of_iterations(spec: TrainingSpec) -> float:
    """CPU seconds per step of a training, without its start; on one thread, as the service trains.

    Threads that wait for each other are busy, which would be counted.
    """
    trainer = Trainer(spec, threads=1)
    iterations = trainer.iterations()
    next(iterations)
    began, before = time.process_time(), trainer.timesteps
    for _ in iterations:
        pass
    seconds = time.process_time() - began
    trainer.close()
    return seconds / (trainer.timesteps - before)


def listed(numbers: list[float], digits: int) -> str:
    return f"{statistics.mean(numbers):.{digits}f} ({', '.join(f'{number:.{digits}f}' for number in numbers)})"


def main() -> None:
    with_own_kernels()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["cartpole", "tmaze", "cost"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    sys.path.insert(0, str(PLUGIN_PATH))
    parts = {"cartpole": cartpole, "tmaze": tmaze, "cost": cost}
    for name in options.parts or parts:
        for line in parts[name](options.seeds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
