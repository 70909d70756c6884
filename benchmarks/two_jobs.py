"""Two jobs at once on two cores: what each keeps of the speed that it has alone.

Jobs are not held to cores: whatever threads their libraries start may get in each other's way, as in a worker. Each
waits after its first iteration until all are there, so that they train at the same time from start to end.
What a job does in a second of its own CPU time is compared, too: where only the steps per second fall, and its share of
a core with them, others used the machine, and the jobs did not slow each other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.laps import Mark, speed
from benchmarks.record import ONE_THREAD, REPOSITORY, RESULTS, Record, append, machine, versions, with_own_kernels
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
    started, before = Mark.now(), trainer.timesteps
    while time.perf_counter() - started.wall < SECONDS:
        next(iterations)
    figures = speed(trainer.timesteps - before, started, Mark.now())
    trainer.close()
    return {**figures, "backend": trainer.runtime["backend"]}


def together(task: Task, seeds: Sequence[int], backend: str) -> list[Record]:
    """What one job for each seed reached, all at once."""
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
    return [json.loads(process.communicate()[0]) for process in processes]


def compare(task: Task, runs: int, backend: str) -> Record:
    """Alone and together in alternating order, `runs` times each."""
    alone: list[Sequence[Record]] = []
    both: list[Sequence[Record]] = []
    for run in range(runs):
        for count in (1, 2) if run % 2 == 0 else (2, 1):
            jobs = together(task, range(run, run + count), backend)
            (alone if count == 1 else both).append(jobs)
            told = "; ".join(f"{_speed(job):,.0f} steps/s, {job['core_share']:.0%} of a core" for job in jobs)
            print(f"{task.name}, {count} at once: {told}", file=sys.stderr)
    return {
        "benchmark": "two_jobs",
        "task": task.name,
        "backend": backend,
        "machine": machine(),
        "versions": versions("ppo-service", "torch", "gymnasium", "numpy", "numba"),
        "alone": [job for jobs in alone for job in jobs],
        "together": [[*jobs] for jobs in both],
        "shares": [*shares(alone, both, _speed)],
        "shares_per_cpu_second": [*shares(alone, both, _speed_per_cpu_second)],
    }


def shares(
    alone: Sequence[Sequence[Record]], both: Sequence[Sequence[Record]], measure: Callable[[Record], float]
) -> list[float]:
    """What each of the jobs that ran together kept of the median alone: the medians over the runs."""
    whole = statistics.median(measure(job) for jobs in alone for job in jobs)
    return [statistics.median(map(measure, jobs)) / whole for jobs in zip(*both, strict=True)]


def _speed(job: Record) -> float:
    speed = job["steps_per_second"]
    assert isinstance(speed, float)
    return speed


def _speed_per_cpu_second(job: Record) -> float:
    share = job["core_share"]
    assert isinstance(share, float)
    return _speed(job) / share


def main() -> int:
    """Prints what each job keeps; with --json, one JSON object as the last line."""
    with_own_kernels()
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
    print(f"{machine()}; {task.label}; median of {options.runs} runs; together, each job keeps")
    for name, of in (("shares", "its steps per second alone"), ("shares_per_cpu_second", "its steps per CPU second")):
        kept = record[name]
        assert isinstance(kept, list)
        print(" and ".join(f"{share:.1%}" for share in kept) + f" of {of}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
