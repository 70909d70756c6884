import errno
import os
import re
import signal
import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec
from ppo_jobs.artifacts import open_artifacts
from ppo_jobs.errors import StorageFull
from ppo_jobs.repository import checkpoints, claims, jobs, logs, workers
from ppo_jobs.states import AttemptOutcome, EventType, JobStatus, QueueName, ReasonCode
from tests.environments import ODD_PATH, add_plugin
from tests.worker.workplace import Workplace, assert_ledger_is_whole, children_of, eventually, spec_of
from worker import supervisor
from worker.supervisor import supervise

FOREVER = 100_000


def cancel(place: Workplace, job_id: str) -> None:
    with place.database.write() as session:
        jobs.request_cancel(session, place.tenant, job_id)


def log_of(place: Workplace, job_id: str, attempt: int | None = None) -> str:
    with place.database.read() as session:
        return logs.read_log(session, place.tenant, job_id, attempt=attempt).text


def attempts_of(place: Workplace, job_id: str):
    with place.database.read() as session:
        return jobs.list_attempts(session, place.tenant, job_id)


def runs_left(place: Workplace) -> list[Path]:
    return list((place.settings.data_dir / "runs").iterdir())


def test_a_job_is_trained_to_its_last_timestep_and_told_whole(place: Workplace) -> None:
    job = place.run(spec_of("test/Chatty-v0", iterations=10))
    assert (job.status, job.status_reason.code) == (JobStatus.SUCCEEDED, ReasonCode.TARGET_REACHED)
    assert (job.progress.timesteps, job.progress.iteration, job.attempt) == (640, 10, 1)
    assert_ledger_is_whole(place, job.id, 10)
    assert job.usage.env_steps == 640
    assert job.usage.cpu_seconds > 0
    assert job.runtime["vectorization"] == "sync"
    assert runs_left(place) == []


def test_a_job_that_waits_for_the_compiler_says_so_and_no_longer_than_that(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "code"))
    # In torch, so that the part that counts episodes is all there is to compile.
    job_id = place.accept(spec_of("test/Slow-v0", iterations=50, backend="torch"))

    def reason() -> str | None:
        status = place.job(job_id).status_reason
        return status and f"{status.code}: {status.message}"

    with place.running(place.claim()):
        told = eventually(reason)
        assert re.fullmatch(r"engine_compiling: the engine is being compiled .*, about \d+ s left", told)
        eventually(place.reached(job_id, 1))
        assert (place.job(job_id).status, reason()) == (JobStatus.RUNNING, None)
        cancel(place, job_id)
        eventually(place.ended(job_id, JobStatus.CANCELLED))


