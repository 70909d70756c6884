"""Training throughput beside Stable-Baselines3: same task, hyperparameters, environment version, machine and minute.

Every run is a process of its own with one thread; the order alternates, and what is quoted is the ratio. A run's first
iteration is not counted for either side: it holds imports and first calls.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from benchmarks.record import RESULTS, Record, append, machine, run_module, table, versions
from ppo_engine.spec import TrainingSpec

Contestant: TypeAlias = Literal["ours", "sb3", "raw"]


@dataclass(frozen=True, slots=True)
class Task:
    """A setting that every contestant trains with; the rest is Stable-Baselines3's defaults."""

    name: str
    env_id: str
    n_envs: int
    n_steps: int
    n_epochs: int
    batch_size: int
    total_timesteps: int
    learning_rate: float = 3e-4
    clip_range: float = 0.2
    gamma: float = 0.99
    gae_lambda: float = 0.95
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


TASKS = {
    task.name: task
    for task in (
        Task("cartpole", "CartPole-v1", 8, 128, 4, 256, total_timesteps=131_072),
        Task("pendulum", "Pendulum-v1", 4, 1024, 10, 64, total_timesteps=40_960),
        Task("halfcheetah", "HalfCheetah-v5", 8, 256, 10, 64, total_timesteps=40_960),
    )
}


