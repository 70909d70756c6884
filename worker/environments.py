"""What a worker knows of environments: at once what is shipped or was kept, then what it has described.

Their code runs in other processes only (`worker.describe`).
"""

import json
import logging
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, JsonValue

from ppo_engine.envs.plugins import installed_plugins, stamp_of
from ppo_engine.envs.shipped import installed, shipped
from ppo_engine.spec import EnvironmentDescription
from worker.process import child_variables

logger = logging.getLogger(__name__)

KEPT = "environments.json"
"""In the data directory: what the plugins' environments were like, and by what that can be told to be still so."""
TRIES = 3
"""A process that describes, and ends before it has told all, is started so often."""


class Kept(BaseModel):
    """A plugin's environments, all of which could be described."""

    stamp: str
    environments: list[EnvironmentDescription]


@dataclass
class Subject:
    """A plugin, or a distribution of a version that is not shipped, while it is described."""

    origin: str
    stamp: str | None
    ids: list[str] | None = None
    environments: list[EnvironmentDescription] = field(default_factory=list)
    failure: str | None = None


class Environments:
    """Those of one worker; `describe` and `listen` are called by one thread."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / KEPT
        self._kept = _read(self._path)
        self._waiting: dict[str, Subject] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._rest = b""
        self._tries = 0
        self.known: dict[str, EnvironmentDescription] = {}
        """By id."""
        self.failures: dict[str, str] = {}
        """By origin: why a plugin's environments are not known."""
        self._look()

    @property
    def is_describing(self) -> bool:
        return self._process is not None

    @property
    def pending(self) -> dict[str, JsonValue]:
        """By plugin or distribution: where it is from, and which ids are still to be described, where that is known."""
        waiting: dict[str, JsonValue] = {}
        for name, subject in self._waiting.items():
            told = {environment.id for environment in subject.environments}
            ids = None if subject.ids is None else [id for id in subject.ids if id not in told]
            waiting[name] = {"origin": subject.origin, "ids": ids}  # type: ignore[dict-item]  # a list of str is JSON
        return waiting

    def describe(self, no_fork: AbstractContextManager[object]) -> None:
        """Have a process describe what is not known, if there is anything and none runs.

        Args:
            no_fork: While it is held, no other thread forks.
        """
        if not self._waiting or self._process is not None:
            return
        if self._tries == TRIES:
            self._give_up()
            return
        self._tries += 1
        # Some environments leave files where they run.
        self._scratch = tempfile.TemporaryDirectory(prefix="ppo-describe-", ignore_cleanup_errors=True)
        with no_fork:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.describe", *self._waiting],
                env=_variables(os.environ),
                cwd=self._scratch.name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )

    def listen(self, seconds: float) -> bool:
        """Wait for so long at most; whether something was told that was not known."""
        if self._process is None:
            return False
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return False
        data = os.read(self._process.stdout.fileno(), 1 << 20)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._note(json.loads(line))
        if not data:
            self.stop()
        return bool(lines)

    def stop(self) -> None:
        """End the process that describes."""
        if self._process is None:
            return
        assert self._process.stdout is not None and self._scratch is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._scratch.cleanup()
        self._process, self._rest = None, b""

    def _look(self) -> None:
        """Know what is shipped or kept; the rest waits."""
        for distribution in installed():
            if (environments := shipped(distribution)) is None:
                self._waiting[distribution] = Subject(distribution, stamp=None)
            else:
                self._learn(environments)
        for plugin in installed_plugins(tuple(sys.path)):
            stamp, kept = stamp_of(plugin), self._kept.get(plugin.name)
            if kept is not None and kept.stamp == stamp:
                self._learn(kept.environments)
            else:
                self._waiting[plugin.name] = Subject(plugin.origin, stamp)

    def _note(self, told: Mapping[str, JsonValue]) -> None:
        name = str(told["subject"])
        subject = self._waiting.get(name)
        if subject is None:
            return
        if isinstance(ids := told.get("ids"), list):
            subject.ids = [str(id) for id in ids]
        if "environment" in told:
            environment = EnvironmentDescription.model_validate(told["environment"])
            if not environment.supported:
                logger.warning(
                    "environment %s of %s is not offered: %s",
                    environment.id,
                    environment.origin,
                    environment.unsupported_reason,
                )
            subject.environments = [known for known in subject.environments if known.id != environment.id]
            subject.environments.append(environment)
            self._learn([environment])
        if "failed" in told:
            subject.failure = str(told["failed"])
            logger.error("plugin %s of %s failed: %s", name, subject.origin, subject.failure)
        if "done" in told:
            self._conclude(name, self._waiting.pop(name))

    def _learn(self, environments: list[EnvironmentDescription]) -> None:
        for environment in environments:
            # Gymnasium's own and those of known packages come first, as they do where one is made.
            if (known := self.known.get(environment.id)) is None or known.plugin is not None:
                self.known[environment.id] = environment

    def _conclude(self, name: str, subject: Subject) -> None:
        """Keep what all is well with; what failed is tried again when the worker starts again."""
        if subject.failure is not None:
            self.failures[f"{subject.origin} ({name})"] = subject.failure
        elif subject.stamp is not None and all(environment.supported for environment in subject.environments):
            self._kept[name] = Kept(stamp=subject.stamp, environments=subject.environments)
            _write(self._path, self._kept)

    def _give_up(self) -> None:
        for name, subject in self._waiting.items():
            self.failures[f"{subject.origin} ({name})"] = "the process that describes it ends"
            logger.error("the environments of %s (%s) cannot be described", subject.origin, name)
        self._waiting.clear()


def _variables(variables: Mapping[str, str]) -> dict[str, str]:
    told = {name: value for name, value in variables.items() if name == "PPO_DESCRIBE_SECONDS"}
    return {**child_variables(variables, threads=1, gpu=None), **told}


def _read(path: Path) -> dict[str, Kept]:
    """What was kept; nothing where that cannot be read, since it can be found out again."""
    try:
        content = json.loads(path.read_bytes())
        return {name: Kept.model_validate(kept) for name, kept in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write(path: Path, kept: Mapping[str, Kept]) -> None:
    content = json.dumps({name: entry.model_dump(mode="json") for name, entry in kept.items()})
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(content)
        unfinished.replace(path)
    except OSError as error:
        logger.warning("what plugins offer cannot be kept, and is found out again: %s", error)
