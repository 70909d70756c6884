"""A slot's fork server as the slot sees it: a process that is kept, and children that are forked from it."""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from ppo_jobs import kernel
from worker.process import Child
from worker.protocol import BUSY, READY, Ended, Forked, Order

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0
"""For a server to import the engine and load its compiled code."""

ANSWER_SECONDS = 3.0
"""For a server that is ready to fork, or to say how a child ended."""

END_SECONDS = 2.0
"""For a server to end, and to clear away what its child has started."""

LONGEST_BACKOFF_SECONDS = 300.0
MESSAGE_BYTES = 1 << 16


class NotForked(Exception):
    """There is no child: the server is gone or does not answer; it is started again later."""


def can_fork() -> bool:
    """Whether this machine has what forking safely takes."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


class ForkServer:
    """Keeps a server running, and has it fork children, one at a time."""

    def __init__(self, variables: Mapping[str, str], *, directory: Path) -> None:
        """`variables` is the children's whole environment; `directory`, where the server runs, never changes."""
        self._variables = dict(variables)
        self._directory = directory
        self._server: Server | None = None
        self._lock = threading.Lock()
        self._failures = 0
        self._start_at = 0.0

    def tend(self) -> None:
        """Start the server where there is none; it dies with the calling thread."""
        with self._lock:
            if self._server is not None and not self._server.is_running:
                self._fail(f"it ended with status {self._server.end()}")
            if self._server is None and time.monotonic() >= self._start_at:
                try:
                    self._server = Server(self._variables, self._directory)
                except OSError as error:
                    self._fail(f"it could not be started: {error}")

    def fork(self, log: Path, directory: Path) -> Child:
        """A child that waits for its assignment.

        Args:
            log: File that its stdout and stderr are appended to.
            directory: Where it runs.

        Raises:
            NotForked: no child was forked; if one was, it ends without an assignment.
        """
        with self._lock:
            if self._server is None:
                raise NotForked("no fork server runs yet")
            try:
                process = self._server.fork(log, directory)
            except (OSError, EOFError, ValidationError) as error:
                self._server.end()
                self._fail(f"it did not fork: {error!r}")
                raise NotForked(f"the fork server failed: {error!r}") from error
            self._failures = 0
            return Child(process)

    def end_orphans(self) -> None:
        """In a process that adopts them: end whatever has lost its parent below a child or a server that are gone."""
        with self._lock:
            kernel.end_orphans(() if self._server is None else (self._server.pid,))

    def close(self) -> None:
        """End the server, and the child that it forked."""
        with self._lock:
            if self._server is not None:
                self._server.end()
                self._server = None

    def _fail(self, how: str) -> None:
        backoff = min(2.0**self._failures - 1, LONGEST_BACKOFF_SECONDS)
        logger.warning("the fork server is replaced in %g s: %s", backoff, how)
        self._server = None
        self._failures += 1
        self._start_at = time.monotonic() + backoff


class Server:
    """One process `worker.forkserver`."""

    def __init__(self, variables: Mapping[str, str], directory: Path) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.forkserver"],
                stdin=other.fileno(),
                env=dict(variables),
                cwd=directory,
                start_new_session=True,
            )
        self._is_ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def fork(self, log: Path, directory: Path) -> "ForkedProcess":
        """A child; where the server is still at its start, or loads what was compiled meanwhile, it is waited for.

        Raises:
            OSError, EOFError, ValidationError: it does not answer, is gone, or talks nonsense.
        """
        readable, writable = os.pipe()
        try:
            with log.open("ab") as output:
                order = Order(directory=str(directory)).model_dump_json().encode()
                socket.send_fds(self._socket, [order], [readable, output.fileno()])
            data, descriptors = self._answer()
            if not descriptors:
                raise EOFError("the child ended at once")
            return ForkedProcess(self, Forked.model_validate_json(data).pid, descriptors[0], os.fdopen(writable, "wb"))
        except BaseException:
            os.close(writable)
            raise
        finally:
            os.close(readable)

    def _answer(self) -> tuple[bytes, list[int]]:
        """The next message that is no notice."""
        while True:
            data, descriptors = self.receive(ANSWER_SECONDS if self._is_ready else READY_SECONDS)
            if data not in (READY, BUSY):
                return data, descriptors
            self._is_ready = data == READY

    def receive(self, seconds: float) -> tuple[bytes, list[int]]:
        """The next message, and the descriptors that came with it. Raises TimeoutError, EOFError."""
        self._socket.settimeout(seconds)
        data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, 1)
        if not data:
            raise EOFError("the fork server is gone")
        return data, descriptors

    def end(self) -> int:
        """End it, and with it all that was started below it; its exit status."""
        self._process.terminate()
        self._socket.close()
        try:
            return int(self._process.wait(END_SECONDS))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return int(self._process.wait())


class ForkedProcess:
    """A forked child with the interface of `subprocess.Popen`, though it is the server's child."""

    def __init__(self, server: Server, pid: int, descriptor: int, stdin: IO[bytes]) -> None:
        """`descriptor` refers to the process and is readable once it has ended."""
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.returncode = 0
        self.spent_seconds = 0.0
        self._server = server
        self._descriptor: int | None = descriptor

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        if self._descriptor is None:
            return self.returncode
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(["worker.forkserver"], timeout or 0.0)
        os.close(self._descriptor)
        self._descriptor = None
        try:
            end = Ended.model_validate_json(self._server.receive(ANSWER_SECONDS)[0])
            self.returncode, self.spent_seconds = end.returncode, end.processor_seconds
        except (OSError, EOFError, ValidationError):
            # The server died, and the child with it; or it stands still, and must not be asked again.
            self._server.end()
            self.returncode = -signal.SIGKILL
        return self.returncode

    def signal_group(self, number: signal.Signals) -> None:
        """Once it has ended, the server has seen to its group, and its number may be another's."""
        if self._descriptor is not None and not self._has_ended(0):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _has_ended(self, timeout: float | None) -> bool:
        assert self._descriptor is not None
        ended = select.poll()
        ended.register(self._descriptor, select.POLLIN)
        return bool(ended.poll(None if timeout is None else timeout * 1000))
