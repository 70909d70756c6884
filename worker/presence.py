"""What the main process of a worker does beside Celery: it registers, beats, and looks after dead supervisors."""

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import BaseModel, JsonValue

from ppo_engine.spec import EnvironmentDescription
from ppo_jobs.database import Database
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.repository import workers
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName
from worker.orphans import release_orphans
from worker.process import child_variables, lean_variables
from worker.runs import RUNS

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
DESCRIBE_SECONDS = 120.0
DESCRIBE_RETRY_SECONDS = 10.0
COMPILE_SECONDS = 60.0
"""A worker whose engine is not compiled by then offers its slots all the same."""


class Description(BaseModel):
    """What `worker.describe` prints."""

    environments: list[EnvironmentDescription]
    devices: list[dict[str, JsonValue]]
    versions: dict[str, str]
    is_compiled: bool
    """Whether the machine code of the engine's loops is there."""


class DescriptionFailed(Exception):
    """`worker.describe` did not say what this worker can train."""


class Presence:
    """A thread that tells the database that the worker lives."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        worker_id: str,
        queue: QueueName,
        slots: int,
        drain_mark: Path,
    ) -> None:
        self._settings = settings
        self._database = database
        self._worker_id = worker_id
        self._queue = queue
        self._slots = slots
        self._drain_mark = drain_mark
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name="presence", daemon=True)
        self._at_work = threading.Lock()
        # A pool process that is forked while this thread holds a lock of SQLite's would inherit it, held for ever;
        # and one that is forked while a process is started, the pipes whose end this thread then waits for.
        os.register_at_fork(
            before=self._at_work.acquire, after_in_parent=self._at_work.release, after_in_child=self._at_work.release
        )

    def start(self) -> None:
        self._drain_mark.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def drain(self) -> None:
        """Have every slot save a checkpoint and give its job back."""
        self._drain_mark.touch()

    def stop(self) -> None:
        """The worker has ended: forget it."""
        self._stopped.set()
        self._thread.join(timeout=5)
        try:
            with self._database.write() as session:
                workers.remove_worker(session, self._worker_id)
        except DatabaseUnavailable as error:
            logger.warning("the worker ends unheard: %s", error)
        self._drain_mark.unlink(missing_ok=True)

    def _live(self) -> None:
        description: Description | None = None
        wait = 0.0
        while not self._stopped.wait(wait):
            wait = BEAT_SECONDS
            try:
                with self._at_work:
                    release_orphans(self._database, self._settings.data_dir / RUNS)
                description = description or self._prepared()
                with self._at_work:
                    self._beat(description)
            except DatabaseUnavailable as error:
                logger.warning("the worker goes unheard: %s", error)
            except DescriptionFailed as error:
                logger.error("the worker cannot say what it trains: %s", error)
                wait = DESCRIBE_RETRY_SECONDS
            except Exception:  # A worker that no longer beats is given up by everyone, though its slots may work.
                logger.exception("the worker goes unheard")

    def _prepared(self) -> Description:
        """What the worker can train; the engine is compiled by then, so that no job has to wait for that."""
        description = describe(self._queue, self._at_work)
        if not description.is_compiled:
            logger.info("the engine is being compiled for this machine, once: up to a minute of an idle core")
            with self._at_work:
                compiler = start_compiler()
            deadline = time.monotonic() + COMPILE_SECONDS
            while compiler.poll() is None and time.monotonic() < deadline and not self._stopped.wait(0.1):
                pass
            if compiler.returncode != 0:
                logger.warning("the engine is not compiled yet; jobs compile what they need of it")
        return description

    def _beat(self, description: Description) -> None:
        with self._database.write() as session:
            if workers.beat(session, self._worker_id, self._drain_mark.exists()):
                return
            workers.register_worker(
                session,
                id=self._worker_id,
                host=socket.gethostname(),
                queue=self._queue,
                slots=self._slots,
                devices=description.devices,
                versions=description.versions,
                environments=description.environments,
                lease_seconds=self._settings.lease_seconds,
            )
        where = f"{socket.gethostname()}, process {os.getpid()}"
        logger.info("worker %s (%s) offers %d slots of queue %s", self._worker_id, where, self._slots, self._queue)


def start_compiler() -> subprocess.Popen[bytes]:
    """`worker.compile` as a process, which dies with the calling thread."""
    variables = child_variables(os.environ, threads=1, gpu=None)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "worker.compile"], env=variables, stdin=subprocess.DEVNULL, start_new_session=True
    )


def describe(queue: QueueName, no_fork: AbstractContextManager[object]) -> Description:
    """What a worker of the queue can train, asked of a process of its own: environments may import anything.

    Args:
        queue: Its GPUs are described too where it is `cuda`.
        no_fork: While it is held, no other thread forks.

    Raises:
        DescriptionFailed: it ended without saying so.
    """
    if queue is QueueName.CUDA:
        variables = lean_variables(os.environ, threads=1)
    else:
        variables = child_variables(os.environ, threads=1, gpu=None)
    # Some environments leave files where they run.
    with tempfile.TemporaryDirectory(prefix="ppo-describe-") as scratch:
        with no_fork:
            asked = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.describe"],
                env=variables,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        with asked:
            try:
                answer, complaint = asked.communicate(timeout=DESCRIBE_SECONDS)
            except subprocess.TimeoutExpired as error:
                asked.kill()
                raise DescriptionFailed(str(error)) from error
    if asked.returncode != 0:
        raise DescriptionFailed(complaint.decode(errors="replace")[-2000:])
    try:
        return Description.model_validate(json.loads(answer))
    except ValueError as error:
        raise DescriptionFailed(str(error)) from error
