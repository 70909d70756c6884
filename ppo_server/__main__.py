"""`python -m ppo_server up|api|worker|sweeper|migrate|keys|doctor`."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from ppo_jobs.entrance import enter, in_words, wants_traceback
from ppo_jobs.settings import Settings, load_settings
from ppo_jobs.states import QueueName
from ppo_server.launch import become, die_with_parent
from ppo_server.readiness import CannotStart, visible_gpus
from ppo_server.secrets import put_away
from ppo_server.up import DEFAULT_TENANT, run, worker_command

# `ppo up` starts the API before it imports what it needs itself, so that both are soon done: commands import their own.
if TYPE_CHECKING:
    from ppo_jobs.database import Database

P = ParamSpec("P")
T = TypeVar("T")


def in_plain_words(command: Callable[P, T]) -> Callable[P, T]:
    """Whatever fails ends the command with one sentence; a traceback is for who asked for it."""

    @wraps(command)
    def plain(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except click.ClickException:
            raise
        except Exception as error:
            if wants_traceback():
                raise
            raise click.ClickException(in_words(error)) from error

    return plain


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run ppo-service."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Of a name that the terminal's encoding has not, what it has is written.
            stream.reconfigure(errors="replace")
    die_with_parent()


@main.command()
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where everything is kept.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 takes a free one.")
@click.option("--slots", type=click.IntRange(1, 1024), help="Jobs trained at the same time on the CPU.")
@in_plain_words
def up(data_dir: Path | None, host: str | None, port: int | None, slots: int | None) -> None:
    """Run API, workers and sweeper until Ctrl-C."""
    given = {"data_dir": data_dir, "host": host, "port": port, "slots": slots}
    sys.exit(run(entered(**{name: value for name, value in given.items() if value is not None})))


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on.")
@in_plain_words
def api(host: str | None, port: int | None) -> None:
    """Run the API."""
    settings = entered()
    put_away(os.environ)
    become("api", "--host", host or settings.host, "--port", str(settings.port if port is None else port))


@main.command()
@click.option("--queue", type=click.Choice([str(queue) for queue in QueueName]), default=str(QueueName.CPU))
@click.option("--slots", type=click.IntRange(1, 1024), help="By default PPO_SLOTS, or the number of GPUs.")
@in_plain_words
def worker(queue: str, slots: int | None) -> None:
    """Run a worker of one queue."""
    settings = entered()
    if queue == QueueName.CUDA:
        gpus = visible_gpus()
        if gpus == 0 or (slots or gpus) > gpus:
            raise CannotStart(f"a worker of queue cuda needs a GPU for each slot, and this machine has {gpus}")
        slots = slots or gpus
    put_away(os.environ)
    become(*worker_command(settings, QueueName(queue), slots or settings.slots))


@main.command()
@in_plain_words
def sweeper() -> None:
    """Run a sweeper."""
    entered()
    put_away(os.environ)
    become("worker.sweeper")


@main.command("migrate")
@in_plain_words
def migrate_database() -> None:
    """Bring the database's schema up to date."""
    from ppo_jobs.database import migrate

    migrate(entered().database_url)
    click.echo("the database is up to date")


@main.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@click.argument("name")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Made when there is none of that name.")
@in_plain_words
def create_key(name: str, tenant: str) -> None:
    """Make a key and print it; it cannot be shown again."""
    from ppo_jobs.repository import tenants

    with _database() as database, database.write() as session:
        tenant_id = tenants.tenant_named(session, tenant) or tenants.create_tenant(session, tenant)
        key = tenants.create_api_key(session, tenant_id, name=name)
    click.echo(key)


@keys.command("list")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True)
@in_plain_words
def list_keys(tenant: str) -> None:
    """List a tenant's keys, without their secrets."""
    from ppo_jobs.repository import tenants

    with _database() as database, database.read() as session:
        for key in tenants.list_api_keys(session, _tenant_id(tenants.tenant_named(session, tenant), tenant)):
            state = "revoked" if key.revoked_at else "valid"
            click.echo(f"{key.id}  {key.created_at:%Y-%m-%d %H:%M}  {state:7}  {key.name}")


@keys.command("revoke")
@click.argument("key_id")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True)
@in_plain_words
def revoke_key(key_id: str, tenant: str) -> None:
    """Make a key open nothing from now on."""
    from ppo_jobs.repository import tenants

    with _database() as database, database.write() as session:
        tenants.revoke_api_key(session, _tenant_id(tenants.tenant_named(session, tenant), tenant), key_id)
    click.echo(f"key {key_id} is revoked")


@main.command()
@in_plain_words
def doctor() -> None:
    """Say in words what works here and what does not."""
    from ppo_server.doctor import examine

    findings = examine(load_settings())
    for finding in findings:
        click.echo(f"{'ok ' if finding.is_fine else 'BAD'}  {finding.subject}: {finding.words}")
    sys.exit(0 if all(finding.is_fine for finding in findings) else 1)


@contextmanager
def _database() -> "Iterator[Database]":
    from ppo_jobs.database import open_database

    database = open_database(entered().database_url, durable=True)
    try:
        yield database
    finally:
        database.dispose()


def entered(**given: Any) -> Settings:
    """The settings, in a process that is private and has its data directory."""
    settings = load_settings(**given)
    enter(settings)
    return settings


def _tenant_id(found: str | None, name: str) -> str:
    if found is None:
        raise CannotStart(f"there is no tenant named {name}")
    return found


if __name__ == "__main__":
    main(prog_name="ppo")
