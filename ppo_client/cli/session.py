"""What the commands share: the way to the service, and the options that many of them have."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import click

from ppo_client.cli.output import sentence

if TYPE_CHECKING:
    from ppo_client.client import Client
    from ppo_client.errors import ClientError
    from ppo_client.jobs import JobHandle

Command = TypeVar("Command", bound=Callable[..., object])

UNREACHABLE_SECONDS = 3.0
"""A person at a terminal wants to know soon."""
QUIET_SECONDS = 4.0
"""Shorter interruptions are not worth a word."""
REPEAT_SECONDS = 60.0


def _say(notice: str) -> None:
    click.echo(notice, err=True)


@dataclass
class Session:
    """One call of `ppo`."""

    url: str | None
    say: Callable[[str], None] = _say
    """Where notices go: to stderr, or above a live display."""
    _silent_until: dict[str, float] = field(default_factory=dict, repr=False)

    def notice_retry(self, cause: "ClientError") -> None:
        """Say why there is nothing to see, once it has lasted for a while, and again now and then."""
        notice = sentence(str(cause).partition("\n")[0])
        now = time.monotonic()
        if now >= self._silent_until.setdefault(notice, now + QUIET_SECONDS):
            self._silent_until[notice] = now + REPEAT_SECONDS
            self.say(f"{notice}; trying again …")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
job_argument = click.argument("job_id", metavar="JOB")


def session() -> Session:
    """The session of the command that runs."""
    found = click.get_current_context().find_object(Session)
    return found or Session(None)


@contextmanager
def open_client() -> Iterator["Client"]:
    """The service that this call of `ppo` talks to."""
    from ppo_client.client import Client
    from ppo_client.transport import RetryPolicy

    here = session()
    policy = RetryPolicy(unreachable_seconds=UNREACHABLE_SECONDS)
    with Client(here.url, retry=policy, on_retry=here.notice_retry) as client:
        yield client


def find_job(client: "Client", job_id: str) -> "JobHandle":
    """The job that a user means: an id, or `last` for the newest.

    Raises:
        NotFound: there is none.
    """
    from ppo_client.errors import NotFound

    if job_id != "last":
        return client.job(job_id)
    newest = next(client.jobs(page_size=1), None)
    if newest is None:
        raise NotFound("There is no job yet; start one with `ppo train CartPole-v1`.", status=404, code="job_not_found")
    return newest
