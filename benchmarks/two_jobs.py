"""Two jobs at once on two cores: what each keeps of the speed that it has alone.

Jobs are not held to cores: whatever threads their libraries start may get in each other's way, as in a worker. Each
waits after its first iteration until all are there, so that they train at the same time from start to end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.record import ONE_THREAD, REPOSITORY, RESULTS, Record, append, machine, versions
from benchmarks.tasks import TASKS, Task, training_spec

SECONDS = 10.0
ENDLESS = 10**9


def job(task: Task, seed: int, backend: str) -> Record:
    """Trains in this process, from the line that it reads after its first iteration for SECONDS."""
    from ppo_engine.trainer import Trainer

    trainer = Trainer(
        training_spec(task, seed, backend=backend, total_timesteps=ENDLESS), threads=1, environment_cores=1
    )
    iterations = trainer.iterations()
    next(iterations)
    print("ready", flush=True)
    sys.stdin.readline()
    started, before = time.perf_counter(), trainer.timesteps
    while time.perf_counter() - started < SECONDS:
        next(iterations)
    speed = (trainer.timesteps - before) / (time.perf_counter() - started)
    trainer.close()
    return {"steps_per_second": speed, "backend": trainer.runtime["backend"]}


def together(task: Task, seeds: Sequence[int], backend: str) -> list[float]:
    """Steps per second of one job for each seed, all at once."""
    command = [sys.executable, "-m", "benchmarks.two_jobs", "--task", task.name, "--backend", backend, "--job"]
    processes = [
        subprocess.Popen(
            [*command, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **ONE_THREAD},
        )
        for seed in seeds
    ]
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("a job ended before its first iteration")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in processes]
    return [float(json.loads(answer)["steps_per_second"]) for answer in answers]


def compare(task: Task, runs: int, backend: str) -> Record:
    """Alone and together in alternating order, `runs` times each."""
    alone: list[float] = []
    both: list[list[float]] = []
    for run in range(runs):
        for count in (1, 2) if run % 2 == 0 else (2, 1):
            speeds = together(task, range(run, run + count), backend)
            if count == 1:
                alone += speeds
            else:
                both.append(speeds)
            print(f"{task.name}, {count} at once: {', '.join(f'{speed:,.0f}' for speed in speeds)}", file=sys.stderr)
    return {
        "benchmark": "two_jobs",
        "task": task.name,
        "backend": backend,
        "machine": machine(),
        "versions": versions("ppo-service", "torch", "gymnasium", "numpy", "numba"),
        "alone": [*alone],
        "together": [[*speeds] for speeds in both],
        "shares": [*shares(alone, both)],
    }


def shares(alone: Sequence[float], both: Sequence[Sequence[float]]) -> list[float]:
    """What each of the jobs that ran together kept of the median speed alone: the medians over the runs."""
    speed = statistics.median(alone)
    return [statistics.median(speeds) / speed for speeds in zip(*both, strict=True)]


def main() -> int:
    """Prints what each job keeps; with --json, one JSON object as the last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_jobs", description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), default="cartpole")
    parser.add_argument("--backend", choices=["auto", "torch", "fused"], default="auto")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", type=int, metavar="SEED", help="one job, in this process")
    options = parser.parse_args()
    task = TASKS[options.task]
    if options.job is not None:
        print(json.dumps(job(task, options.job, options.backend)))
        return 0
    record = compare(task, options.runs, options.backend)
    append(RESULTS / "two_jobs.jsonl", record)
    if options.json:
        print(json.dumps(record))
        return 0
    kept = record["shares"]
    assert isinstance(kept, list)
    print(f"{machine()}; {task.label}; median of {options.runs} runs")
    print("together, each job keeps " + " and ".join(f"{share:.1%}" for share in kept) + " of its speed alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
