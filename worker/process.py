"""The child as its supervisor sees it: a process group of its own, a pipe to talk to it, and how it ended."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import psutil

from ppo_engine import packs
from worker.protocol import Assignment, Command

ALLOWED = (
    "HOME", "LANG", "LD_LIBRARY_PATH", "NUMBA_CACHE_DIR", "PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR", "TZ", "USER",
    "VIRTUAL_ENV", "XDG_CACHE_HOME", packs.DIGESTS,
)  # fmt: skip
ALLOWED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "MUJOCO_", "PYGLET_", "SDL_")
"""What environment code may see of the worker's variables: no address, no key."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KILL_AFTER_SECONDS = 0.5
"""Between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How the child's process ended."""

    returncode: int
    """As of `subprocess`: minus the signal's number if one killed it."""

    @property
    def signal_name(self) -> str | None:
        return signal.Signals(-self.returncode).name if self.returncode < 0 else None


def lean_variables(variables: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """What a process that runs environment code gets to see: what is allowed, and its threads."""
    allowed = {name: value for name, value in variables.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)}
    # Environments that go through sets of texts do so in the same order in every run.
    told = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONHASHSEED": "0"}
    return {**allowed, **dict.fromkeys(THREAD_VARIABLES, str(threads)), **told}


def child_variables(variables: Mapping[str, str], *, threads: int, gpu: int | None) -> dict[str, str]:
    """The child's environment: lean, and with its own GPU or none."""
    device = visible_device(variables.get("CUDA_VISIBLE_DEVICES"), gpu)
    return {**lean_variables(variables, threads=threads), "CUDA_VISIBLE_DEVICES": device}


def visible_device(visible: str | None, gpu: int | None) -> str:
    """The one device of slot `gpu`, counted among those that the worker itself may see; empty for none."""
    if gpu is None:
        return ""
    if not visible:
        return str(gpu)
    devices = visible.split(",")
    return devices[gpu] if gpu < len(devices) else ""


class Process(Protocol):
    """What a child's process is asked, be it started or forked; as of `subprocess.Popen` where that has it."""

    @property
    def pid(self) -> int: ...
    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def returncode(self) -> int: ...
    @property
    def spent_seconds(self) -> float:
        """Once it has ended: how long it computed, and what it waited for."""
        ...

    def wait(self, timeout: float | None = None) -> int: ...
    def signal_group(self, number: signal.Signals) -> None: ...


class StartedProcess(subprocess.Popen[bytes]):
    """A process of the calling one, which leads a group."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._before = _children_seconds()
        super().__init__(command, start_new_session=True, **options)

    @property
    def spent_seconds(self) -> float:
        return _children_seconds() - self._before

    def signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class Child:
    """A running `worker.child`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._terminated_at: float | None = None
        self._is_ended = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def processor_seconds(self) -> float:
        """How long it has computed, and what it started and waited for."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return self._process.spent_seconds
        return float(times.user + times.system + times.children_user + times.children_system)

    def command(self, command: Command) -> None:
        """Say it on the pipe; a child that is gone hears nothing."""
        self._write(command.model_dump_json())

    def runs_on(self, seconds: float) -> bool:
        """Whether it still runs after `seconds`; comes back at once when it ends."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def terminate(self) -> None:
        """SIGTERM to the group, and SIGKILL when it is called again half a second later."""
        if self._terminated_at is None:
            self._terminated_at = time.monotonic()
            self._process.signal_group(signal.SIGTERM)
        elif time.monotonic() - self._terminated_at >= KILL_AFTER_SECONDS:
            self._process.signal_group(signal.SIGKILL)

    def end(self) -> Exit:
        """How it ended; it is made to if it still runs, and so is all that it started in its group."""
        if not self._is_ended:
            self._is_ended = True
            self._process.signal_group(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        return Exit(self._process.returncode)

    def assign(self, assignment: Assignment) -> None:
        """Hand it the work that it waits for."""
        # What is to be settled where the environment is made stays unset.
        self._write(assignment.model_dump_json(exclude_unset=True))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()


def start_child(log: Path, *, variables: Mapping[str, str], directory: Path) -> Child:
    """A child that waits for its assignment; it dies with the calling *thread* (Linux) or with its pipe.

    Args:
        log: File that its stdout and stderr are appended to.
        variables: Its whole environment.
        directory: Where it runs, so that stray files of an environment go with the run.
    """
    with log.open("ab") as output:
        process = StartedProcess(
            [sys.executable, "-P", "-m", "worker.child"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(variables),
            cwd=directory,
        )
    return Child(process)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
