"""The command `ppo`: its parts, its help, and what becomes of errors."""

import os
from importlib import import_module
from typing import Any

import click

from ppo_client.cli.output import printable, sentence, write_in_any_encoding
from ppo_client.cli.session import Session
from ppo_client.errors import (
    ClientError,
    ConfigurationInvalid,
    Conflict,
    DownloadFailed,
    ExtraMissing,
    InvalidRequest,
    NotAuthorised,
    NotFound,
    ProblemError,
    ServerFailed,
    ServiceUnavailable,
    ServiceUnreachable,
    TooManyRequests,
    WaitTimedOut,
)

INTERRUPTED = 130

_EXIT_CODES: tuple[tuple[type[ClientError], int], ...] = (
    (ConfigurationInvalid, 2),
    (InvalidRequest, 2),
    (ServiceUnreachable, 3),
    (ServiceUnavailable, 3),
    (TooManyRequests, 3),
    (WaitTimedOut, 3),
    (NotAuthorised, 4),
    (NotFound, 5),
    (Conflict, 6),
    (DownloadFailed, 7),
    (ExtraMissing, 8),
)
_OTHER_ERROR = 9

_SECTIONS: dict[str, dict[str, str]] = {
    "Train": {
        "train": "ppo_client.cli.train",
        "watch": "ppo_client.cli.watch",
        "cancel": "ppo_client.cli.jobs",
        "retry": "ppo_client.cli.jobs",
    },
    "Look": {
        "jobs": "ppo_client.cli.jobs",
        "show": "ppo_client.cli.show",
        "metrics": "ppo_client.cli.records",
        "logs": "ppo_client.cli.records",
        "environments": "ppo_client.cli.catalogue",
        "workers": "ppo_client.cli.catalogue",
        "version": "ppo_client.cli.catalogue",
    },
    "Use the policy": {
        "checkpoints": "ppo_client.cli.files",
        "download": "ppo_client.cli.files",
        "evaluate": "ppo_client.cli.evaluation",
        "evaluations": "ppo_client.cli.evaluation",
        "compare": "ppo_client.cli.evaluation",
    },
    "Run the service": {
        "up": "ppo_client.cli.local",
        "api": "ppo_client.cli.local",
        "worker": "ppo_client.cli.local",
        "sweeper": "ppo_client.cli.local",
        "migrate": "ppo_client.cli.local",
        "keys": "ppo_client.cli.local",
        "doctor": "ppo_client.cli.local",
    },
}
_MODULES = {name: module for section in _SECTIONS.values() for name, module in section.items()}

_EPILOG = """\b
Exit codes:
  0    done; a job that was watched succeeded
  1    a job that was watched failed or was cancelled
  2    wrong usage, or a spec that is not valid
  3    the service cannot be reached, or is too busy
  4    not authorised
  5    not found
  6    the job's state does not allow it
  7    a download is not what it should be
  8    a part that is needed is not installed
  9    any other error
  130  interrupted; jobs go on

\b
The service is found by PPO_API_URL, and the key by PPO_API_KEY; else in what
`ppo up` left in PPO_DATA_DIR or ~/.ppo-service. JOB is an id, or `last`.
Completion: eval "$(_PPO_COMPLETE=bash_source ppo)", or zsh, fish.
"""


class Root(click.Group):
    """Loads commands on demand, lists them in sections, and ends with one sentence and a telling exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        command: click.Command = getattr(import_module(_MODULES[cmd_name]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _MODULES and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _MODULES, n=1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(60)) for name, command in commands if command])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            click.echo(in_words(error), err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            raise
        except OSError as error:
            click.echo(printable(f"{error.filename or 'The output'}: {error.strerror or error}."), err=True)
            ctx.exit(_OTHER_ERROR)


@click.group(cls=Root, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", metavar="URL", help="Address of the service.")
@click.pass_context
def ppo(ctx: click.Context, url: str | None) -> None:
    """Train reinforcement-learning policies with PPO.

    \b
    ppo up                     run the service on this machine
    ppo train CartPole-v1      train, watch, and see the return rise
    ppo download last -o DIR   take the policy home
    """
    ctx.obj = Session(url)
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def exit_code(error: ClientError) -> int:
    """What the process ends with, so that scripts can tell the cause."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), _OTHER_ERROR)


def in_words(error: ClientError) -> str:
    """One sentence, with what to do about it, and below it each fault on its own line."""
    words = sentence(error.detail if isinstance(error, ProblemError) else str(error))
    if isinstance(error, ProblemError) and error.errors:
        return "\n".join(["The request is not valid:", *(f"  {printable(str(fault))}" for fault in error.errors)])
    if isinstance(error, ServiceUnreachable):
        words += "; start one with `ppo up`, or set PPO_API_URL"
    elif isinstance(error, NotAuthorised):
        words += "; set PPO_API_KEY, or PPO_DATA_DIR to the service's directory"
    elif isinstance(error, ServerFailed) and error.request_id:
        words += f" (request {error.request_id})"
    return words + "."


def main() -> None:
    """Run the command that the process was started with."""
    write_in_any_encoding()
    ppo(prog_name="ppo")
