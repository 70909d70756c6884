"""One run of one contestant, in a process of its own that is held to one core.

Throughput counts from the end of a run's first iteration, which holds imports, compilation and first calls; how long
those took is told apart. A run lasts `total_timesteps` of its task at least, and some seconds.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.laps import Mark, speed
from benchmarks.published import train_cleanrl, train_purejaxrl
from benchmarks.record import Record
from benchmarks.tasks import TASKS, Task, hyperparameters, training_spec

SECONDS = 5.0
"""A run's least length after its first iteration, for a contestant that can be stopped between two."""
ENDLESS = 10**9

Contestant = Callable[[Task, int], Record]


def train_ours(task: Task, seed: int, *, backend: str = "auto", seconds: float = SECONDS) -> Record:
    """Our engine; the return is the one it had at the task's `total_timesteps`."""
    began = Mark.now()
    from ppo_engine.trainer import Trainer

    trainer = Trainer(
        training_spec(task, seed, backend=backend, total_timesteps=ENDLESS), threads=1, environment_cores=1
    )
    started, first, reached, now = began, 0, float("nan"), began
    for progress in trainer.iterations():
        now = Mark.now()
        if not first:
            started, first = now, progress.timesteps
        if progress.timesteps <= task.total_timesteps and progress.metrics:
            reached = progress.metrics.get("rollout/ep_rew_mean", reached)
        if progress.timesteps >= task.total_timesteps and now.wall - started.wall >= seconds:
            break
    trainer.close()
    return {
        **speed(trainer.timesteps - first, started, now),
        "start_seconds": started.wall - began.wall,
        "return": reached,
        "backend": trainer.runtime["backend"],
        "vectorization": trainer.runtime["vectorization"],
    }


def train_ours_on_torch(task: Task, seed: int) -> Record:
    """Our engine without its compiled loops."""
    return train_ours(task, seed, backend="torch")


def train_sb3(task: Task, seed: int) -> Record:
    """Stable-Baselines3, with its own vector environment."""
    began = Mark.now()
    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(1)
    return _train_like_sb3(PPO, task, seed, began, device=task.device)


def train_sbx(task: Task, seed: int) -> Record:
    """sbx: Stable-Baselines3's loop around updates that JAX compiles."""
    began = Mark.now()
    import torch
    from sbx import PPO

    torch.set_num_threads(1)
    return _train_like_sb3(PPO, task, seed, began)


def step_raw(task: Task, seed: int) -> Record:
    """Gymnasium's synchronous vector environment under random actions, and nothing else: the ceiling of stepping it."""
    import gymnasium

    environments = gymnasium.make_vec(task.env_id, num_envs=task.n_envs, vectorization_mode="sync")
    environments.reset(seed=seed)
    environments.action_space.seed(seed)
    actions = [environments.action_space.sample() for _ in range(256)]
    started, rounds = Mark.now(), 0
    while time.perf_counter() - started.wall < SECONDS / 2:
        for action in actions:
            environments.step(action)
        rounds += len(actions)
    ended = Mark.now()
    environments.close()
    return {**speed(rounds * task.n_envs, started, ended), "return": None}


CONTESTANTS: dict[str, Contestant] = {
    "ours": train_ours,
    "ours-torch": train_ours_on_torch,
    "sb3": train_sb3,
    "cleanrl": train_cleanrl,
    "sbx": train_sbx,
    "purejaxrl": train_purejaxrl,
    "raw": step_raw,
}


def hold_to_one_core() -> None:
    """Keeps this process, and every thread that it will start, to one core; does nothing where the system cannot."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _train_like_sb3(algorithm: Any, task: Task, seed: int, began: Mark, **options: str) -> Record:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    starts: list[Mark] = []

    class RolloutStarts(BaseCallback):
        def _on_rollout_start(self) -> None:
            starts.append(Mark.now())

        def _on_step(self) -> bool:
            return True

    environments = make_vec_env(task.env_id, task.n_envs, seed=seed)
    model = algorithm("MlpPolicy", environments, seed=seed, **hyperparameters(task), **options)
    model.learn(task.total_timesteps, callback=RolloutStarts())
    ended = Mark.now()
    episodes = [episode["r"] for episode in model.ep_info_buffer or []]
    return {
        **speed(model.num_timesteps - task.rows, starts[1], ended),
        "start_seconds": starts[1].wall - began.wall,
        "return": statistics.fmean(episodes) if episodes else None,
    }


def main() -> int:
    """Prints the run as one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contestants", description=__doc__)
    parser.add_argument("contestant", choices=list(CONTESTANTS))
    parser.add_argument("task", type=lambda text: TASKS[text] if text in TASKS else Task(**json.loads(text)))
    parser.add_argument("seed", type=int)
    options = parser.parse_args()
    if options.task.device == "cpu":
        hold_to_one_core()
    print(json.dumps(CONTESTANTS[options.contestant](options.task, options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
