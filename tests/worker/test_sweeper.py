import time

import pytest

from ppo_jobs.artifacts import open_artifacts
from ppo_jobs.queue import celery_app
from ppo_jobs.repository import checkpoints, claims, jobs
from ppo_jobs.states import AttemptOutcome, JobStatus, QueueName, ReasonCode
from tests.worker.workplace import Workplace, eventually, spec_of
from worker import sweeper as sweeping
from worker.orphans import release_orphans
from worker.runs import RUNS, run_directory
from worker.sweeper import Sweeper, Vigil


def a_sweeper(place: Workplace) -> Sweeper:
    settings = place.settings
    return Sweeper(settings, place.database, open_artifacts(settings.artifacts_url), celery_app(settings))


def a_job_whose_lease_ran_out(place: Workplace) -> str:
    place.settings = place.settings.model_copy(update={"lease_seconds": 0.2})
    job_id = place.accept(spec_of())
    place.claim()
    time.sleep(0.25)
    return job_id


def test_a_job_whose_lease_ran_out_is_queued_again_after_a_whole_lease_of_watching(place: Workplace) -> None:
    job_id = a_job_whose_lease_ran_out(place)
    sweeper = a_sweeper(place)
    sweeper.sweep()
    assert place.job(job_id).status is JobStatus.RUNNING
    eventually(lambda: (sweeper.sweep(), place.job(job_id).status is JobStatus.QUEUED)[1], seconds=10)
    assert place.job(job_id).status_reason.code == ReasonCode.WORKER_LOST


@pytest.mark.parametrize(
    ("looks", "may_reap"),
    [
        ([100, 104, 108, 110], [False, False, False, True]),
        ([100, 104, 112, 116], [False, False, False, False]),  # Nothing is known of 104 to 112.
        ([100, 104, 112, 116, 120, 122], [False, False, False, False, False, True]),
        ([100, 104, 3704, 3708], [False, False, False, False]),  # The machine slept for an hour.
        ([100, 104, 90, 94, 98, 100], [False, False, False, False, False, True]),  # The clock was set back.
    ],
)
def test_a_lease_counts_as_lost_only_after_a_lease_without_a_gap(looks: list[float], may_reap: list[bool]) -> None:
    vigil = Vigil(lease_seconds=10, unbroken_since=100, last_look=100)
    assert [vigil.look(now) for now in looks] == may_reap


def test_after_the_database_was_away_a_whole_lease_passes_before_anything_is_reaped() -> None:
    vigil = Vigil(lease_seconds=10, unbroken_since=0, last_look=99)
    assert vigil.look(100)
    vigil.lost(101)
    assert [vigil.look(now) for now in (104, 108, 110.9, 111)] == [False, False, False, True]


def test_a_queue_with_waiting_jobs_is_woken_again(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "WAITING_SECONDS", 0.1)
    place.accept(spec_of())
    sweeper = a_sweeper(place)
    time.sleep(0.15)
    sweeper.sweep()
    with celery_app(place.settings).connection_for_read() as connection:
        waiting = connection.SimpleQueue(str(QueueName.CPU))
        assert waiting.get(timeout=2).headers["task"] == "worker.work"
        waiting.close()


def test_a_dead_supervisors_job_is_given_back_at_once_and_its_directory_removed(place: Workplace) -> None:
    job_id = place.accept(spec_of())
    root = place.settings.data_dir / RUNS
    claim = place.claim()
    with run_directory(root, *claim.key):
        assert release_orphans(place.database, root) == 0
        assert place.job(job_id).status is JobStatus.RUNNING
    assert release_orphans(place.database, root) == 1
    assert place.job(job_id).status is JobStatus.QUEUED
    assert list(root.iterdir()) == []


def test_the_directory_of_an_attempt_that_was_given_away_takes_nothing_from_the_next_one(place: Workplace) -> None:
    job_id = place.accept(spec_of())
    root = place.settings.data_dir / RUNS
    first = place.claim()
    with run_directory(root, *first.key):
        pass
    with place.database.write() as session:
        reason = claims.Reason(ReasonCode.WORKER_LOST, "reaped", True)
        claims.requeue(session, *first.key, outcome=AttemptOutcome.LOST, reason=reason)
    second = place.claim()
    assert release_orphans(place.database, root) == 0
    assert (place.job(job_id).status, second.attempt) == (JobStatus.RUNNING, 2)


