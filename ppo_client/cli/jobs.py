"""Many jobs at a glance, and ending or repeating them."""

from itertools import islice
from typing import TYPE_CHECKING

import click

from ppo_client.cli.output import (
    Column,
    ago,
    count,
    decimal,
    duration,
    percent,
    print_model,
    print_models,
    print_table,
    printable,
)
from ppo_client.cli.session import find_job, job_argument, json_option, open_client
from ppo_jobs.states import TERMINAL, JobStatus

if TYPE_CHECKING:
    from ppo_client.client import Client
    from ppo_client.jobs import JobHandle
    from ppo_jobs.schemas import Job

RETURN_KEYS = ("rollout/ep_rew_mean", "eval/mean_reward")

_COLUMNS = (
    Column("JOB"),
    Column("STATUS"),
    Column("ENVIRONMENT", rank=1, shortest=12),
    Column("NAME", rank=4, shortest=8),
    Column("DONE", "right"),
    Column("TIMESTEPS", "right", rank=5),
    Column("RETURN", "right", rank=2),
    Column("LEFT", "right", rank=3),
    Column("CREATED", "right", rank=6),
)


@click.command()
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only with this status.")
@click.option("--group", help="Only of this group.")
@click.option("--env", "env_id", metavar="ENV", help="Only of this environment.")
@click.option("--name", help="Only with this name.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option("--all", "is_all", is_flag=True, help="However many there are.")
@json_option
def jobs(
    *,
    status: str | None,
    group: str | None,
    env_id: str | None,
    name: str | None,
    limit: int,
    is_all: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    page_size = 100 if is_all else min(100, limit + 1)
    with open_client() as client:
        every = client.jobs(status=status, group=group, env_id=env_id, name=name, page_size=page_size)
        found = [handle.data for handle in islice(every, None if is_all else limit + 1)]
    shown = found if is_all else found[:limit]
    if as_json:
        print_models(shown)
    elif shown:
        print_table(_COLUMNS, [_row(job) for job in shown])
        if len(found) > len(shown):
            click.echo(f"The newest {limit}; more with --limit or --all.", err=True)
    elif status or group or env_id or name:
        click.echo("No job fits these filters.", err=True)
    else:
        click.echo("There is no job yet; start one with `ppo train CartPole-v1`.", err=True)


def _row(job: "Job") -> list[str]:
    progress = job.progress
    return [
        job.id,
        job.status.value,
        environment_of(job),
        job.name or "",
        percent(progress.fraction),
        count(progress.timesteps),
        decimal(mean_return(job.latest_metrics)),
        duration(progress.eta_seconds) if job.status == JobStatus.RUNNING else "",
        ago(job.created_at),
    ]


def environment_of(job: "Job") -> str:
    """The id of the job's environment."""
    environment = job.resolved_spec.get("env")
    return str(environment.get("id", "")) if isinstance(environment, dict) else ""


def mean_return(metrics: dict[str, float]) -> float | None:
    """The return of training episodes, else of evaluation ones; None before the first episode has ended."""
    return next((metrics[key] for key in RETURN_KEYS if key in metrics), None)


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1)
@click.option("--group", help="All of this group that have not ended.")
@json_option
def cancel(*, job_ids: tuple[str, ...], group: str | None, as_json: bool) -> None:
    """Cancel jobs; a running one keeps a checkpoint."""
    with open_client() as client:
        cancelled = [handle.cancel().data for handle in chosen_jobs(client, job_ids, group, only_open=True)]
    if as_json:
        print_model(cancelled[0]) if len(cancelled) == 1 and not group else print_models(cancelled)
        return
    for job in cancelled:
        state = "is cancelled" if job.status == JobStatus.CANCELLED else "will stop after its present iteration"
        click.echo(f"{job.id} {state}.")
    if not cancelled:
        click.echo(f"No job of group {printable(group or '')} is open.", err=True)


@click.command()
@job_argument
@click.option("--checkpoint", "checkpoint_id", metavar="ID", help="Go on from this one; by default from the newest.")
@click.option("--from-start", is_flag=True, help="Start again without a checkpoint.")
@json_option
def retry(*, job_id: str, checkpoint_id: str | None, from_start: bool, as_json: bool) -> None:
    """Submit a job like one that has ended.

    It goes on from the newest checkpoint, unless told otherwise.
    """
    if checkpoint_id and from_start:
        raise click.UsageError("--checkpoint and --from-start exclude each other.")
    with open_client() as client:
        new = find_job(client, job_id).retry(checkpoint_id=checkpoint_id, from_start=from_start)
    if as_json:
        print_model(new.data)
    else:
        click.echo(f"{new.id} is queued; look at it with `ppo watch {new.id}`.")


def chosen_jobs(client: "Client", job_ids: tuple[str, ...], group: str | None, *, only_open: bool) -> "list[JobHandle]":
    """The jobs that a command line names, by ids or by their group, oldest first.

    Raises:
        click.UsageError: neither or both are given.
        NotFound: there is no such job, or no job of such a group.
    """
    from ppo_client.errors import NotFound

    if bool(job_ids) == bool(group):
        raise click.UsageError("Name jobs, or a group with --group.")
    if group is None:
        return [find_job(client, job_id) for job_id in job_ids]
    members = list(client.jobs(group=group, page_size=100))[::-1]
    if not members:
        raise NotFound(f"There is no group {group!r}.", status=404, code="group_not_found")
    return [handle for handle in members if not (only_open and handle.status in TERMINAL)]
