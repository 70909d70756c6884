"""A campaign of faults: kill training and worker processes at random moments, and hold the jobs to their promises.

    python -m tests.faults.campaign --jobs 10 --kills 10 --env CartPole-v1 --timesteps 3000000

Every job runs twice on one service: undisturbed first, then again while processes are killed with SIGKILL, training
processes and Celery's main process in turn. All jobs must succeed with the same policy, to the bit, and a whole ledger.
The faults follow from the seed, each is printed; the last line of output is a summary as JSON.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec
from ppo_jobs.artifacts import LocalArtifacts
from ppo_jobs.errors import ArtifactCorrupt, ArtifactNotFound
from ppo_jobs.repository import checkpoints
from ppo_jobs.states import TERMINAL, JobStatus
from tests.faults.invariants import attempt_faults, ledger_faults, stream_faults
from tests.faults.service import Service, running_service
from tests.faults.stream import RestlessReader

Target = Literal["child", "main"]


@dataclass(frozen=True)
class Plan:
    """What to run and what to break."""

    jobs: int = 10
    kills: int = 10
    env: str = "CartPole-v1"
    timesteps: int = 3_000_000
    seed: int = 0
    vectorization: str = "sync"
    slots: int = 2
    limit_seconds: float = 1800.0
    spec: dict[str, Any] = field(default_factory=dict)
    """Beside the environment and the timesteps."""
    variables: dict[str, str] = field(default_factory=dict)
    """`PPO_…` settings of the service."""

    def job(self, number: int) -> dict[str, Any]:
        env = {"id": self.env, "vectorization": self.vectorization, **self.spec.get("env", {})}
        ppo = {**self.spec.get("ppo", {}), "total_timesteps": self.timesteps}
        keeping = {"every_timesteps": max(1, self.timesteps // 10)}
        return {**self.spec, "env": env, "ppo": ppo, "seed": self.seed * 1000 + number, "checkpoints": keeping}

    def iterations(self) -> int:
        resolved = resolve(TrainingSpec.model_validate(self.job(0)))
        batch = resolved.env.n_envs * resolved.ppo.n_steps
        return -(-self.timesteps // batch)


@dataclass(frozen=True)
class Fault:
    target: Target
    at: float
    """When that share of all jobs' iterations is in the ledger."""


def faults(plan: Plan) -> list[Fault]:
    """The seed's faults in order: children and mains in equal number, spread over the campaign."""
    chance = random.Random(plan.seed)
    targets: list[Target] = ["child" if number % 2 == 0 else "main" for number in range(plan.kills)]
    chance.shuffle(targets)
    moments = sorted(chance.uniform(0.0, 0.95) for _ in targets)
    return [Fault(target, at) for target, at in zip(targets, moments, strict=True)]


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """The summary; `faults_found` is empty if every promise was kept."""
    with tempfile.TemporaryDirectory(prefix="ppo-faults-") as folder:
        data_dir = Path(folder)
        with running_service(data_dir, slots=plan.slots, variables=plan.variables) as service:
            deadline = time.monotonic() + plan.limit_seconds
            began = time.monotonic()
            undisturbed = [service.submit(plan.job(number)) for number in range(plan.jobs)]
            wait(service, undisturbed, deadline)
            took = time.monotonic() - began
            say(f"{plan.jobs} undisturbed jobs took {took:.1f} s")
            disturbed = [service.submit(plan.job(number)) for number in range(plan.jobs)]
            reader = RestlessReader(service.http, disturbed[0], random.Random(plan.seed + 1))
            reader.start()
            kills = disturb(service, plan, disturbed, deadline, say)
            wait(service, disturbed, deadline)
            reader.join(60)
            found = examine(service, plan, undisturbed, disturbed)
            found += stream_faults(service.events(disturbed[0]), reader.sequence)
            summary = summarize(service, plan, disturbed, kills, took)
        found += leftovers(service, data_dir)
        if len(kills) < plan.kills:
            found.append(f"only {len(kills)} of {plan.kills} faults struck: the jobs are too short")
        service.database.dispose()
    return {**summary, "stream_cuts": reader.cuts, "faults_found": found}


def wait(service: Service, job_ids: list[str], deadline: float) -> None:
    """Until all of them have ended, or time is up, which `examine` then tells."""
    while time.monotonic() < deadline:
        if all(service.job(job_id).status in TERMINAL for job_id in job_ids):
            return
        time.sleep(0.5)


