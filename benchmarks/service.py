"""What the service costs: a job through HTTP, broker, database and ledger against the engine alone, in the same run.

Throughput is the timesteps between the first and the last metrics event over the time between them; checkpoints are
written as by default, nothing is evaluated. Engine and jobs take turns, since a machine's speed drifts. The CPU time
between the same events is compared as well; a job's is that of its child, from its start to its end.
The ledger is written in batches, so a job's span is uncertain by a quarter of a second: let it be half a minute.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from benchmarks.record import RESULTS, Record, append, machine, run_module, versions, with_own_kernels
from benchmarks.tasks import TASKS, Task, training_spec
from ppo_client import Client
from ppo_engine.spec import MetricsSpec, TrainingSpec
from ppo_jobs.states import JobStatus
from scripts.demo import service

CALIBRATION_STEPS = 100_000


def spec_of(task: Task, timesteps: int) -> TrainingSpec:
    """The setting of the throughput benchmark, over so many steps, with metrics as often as by default."""
    spec = training_spec(task, seed=0)
    ppo = spec.ppo.model_copy(update={"total_timesteps": timesteps})
    return spec.model_copy(update={"ppo": ppo, "metrics": MetricsSpec()})


def engine_alone(task: Task, timesteps: int) -> Record:
    """Trains in this process, writing no checkpoint."""
    from ppo_engine.trainer import Trainer

    trainer = Trainer(spec_of(task, timesteps), threads=1, environment_cores=1)
    started = time.process_time()
    events = [(time.perf_counter(), progress.timesteps) for progress in trainer.iterations() if progress.metrics]
    cpu_seconds = time.process_time() - started
    trainer.close()
    return {**_throughput(events), "cpu_seconds": cpu_seconds}


def through_the_service(client: Client, task: Task, timesteps: int) -> Record:
    """Trains as a job; the times are those at which its events were recorded."""
    job = client.submit(spec_of(task, timesteps)).wait()
    if job.status is not JobStatus.SUCCEEDED:
        raise RuntimeError(f"the job ended as {job.status.value}: {job.data.status_reason}")
    recorded = [(event.created_at, event.data["timesteps"]) for event in job.events() if event.type == "metrics"]
    events = [(at.timestamp(), timesteps) for at, timesteps in recorded if isinstance(timesteps, int)]
    return {**_throughput(events), "cpu_seconds": job.data.usage.cpu_seconds}


def compare(task: Task, seconds: float, runs: int) -> Record:
    """Engine and service in turns; `ratio` and `cpu_ratio` are those of their medians."""
    calibration = _alone(task, CALIBRATION_STEPS)
    timesteps = int(_number(calibration, "steps_per_second") * seconds)
    engine: list[Record] = []
    served: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as folder, service(Path(folder)) as client:
        for _ in range(runs):
            engine.append(_alone(task, timesteps))
            served.append(through_the_service(client, task, timesteps))
    return {
        "benchmark": "service",
        "task": task.name,
        "timesteps": timesteps,
        "machine": machine(),
        "versions": versions("ppo-service", "torch", "gymnasium", "numpy"),
        "engine": list[JsonValue](engine),
        "service": list[JsonValue](served),
        "ratio": _median(served, "steps_per_second") / _median(engine, "steps_per_second"),
        "cpu_ratio": _median(engine, "cpu_seconds") / _median(served, "cpu_seconds"),
    }


def _alone(task: Task, timesteps: int) -> Record:
    return run_module("benchmarks.service", ["--engine", task.name, str(timesteps)])


def _throughput(events: list[tuple[float, int]]) -> Record:
    (began, first), (ended, last) = events[0], events[-1]
    return {"steps_per_second": (last - first) / (ended - began), "seconds": ended - began, "events": len(events)}


def _number(record: Record, name: str) -> float:
    value = record[name]
    assert isinstance(value, float)
    return value


def _median(records: Sequence[Record], name: str) -> float:
    return statistics.median(_number(record, name) for record in records)


def _spread(records: JsonValue) -> str:
    assert isinstance(records, list)
    speeds = [_number(record, "steps_per_second") for record in records if isinstance(record, dict)]
    return f"{statistics.median(speeds):,.0f} steps/s ({min(speeds):,.0f} to {max(speeds):,.0f})"


def main() -> int:
    """Prints both throughputs and their ratio; with --json, one JSON object as the last line."""
    with_own_kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), default="cartpole")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long a job shall take, about")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", nargs=2, metavar=("TASK", "TIMESTEPS"), help="the engine alone, in this process")
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(engine_alone(TASKS[options.engine[0]], int(options.engine[1]))))
        return 0
    record = compare(TASKS[options.task], options.seconds, options.runs)
    append(RESULTS / "service.jsonl", record)
    if options.json:
        print(json.dumps(record))
        return 0
    print(f"{machine()}; {options.task}, {record['timesteps']} steps, {options.runs} runs of each in turns")
    print(f"engine  {_spread(record['engine'])}")
    print(f"service {_spread(record['service'])}")
    print(f"{_number(record, 'ratio'):.1%} of the engine alone, {_number(record, 'cpu_ratio'):.1%} per CPU second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