def test_files_without_a_row_are_deleted_when_they_are_old(place: Workplace, monkeypatch, tmp_path) -> None:
    store = open_artifacts(place.settings.artifacts_url)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "manifest.json").write_text('{"files": []}')
    store.put("job_gone/1/ckpt_gone", tmp_path / "files")
    a_sweeper(place).sweep()
    assert list(store.keys()) == ["job_gone/1/ckpt_gone"]
    monkeypatch.setattr(sweeping, "GARBAGE_SECONDS", 0.0)
    a_sweeper(place).clean()
    assert list(store.keys()) == []


def test_a_deleted_jobs_files_go_at_the_next_sweep_whoever_does_it(place: Workplace) -> None:
    store = open_artifacts(place.settings.artifacts_url)
    job_id = place.run(spec_of(iterations=3, checkpoints={"every_timesteps": 64, "keep_last": 5})).id
    other = place.run(spec_of(iterations=2)).id
    kept = list(store.keys(other))
    assert len(list(store.keys(job_id))) >= 3 and kept
    with place.database.write() as session:
        jobs.delete_job(session, place.tenant, job_id)
    a_sweeper(place).sweep()
    assert list(store.keys()) == kept
    with place.database.read() as session:
        assert checkpoints.discarded(session) == []


def test_a_deleted_checkpoints_files_go_while_its_attempt_goes_on(place: Workplace, tmp_path) -> None:
    store = open_artifacts(place.settings.artifacts_url)
    spec = spec_of(iterations=500, kwargs={"seconds_per_step": 0.001}, checkpoints={"every_timesteps": 64})
    spec["env"]["id"] = "test/Slow-v0"
    job_id = place.accept(spec)
    with place.running(place.claim()):
        first = eventually(lambda: len(place.checkpoints(job_id)) >= 2 and place.checkpoints(job_id)[-1])
        with place.database.write() as session:
            key = checkpoints.delete_checkpoint(session, place.tenant, first)
        a_sweeper(place).sweep()
        assert key not in set(store.keys())
        place.draining.set()


def test_what_a_lost_attempt_was_storing_goes_at_the_next_sweep_and_its_checkpoints_stay(
    place: Workplace, tmp_path
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "manifest.json").write_text('{"files": []}')
    store = open_artifacts(place.settings.artifacts_url)
    job_id = place.accept(spec_of())
    claim = place.claim()
    store.put(f"{job_id}/1/ckpt_without_a_row", tmp_path / "files")
    store.put(f"{job_id}/2/ckpt_of_the_next", tmp_path / "files")
    a_sweeper(place).sweep()
    assert len(list(store.keys())) == 2
    reason = claims.Reason(ReasonCode.WORKER_LOST, "reaped", True)
    with place.database.write() as session:
        claims.requeue(session, *claim.key, outcome=AttemptOutcome.LOST, reason=reason)
    place.claim()
    a_sweeper(place).sweep()
    assert list(store.keys()) == [f"{job_id}/2/ckpt_of_the_next"]


def test_files_that_cannot_be_deleted_now_are_tried_again(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_artifacts(place.settings.artifacts_url)
    job_id = place.run(spec_of(iterations=1)).id
    with place.database.write() as session:
        jobs.delete_job(session, place.tenant, job_id)
    with monkeypatch.context() as broken:
        broken.setattr("shutil.rmtree", refuse)
        a_sweeper(place).sweep()
    assert list(store.keys())
    a_sweeper(place).sweep()
    assert not list(store.keys())


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_part_of_the_sweep_that_fails_keeps_no_job_waiting(place: Workplace, monkeypatch) -> None:
    job_id = a_job_whose_lease_ran_out(place)
    monkeypatch.setattr(sweeping, "release_orphans", refuse)
    monkeypatch.setattr(Sweeper, "clean", refuse)
    sweeper = a_sweeper(place)
    eventually(lambda: (sweeper.sweep(), place.job(job_id).status is JobStatus.QUEUED)[1], seconds=10)
