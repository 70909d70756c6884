"""What the main process of a worker does beside Celery: it registers, beats, and looks after dead supervisors."""

import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

from pydantic import JsonValue

from ppo_engine.machine import installed_versions, processor
from ppo_engine.spec import EnvironmentDescription
from ppo_jobs.database import Database
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.repository import workers
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName
from worker.environments import Environments
from worker.orphans import release_orphans
from worker.process import child_variables
from worker.runs import RUNS

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
LISTEN_SECONDS = 0.2


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
        self._compiler: subprocess.Popen[bytes] | None = None
        self._told: dict[str, EnvironmentDescription] = {}
        self._told_pending: dict[str, JsonValue] = {}
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
        environments: Environments | None = None
        try:
            while not self._stopped.is_set():
                environments = environments or Environments(self._settings.data_dir)
                self._turn(environments)
        finally:
            if environments is not None:
                environments.stop()

    def _turn(self, environments: Environments) -> None:
        """Beat, look after dead supervisors, and hear what is described meanwhile, for about a second."""
        try:
            with self._at_work:
                release_orphans(self._database, self._settings.data_dir / RUNS)
                self._beat(environments)
            # Whoever waits for a job has its slot by now; what is still unknown, and not compiled, comes behind.
            environments.describe(self._at_work)
            if self._compiler is None:
                with self._at_work:
                    self._compiler = start_compiler()
            self._compiler.poll()
        except DatabaseUnavailable as error:
            logger.warning("the worker goes unheard: %s", error)
        except Exception:  # A worker that no longer beats is given up by everyone, though its slots may work.
            logger.exception("the worker goes unheard")
        deadline = time.monotonic() + BEAT_SECONDS
        while (left := deadline - time.monotonic()) > 0 and not self._stopped.is_set():
            if not environments.is_describing:
                self._stopped.wait(left)
            else:
                environments.listen(min(left, LISTEN_SECONDS))

    def _beat(self, environments: Environments) -> None:
        known, pending = environments.known, environments.pending
        with self._database.write() as session:
            is_known = workers.beat(session, self._worker_id, self._drain_mark.exists())
            if is_known:
                new = [environment for id, environment in known.items() if environment is not self._told.get(id)]
                if new or pending != self._told_pending:
                    workers.tell_environments(session, self._worker_id, new, pending=pending)
            else:
                workers.register_worker(
                    session,
                    id=self._worker_id,
                    host=socket.gethostname(),
                    queue=self._queue,
                    slots=self._slots,
                    devices=devices(self._queue),
                    versions=versions(),
                    environments=list(known.values()),
                    pending=pending,
                    lease_seconds=self._settings.lease_seconds,
                )
        self._told, self._told_pending = dict(known), pending
        if not is_known:
            where = f"{socket.gethostname()}, process {os.getpid()}"
            logger.info("worker %s (%s) offers %d slots of queue %s", self._worker_id, where, self._slots, self._queue)


def start_compiler() -> subprocess.Popen[bytes]:
    """`ppo_engine.fused.compile` as a process, which dies with the calling thread."""
    variables = child_variables(os.environ, threads=1, gpu=None)
    command = [sys.executable, "-P", "-m", "ppo_engine.fused.compile", "--ahead"]
    return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, start_new_session=True)


def devices(queue: QueueName) -> list[dict[str, JsonValue]]:
    """The CPU, and of a worker that trains on them the GPUs that it may use."""
    found: list[dict[str, JsonValue]] = [{"kind": "cpu", "model": processor()[0]}]
    program = shutil.which("nvidia-smi") if queue is QueueName.CUDA else None
    if program is not None:
        asked = [program, "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
        listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            index, name, mebibytes = (part.strip() for part in line.split(","))
            found.append(
                {"kind": "cuda", "index": int(index), "name": name, "memory_bytes": int(float(mebibytes)) * 2**20}
            )
    return found


def versions() -> dict[str, str]:
    """Of Python, this service, and what its numbers depend on."""
    depended = {name: str(value) for name, value in installed_versions().items()}
    return {"python": platform.python_version(), "ppo-service": version("ppo-service"), **depended}
