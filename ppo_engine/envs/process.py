"""Vector environments stepped by several processes, each stepping its share in turn: the same bits as `sync`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.choice import usable_cores
from ppo_engine.envs.halves import halves_of
from ppo_engine.envs.registry import find_environment
from ppo_engine.envs.shared import (
    Layout,
    anonymous_file,
    error_from_json,
    map_arrays,
    receive_content,
    send,
    size_of,
    state_from_json,
    state_to_json,
    step_of,
)
from ppo_engine.envs.snapshots import saved_episode
from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.state.surroundings import isolated
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import EXACT, EnvironmentState, Resumability, Step, Vectorization
from ppo_engine.envs.watchdog import IDLE, POLLS_PER_TIMEOUT, SLOWEST_POLL_SECONDS, beat
from ppo_engine.errors import EngineError, EnvironmentPlace, EnvironmentTimedOut, EnvironmentWorkerDied
from ppo_engine.spec import EnvSpec

START_SECONDS = 60.0
"""What a worker may take to import its modules and make its environments, where the spec's timeout is shorter."""
CLOSE_SECONDS = 2.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class Worker:
    """A process that steps the environments from `first` up to `last`."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    first: int
    last: int
    seen: tuple[int, int] = (0, IDLE)
    """Its calls and the environment it called, when last looked at."""
    waited_seconds: float = 0.0
    """How long that has been so; time in which both processes were stopped does not count."""


class ProcessVectorEnvironment:
    """N environments in k processes, with one exchange of single bytes per process and step.

    Where no process has environments of both halves, each half can be stepped by itself: see `Halves`.
    """

    vectorization: Vectorization = "process"

    def __init__(self, env: EnvSpec, seeds: Sequence[int], *, workers: int | None = None) -> None:
        """Starts the processes and waits until they have made their environments.

        Args:
            seeds: one per environment.
            workers: processes; None: as many as there are usable cores; `n_envs` at most.
        Raises: as `SyncVectorEnvironment`; EnvironmentTimedOut, EnvironmentWorkerDied.
        """
        self.n_envs = len(seeds)
        self.resume, self.foreseen = EXACT, EXACT
        k = max(1, min(workers or usable_cores(), self.n_envs))
        self.vectorization_reason = f"stepped by {k} processes"
        self._spec = env
        # Made and thrown away for its spaces alone.
        with isolated():
            probe = SyncVectorEnvironment(env, seeds[:1])
            probe.close()
        self.encoder, self.action_space = probe.encoder, probe.action_space
        self.observation_size = self.encoder.size
        layout = Layout(
            self.n_envs,
            self.encoder.size,
            self.action_space.columns,
            self.action_space.row_dtype.name,
            workers=k,
            observation_dtype=self.encoder.dtype.name,
            masks=self.action_space.masks if env.action_masks else None,
        )
        memory = anonymous_file(size_of(layout))
        try:
            arrays = map_arrays(memory, layout)
            arrays["valid"][:] = True
            arrays["progress"][:, 1] = IDLE
            self._step = step_of(arrays, slice(None))
            self._actions, self._progress = arrays["actions"], arrays["progress"]
            self._episodes = np.zeros(self.n_envs, np.int64)
            self._lengths = np.zeros(self.n_envs, np.int64)
            self._workers: list[Worker] = []
            # Reaps also where the environment is dropped without being closed, or the interpreter ends.
            self._finalizer = weakref.finalize(self, _end, self._workers)
            borders = np.linspace(0, self.n_envs, k + 1).round().astype(int).tolist()
            self.halves = halves_of(self.n_envs)
            self.steps_halves = self.halves[0].stop in borders[1:-1]
            for first, last in pairwise(borders):
                self._workers.append(self._start(memory, layout, seeds[first:last], first))
        finally:
            os.close(memory)
        self._wait(self._workers, timeout_seconds=max(START_SECONDS, env.step_timeout_seconds))

    @property
    def action_masks(self) -> NDArray[np.bool_] | None:
        """[N, masks], of the observations where the environments stand; None where the spec asks for none."""
        return self._step.action_masks

    def reset(self) -> Rows:
        self._lengths[:] = 0
        self._command(b"r", self._workers)
        self._wait(self._workers)
        return self._step.observations

    def step(self, actions: NDArray[Any]) -> Step:
        everything = slice(0, self.n_envs)
        self.begin_step(everything, actions)
        return self.finish_step(everything)

    def begin_step(self, rows: slice, actions: NDArray[Any]) -> None:
        self._actions[rows] = actions
        self._lengths[rows] += 1
        # So that a worker that does not come back tells which of its environments had been stepped.
        self._step.terminated[rows] = False
        self._step.truncated[rows] = False
        self._command(b"s", self._stepping(rows))

    def finish_step(self, rows: slice) -> Step:
        self._wait(self._stepping(rows))
        step = self._step
        done = step.terminated[rows] | step.truncated[rows]
        self._lengths[rows][done] = 0
        self._episodes[rows] += done
        return step

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        self._command(b"g", self._workers)
        state: dict[str, NDArray[Any] | JsonValue] = {}
        answers = self._wait(self._workers)
        for answer in answers:
            state.update(state_from_json(answer["state"]))
        self.foreseen = joined(answer["foreseen"] for answer in answers)
        return state

    def restore(self, state: EnvironmentState) -> Rows:
        for worker in self._workers:
            share = tuple(f"env/{index}/" for index in range(worker.first, worker.last))
            part = {name: value for name, value in state.items() if name.startswith(share)}
            with contextlib.suppress(ConnectionError):
                send(worker.connection, b"p", state_to_json(part))
        self.resume = joined(self._wait(self._workers))
        for index in range(self.n_envs):
            episode = saved_episode(state, index)
            self._episodes[index], self._lengths[index] = episode.number, episode.length
        return self._step.observations

    def close(self) -> None:
        self._finalizer()

    def _start(self, memory: int, layout: Layout, seeds: Sequence[int], first: int) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ppo_engine.envs.stepper", str(theirs.fileno()), str(memory)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                env=_environment_variables(),
            )
        worker = Worker(process, ours, first, first + len(seeds))
        task: JsonValue = {
            "parent": os.getpid(),
            "started_by_main_thread": threading.current_thread() is threading.main_thread(),
            "env": self._spec.model_dump(mode="json"),
            "plugin": find_environment(self._spec.id).plugin,
            "seeds": list(seeds),
            "first": worker.first,
            "last": worker.last,
            "worker": len(self._workers),
            "layout": asdict(layout),
        }
        ours.settimeout(min(SLOWEST_POLL_SECONDS, self._spec.step_timeout_seconds / POLLS_PER_TIMEOUT))
        with contextlib.suppress(ConnectionError):
            send(ours, b"", task)
        return worker

    def _stepping(self, rows: slice) -> list[Worker]:
        """The workers whose environments these are."""
        return [worker for worker in self._workers if rows.start <= worker.first and worker.last <= rows.stop]

    def _command(self, command: bytes, workers: Sequence[Worker]) -> None:
        for worker in workers:
            # One that is gone is found, and named, when its answer is waited for.
            with contextlib.suppress(ConnectionError):
                worker.connection.send(command)

    def _wait(self, workers: Sequence[Worker], *, timeout_seconds: float | None = None) -> list[Any]:
        """Waits for the answer of each of these workers, and returns the contents of those that have any.

        Raises: EngineError, with every process ended, where an answer is an error or does not come.
        """
        contents: list[Any] = []
        try:
            for worker in workers:
                kind = self._receive_kind(worker, timeout_seconds or self._spec.step_timeout_seconds)
                if kind == b"e":
                    raise error_from_json(receive_content(worker.connection))
                if kind == b"j":
                    contents.append(receive_content(worker.connection))
        except EngineError:
            _kill(self._workers)
            self.close()
            raise
        return contents

    def _receive_kind(self, worker: Worker, timeout_seconds: float) -> bytes:
        while True:
            try:
                kind = worker.connection.recv(1)
            except TimeoutError:
                self._require_progress(worker, timeout_seconds)
                continue
            except ConnectionError:
                kind = b""
            if kind:
                beat()
                return kind
            raise EnvironmentWorkerDied(f"its process {_ending(worker.process)}", self._place(worker))

    def _require_progress(self, worker: Worker, timeout_seconds: float) -> None:
        calls, env_index = self._progress[self._workers.index(worker)].tolist()
        if (calls, env_index) != worker.seen:
            worker.seen, worker.waited_seconds = (calls, env_index), 0.0
            beat()
        else:
            worker.waited_seconds += worker.connection.gettimeout() or 0.0
        if worker.waited_seconds > timeout_seconds:
            fault = f"took longer than step_timeout_seconds = {self._spec.step_timeout_seconds:g}"
            raise EnvironmentTimedOut(fault, self._place(worker))

    def _place(self, worker: Worker) -> EnvironmentPlace:
        """Where the environment is that the worker called last."""
        _, index = self._progress[self._workers.index(worker)].tolist()
        index = worker.first + max(index, 0)
        episode, step = int(self._episodes[index]), int(self._lengths[index])
        if self._step.terminated[index] or self._step.truncated[index]:
            # Its episode ended in this very step: what it was called for is the reset.
            episode, step = episode + 1, 0
        return EnvironmentPlace(self._spec.id, index, episode, step)


def joined(reasons: Iterable[str | None]) -> Resumability:
    """What the resumes of several processes come to."""
    told = [reason for reason in reasons if reason is not None]
    return Resumability("approximate", "; ".join(told)) if told else EXACT


def _environment_variables() -> dict[str, str]:
    import_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    # So that sets of texts have the same order in each of them, and after a resume.
    hashing = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}
    return {**os.environ, **hashing, "PYTHONPATH": import_path, **dict.fromkeys(THREAD_VARIABLES, "1")}


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed its connection"
    return f"exited with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"


def _kill(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.process.kill()


def _end(workers: list[Worker]) -> None:
    """Ends and reaps every process: those that have not ended by themselves after CLOSE_SECONDS are killed."""
    for worker in workers:
        with contextlib.suppress(OSError):
            worker.connection.send(b"q")
    deadline = time.monotonic() + CLOSE_SECONDS
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.connection.close()
    workers.clear()
