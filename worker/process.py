"""The child as its supervisor sees it: a process group of its own, a pipe to talk to it, and how it ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.protocol import Assignment, Command

ALLOWED = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
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
    told = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
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


class Child:
    """A running `worker.child`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._terminated_at: float | None = None
        self._is_ended = False

    @property
    def pid(self) -> int:
        return self._process.pid

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
            self._signal(signal.SIGTERM)
        elif time.monotonic() - self._terminated_at >= KILL_AFTER_SECONDS:
            self._signal(signal.SIGKILL)

    def end(self) -> Exit:
        """How it ended; it is made to if it still runs, and so is all that it started in its group."""
        if not self._is_ended:
            self._is_ended = True
            self._signal(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        return Exit(self._process.returncode)

    def assign(self, assignment: Assignment) -> None:
        """Hand it the work that it waits for."""
        self._write(assignment.model_dump_json())

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def start_child(log: Path, *, variables: Mapping[str, str], directory: Path) -> Child:
    """A child that waits for its assignment; it dies with the calling *thread* (Linux) or with its pipe.

    Args:
        log: File that its stdout and stderr are appended to.
        variables: Its whole environment.
        directory: Where it runs, so that stray files of an environment go with the run.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.child"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(variables),
            cwd=directory,
            start_new_session=True,
        )
    return Child(process)
