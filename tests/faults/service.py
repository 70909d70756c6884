"""A whole service under `ppo up`, for a campaign of faults: its processes, its API and its records."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from ppo_jobs.database import Database, open_database
from ppo_jobs.repository import checkpoints, events, jobs
from ppo_jobs.repository.tenants import tenant_named
from ppo_jobs.schemas import Attempt, Job, LedgerEvent
from ppo_jobs.settings import sqlite_url
from tests.environments import PLUGIN_PATH
from tests.worker.workplace import is_child
from worker.protocol import MetricsRecord, unframe

START_SECONDS = 180.0
STOP_SECONDS = 90.0


@dataclass
class Service:
    """A running `ppo up`."""

    process: psutil.Process
    database: Database
    tenant: str
    http: httpx2.Client

    def submit(self, spec: dict[str, Any]) -> str:
        deadline = time.monotonic() + START_SECONDS
        answer = self.http.post("/v1/jobs", json=spec)
        while answer.status_code == 503 and time.monotonic() < deadline:
            # The plugin's environments are still being described.
            time.sleep(0.2)
            answer = self.http.post("/v1/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get_job(session, self.tenant, job_id)

    def events(self, job_id: str) -> list[LedgerEvent]:
        with self.database.read() as session:
            return events.list_events(session, self.tenant, job_id, after=0, limit=1_000_000)

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.read() as session:
            return jobs.list_attempts(session, self.tenant, job_id)

    def policy_sha256(self, job_id: str) -> str | None:
        """Of the final checkpoint's `policy.safetensors`; None where there is none."""
        final = self.job(job_id).final_checkpoint_id
        if final is None:
            return None
        with self.database.read() as session:
            files = checkpoints.get_checkpoint(session, self.tenant, final).files
        return next(file.sha256 for file in files if file.name == "policy.safetensors")

    def celery_mains(self) -> list[psutil.Process]:
        """The main processes of the workers."""
        return [process for process in _below(self.process, recursive=False) if _runs(process, "worker.tasks")]

    def children(self) -> list[psutil.Process]:
        """The training processes; those of their environments are no leaders of a group."""
        below = _below(self.process, recursive=True)
        return [process for process in below if is_child(process) and _leads_group(process)]

    def iteration(self, child: psutil.Process) -> tuple[str, int] | None:
        """The child's job and how far it has come; None where it has not trained yet, or is gone."""
        try:
            run = Path(child.cwd()).parent
            records = [record for record, _ in unframe((run / "journal").read_bytes())]
        except (psutil.Error, OSError):
            return None
        trained = [record.iteration for record in records if isinstance(record, MetricsRecord)]
        return (run.name, trained[-1]) if trained else None


@contextmanager
def running_service(data_dir: Path, *, slots: int, variables: dict[str, str]) -> Iterator[Service]:
    """`ppo up` on `data_dir`, ready; stopped by SIGTERM at the end, after which none of its processes may be left."""
    path = os.pathsep.join(filter(None, [str(PLUGIN_PATH), os.environ.get("PYTHONPATH")]))
    given = {**os.environ, **variables, "PYTHONPATH": path}
    command = [sys.executable, "-m", "ppo_server", "up", "--data-dir", str(data_dir), "--port", "0", "--slots"]
    with (data_dir / "up.out").open("wb") as output:
        process = subprocess.Popen(
            [*command, str(slots)], env=given, stdout=output, stderr=output, start_new_session=True
        )
    try:
        service = _opened(data_dir, process, variables)
        with service.http:
            yield service
    finally:
        below = _below(psutil.Process(process.pid), recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)
        left = psutil.wait_procs(below, timeout=5)[1]
        for orphan in left:
            orphan.kill()
        assert not left, f"processes stayed behind: {left}"


def _opened(data_dir: Path, process: subprocess.Popen[bytes], variables: dict[str, str]) -> Service:
    address = data_dir / "api_url"
    deadline = time.monotonic() + START_SECONDS
    while not address.exists():
        output = (data_dir / "up.out").read_text()
        assert process.poll() is None, f"`ppo up` ended: {output}"
        assert time.monotonic() < deadline, f"`ppo up` is not ready: {output}"
        time.sleep(0.1)
    database = open_database(variables.get("PPO_DATABASE_URL", sqlite_url(data_dir / "ppo.sqlite3")), durable=False)
    with database.read() as session:
        tenant = tenant_named(session, "default")
    assert tenant is not None
    key = (data_dir / "api_key").read_text().strip()
    http = httpx2.Client(
        base_url=address.read_text().strip(), headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False
    )
    return Service(psutil.Process(process.pid), database, tenant, http)


def _below(process: psutil.Process, *, recursive: bool) -> list[psutil.Process]:
    try:
        return process.children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process, module: str) -> bool:
    try:
        return module in process.cmdline()
    except psutil.Error:
        return False


def _leads_group(process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) == process.pid
    except ProcessLookupError:
        return False
