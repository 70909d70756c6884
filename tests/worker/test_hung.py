"""A child that lives and gets nowhere is replaced; one that is slow is not."""

import time
from pathlib import Path

import psutil
import pytest

from ppo_jobs.pulse import Pulse, Stillness, touch
from ppo_jobs.states import JobStatus, ReasonCode
from tests.worker.workplace import Workplace, assert_ledger_is_whole, children_of, eventually, spec_of
from worker import supervisor
from worker.supervisor import supervise
from worker.vitality import Vitality

pytestmark = pytest.mark.processes

SLOW = {"seconds_per_step": 0.002}


def test_a_frozen_child_is_killed_and_its_job_goes_on(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STILL_SECONDS", 1.0)
    env = {"id": "test/Slow-v0", "n_envs": 2, "vectorization": "sync", "kwargs": SLOW, "step_timeout_seconds": 3.0}
    job_id = place.accept(spec_of("test/Slow-v0", iterations=30, env=env, checkpoints={"every_timesteps": 64}))
    with place.running(place.claim()):
        eventually(place.reached(job_id, 3))
        (child,) = children_of()
        child.suspend()
        eventually(place.ended(job_id, JobStatus.QUEUED), seconds=30)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    reason = place.job(job_id).status_reason
    assert reason is not None and reason.code == ReasonCode.CHILD_HUNG and reason.retryable
    supervise(place.claim(), place.slot())
    assert place.job(job_id).status is JobStatus.SUCCEEDED
    assert_ledger_is_whole(place, job_id, 30)


@pytest.mark.parametrize("vectorization", ["sync", "process"])
def test_a_slow_environment_is_no_hung_child(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, vectorization: str
) -> None:
    monkeypatch.setattr(supervisor, "STILL_SECONDS", 1.0)
    env = {"id": "test/Slow-v0", "n_envs": 2, "vectorization": vectorization, "step_timeout_seconds": 4.0}
    env["kwargs"] = {"seconds_per_step": 0.5}
    spec = spec_of("test/Slow-v0", iterations=1, env=env)
    spec["ppo"] |= {"n_steps": 6, "batch_size": 6, "total_timesteps": 12}
    job_id = place.accept(spec)
    supervise(place.claim(), place.slot())
    assert place.job(job_id).status is JobStatus.SUCCEEDED


def test_stillness_is_the_time_without_a_beat_that_the_watcher_saw(tmp_path: Path, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ppo_jobs.pulse.time.monotonic", lambda: now[0])
    stillness = Stillness(tmp_path / "pulse")
    told = []
    for seconds, beats in ((1, False), (1, True), (1, False), (1, False), (500, False), (1, True), (1, False)):
        now[0] += seconds
        if beats:
            time.sleep(0.02)
            touch(tmp_path / "pulse")
        told.append(stillness.look())
    assert told == [0.0, 0.0, 1.0, 2.0, 4.0, 0.0, 1.0]


def test_a_process_that_only_looks_at_the_clock_does_not_progress() -> None:
    vitality = Vitality()
    assert vitality.has_progressed()
    vitality.expect_progress()
    vitality.has_progressed()
    time.sleep(0.2)
    assert not vitality.has_progressed()
    sum(range(2_000_000))
    assert vitality.has_progressed()


def test_a_pulse_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    Pulse(tmp_path / "no such directory" / "pulse", lambda: True).start()
    assert Stillness(tmp_path / "no such directory" / "pulse").look() == 0.0
