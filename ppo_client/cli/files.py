"""Checkpoints, and bringing them here."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppo_client.cli.jobs import mean_return
from ppo_client.cli.output import Column, ago, count, decimal, print_json, print_models, print_table, size
from ppo_client.cli.session import find_job, job_argument, json_option, open_client

if TYPE_CHECKING:
    from ppo_client.checkpoints import CheckpointHandle
    from ppo_client.jobs import JobHandle
    from ppo_jobs.schemas import Checkpoint

_COLUMNS = (
    Column("CHECKPOINT"),
    Column("TIMESTEPS", "right"),
    Column("RETURN", "right"),
    Column("LABELS"),
    Column("RESUME", rank=3),
    Column("SIZE", "right", rank=2),
    Column("CREATED", "right", rank=1),
)


@click.command()
@job_argument
@json_option
def checkpoints(*, job_id: str, as_json: bool) -> None:
    """List the checkpoints of a job, newest first."""
    with open_client() as client:
        handle = find_job(client, job_id)
        kept = [checkpoint.data for checkpoint in handle.checkpoints()]
    if as_json:
        print_models(kept)
    elif kept:
        print_table(_COLUMNS, [_row(checkpoint) for checkpoint in kept])
    else:
        yet = "" if handle.is_finished else " yet"
        click.echo(f"{handle.id} has no checkpoint{yet}; it is {handle.status.value}.", err=True)


def _row(checkpoint: "Checkpoint") -> list[str]:
    return [
        checkpoint.id,
        count(checkpoint.timesteps),
        decimal(mean_return(checkpoint.metrics)),
        ", ".join(checkpoint.labels),
        checkpoint.resume,
        size(checkpoint.size_bytes),
        ago(checkpoint.created_at),
    ]


@click.command()
@job_argument
@click.option("-o", "--output", "directory", type=click.Path(path_type=Path), help="Where to; by default ./JOB.")
@click.option(
    "--checkpoint", "which", metavar="ID|best|latest|final", help="By default the final one, else the latest."
)
@click.option("--with-state", is_flag=True, help="Also what only resuming needs.")
@json_option
def download(*, job_id: str, directory: Path | None, which: str | None, with_state: bool, as_json: bool) -> None:
    """Download a job's policy.

    An interrupted download goes on where it broke, and every file is checked against its sha256.
    """
    with open_client() as client:
        handle = find_job(client, job_id)
        checkpoint = chosen_checkpoint(handle, which)
        folder = directory or Path(handle.id)
        paths = fetch(checkpoint, folder, with_state=with_state, is_silent=as_json)
    if as_json:
        print_json(
            {
                "job_id": handle.id,
                "checkpoint_id": checkpoint.id,
                "directory": str(folder),
                "files": [str(path) for path in paths],
            }
        )
        return
    click.echo(f"The policy after {count(checkpoint.data.timesteps)} timesteps is in {folder}:")
    for path in paths:
        click.echo(f"  {path.name}  {size(path.stat().st_size)}")
    click.echo(f"Try it: ppo evaluate {folder}")


def chosen_checkpoint(handle: "JobHandle", which: str | None) -> "CheckpointHandle":
    """The checkpoint that a user means: by default the final one, or the latest while there is none."""
    return handle.checkpoint(which or ("final" if handle.data.final_checkpoint_id else "latest"))


def fetch(
    checkpoint: "CheckpointHandle", directory: Path, *, with_state: bool = False, is_silent: bool = False
) -> list[Path]:
    """Download the bundle, with a progress bar where someone looks."""
    files = checkpoint.data.files if with_state else checkpoint.bundle()
    with _byte_counter(sum(file.size_bytes for file in files), is_silent=is_silent) as on_bytes:
        return checkpoint.download(directory, names=[file.name for file in files], on_bytes=on_bytes)


@contextmanager
def _byte_counter(total: int, *, is_silent: bool) -> Iterator[Callable[[int], None] | None]:
    if is_silent or total < 1 << 20 or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    with Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task("download", total=total)
        yield lambda amount: progress.advance(task, amount)
