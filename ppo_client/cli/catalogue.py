"""What the service can train, and on what."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from ppo_client.cli.local import check_here
from ppo_client.cli.output import Column, ago, print_json, print_model, print_models, print_sheet, print_table
from ppo_client.cli.session import json_option, open_client

if TYPE_CHECKING:
    from ppo_jobs.schemas import Environment, Worker

_ENVIRONMENT_COLUMNS = (
    Column("ENVIRONMENT"),
    Column("OBSERVATION"),
    Column("ACTION"),
    Column("STEPS", "right", rank=3),
    Column("PRESET", rank=2),
    Column("RESUME", rank=4),
    Column("FROM", rank=5, shortest=12),
)
_WORKER_COLUMNS = (
    Column("WORKER", shortest=16),
    Column("QUEUE"),
    Column("SLOTS", "right"),
    Column("FREE", "right"),
    Column("STATE"),
    Column("DEVICES", rank=3, shortest=12),
    Column("SEEN", "right", rank=2),
)


class _Environments(click.Group):
    """Lists, unless told to check."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in ("check", *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Environments, options_metavar="", subcommand_metavar="[PATTERN] | check ID")
def environments() -> None:
    """List the environments that can be trained, or check one of your own.

    \b
    ppo environments Walker          those that have it in their id
    ppo environments CartPole-v1     all that is known of that one
    ppo environments check ID        try one that is installed here
    """


@environments.command("check")
@click.argument("env_id", metavar="ID")
@click.option("--kwargs", metavar="JSON", help="Arguments of the environment, as an object.")
@click.option("--set", "settings", metavar="PATH=VALUE", multiple=True, help="Of the spec: env.kwargs.size=3.")
@click.option("--steps", type=click.IntRange(1), default=4000, show_default=True, help="Random steps to take.")
@click.option("--deadline", type=click.FloatRange(1), default=120.0, show_default=True, help="Seconds for all of it.")
@json_option
def check(
    *, env_id: str, kwargs: str | None, settings: tuple[str, ...], steps: int, deadline: float, as_json: bool
) -> None:
    """Try an environment on this machine as a training would use it.

    Its registration, spaces and arguments; observations, rewards and ends over some
    thousand random steps; whether a seed determines it, here and in another process;
    whether a resume is exact, and if not, why; and its speed. The exit code is 1 where
    it cannot be trained on.
    """
    from ppo_client.specs import with_settings

    try:
        env: dict[str, object] = {"id": env_id, **({} if kwargs is None else {"kwargs": json.loads(kwargs)})}
    except ValueError as error:
        raise click.UsageError(f"--kwargs is no JSON: {error}") from None
    document = with_settings({"env": env}, settings)
    options = ["--steps", str(steps), "--deadline", str(deadline), *(["--json"] if as_json else [])]
    check_here([json.dumps(document["env"]), *options])


@environments.command("list")
@click.argument("pattern", required=False, default="")
@json_option
def list_environments(*, pattern: str, as_json: bool) -> None:
    """List the environments that can be trained.

    With PATTERN, only those that have it in their id; with the whole id, all that
    is known of that one.
    """
    with open_client() as client:
        everything = client.environments()
    exact = next((environment for environment in everything if environment.id == pattern), None)
    if exact is not None:
        show_environment(exact, as_json=as_json)
        return
    known = [environment for environment in everything if pattern.lower() in environment.id.lower()]
    usable = [environment for environment in known if environment.supported]
    if as_json:
        print_models(known)
    elif usable:
        print_table(_ENVIRONMENT_COLUMNS, [_environment_row(environment) for environment in usable])
    elif not pattern:
        click.echo("The catalogue is empty: no worker has been here yet; start one with `ppo worker`.", err=True)
    for environment in [] if as_json else known:
        if not environment.supported and (pattern or not usable):
            click.echo(f"{environment.id} cannot be trained: {environment.unsupported_reason}.", err=True)
    if pattern and not known and not as_json:
        click.echo(f"No environment has {pattern!r} in its id.", err=True)


def show_environment(environment: "Environment", *, as_json: bool) -> None:
    """Prints all that the catalogue holds of one environment."""
    if as_json:
        print_model(environment)
        return
    arguments, required = (environment.kwargs_schema.get(key) for key in ("properties", "required"))
    print_sheet(
        {
            "environment": environment.id,
            "from": environment.origin,
            "cannot be trained": environment.unsupported_reason,
            "observation": space_in_words(environment.observation_space),
            "action": space_in_words(environment.action_space),
            "steps": str(environment.max_episode_steps or "no limit"),
            "arguments": "\n".join(map(argument_in_words, arguments.items())) if isinstance(arguments, dict) else None,
            "needs": ", ".join(map(str, required)) if isinstance(required, list) else None,
            "preset": "tuned" if environment.preset else "none, general hyperparameters",
            "resume": environment.resume + (f": {environment.resume_note}" if environment.resume_note else ""),
        }
    )


def argument_in_words(argument: "tuple[str, object]") -> str:
    """g: number, by default 10.0."""
    name, schema = argument
    if not isinstance(schema, dict):
        return name
    return f"{name}: {_kind_in_words(schema)}" + (f", by default {schema['default']}" if "default" in schema else "")


def _kind_in_words(schema: "Mapping[str, object]") -> str:
    options = schema.get("anyOf")
    if isinstance(options, list):
        return " or ".join(_kind_in_words(option) for option in options)
    named = schema.get("enum")
    return " or ".join(map(str, named)) if isinstance(named, list) else str(schema.get("type", "?"))


def _environment_row(environment: "Environment") -> list[str]:
    return [
        environment.id,
        space_in_words(environment.observation_space),
        space_in_words(environment.action_space),
        str(environment.max_episode_steps or ""),
        "tuned" if environment.preset else "",
        environment.resume,
        environment.origin,
    ]


def space_in_words(space: "Mapping[str, object]") -> str:
    """Box(4), Discrete(2), MultiDiscrete(3, 3), Dict."""
    for key in ("shape", "n", "nvec"):
        value = space.get(key)
        if value is not None and not (key == "shape" and space.get("type") != "Box"):
            sizes = value if isinstance(value, list) else [value]
            return f"{space['type']}({', '.join(map(str, sizes))})"
    return str(space.get("type", "by its arguments"))


@click.command()
@json_option
def workers(*, as_json: bool) -> None:
    """List the workers, their slots and devices."""
    with open_client() as client:
        known = client.workers()
    if as_json:
        print_models(known)
    elif known:
        print_table(_WORKER_COLUMNS, [_worker_row(worker) for worker in known])
    else:
        click.echo("No worker has been here yet; start one with `ppo worker`.", err=True)


def _worker_row(worker: "Worker") -> list[str]:
    state = "lost" if not worker.alive else "draining" if worker.draining else "ready"
    devices = ", ".join(str(device.get("model") or device.get("kind") or "?") for device in worker.devices)
    free = str(worker.free_slots) if worker.alive else "–"
    return [worker.id, worker.queue.value, str(worker.slots), free, state, devices, ago(worker.heartbeat_at)]


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Show the versions of the client and the service."""
    from importlib.metadata import version as version_of

    from ppo_client.errors import ClientError

    client_version, service_version, problem, url = version_of("ppo-service"), None, None, None
    with open_client() as client:
        url = client.connection.url
        try:
            service_version = client.health().version
        except ClientError as error:
            problem = str(error)
    if as_json:
        print_json({"client": client_version, "service": service_version, "url": url})
    else:
        print_sheet({"client": client_version, "service": service_version or problem, "url": url})
