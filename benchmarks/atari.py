"""Steps per second on Breakout with a convolutional policy on two threads, beside Stable-Baselines3 in the same run.

Both train with the settings of the Zoo under the standard wrappers, 8 games of 128 steps an iteration; what is counted
begins after the first one. They take turns, so that a machine that slows down slows both. On a machine that others use,
steps per second of CPU time say more, of which those of processes that step environments are no part: they are counted
for one thread. SB3 needs OpenCV (`pip install opencv-python-headless`), we do not.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.laps import Mark, speed
from benchmarks.record import RESULTS, Record, append, machine, run_module, table, versions, with_own_kernels

ENV_ID = "BreakoutNoFrameskip-v4"
N_ENVS, N_STEPS = 8, 128
PPO: dict[str, Any] = {
    "n_steps": N_STEPS,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": 2.5e-4,
    "clip_range": 0.1,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
}
CONTESTANTS = {"ours": 2, "sb3": 2, "ours on one thread": 1, "sb3 on one thread": 1}
"""Threads of each; a contestant is compared with SB3 on as many."""


def train_ours(iterations: int, *, threads: int) -> Record:
    """Our engine; the vectorization is its own choice for as many cores."""
    from ppo_engine.spec import TrainingSpec
    from ppo_engine.trainer import Trainer

    document = {"env": {"id": ENV_ID, "n_envs": N_ENVS}, "ppo": {**PPO, "total_timesteps": 10**9}, "seed": 0}
    trainer = Trainer(TrainingSpec.model_validate(document), threads=threads, environment_cores=threads)
    training = trainer.iterations()
    next(training)
    started, before = Mark.now(), trainer.timesteps
    for _ in range(iterations):
        next(training)
    figures = speed(trainer.timesteps - before, started, Mark.now())
    trainer.close()
    return {**figures, "vectorization": trainer.runtime["vectorization"]}


def train_sb3(iterations: int, *, threads: int) -> Record:
    """Stable-Baselines3's PPO and CnnPolicy on its own wrappers, as the Zoo trains Atari."""
    import ale_py  # noqa: F401  # Registers the games.
    import torch
    from stable_baselines3 import PPO as SB3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(threads)
    marks: list[Mark] = []

    class Marks(BaseCallback):
        """The moments at which rollouts begin: the second one is when the first iteration is done."""

        def _on_rollout_start(self) -> None:
            marks.append(Mark.now())

        def _on_step(self) -> bool:
            return True

    model = SB3("CnnPolicy", VecFrameStack(make_atari_env(ENV_ID, N_ENVS, seed=0), 4), seed=0, device="cpu", **PPO)
    model.learn((iterations + 1) * N_ENVS * N_STEPS, callback=Marks())
    return {**speed(iterations * N_ENVS * N_STEPS, marks[1], Mark.now()), "vectorization": "DummyVecEnv"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and appends each run to `results/atari.jsonl`."""
    with_own_kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.atari", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--only", choices=CONTESTANTS, nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--contestant", choices=CONTESTANTS, help="run this one alone and print JSON")
    options = parser.parse_args(arguments)
    if options.contestant is not None:
        train = train_sb3 if options.contestant.startswith("sb3") else train_ours
        print(json.dumps(train(options.iterations, threads=CONTESTANTS[options.contestant])))
        return
    runs: dict[str, list[Record]] = {contestant: [] for contestant in options.only}
    for _ in range(options.rounds):
        for contestant in options.only:
            asked = ["--contestant", contestant, "--iterations", str(options.iterations)]
            threads = str(CONTESTANTS[contestant])
            record = run_module("benchmarks.atari", asked, variables={"OMP_NUM_THREADS": threads})
            append(RESULTS / "atari.jsonl", {"contestant": contestant, **record, **_circumstances()})
            runs[contestant].append(record)
    rows = [[contestant, *_columns(contestant, runs)] for contestant in runs]
    print(table(["contestant", "steps/s", "min", "max", "to SB3", "steps/CPU s", "to SB3"], rows))


def _columns(contestant: str, runs: Mapping[str, Sequence[Record]]) -> list[str]:
    rival = contestant.replace("ours", "sb3")
    speeds = _speeds(runs[contestant])
    columns = [f"{number:,.0f}" for number in (statistics.median(speeds), min(speeds), max(speeds))]
    for figures in (_speeds, _speeds_of_cpu):
        if figures is _speeds_of_cpu:
            columns.append(f"{statistics.median(figures(runs[contestant])):,.0f}")
        ours, theirs = figures(runs[contestant]), figures(runs.get(rival, ()))
        columns.append(f"{statistics.median(ours) / statistics.median(theirs):.2f}" if theirs else "")
    return columns


def _speeds(records: Sequence[Record]) -> list[float]:
    return [float(str(record["steps_per_second"])) for record in records]


def _speeds_of_cpu(records: Sequence[Record]) -> list[float]:
    return [float(str(record["steps_per_second"])) / float(str(record["core_share"])) for record in records]


def _circumstances() -> Record:
    packages = versions("torch", "gymnasium", "ale-py", "stable-baselines3", "opencv-python-headless")
    return {"env_id": ENV_ID, "machine": machine(), "versions": packages}


if __name__ == "__main__":
    main()
