"""How soon a job trains: from its acceptance to its first metrics event, as the ledger's own clock tells.

A service starts on an empty data directory, so that it compiles the engine first unless NUMBA_CACHE_DIR names a place
where that was done. Then CartPole jobs come one after another, the first as soon as the service is ready. Last, the
peak of the resident memory of one more job's training process is read while it runs; the pages that it shares with
others count in full.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.record import RESULTS, Record, append, machine, versions, with_own_kernels
from ppo_client import Client, JobHandle
from ppo_jobs.states import EventType, JobStatus
from scripts.demo import service

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


def measure(jobs: int) -> Record:
    """One service, from its start to its end."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as folder, service(Path(folder)) as client:
        ready_seconds = time.monotonic() - began
        first = first_metrics_seconds(client, seed=0)
        later = [first_metrics_seconds(client, seed=number) for number in range(1, jobs + 1)]
        peak = peak_memory_bytes(client)
    return {
        "benchmark": "startup",
        "environment": ENVIRONMENT,
        "machine": machine(),
        "versions": versions("ppo-service", "torch", "gymnasium", "numpy", "numba"),
        "ready_seconds": ready_seconds,
        "first_seconds": first,
        "later_seconds": [*later],
        "later_median_seconds": statistics.median(later),
        "peak_memory_bytes": peak,
    }


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
    parser.add_argument("--jobs", type=int, default=20, help="how many come after the first")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    record = measure(options.jobs)
    append(RESULTS / "startup.jsonl", record)
    if options.json:
        print(json.dumps(record))
        return 0
    ready, first, later = record["ready_seconds"], record["first_seconds"], record["later_seconds"]
    peak, median = record["peak_memory_bytes"], record["later_median_seconds"]
    assert isinstance(later, list) and isinstance(peak, int)
    seconds = sorted(number for number in later if isinstance(number, float))
    print(f"{machine()}; the service was ready after {ready:.1f} s")
    print(f"first job: {first:.2f} s from its acceptance to its first metrics")
    print(f"{len(seconds)} later ones: {median:.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}) (median, least, most)")
    print(f"peak resident memory of a training process: {peak / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
