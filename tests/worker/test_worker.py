"""The Celery worker as a process, with its slots and their children."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from ppo_jobs.database import Database
from ppo_jobs.queue import celery_app, publish
from ppo_jobs.repository import jobs, workers
from ppo_jobs.settings import Settings
from ppo_jobs.states import AttemptOutcome, JobStatus, QueueName
from tests.environments import PLUGIN_PATH
from tests.worker.workplace import Workplace, assert_ledger_is_whole, children_of, eventually, spec_of

SLOW = {"seconds_per_step": 0.001}
PUBLISHES_WITHIN = 180.0
"""Seconds: a worker first tries every environment, and where the engine is not compiled yet waits a minute for that."""


@contextmanager
def process(settings: Settings, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """One process of the service; killed at the end, with all below it."""
    variables = {
        **os.environ,
        "PPO_DATA_DIR": str(settings.data_dir),
        "PPO_DATABASE_URL": settings.database_url,
        "PPO_BROKER_URL": settings.broker_url,
        "PPO_LEASE_SECONDS": str(settings.lease_seconds),
        "PYTHONPATH": str(PLUGIN_PATH),
    }
    started = subprocess.Popen([sys.executable, "-m", *command], env=variables, start_new_session=True)
    try:
        yield started
    finally:
        below = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        started.kill()
        started.wait()
        assert psutil.wait_procs(below, timeout=10)[1] == []


def a_worker(place: Workplace, *, slots: int = 1):
    return process(place.settings, "ppo_server", "worker", "--slots", str(slots))


def with_lease(place: Workplace, seconds: float) -> None:
    place.settings = place.settings.model_copy(update={"lease_seconds": seconds})


def attempts_of(place: Workplace, job_id: str):
    with place.database.read() as session:
        return jobs.list_attempts(session, place.tenant, job_id)


def test_ten_deliveries_of_one_message_are_one_run(place: Workplace) -> None:
    app = celery_app(place.settings)
    job_id = place.accept(spec_of(iterations=10))
    for _ in range(10):
        assert publish(app, QueueName.CPU)
    with a_worker(place, slots=2):
        eventually(place.ended(job_id))
    assert len(attempts_of(place, job_id)) == 1
    assert_ledger_is_whole(place, job_id, 10)


def test_a_job_whose_message_was_lost_is_found_all_the_same(place: Workplace) -> None:
    with a_worker(place):
        eventually(lambda: known_workers(place.database), seconds=PUBLISHES_WITHIN)
        job_id = place.accept(spec_of(iterations=5))
        eventually(place.ended(job_id))


def known_workers(database: Database) -> list[str]:
    with database.read() as session:
        return [worker.id for worker in workers.list_workers(session) if worker.alive]


def known_environments(database: Database) -> set[str]:
    with database.read() as session:
        return {environment.id for environment in workers.environments(session)}


def test_a_worker_publishes_its_slots_and_the_environments_of_plugins(place: Workplace) -> None:
    with a_worker(place, slots=3) as worker:
        eventually(lambda: "test/Walk-v0" in known_environments(place.database), seconds=PUBLISHES_WITHIN)
        with place.database.read() as session:
            (listed,) = workers.list_workers(session)
        assert "CartPole-v1" in known_environments(place.database)
        assert (listed.queue, listed.slots, listed.free_slots) == (QueueName.CPU, 3, 3)
        assert re.fullmatch(r"cpu-[0-9a-f]{12}", listed.id), "every tenant may see it: it names no host and no process"
        worker.terminate()
        assert worker.wait(20) == 0
    assert known_workers(place.database) == []


def test_sigterm_saves_the_job_and_gives_it_back_and_leaves_no_process(place: Workplace) -> None:
    job_id = place.accept(spec_of("test/Slow-v0", iterations=10_000, kwargs=SLOW))
    with a_worker(place) as worker:
        eventually(place.reached(job_id, 2))
        below = psutil.Process(worker.pid).children(recursive=True)
        worker.terminate()
        assert worker.wait(30) == 0
        assert not [process for process in below if process.is_running()]
    job = place.job(job_id)
    assert (job.status, attempts_of(place, job_id)[0].outcome) == (JobStatus.QUEUED, AttemptOutcome.RELEASED)
    assert place.claim().checkpoints[0].iteration == job.progress.iteration


def test_a_killed_worker_leaves_no_process_and_the_next_one_goes_on_without_waiting_for_the_lease(
    place: Workplace,
) -> None:
    with_lease(place, 3600.0)
    job_id = place.accept(
        {**spec_of("test/Slow-v0", iterations=60, kwargs=SLOW), "checkpoints": {"every_timesteps": 320}}
    )
    with a_worker(place) as worker:
        eventually(place.reached(job_id, 7))
        below = psutil.Process(worker.pid).children(recursive=True)
        worker.kill()
        assert psutil.wait_procs(below, timeout=10)[1] == []
    assert place.job(job_id).status is JobStatus.RUNNING
    with a_worker(place):
        eventually(place.ended(job_id))
    first, second = attempts_of(place, job_id)
    assert (first.outcome, second.outcome) == (AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED)
    assert second.resumed_from_checkpoint_id is not None
    assert_ledger_is_whole(place, job_id, 60)


def test_a_supervisor_that_stood_still_longer_than_its_lease_writes_nothing_stale(
    place: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    with_lease(place, 1.0)
    job_id = place.accept(
        {**spec_of("test/Slow-v0", iterations=150, kwargs=SLOW), "checkpoints": {"every_timesteps": 640}}
    )
    with a_worker(place, slots=2) as worker, process(place.settings, "worker.sweeper"):
        eventually(place.reached(job_id, 12))
        (child,) = children_of(worker.pid)
        server = child.parent()
        assert server is not None
        supervisor = server.parent()
        assert supervisor is not None
        supervisor.suspend()
        eventually(lambda: place.job(job_id).attempt == 2 and place.job(job_id).status is JobStatus.RUNNING)
        assert child.is_running()  # It goes on training for nobody, and its journal grows.
        eventually(place.reached(job_id, place.job(job_id).progress.iteration + 5))
        supervisor.send_signal(signal.SIGCONT)
        child.wait(10)
        eventually(place.ended(job_id))
    assert "attempt 1 lost its lease" in capfd.readouterr().err
    events = place.events(job_id)
    assert [event.attempt for event in events] == sorted(event.attempt for event in events)
    assert_ledger_is_whole(place, job_id, 150)


def test_a_slot_of_queue_cuda_gives_its_child_one_gpu_and_takes_no_job_of_queue_cpu(place: Workplace) -> None:
    waiting = place.accept(spec_of(iterations=2))
    job_id = place.accept(spec_of("test/Slow-v0", iterations=10_000, kwargs=SLOW), QueueName.CUDA)
    celery = ("celery", "--quiet", "--app", "worker.tasks", "worker", "--queues", "cuda", "--concurrency", "2")
    with process(place.settings, *celery) as worker:
        eventually(place.reached(job_id, 1))
        (child,) = children_of(worker.pid)
        assert child.environ()["CUDA_VISIBLE_DEVICES"] in {"0", "1"}
    assert place.job(waiting).status is JobStatus.QUEUED
