"""Commands that other parts of the distribution carry out on this machine, in this process's place."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import click

from ppo_client.errors import ExtraMissing

_SERVER = ("alembic", "celery", "fastapi", "sqlalchemy", "uvicorn")
_WORKER = ("gymnasium", "torch")
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def _server_command(name: str, summary: str, needed: Sequence[str]) -> click.Command:
    """`ppo NAME …` as `python -m ppo_server NAME …`, which has its own help."""

    @click.command(name, short_help=summary, help=summary, context_settings=_PASS_ON)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        _require(f"`ppo {name}`", needed, "server,worker")
        _become("ppo_server", [name, *arguments])

    return command


up = _server_command("up", "Run the whole service on this machine.", _SERVER + _WORKER)
api = _server_command("api", "Run the HTTP process alone.", _SERVER)
worker = _server_command("worker", "Run a worker alone.", _SERVER + _WORKER)
sweeper = _server_command("sweeper", "Run the sweeper alone.", _SERVER)
migrate = _server_command("migrate", "Bring the database to this version.", _SERVER)
keys = _server_command("keys", "Make, list and revoke API keys.", _SERVER)
doctor = _server_command("doctor", "Check the installation and the settings.", _SERVER)


def play_here(arguments: Sequence[str]) -> None:
    """Evaluate a downloaded policy in this process's place."""
    _require("`ppo evaluate`", _WORKER, "worker")
    _become("ppo_engine.evaluate", arguments)


def check_here(arguments: Sequence[str]) -> None:
    """Try an environment that is installed here in this process's place."""
    _require("`ppo environments check`", _WORKER, "worker")
    _become("ppo_engine.envs.check", arguments)


def _require(what: str, modules: Sequence[str], extras: str) -> None:
    if any(find_spec(module) is None for module in modules):
        raise ExtraMissing(what, extras)


def _become(module: str, arguments: Sequence[str]) -> None:
    """Replace this process, so that signals, the terminal and the exit code are the command's own.

    The working directory stays out of the import path: a folder there named `api` or `worker` is not ours.
    """
    sys.stdout.flush()
    os.environ["PYTHONSAFEPATH"] = "1"
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
