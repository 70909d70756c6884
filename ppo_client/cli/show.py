"""One job in full."""

from typing import TYPE_CHECKING

import click

from ppo_client.cli.findings import findings_in_words
from ppo_client.cli.jobs import environment_of
from ppo_client.cli.output import (
    count,
    decimal,
    duration,
    headline,
    local_time,
    percent,
    print_model,
    print_sheet,
    size,
)
from ppo_client.cli.session import find_job, job_argument, json_option, open_client
from ppo_jobs.states import EventType, JobStatus

if TYPE_CHECKING:
    from ppo_jobs.schemas import Attempt, Job, LedgerEvent

DIAGNOSES = 5
"""So many of the latest findings are shown."""


@click.command()
@job_argument
@click.option("--spec", "is_spec", is_flag=True, help="Print the resolved spec as JSON, which `train --spec` takes.")
@json_option
def show(*, job_id: str, is_spec: bool, as_json: bool) -> None:
    """Show one job in full, and what to do next."""
    from ppo_client.cli.output import print_json

    with open_client() as client:
        handle = find_job(client, job_id)
        attempts = [] if as_json or is_spec else handle.attempts()
        diagnoses = [] if as_json or is_spec else list(handle.events(type=EventType.DIAGNOSIS))
    if is_spec:
        print_json(handle.data.resolved_spec)
    elif as_json:
        print_model(handle.data)
    else:
        print_sheet(_facts(handle.data, attempts, diagnoses))


def _facts(job: "Job", attempts: "list[Attempt]", diagnoses: "list[LedgerEvent]") -> dict[str, str | None]:
    progress, reason, parent = job.progress, job.status_reason, job.parent
    done = f"{percent(progress.fraction)}, {count(progress.timesteps)} of {count(progress.total_timesteps)} timesteps"
    speed = f", {count(round(progress.fps))} steps/s" if progress.fps else ""
    left = f", {duration(progress.eta_seconds)} left" if job.status == JobStatus.RUNNING else ""
    seed = job.resolved_spec.get("seed")
    return {
        "job": job.id,
        "name": job.name,
        "group": job.group,
        "environment": environment_of(job),
        "seed": str(seed) if seed is not None else None,
        "status": job.status.value + (" (will be cancelled)" if _is_ending(job) else ""),
        "reason": f"{headline(reason.message)} ({reason.code})" if reason else None,
        "queue": _queue_place(job),
        "progress": f"{done}, iteration {count(progress.iteration)}{speed}{left}",
        "metrics": "\n".join(f"{key} {decimal(value)}" for key, value in sorted(job.latest_metrics.items())),
        "diagnosis": _diagnosis(diagnoses),
        "device": _runtime(job),
        "attempts": "\n".join(map(_attempt, attempts)),
        "best": job.best_checkpoint_id,
        "latest": job.latest_checkpoint_id,
        "final": job.final_checkpoint_id,
        "parent": f"{parent.mode} of {parent.job_id}" if parent else None,
        "metadata": "\n".join(f"{key} = {value}" for key, value in job.metadata.items()),
        "used": f"{duration(job.usage.cpu_seconds)} of CPU, {duration(job.usage.gpu_seconds)} of GPU, "
        f"{count(job.usage.env_steps)} steps, {size(job.usage.storage_bytes)} stored",
        "created": local_time(job.created_at),
        "started": local_time(job.started_at),
        "finished": local_time(job.finished_at),
        "next": _next_step(job),
    }


def _diagnosis(events: "list[LedgerEvent]") -> str | None:
    """What the training found wrong with itself, the latest last; those that a rewind took back among them."""
    lines = [
        f"iteration {event.data.get('iteration')}: {finding}"
        for event in events
        for finding in findings_in_words(event.data)
    ]
    return "\n".join(lines[-DIAGNOSES:]) or None


def _is_ending(job: "Job") -> bool:
    return job.cancel_requested and job.status == JobStatus.RUNNING


def _queue_place(job: "Job") -> str | None:
    if job.status != JobStatus.QUEUED:
        return None
    position = f"position {job.queue.position}" if job.queue.position else "waiting"
    return f"{position}; {job.queue.reason}" if job.queue.reason else position


def _runtime(job: "Job") -> str | None:
    known = (
        [str(job.runtime[key]) for key in ("device", "backend", "vectorization") if (job.runtime or {}).get(key)]
        if job.runtime
        else []
    )
    return ", ".join(known) or None


def _attempt(attempt: "Attempt") -> str:
    outcome = attempt.outcome.value if attempt.outcome else "running"
    resumed = f", resumed from {attempt.resumed_from_checkpoint_id}" if attempt.resumed_from_checkpoint_id else ""
    reason = f": {headline(attempt.reason.message)}" if attempt.reason else ""
    return f"{attempt.number}. {outcome} on {attempt.worker_id}{resumed}{reason}"


def _next_step(job: "Job") -> str | None:
    match job.status:
        case JobStatus.SUCCEEDED:
            return f"ppo download {job.id} -o DIR"
        case JobStatus.FAILED:
            return f"ppo logs {job.id}"
        case JobStatus.CANCELLED:
            return f"ppo retry {job.id}"
        case _:
            return f"ppo watch {job.id}"
