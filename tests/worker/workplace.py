"""What the tests of the worker share: a job accepted, a slot to run it in, and waiting for something to happen."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec
from ppo_jobs.artifacts import open_artifacts
from ppo_jobs.database import Database
from ppo_jobs.repository import checkpoints, claims, events, jobs
from ppo_jobs.schemas import Job, LedgerEvent
from ppo_jobs.settings import Settings
from ppo_jobs.states import EventType, JobStatus, QueueName
from worker.supervisor import Slot, supervise

T = TypeVar("T")

SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2}
"""An iteration of some milliseconds."""


def spec_of(env_id: str = "test/Walk-v0", *, iterations: int = 20, kwargs: dict[str, Any] | None = None, **more: Any):
    """A spec of two environments, so of 64 timesteps an iteration."""
    base: dict[str, Any] = {
        "env": {"id": env_id, "n_envs": 2, "kwargs": kwargs or {}, "vectorization": "sync"},
        "policy": {"hidden_sizes": [8]},
        "ppo": {**SMALL, "total_timesteps": 64 * iterations},
        "preset": "default",
        "seed": 7,
    }
    env = {**base["env"], **more.pop("env", {})}
    return {**base, **more, "env": env}


def eventually(condition: Callable[[], T | None], *, seconds: float = 60.0) -> T:
    """What the condition gives once that is neither None nor False; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {condition}")


@dataclass
class Workplace:
    """One slot in this process, and the records of one tenant."""

    settings: Settings
    database: Database
    tenant: str
    draining: threading.Event = field(default_factory=threading.Event)

    def slot(self, **changes: Any) -> Slot:
        given = {
            "settings": self.settings,
            "database": self.database,
            "artifacts": open_artifacts(self.settings.artifacts_url),
            "worker_id": "cpu@test",
            "gpu": None,
            "is_draining": self.draining.is_set,
        }
        return Slot(**{**given, **changes})

    def accept(self, spec: dict[str, Any], wants: QueueName = QueueName.CPU) -> str:
        """A queued job's id."""
        resolved = resolve(TrainingSpec.model_validate(spec))
        with self.database.write() as session:
            return jobs.insert_job(session, self.tenant, spec=spec, resolved=resolved, wants=wants).id

    def claim(self) -> claims.Claim:
        with self.database.write() as session:
            claim = claims.claim(
                session, worker_id="cpu@test", queue=QueueName.CPU, lease_seconds=self.settings.lease_seconds
            )
        assert claim is not None
        return claim

    def run(self, spec: dict[str, Any]) -> Job:
        """The job after one attempt."""
        job_id = self.accept(spec)
        supervise(self.claim(), self.slot())
        return self.job(job_id)

    @contextmanager
    def running(self, claim: claims.Claim, slot: Slot | None = None):
        """The attempt under way in a thread; it has ended when the context has."""
        thread = threading.Thread(target=supervise, args=(claim, slot or self.slot()))
        thread.start()
        try:
            yield thread
        finally:
            thread.join(60)
            assert not thread.is_alive()

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get_job(session, self.tenant, job_id)

    def events(self, job_id: str) -> list[LedgerEvent]:
        with self.database.read() as session:
            return events.list_events(session, self.tenant, job_id, after=0, limit=100_000)

    def iterations(self, job_id: str) -> list[int]:
        """Of the metrics events, in the order of the ledger."""
        return [event.data["iteration"] for event in self.events(job_id) if event.type is EventType.METRICS]

    def reached(self, job_id: str, iteration: int) -> Callable[[], bool]:
        return lambda: self.job(job_id).progress.iteration >= iteration

    def ended(self, job_id: str, status: JobStatus = JobStatus.SUCCEEDED) -> Callable[[], bool]:
        return lambda: self.job(job_id).status is status

    def checkpoints(self, job_id: str) -> list[str]:
        """Their ids, newest first."""
        with self.database.read() as session:
            return [found.id for found in checkpoints.list_checkpoints(session, self.tenant, job_id, 100).data]

    def policy_sha256(self, job_id: str) -> str:
        """Of the final checkpoint."""
        with self.database.read() as session:
            final = self.job(job_id).final_checkpoint_id
            assert final is not None
            files = checkpoints.get_checkpoint(session, self.tenant, final).files
        return next(file.sha256 for file in files if file.name == "policy.safetensors")


def children_of(pid: int | None = None) -> list[psutil.Process]:
    """The training processes below a process, be they started or forked."""
    return [process for process in psutil.Process(pid).children(recursive=True) if is_child(process)]


def is_child(process: psutil.Process) -> bool:
    """A forked child still has its server's command line."""
    try:
        parent = process.parent()
        is_forked = is_fork_server(process) and parent is not None and is_fork_server(parent)
        return is_forked or "worker.child" in process.cmdline()
    except psutil.Error:
        return False


def is_fork_server(process: psutil.Process) -> bool:
    """Or a child of one; a zombie is neither."""
    try:
        return "worker.forkserver" in process.cmdline()
    except psutil.Error:
        return False


def assert_ledger_is_whole(place: Workplace, job_id: str, iterations: int) -> None:
    """Every iteration once and in order, seq without a gap, and nothing was taken back."""
    ledger = place.events(job_id)
    assert [event.seq for event in ledger] == list(range(1, len(ledger) + 1))
    assert place.iterations(job_id) == list(range(1, iterations + 1))
    assert EventType.REWIND not in {event.type for event in ledger}
