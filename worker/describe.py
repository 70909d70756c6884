"""`python -m worker.describe SUBJECT…`: what environments there are, as one JSON object a line on stdout.

A subject is a distribution that is known, or a plugin. Each is described in a process of its own, forked from one that
has imported the engine and runs no code of theirs: whatever an author did, it is done to one environment. A process
that ends, or does not come on, costs the environment that it was at; another one goes on behind that.
"""

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ppo_engine.envs import catalogue, registry
from ppo_engine.envs.plugins import Plugin, installed_plugins, prefer_plugin
from ppo_engine.spec import EnvironmentDescription
from ppo_jobs.kernel import die_with_parent

MOST_AT_ONCE = 8
"""Those that hang take no processor."""
STEP_SECONDS = 30.0
"""For a plugin to register its environments, and for each of these to be made."""
POLL_SECONDS = 0.1


@dataclass
class Telling:
    """A process that describes a subject, and what it has told."""

    subject: str
    ids: list[str] | None = None
    described: set[str] = field(default_factory=set)
    at: str | None = None
    """The environment that it is at."""
    pid: int = 0
    pipe: int = -1
    deadline: float = 0.0
    rest: bytes = b""
    is_done: bool = False

    def start(self, step_seconds: float) -> None:
        """Fork a process that describes what is left."""
        self.pipe, other = os.pipe()
        self.at, self.rest = None, b""
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            _tell_apart(self.subject, other, self.described)
        os.close(other)
        self.deadline = time.monotonic() + step_seconds

    def read(self, step_seconds: float) -> list[dict[str, Any]]:
        """What has come, if anything has."""
        data = os.read(self.pipe, 1 << 20)
        if not data:
            return []
        self.deadline = time.monotonic() + step_seconds
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [told for line in lines if (told := self._note(json.loads(line))) is not None]

    def _note(self, told: dict[str, Any]) -> dict[str, Any] | None:
        if "at" in told:
            self.at = told["at"]
            return None
        self.ids = told.get("ids", self.ids)
        if "environment" in told:
            self.described.add(told["environment"]["id"])
            self.at = None
        self.is_done = "done" in told
        return None if self.is_done else {"subject": self.subject, **told}

    def has_ended(self) -> str | None:
        """How the process ended unasked, or that it stands still; None as long as it goes on."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.pid = 0
            code = os.waitstatus_to_exitcode(status)
            return f"it ended its process, by {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"
        return "it did not come back" if time.monotonic() > self.deadline else None

    def end(self) -> None:
        """Leave nothing of the process and its group."""
        os.close(self.pipe)
        with suppress(ProcessLookupError, PermissionError):
            if self.pid:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)


def main() -> None:
    """Describe the subjects that the arguments name; whatever environments print goes to stderr."""
    die_with_parent()
    # Jobs that are known come first.
    os.nice(5)
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(answer, "w") as stdout:
        describe(sys.argv[1:], stdout, step_seconds=float(os.environ.get("PPO_DESCRIBE_SECONDS", STEP_SECONDS)))


def describe(subjects: list[str], stdout: Any, *, step_seconds: float) -> None:
    waiting, running = [Telling(subject) for subject in reversed(subjects)], list[Telling]()
    while waiting or running:
        while waiting and len(running) < MOST_AT_ONCE:
            running.append(waiting.pop())
            running[-1].start(step_seconds)
        readable = select.select([telling.pipe for telling in running], [], [], POLL_SECONDS)[0]
        for telling in list(running):
            how = telling.has_ended()
            told = _all_of(telling, step_seconds) if how or telling.pipe in readable else []
            if how and not telling.is_done:
                telling.end()
                told += _mishap(telling, how, step_seconds)
            for line in told:
                print(json.dumps(line), file=stdout, flush=True)
            if telling.is_done:
                running.remove(telling)
                print(json.dumps({"subject": telling.subject, "done": True}), file=stdout, flush=True)


def _all_of(telling: Telling, step_seconds: float) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    while not telling.is_done and select.select([telling.pipe], [], [], 0)[0]:
        before = telling.rest, telling.deadline
        told += telling.read(step_seconds)
        if before == (telling.rest, telling.deadline):
            # Its end.
            time.sleep(POLL_SECONDS)
            break
    if telling.is_done:
        telling.end()
    return told


def _mishap(telling: Telling, how: str, step_seconds: float) -> list[dict[str, Any]]:
    """Tell what the process was at when it ended, and have another go on behind that."""
    subject = telling.subject
    if telling.ids is None:
        telling.is_done = True
        return [{"subject": subject, "failed": f"while it registered its environments, {how}"}]
    left = [env_id for env_id in telling.ids if env_id not in telling.described]
    culprit = telling.at or next(iter(left), None)
    told: list[dict[str, Any]] = []
    if culprit is not None:
        telling.described.add(culprit)
        told = [{"subject": subject, "environment": _unusable(subject, culprit, how).model_dump(mode="json")}]
    if len(telling.described) < len(telling.ids):
        telling.start(step_seconds)
    else:
        telling.is_done = True
    return told


def _unusable(subject: str, env_id: str, how: str) -> EnvironmentDescription:
    plugin = plugin_named(subject)
    origin = plugin.origin if plugin else subject
    return catalogue.unusable(
        env_id, f"it cannot be made: {how}", origin=origin, plugin=plugin.name if plugin else None
    )


def plugin_named(name: str) -> Plugin | None:
    return next((plugin for plugin in installed_plugins(tuple(sys.path)) if plugin.name == name), None)


def _tell_apart(subject: str, pipe: int, described: set[str]) -> NoReturn:
    """In a process of its own: describe a subject, but for what is described already."""
    try:
        die_with_parent()
        os.setsid()
        _tell(subject, pipe, described)
    finally:
        os._exit(0)


def _tell(subject: str, pipe: int, described: set[str]) -> None:
    process = os.getpid()

    def say(**told: Any) -> None:
        if os.getpid() != process:
            # An environment has forked, and both go on.
            os._exit(0)
        data = json.dumps(told).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]

    plugin = plugin_named(subject)
    if plugin is not None:
        prefer_plugin(plugin.name)
        try:
            failure = registry.register(plugin)
        except BaseException as error:
            failure = error
        if failure is not None:
            say(failed=catalogue.in_words(failure))
    found = registry.plugin_environments(plugin) if plugin else registry.environments_of_distribution(subject)
    say(ids=list(found))
    for env_id, registered in found.items():
        if env_id in described:
            continue
        say(at=env_id)
        try:
            description = catalogue.describe_environment(env_id)
        except BaseException as error:
            reason = f"it cannot be made: {catalogue.in_words(error)}"
            description = catalogue.unusable(env_id, reason, origin=registered.origin, plugin=registered.plugin)
        say(environment=description.model_dump(mode="json"))
    say(done=True)


if __name__ == "__main__":
    main()