def disturb(
    service: Service, plan: Plan, job_ids: list[str], deadline: float, say: Callable[[str], None]
) -> list[tuple[Target, float]]:
    """Kill what the plan says when it says; gives each target with the time of its death."""
    began, chance = time.monotonic(), random.Random(plan.seed + 2)
    done: list[tuple[Target, float]] = []
    whole = plan.jobs * plan.iterations()
    for fault in faults(plan):
        while time.monotonic() < deadline:
            time.sleep(0.05)
            jobs = [service.job(job_id) for job_id in job_ids]
            if all(job.status in TERMINAL for job in jobs):
                return done
            if sum(job.progress.iteration for job in jobs) < fault.at * whole:
                continue
            trained = {child: runs for child in service.children() if (runs := service.iteration(child))}
            victims = sorted(trained if fault.target == "child" else service.celery_mains(), key=lambda it: it.pid)
            if trained and victims:
                victim = chance.choice(victims)
                victim.kill()
                victim.wait(10)
                done.append((fault.target, time.time()))
                at = ", ".join(f"{job} at iteration {iteration}" for job, iteration in sorted(trained.values()))
                say(f"{time.monotonic() - began:7.2f} s  kill -9 {fault.target:5} {victim.pid}  ({at})")
                break
    return done


def examine(service: Service, plan: Plan, undisturbed: list[str], disturbed: list[str]) -> list[str]:
    """Every broken promise, in words."""
    found = []
    for number, (calm, shaken) in enumerate(zip(undisturbed, disturbed, strict=True)):
        for name, job_id in (("undisturbed", calm), ("disturbed", shaken)):
            job = service.job(job_id)
            faults_of_job = ledger_faults(service.events(job_id), iterations=plan.iterations())
            faults_of_job += attempt_faults(service.attempts(job_id))
            if job.status is not JobStatus.SUCCEEDED:
                faults_of_job.append(f"is {job.status}: {job.status_reason}")
            found += [f"{name} job {number}: {fault}" for fault in faults_of_job]
        if service.policy_sha256(calm) != service.policy_sha256(shaken):
            found.append(f"job {number}: another policy than undisturbed")
    return found


def leftovers(service: Service, data_dir: Path) -> list[str]:
    """What a stopped service must not leave: run directories, checkpoints without their files, files nobody will clear.

    Files that a killed supervisor was storing have no row; cleaning must find and delete them, and only them.
    """
    found = [f"left behind: {path.name}" for path in (data_dir / "runs").iterdir()]
    store = LocalArtifacts(data_dir / "artifacts")
    with service.database.read() as session:
        garbage = checkpoints.garbage_keys(session, list(store.keys()))
    for key in garbage:
        store.delete(key)
    for key in list(store.keys()):
        try:
            with tempfile.TemporaryDirectory() as copy:
                store.fetch(key, Path(copy, "checkpoint"))
        except (ArtifactCorrupt, ArtifactNotFound) as error:
            found.append(f"checkpoint {key}: {error}")
    writing = (data_dir / "artifacts").rglob(".writing-*")
    return found + [f"nobody will clear {path.relative_to(data_dir)}" for path in writing]


def summarize(
    service: Service, plan: Plan, disturbed: list[str], kills: list[tuple[Target, float]], took: float
) -> dict[str, Any]:
    attempts = [service.attempts(job_id) for job_id in disturbed]
    starts = sorted(attempt.started_at.timestamp() for of_job in attempts for attempt in of_job[1:])
    recoveries = [next((start - at for start in starts if start > at), None) for _, at in kills]
    measured = sorted(seconds for seconds in recoveries if seconds is not None)
    return {
        "env": plan.env,
        "vectorization": plan.vectorization,
        "timesteps": plan.timesteps,
        "seed": plan.seed,
        "jobs": plan.jobs,
        "succeeded": sum(service.job(job_id).status is JobStatus.SUCCEEDED for job_id in disturbed),
        "kills_of_children": sum(target == "child" for target, _ in kills),
        "kills_of_celery_mains": sum(target == "main" for target, _ in kills),
        "attempts": sum(len(of_job) for of_job in attempts),
        "resumed_from_a_checkpoint": sum(
            attempt.resumed_from_checkpoint_id is not None for of_job in attempts for attempt in of_job
        ),
        "undisturbed_seconds": round(took, 1),
        "recovery_seconds_median": round(statistics.median(measured), 2) if measured else None,
        "recovery_seconds_max": round(measured[-1], 2) if measured else None,
    }


@click.command()
@click.option("--jobs", default=10, show_default=True)
@click.option("--kills", default=10, show_default=True, help="Half of them of children, half of Celery's main process.")
@click.option("--env", default="CartPole-v1", show_default=True)
@click.option("--timesteps", default=3_000_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--vectorization", default="sync", show_default=True)
@click.option("--slots", default=2, show_default=True)
@click.option("--limit-seconds", default=1800.0, show_default=True)
@click.option("--database-url", help="By default SQLite in a temporary directory.")
@click.option("--broker-url", help="By default the embedded broker.")
def main(database_url: str | None, broker_url: str | None, **given: Any) -> None:
    """Run one campaign; the exit status is 1 if a promise was broken."""
    urls = {"PPO_DATABASE_URL": database_url, "PPO_BROKER_URL": broker_url}
    plan = Plan(**given, variables={name: url for name, url in urls.items() if url is not None})
    summary = run(plan, lambda words: print(words, flush=True))
    print(json.dumps(summary))
    sys.exit(1 if summary["faults_found"] else 0)


if __name__ == "__main__":
    main()
