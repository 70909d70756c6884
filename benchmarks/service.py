"""What the service costs: a job through HTTP, broker, database and ledger against the engine alone, in the same run.

Throughput is the timesteps between the first and the last metrics event over the time between them; checkpoints are
written as by default, nothing is evaluated. The engine runs before and after the job, since a machine's speed drifts.
The ledger is written in batches, so the service's span is uncertain by about a second: let it be a minute at least.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import RESULTS, Record, append, machine, run_module, versions
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

    trainer = Trainer(spec_of(task, timesteps), threads=1)
    events = [(time.perf_counter(), progress.timesteps) for progress in trainer.iterations() if progress.metrics]
    trainer.close()
    return _throughput(events)


def through_the_service(client: Client, task: Task, timesteps: int) -> Record:
    """Trains as a job; the times are those at which its events were recorded."""
    job = client.submit(spec_of(task, timesteps)).wait()
    if job.status is not JobStatus.SUCCEEDED:
        raise RuntimeError(f"the job ended as {job.status.value}: {job.data.status_reason}")
    recorded = [(event.created_at, event.data["timesteps"]) for event in job.events() if event.type == "metrics"]
    events = [(at.timestamp(), timesteps) for at, timesteps in recorded if isinstance(timesteps, int)]
    return _throughput(events)


def compare(task: Task, seconds: float) -> Record:
    """Engine, service, engine; the ratio is to the mean of the engine's two runs."""
    calibration = _alone(task, CALIBRATION_STEPS)
    timesteps = int(_number(calibration, "steps_per_second") * seconds)
    before = _alone(task, timesteps)
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as folder, service(Path(folder)) as client:
        served = through_the_service(client, task, timesteps)
    after = _alone(task, timesteps)
    alone = statistics.fmean([_number(before, "steps_per_second"), _number(after, "steps_per_second")])
    return {
        "benchmark": "service",
        "task": task.name,
        "timesteps": timesteps,
        "machine": machine(),
        "versions": versions("ppo-service", "torch", "gymnasium", "numpy"),
        "engine": [before, after],
        "service": served,
        "ratio": _number(served, "steps_per_second") / alone,
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


def main() -> int:
    """Prints both throughputs and their ratio; with --json, one JSON object as the last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), default="cartpole")
    parser.add_argument("--seconds", type=float, default=75.0, help="how long the job shall take, about")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", nargs=2, metavar=("TASK", "TIMESTEPS"), help="the engine alone, in this process")
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(engine_alone(TASKS[options.engine[0]], int(options.engine[1]))))
        return 0
    record = compare(TASKS[options.task], options.seconds)
    append(RESULTS / "service.jsonl", record)
    if options.json:
        print(json.dumps(record))
        return 0
    served = record["service"]
    assert isinstance(served, dict)
    print(f"{machine()}; {options.task}, {record['timesteps']} steps, {_number(served, 'seconds'):.0f} s as a job")
    print(f"{_number(served, 'steps_per_second'):,.0f} steps/s, {_number(record, 'ratio'):.1%} of the engine alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