def training_spec(task: Task, seed: int) -> TrainingSpec:
    """The task as our engine takes it."""
    return TrainingSpec.model_validate(
        {
            "preset": "default",
            "env": {"id": task.env_id, "n_envs": task.n_envs},
            "policy": {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": 0.0},
            "ppo": _hyperparameters(task),
            "normalize": {"observations": False, "rewards": False},
            "seed": seed,
        }
    )


def train_ours(task: Task, seed: int) -> Record:
    """Steps per second of our engine after its first iteration, and the return that it reached."""
    from ppo_engine.trainer import Trainer

    trainer = Trainer(training_spec(task, seed), threads=1)
    started, before, reached = 0.0, 0, float("nan")
    for progress in trainer.iterations():
        if not started:
            started, before = time.perf_counter(), progress.timesteps
        if progress.metrics:
            reached = progress.metrics.get("rollout/ep_rew_mean", reached)
    seconds = time.perf_counter() - started
    steps = trainer.timesteps - before
    trainer.close()
    return {"steps_per_second": steps / seconds, "steps": steps, "return": reached}


def train_sb3(task: Task, seed: int) -> Record:
    """The same of Stable-Baselines3."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    first_iteration = task.n_envs * task.n_steps
    started = 0.0

    def note_start(variables: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
        nonlocal started
        if not started and variables["self"].num_timesteps > first_iteration:
            started = time.perf_counter()
        return True

    ppo = {name: value for name, value in _hyperparameters(task).items() if name != "total_timesteps"}
    model = PPO("MlpPolicy", make_vec_env(task.env_id, task.n_envs, seed=seed), seed=seed, device="cpu", **ppo)
    model.learn(task.total_timesteps, callback=note_start)
    seconds = time.perf_counter() - started
    steps = model.num_timesteps - first_iteration - task.n_envs
    reached = statistics.fmean(episode["r"] for episode in model.ep_info_buffer or [])
    return {"steps_per_second": steps / seconds, "steps": steps, "return": reached}


def step_raw(task: Task, seed: int) -> Record:
    """Steps per second of Gymnasium's own synchronous vector environment under random actions: the ceiling."""
    import gymnasium

    environments = gymnasium.make_vec(task.env_id, num_envs=task.n_envs, vectorization_mode="sync")
    environments.reset(seed=seed)
    environments.action_space.seed(seed)
    actions = [environments.action_space.sample() for _ in range(256)]
    rounds = task.total_timesteps // task.n_envs
    started = time.perf_counter()
    for step in range(rounds):
        environments.step(actions[step % len(actions)])
    seconds = time.perf_counter() - started
    environments.close()
    return {"steps_per_second": rounds * task.n_envs / seconds, "steps": rounds * task.n_envs, "return": None}


CONTESTANTS = {"ours": train_ours, "sb3": train_sb3, "raw": step_raw}


def compare(task: Task, runs: int) -> list[Record]:
    """`runs` runs of each contestant, in alternating order, appended to the results as they finish."""
    records = []
    for run in range(runs):
        order = list(CONTESTANTS) if run % 2 == 0 else list(reversed(CONTESTANTS))
        for contestant in order:
            outcome = run_module("benchmarks.throughput", ["--run", contestant, task.name, str(run)])
            record: Record = {
                "benchmark": "throughput",
                "task": asdict(task),
                "contestant": contestant,
                "seed": run,
                "machine": machine(),
                "versions": versions("ppo-service", "stable-baselines3", "torch", "gymnasium", "mujoco", "numpy"),
                **outcome,
            }
            append(RESULTS / "throughput.jsonl", record)
            print(f"{task.name:12} {contestant:5} run {run}: {_speed(record):10,.0f} steps/s", file=sys.stderr)
            records.append(record)
    return records


def summary(task: Task, records: Sequence[Record]) -> Record:
    """Median, least and most of each contestant, and the ratios of the medians."""
    speeds = {
        contestant: [_speed(record) for record in records if record["contestant"] == contestant]
        for contestant in CONTESTANTS
    }
    medians = {contestant: statistics.median(values) for contestant, values in speeds.items()}
    answer: Record = {
        "task": task.name,
        "ratio_to_sb3": medians["ours"] / medians["sb3"],
        "ratio_to_raw": medians["ours"] / medians["raw"],
    }
    for contestant, values in speeds.items():
        reached = [record["return"] for record in records if record["contestant"] == contestant]
        answer[contestant] = {
            "median": medians[contestant],
            "min": min(values),
            "max": max(values),
            "returns": reached,
        }
    return answer


def _hyperparameters(task: Task) -> dict[str, Any]:
    return {name: value for name, value in asdict(task).items() if name not in ("name", "env_id", "n_envs")}


def _speed(record: Record) -> float:
    speed = record["steps_per_second"]
    assert isinstance(speed, float)
    return speed


def _row(task: Task, records: Sequence[Record]) -> list[str]:
    answer = summary(task, records)
    cells = [f"{task.env_id} {task.n_envs}×{task.n_steps}, {task.n_epochs} epochs, batch {task.batch_size}"]
    for contestant in CONTESTANTS:
        speeds = sorted(_speed(record) for record in records if record["contestant"] == contestant)
        cells.append(f"{statistics.median(speeds):,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})")
    cells += [f"{answer['ratio_to_sb3']:.2f}×", f"{answer['ratio_to_raw']:.2f}×"]
    for contestant in ("ours", "sb3"):
        reached = [record["return"] for record in records if record["contestant"] == contestant]
        cells.append(f"{statistics.median(value for value in reached if isinstance(value, float)):.1f}")
    return cells


def main() -> int:
    """Prints the table; with --json, one JSON object as the last line instead."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", nargs=3, metavar=("CONTESTANT", "TASK", "SEED"), help="one run, in this process")
    options = parser.parse_args()
    if options.run:
        contestant, name, seed = options.run
        print(json.dumps(CONTESTANTS[contestant](TASKS[name], int(seed))))
        return 0
    records = {name: compare(TASKS[name], options.runs) for name in options.tasks}
    if options.json:
        print(json.dumps({"machine": machine(), "tasks": [summary(TASKS[name], records[name]) for name in records]}))
        return 0
    header = ("steps per second", "ppo-service", "SB3", "env alone", "to SB3", "to env", "return", "SB3's return")
    print(f"{machine()}; one thread; median (least to most) of {options.runs} runs")
    print(table(header, [_row(TASKS[name], records[name]) for name in records]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
