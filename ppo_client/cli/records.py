"""What a job has left behind: its metrics and its logs."""

import csv
import sys
from typing import TYPE_CHECKING

import click

from ppo_client.cli.output import Column, count, decimal, print_model, print_table, printable
from ppo_client.cli.session import find_job, job_argument, json_option, open_client

if TYPE_CHECKING:
    from ppo_jobs.schemas import MetricsTable

TABLE_ROWS = 20

_RANKS = {
    "iteration": 1,
    "timesteps": 0,
    "rollout/ep_rew_mean": 0,
    "eval/mean_reward": 2,
    "rollout/ep_len_mean": 3,
    "time/fps": 4,
    "train/approx_kl": 5,
    "train/explained_variance": 6,
    "train/entropy": 7,
    "train/value_loss": 8,
}
"""The order of the columns that people look at first, and of those the ones that a narrow terminal keeps."""


@click.command()
@job_argument
@click.option("--keys", metavar="A,B", help="Only these, such as rollout/ep_rew_mean,train/approx_kl.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only what is newer than this event of the ledger.")
@click.option("--max-points", type=click.IntRange(3), help=f"Thin out to so many rows; a table has {TABLE_ROWS}.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, every row.")
@json_option
def metrics(*, job_id: str, keys: str | None, after: int, max_points: int | None, as_csv: bool, as_json: bool) -> None:
    """Show the metrics of a job, one row per iteration."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    rows = max_points or (None if as_csv or as_json else TABLE_ROWS)
    wanted = [key.strip() for key in keys.split(",") if key.strip()] if keys else None
    with open_client() as client:
        handle = find_job(client, job_id)
        table = handle.metrics(keys=wanted, after=after, max_points=rows)
    if as_json:
        print_model(table)
    elif as_csv:
        _print_csv(table)
    elif table.columns.get("iteration"):
        _print_table(table)
    else:
        click.echo(f"{handle.id} has no metrics yet; it is {handle.status.value}.", err=True)


def _print_csv(table: "MetricsTable") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*(map(_exact, column) for column in table.columns.values()), strict=True))


def _exact(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(value)


def _print_table(table: "MetricsTable") -> None:
    keys = sorted(table.columns, key=lambda key: (_RANKS.get(key, len(_RANKS) + 1), key))
    keys = sorted(
        keys, key=lambda key: ("iteration", "timesteps").index(key) if key in ("iteration", "timesteps") else 2
    )
    columns = [Column(key.rpartition("/")[2], "right", rank=_RANKS.get(key, len(_RANKS) + 1)) for key in keys]
    rows = [
        [
            count(int(value)) if key in ("iteration", "timesteps") and value is not None else decimal(value)
            for key, value in zip(keys, row, strict=True)
        ]
        for row in zip(*(table.columns[key] for key in keys), strict=True)
    ]
    print_table(columns, rows)


@click.command()
@job_argument
@click.option("--attempt", type=click.IntRange(1), help="Of this attempt; by default of the latest.")
@json_option
def logs(*, job_id: str, attempt: int | None, as_json: bool) -> None:
    """Print what the environment and the training process wrote."""
    with open_client() as client:
        handle = find_job(client, job_id)
        chunk = handle.logs(attempt=attempt)
    if as_json:
        print_model(chunk)
        return
    if chunk.truncated:
        click.echo("The middle was left out because it was too long.", err=True)
    if not chunk.text:
        click.echo(f"{handle.id} has written nothing in attempt {chunk.attempt}.", err=True)
    is_terminal = sys.stdout.isatty()
    for line in chunk.text.splitlines():
        click.echo(printable(line.expandtabs()) if is_terminal else line, color=True)
