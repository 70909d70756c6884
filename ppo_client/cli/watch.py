"""Looking on while jobs train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import click

from ppo_client.cli.display import Display, JSONLines, Silence, opened_display
from ppo_client.cli.following import Watched, follow
from ppo_client.cli.jobs import chosen_jobs
from ppo_client.cli.output import count, decimal, duration, headline
from ppo_client.cli.session import json_option, open_client
from ppo_client.errors import ServiceUnavailable, ServiceUnreachable
from ppo_jobs.states import JobStatus

if TYPE_CHECKING:
    from ppo_client.jobs import JobHandle
    from ppo_jobs.schemas import Job


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1)
@click.option("--group", help="All jobs of this group.")
@click.option("--after", type=click.IntRange(0), default=0, help="With --json: only what is newer than this event.")
@json_option
def watch(*, job_ids: tuple[str, ...], group: str | None, after: int, as_json: bool) -> None:
    """Watch jobs until they end.

    Ctrl-C detaches, and the jobs go on.

    With --json every event of the ledger is a line of JSON on stdout, then each job as it ended.
    """
    with open_client() as client:
        handles = chosen_jobs(client, job_ids, group, only_open=False)
        if as_json:
            jobs = [Watched(handle) for handle in handles]
            with _detaching(jobs):
                _look_on(jobs, JSONLines(), after=[after] * len(jobs))
        else:
            watch_jobs(handles)
    if not as_json:
        for handle in handles:
            click.echo(result_in_words(handle.data))
    click.get_current_context().exit(exit_code_of(handles))


def watch_jobs(handles: "Sequence[JobHandle]", *, is_silent: bool = False) -> None:
    """Show the jobs until all have ended; Ctrl-C says that they go on, and ends the command."""
    jobs = [Watched(handle) for handle in handles if not handle.is_finished]
    if not jobs:
        return
    after = [watched.handle.data.last_seq for watched in jobs]
    with _detaching(jobs), nullcontext(Silence()) if is_silent else opened_display(jobs) as display:
        _look_on(jobs, display, after=after)


@contextmanager
def _detaching(jobs: Sequence[Watched]) -> Iterator[None]:
    """Say that the jobs go on when the block is interrupted, after everything in it has been closed."""
    try:
        yield
    except KeyboardInterrupt:
        open_ids = [watched.handle.id for watched in jobs if not watched.handle.is_finished]
        if open_ids:
            ids = " ".join(open_ids)
            click.echo(f"\nDetached; {ids} {'goes' if len(open_ids) == 1 else 'go'} on.", err=True)
            click.echo(f"Look again: ppo watch {ids}\nEnd:        ppo cancel {ids}", err=True)
        raise


def _look_on(jobs: Sequence[Watched], display: Display, *, after: Sequence[int]) -> None:
    for update in follow([watched.handle for watched in jobs], after=after):
        if update is None:
            for watched in jobs:
                _note_time(watched, display)
            continue
        watched = jobs[update.index]
        if update.event is None:
            watched.read()
            display.show(watched, None, None)
        else:
            display.show(watched, update.event, watched.apply(update.event))


def _note_time(watched: Watched, display: Display) -> None:
    """Time passed without an event: a job that does not train yet may wait for something else now."""
    if watched.handle.is_finished:
        return
    if watched.status == JobStatus.QUEUED or not watched.timesteps:
        # During an outage the job's stream decides how long to wait for the service.
        with suppress(ServiceUnreachable, ServiceUnavailable):
            watched.handle.refresh()
            watched.read()
    display.show(watched, None, None)


def result_in_words(job: "Job") -> str:
    """How a job ended, and what to do next."""
    seconds = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    took = f" in {duration(seconds)}" if seconds is not None else ""
    mean = job.latest_metrics.get("rollout/ep_rew_mean")
    ending = f"{job.id} {job.status.value} after {count(job.progress.timesteps)} timesteps{took}"
    if job.status == JobStatus.SUCCEEDED:
        learnt = f", return {decimal(mean)}" if mean is not None else ""
        told = f"{ending}{learnt}.\nThe policy: ppo download {job.id}"
        if job.best_checkpoint_id in (None, job.final_checkpoint_id):
            return told
        return f"{told}\nThe best that was evaluated is an earlier one: ppo download {job.id} --checkpoint best"
    reason = f": {headline(job.status_reason.message)}" if job.status_reason else ""
    following = f"ppo logs {job.id}" if job.status == JobStatus.FAILED else f"ppo retry {job.id}"
    return f"{ending}{reason.rstrip('.')}.\nNext: {following}"


def exit_code_of(handles: "Sequence[JobHandle]") -> int:
    """0 when all have succeeded, else 1."""
    return 0 if all(handle.status == JobStatus.SUCCEEDED for handle in handles) else 1