def test_what_arguments_do_to_spaces_is_settled_by_the_first_attempt_and_kept(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside plugins whose `register` hangs, exits and aborts, none of whose code runs."""
    add_plugin(monkeypatch, ODD_PATH)
    with pytest.MonkeyPatch.context() as here:
        here.setattr("ppo_engine.envs.plugins._preferred", ["odd_environments.unusual:register"])
        described = describe_environment("odd/Pictures-v0")
    with place.database.write() as session:
        workers.publish(session, [described], worker_id="cpu@test")
    spec = spec_of("odd/Pictures-v0", iterations=1, kwargs={"images": True})
    del spec["policy"]
    for vectorization in ("sync", "process"):
        resolved = resolve(
            TrainingSpec.model_validate(spec | {"env": spec["env"] | {"vectorization": vectorization}}), described
        )
        with place.database.write() as session:
            job = jobs.insert_job(session, place.tenant, spec=spec, resolved=resolved, wants=QueueName.CPU)
        assert "network" not in job.resolved_spec["policy"]
        supervise(place.claim(), place.slot())
        ended = place.job(job.id)
        assert ended.status is JobStatus.SUCCEEDED, ended.status_reason
        assert (ended.resolved_spec["policy"]["network"], ended.resolved_spec["policy"]["hidden_sizes"]) == ("cnn", [])
        assert ended.resolved_spec["metrics"]["every_iterations"] == 1


def test_what_an_environment_prints_is_in_the_log(place: Workplace) -> None:
    job = place.run(spec_of("test/Chatty-v0", iterations=2))
    assert len(log_of(place, job.id).splitlines()) >= 128 * 11


def test_the_final_checkpoint_can_be_fetched_and_is_whole(place: Workplace, tmp_path: Path) -> None:
    job = place.run(spec_of(iterations=3))
    with place.database.read() as session:
        checkpoint, key = checkpoints.checkpoint_location(session, place.tenant, job.final_checkpoint_id)
    open_artifacts(place.settings.artifacts_url).fetch(key, tmp_path / "fetched")
    assert {path.name for path in (tmp_path / "fetched").iterdir()} > {file.name for file in checkpoint.files}
    assert (checkpoint.iteration, checkpoint.timesteps) == (3, 192)


def test_a_cancelled_job_saves_a_checkpoint_and_its_process_is_gone(place: Workplace) -> None:
    job_id = place.accept(spec_of("test/Slow-v0", iterations=FOREVER, kwargs={"seconds_per_step": 0.001}))
    with place.running(place.claim()):
        eventually(place.reached(job_id, 1))
        (child,) = children_of()
        cancel(place, job_id)
        eventually(place.ended(job_id, JobStatus.CANCELLED), seconds=5)
    assert not child.is_running()
    assert place.job(job_id).latest_checkpoint_id is not None
    assert attempts_of(place, job_id)[0].outcome is AttemptOutcome.CANCELLED


def test_a_job_whose_environment_sleeps_forever_and_ignores_sigterm_is_cancelled_all_the_same(place: Workplace) -> None:
    job_id = place.accept(spec_of("test/HangsInStep-v0", env={"step_timeout_seconds": 3600.0}))
    with place.running(place.claim()):
        (child,) = eventually(children_of)
        eventually(lambda: child.memory_info().rss > 100e6 and child.status() == psutil.STATUS_SLEEPING)
        cancel(place, job_id)
        eventually(place.ended(job_id, JobStatus.CANCELLED), seconds=5)
    assert not child.is_running()


@pytest.mark.parametrize(
    ("env_id", "code", "words"),
    [
        ("test/RaisesInStep-v0", "env_error", "RuntimeError"),
        ("test/NaNObservation-v0", "env_invalid_output", ""),
        ("test/ExitsInStep-v0", "env_error", "SystemExit"),
    ],
)
def test_a_faulty_environment_fails_the_job_naming_itself_and_its_step(
    place: Workplace, env_id: str, code: str, words: str
) -> None:
    job = place.run(spec_of(env_id, kwargs={"at_step": 5}))
    assert (job.status, job.status_reason.code) == (JobStatus.FAILED, code)
    assert env_id in job.status_reason.message
    assert "step 5" in job.status_reason.message
    assert words in job.status_reason.message
    assert "Traceback" in log_of(place, job.id)


def test_a_hanging_environment_fails_the_job_naming_itself_and_its_step(place: Workplace) -> None:
    job = place.run(spec_of("test/HangsInStep-v0", kwargs={"at_step": 5}, env={"step_timeout_seconds": 0.5}))
    assert (job.status, job.status_reason.code) == (JobStatus.FAILED, "env_timeout")
    assert "test/HangsInStep-v0" in job.status_reason.message
    assert "step 5" in job.status_reason.message
    assert "sleep_forever" in log_of(place, job.id)


def test_an_environment_that_never_closes_does_not_hold_its_job(place: Workplace) -> None:
    assert place.run(spec_of("test/HangsInClose-v0", iterations=2)).status is JobStatus.SUCCEEDED


def test_a_killed_child_is_followed_by_another_that_ends_with_the_same_bits(place: Workplace) -> None:
    undisturbed = place.run(spec_of(iterations=40))
    spec = spec_of("test/Slow-v0", iterations=40, kwargs={"seconds_per_step": 0.001})
    job_id = place.accept({**spec, "checkpoints": {"every_timesteps": 640}})
    first = place.claim()
    with place.running(first):
        eventually(place.reached(job_id, 13))
        children_of()[0].send_signal(signal.SIGKILL)
    assert place.job(job_id).status is JobStatus.QUEUED
    assert place.job(job_id).status_reason.code == ReasonCode.CHILD_DIED
    second = place.claim()
    assert second.checkpoints[0].iteration in {10, 20, 30}
    assert supervise(second, place.slot()) is JobStatus.SUCCEEDED
    assert_ledger_is_whole(place, job_id, 40)
    assert place.policy_sha256(job_id) == place.policy_sha256(undisturbed.id)
    assert attempts_of(place, job_id)[1].resumed_from_checkpoint_id == second.checkpoints[0].id


def test_a_child_that_always_dies_is_given_up_after_max_attempts(place: Workplace) -> None:
    job_id = place.accept(spec_of("test/KillsItself-v0", max_attempts=2))
    assert supervise(place.claim(), place.slot()) is JobStatus.QUEUED
    assert supervise(place.claim(), place.slot()) is JobStatus.FAILED
    assert place.job(job_id).status_reason.code == ReasonCode.ATTEMPTS_EXHAUSTED
    assert "SIGKILL" in place.job(job_id).status_reason.message


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(place: Workplace) -> None:
    job_id = place.accept(
        {
            **spec_of("test/Slow-v0", iterations=30, kwargs={"seconds_per_step": 0.001}),
            "checkpoints": {"every_timesteps": 320},
        }
    )
    with place.running(place.claim()):
        eventually(place.reached(job_id, 12))
        children_of()[0].send_signal(signal.SIGKILL)
    claim = place.claim()
    newest, older = claim.checkpoints[:2]
    path = open_artifacts(place.settings.artifacts_url).path(newest.key, "state.safetensors")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert supervise(claim, place.slot()) is JobStatus.SUCCEEDED
    assert attempts_of(place, job_id)[1].resumed_from_checkpoint_id == older.id
    assert_ledger_is_whole(place, job_id, 30)


def test_an_attempt_that_lost_its_lease_is_ended_and_writes_nothing_more(place: Workplace) -> None:
    job_id = place.accept(spec_of("test/Slow-v0", iterations=FOREVER, kwargs={"seconds_per_step": 0.001}))
    claim = place.claim()
    with place.running(claim):
        eventually(place.reached(job_id, 2))
        (child,) = children_of()
        with place.database.write() as session:
            reason = claims.Reason(ReasonCode.WORKER_LOST, "said the sweeper", True)
            claims.requeue(session, *claim.key, outcome=AttemptOutcome.LOST, reason=reason)
        ledger = place.events(job_id)
    assert not child.is_running()
    assert place.events(job_id) == ledger
    assert place.job(job_id).status is JobStatus.QUEUED


def test_a_draining_worker_saves_the_job_and_gives_it_back_uncounted(place: Workplace) -> None:
    job_id = place.accept(spec_of("test/Slow-v0", iterations=40, kwargs={"seconds_per_step": 0.001}, max_attempts=1))
    with place.running(place.claim()):
        eventually(place.reached(job_id, 3))
        place.draining.set()
    job = place.job(job_id)
    assert (job.status, job.status_reason.code) == (JobStatus.QUEUED, ReasonCode.WORKER_DRAINING)
    place.draining.clear()
    claim = place.claim()
    assert claim.checkpoints[0].iteration == job.progress.iteration
    assert supervise(claim, place.slot()) is JobStatus.SUCCEEDED
    assert_ledger_is_whole(place, job_id, 40)


def test_training_goes_on_while_the_database_is_away_and_is_told_afterwards(place: Workplace, monkeypatch) -> None:
    if place.database.engine.dialect.name != "sqlite":
        pytest.skip("locks the file of SQLite")
    monkeypatch.setattr("ppo_jobs.database.BUSY_TIMEOUT_MS", 100)
    place.database.dispose()
    job_id = place.accept(spec_of("test/Slow-v0", iterations=100, kwargs={"seconds_per_step": 0.0005}))
    with place.running(place.claim()):
        eventually(place.reached(job_id, 2))
        told = place.job(job_id).progress.iteration
        journal = next((place.settings.data_dir / "runs").iterdir()) / "journal"
        away = sqlite3.connect(place.database.engine.url.database, isolation_level=None)
        away.execute("BEGIN EXCLUSIVE")
        size = journal.stat().st_size
        eventually(lambda: journal.stat().st_size > size + 10_000)
        time.sleep(2 * supervisor.TICK_SECONDS)
        away.execute("ROLLBACK")
        away.close()
        eventually(place.reached(job_id, told + 10))
    assert place.job(job_id).status is JobStatus.SUCCEEDED
    assert_ledger_is_whole(place, job_id, 100)


def test_a_commit_whose_answer_was_lost_is_not_made_twice(place: Workplace, monkeypatch) -> None:
    from contextlib import contextmanager

    from ppo_jobs.errors import DatabaseUnavailable

    slot = place.slot()
    write, lost = place.database.write, []

    @contextmanager
    def forgetful():
        with write() as session:
            yield session
        if len(lost) < 12 and len(lost) % 2 == 0:
            lost.append("answer")
            raise DatabaseUnavailable("the connection was lost after the commit")
        lost.append("nothing")

    job_id = place.accept({**spec_of(iterations=30), "checkpoints": {"every_timesteps": 320}})
    claim = place.claim()
    monkeypatch.setattr(place.database, "write", forgetful)
    assert supervise(claim, slot) in {JobStatus.SUCCEEDED, None}
    assert lost.count("answer") == 6
    assert place.job(job_id).status is JobStatus.SUCCEEDED
    assert_ledger_is_whole(place, job_id, 30)


def test_a_resume_of_finished_training_succeeds_with_the_final_checkpoint(place: Workplace) -> None:
    job_id = place.accept(spec_of(iterations=5))
    claim = place.claim()
    runs = place.settings.data_dir / "runs"
    with (
        supervisor.Lease(place.database, claim, lease_seconds=5) as lease,
        supervisor.run_directory(runs, *claim.key) as run,
    ):
        assert supervisor.Attempt(claim, place.slot(), run, lease).verdict().outcome is AttemptOutcome.SUCCEEDED
    with place.database.write() as session:
        lost = claims.Reason(ReasonCode.WORKER_LOST, "died before it said so", True)
        claims.requeue(session, *claim.key, outcome=AttemptOutcome.LOST, reason=lost)
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    assert_ledger_is_whole(place, job_id, 5)
    assert place.job(job_id).final_checkpoint_id == place.job(job_id).latest_checkpoint_id


def test_a_spent_budget_fails_the_job_and_keeps_its_checkpoint(place: Workplace) -> None:
    spec = spec_of("test/Slow-v0", iterations=FOREVER, kwargs={"seconds_per_step": 0.001})
    job = place.run({**spec, "budget": {"max_wall_seconds": 4.0}})
    assert (job.status, job.status_reason.code) == (JobStatus.FAILED, ReasonCode.BUDGET_EXHAUSTED)
    assert job.latest_checkpoint_id is not None


def test_a_job_that_finds_the_store_full_is_tried_again_however_often(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FULL_SECONDS", 0.1)
    store = open_artifacts(place.settings.artifacts_url)

    class Full:
        fetch, delete = store.fetch, store.delete

        def put(self, key: str, directory: Path) -> None:
            raise StorageFull("no space is left for artifacts")

    job_id = place.accept({**spec_of(iterations=2), "max_attempts": 1})
    for _ in range(2):
        assert supervise(place.claim(), place.slot(artifacts=Full())) is JobStatus.QUEUED
        reason = place.job(job_id).status_reason
        assert (reason.code, reason.retryable) == (ReasonCode.STORAGE_FULL, True)
    with monkeypatch.context() as full:
        full.setattr("worker.supervisor.run_directory", no_space)
        assert supervise(place.claim(), place.slot()) is JobStatus.QUEUED
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    assert len([event for event in place.events(job_id) if event.type is EventType.CHECKPOINT]) == 1


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_retention_keeps_the_last_and_the_best_and_their_files(place: Workplace) -> None:
    spec = spec_of(iterations=12)
    job = place.run({**spec, "checkpoints": {"every_timesteps": 64, "keep_last": 2, "keep_best": 1}})
    with place.database.read() as session:
        kept = checkpoints.list_checkpoints(session, place.tenant, job.id, 100).data
    assert [checkpoint.iteration for checkpoint in kept][:2] == [12, 11]
    assert len(kept) in {2, 3}
    stored = {key.rpartition("/")[2] for key in list(open_artifacts(place.settings.artifacts_url).keys())}
    assert stored == {checkpoint.id for checkpoint in kept}


def test_a_child_holds_no_address_key_or_secret(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PPO_DATABASE_URL", "PPO_BROKER_URL", "PPO_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"):
        monkeypatch.setenv(name, "canary-4711")
    job_id = place.accept(spec_of("test/Slow-v0", iterations=FOREVER))
    with place.running(place.claim()):
        (child,) = eventually(children_of)
        eventually(place.reached(job_id, 1))
        variables = child.environ()
        files = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
        arguments = child.cmdline()
        cancel(place, job_id)
    assert "canary-4711" not in str(variables) + str(arguments)
    assert not [name for name in variables if name.startswith(("PPO_", "AWS_", "PG"))]
    assert not [path for path in files if "sqlite" in path or path.endswith("lock")]
    assert variables["OMP_NUM_THREADS"] == "1"
    assert variables["CUDA_VISIBLE_DEVICES"] == ""
