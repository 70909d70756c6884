"""How soon a job trains: after the start of a service, and after its acceptance by one that runs.

Services start on an empty data directory each: on a machine that has never compiled the engine (an empty cache
directory), on one that has, and on one with a core that is busy. Told are the seconds from the start of `ppo up` to the
acceptance of a job, which is submitted as soon as there is an address, and to its first metrics event. Then CartPole
jobs come one after another to a service that runs; theirs count from their acceptance. Last, the peak of the resident
memory of one more job's training process is read while it runs; the pages that it shares with others count in full.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import psutil

from benchmarks.record import RESULTS, Record, append, machine, table, versions, with_own_kernels
from ppo_client import Client, JobHandle
from ppo_jobs.states import EventType, JobStatus
from scripts.demo import service

STARTS = {
    "CartPole-v1, on a machine that has never compiled": ("CartPole-v1", False, False),
    "Pendulum-v1, likewise": ("Pendulum-v1", False, False),
    "LunarLander-v3, likewise, stepped from Python": ("LunarLander-v3", False, False),
    "CartPole-v1, likewise, another core busy": ("CartPole-v1", False, True),
    "CartPole-v1, once compiled": ("CartPole-v1", True, False),
}
"""Environment; whether the engine is compiled; whether one core is busy."""

ENVIRONMENT = "CartPole-v1"
TIMESTEPS = 20_000
"""Of each job whose start is measured."""

SAMPLE_SECONDS = 0.02


def first_metrics_seconds(client: Client, seed: int) -> float:
    """Trains a short job to its end; the seconds between it and its first metrics event."""
    job = client.submit(ENVIRONMENT, seed=seed, ppo={"total_timesteps": TIMESTEPS}).wait()
    _require_success(job)
    first = next(event for event in job.events() if event.type is EventType.METRICS)
    return (first.created_at - job.data.created_at).total_seconds()


def peak_memory_bytes(client: Client) -> int:
    """The most that the training process of a job with its preset had resident at once."""
    job, peak = client.submit(ENVIRONMENT, seed=0), 0
    while not job.refresh().is_finished:
        peak = max([peak, *map(_peak_bytes, psutil.Process().children(recursive=True))])
        time.sleep(SAMPLE_SECONDS)
    _require_success(job)
    return peak


def start_seconds(env_id: str, *, cache: Path, is_busy: bool) -> tuple[float, float]:
    """Of one service: from its start to the acceptance of a job, and to its first metrics."""
    variables = {"XDG_CACHE_HOME": str(cache), "NUMBA_CACHE_DIR": ""}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ppo-bench-")))
        if is_busy:
            stack.enter_context(busy_core())
        began = time.time()
        client = stack.enter_context(service(folder, variables=variables))
        job = client.submit(env_id, seed=0, ppo={"total_timesteps": TIMESTEPS})
        accepted = time.time() - began
        first = next(event for event in job.stream() if event.type is EventType.METRICS)
        return accepted, first.created_at.timestamp() - began


@contextmanager
def busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def starts(runs: int) -> dict[str, list[tuple[float, float]]]:
    """(accepted, first metrics) of each run of each of `STARTS`, in turns."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as folder:
        compiled = Path(folder, "compiled")
        variables = {**os.environ, "XDG_CACHE_HOME": str(compiled), "NUMBA_CACHE_DIR": ""}
        subprocess.run([sys.executable, "-m", "ppo_engine.fused.compile"], env=variables, check=True)
        for run in range(runs):
            for number, (name, (env_id, is_compiled, is_busy)) in enumerate(STARTS.items()):
                cache = compiled if is_compiled else Path(folder, f"empty-{run}-{number}")
                measured[name].append(start_seconds(env_id, cache=cache, is_busy=is_busy))
                accepted, first = measured[name][-1]
                print(f"{name}: accepted {accepted:.1f} s, first metrics {first:.1f} s", file=sys.stderr, flush=True)
    return measured


def measure(runs: int, jobs: int) -> Record:
    """All starts, and one service that runs."""
    measured = starts(runs)
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as folder, service(Path(folder)) as client:
        first_metrics_seconds(client, seed=0)
        later = [first_metrics_seconds(client, seed=number) for number in range(1, jobs + 1)]
        peak = peak_memory_bytes(client)
    return {
        "benchmark": "startup",
        "environment": ENVIRONMENT,
        "machine": machine(),
        "versions": versions("ppo-service", "torch", "gymnasium", "numpy", "numba"),
        "starts": {name: [list(pair) for pair in pairs] for name, pairs in measured.items()},
        "later_seconds": [*later],
        "later_median_seconds": statistics.median(later),
        "peak_memory_bytes": peak,
    }


def start_rows(starts: dict[str, list[list[float]]]) -> list[list[str]]:
    """Of each start, median (least to most) of both figures."""
    return [
        [name, *(f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})" for seconds in columns)]
        for name, pairs in starts.items()
        for columns in [list(zip(*pairs, strict=True))]
    ]


def _require_success(job: JobHandle) -> None:
    if job.status is not JobStatus.SUCCEEDED:
        raise RuntimeError(f"the job ended as {job.status.value}: {job.data.status_reason}")


def _peak_bytes(process: psutil.Process) -> int:
    """VmHWM of a process that trains, which is the one that works in a run's directory; 0 of any other."""
    try:
        if Path(process.cwd()).name != "scratch":
            return 0
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (psutil.Error, OSError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def main() -> int:
    """Prints latencies and memory; with --json, one JSON object as the last line."""
    with_own_kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each kind of start")
    parser.add_argument("--jobs", type=int, default=20, help="how many come to the service that runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    record = measure(options.runs, options.jobs)
    append(RESULTS / "startup.jsonl", record)
    if options.json:
        print(json.dumps(record))
        return 0
    later, peak, median, started = (
        record[name] for name in ("later_seconds", "peak_memory_bytes", "later_median_seconds", "starts")
    )
    assert isinstance(later, list) and isinstance(peak, int) and isinstance(started, dict)
    seconds = sorted(number for number in later if isinstance(number, float))
    print(f"{machine()}; seconds since the start of `ppo up`, median (least to most) of {options.runs} runs")
    print(table(["a service's first job", "accepted", "first metrics"], start_rows(cast(Any, started))))
    of_later = f"{median:.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})"
    print(f"{len(seconds)} later jobs, from acceptance to first metrics: {of_later}, median (least to most)")
    print(f"peak resident memory of a training process: {peak / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
