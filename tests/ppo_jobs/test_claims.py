"""Who owns a job, and what the others cannot do to it."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from ppo_jobs.clock import now
from ppo_jobs.database import Database
from ppo_jobs.errors import LeaseLost
from ppo_jobs.repository import checkpoints, claims, events, jobs, logs, workers
from ppo_jobs.repository.claims import Claim, Entry, ProgressUpdate, Reason, UsageDelta
from ppo_jobs.states import AttemptOutcome, EventType, JobStatus, QueueName
from tests.ppo_jobs.builders import (
    DONE,
    LOST,
    append,
    checkpoint,
    claim,
    expire_lease,
    job,
    metrics,
    rewind,
    running,
    submit,
)
from tests.ppo_jobs.contenders import claim_in_two_threads, count_up


def _requeue(database: Database, owner: Claim, outcome: AttemptOutcome = AttemptOutcome.LOST) -> JobStatus:
    with database.write() as session:
        return claims.requeue(session, *owner.key, outcome=outcome, reason=LOST)


def _ledger(database: Database, tenant: str, job_id: str) -> list[tuple[int, str]]:
    with database.read() as session:
        return [
            (event.seq, str(event.type)) for event in events.list_events(session, tenant, job_id, after=0, limit=99)
        ]


def test_jobs_are_claimed_by_priority_and_then_by_age(database: Database, tenant: str) -> None:
    old, urgent, young, idle = (submit(database, tenant, priority=priority).id for priority in (0, 5, 0, -1))
    assert [claim(database).job_id for _ in range(4)] == [urgent, old, young, idle]


def test_a_queue_hands_out_its_own_jobs_only(database: Database, tenant: str) -> None:
    submit(database, tenant, queue=QueueName.CUDA)
    with database.write() as session:
        assert claims.claim(session, worker_id="w", queue=QueueName.CPU, lease_seconds=9) is None


def test_parallel_workers_claim_every_job_once_and_each_in_queue_order(
    database: Database, database_url: str, tenant: str
) -> None:
    submitted = [submit(database, tenant).id for _ in range(80)]
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        claimed = [each for pair in pool.map(claim_in_two_threads, [database_url] * 4, "abcd") for each in pair]
    assert len(claimed) == 8
    assert sorted(job_id for each in claimed for job_id in each) == sorted(submitted)
    assert all(each == sorted(each) for each in claimed)  # Identifiers sort by age.


def test_parallel_writers_lose_no_update(database: Database, database_url: str) -> None:
    with database.write() as session:
        workers.register_worker(
            session, id="counter", host="h", queue=QueueName.CPU, slots=1, devices=[], versions={}, environments=[]
        )
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(count_up, [database_url] * 4, [100] * 4))
    with database.read() as session:
        assert session.execute(text("SELECT slots FROM workers")).scalar_one() == 1 + 4 * 100


def test_a_claim_counts_the_attempt_and_opens_it(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    assert (owner.attempt, owner.last_seq, owner.max_attempts, owner.tenant_id) == (1, 2, 3, tenant)
    assert owner.resolved_spec["seed"] == 1
    with database.read() as session:
        [attempt] = jobs.list_attempts(session, tenant, owner.job_id)
    assert (attempt.number, attempt.worker_id, attempt.outcome) == (1, "w1", None)
    assert _ledger(database, tenant, owner.job_id) == [(1, "status"), (2, "status")]


STALE_WRITES: dict[str, Callable[[Session, Claim], Any]] = {
    "append": lambda session, owner: claims.append(session, *owner.key, [metrics(1)]),
    "checkpoint": lambda session, owner: checkpoints.insert_checkpoint(
        session,
        *owner.key,
        id="ckpt_stale",
        key="a/b/c",
        iteration=1,
        timesteps=1,
        metrics={},
        resume="exact",
        files=[],
        fingerprint={},
        final=False,
    ),
    "finish": lambda session, owner: claims.finish(
        session, *owner.key, status=JobStatus.SUCCEEDED, outcome=AttemptOutcome.SUCCEEDED, reason=DONE
    ),
    "requeue": lambda session, owner: claims.requeue(session, *owner.key, outcome=AttemptOutcome.LOST, reason=LOST),
    "renew": lambda session, owner: claims.renew(session, owner.key, lease_seconds=9),
    "explain": lambda session, owner: claims.explain(session, *owner.key, claims.Reason("engine_compiling", "…")),
    "set_runtime": lambda session, owner: claims.set_runtime(session, *owner.key, {}, None),
    "append_log": lambda session, owner: logs.append_log(session, *owner.key, "stale"),
}


@pytest.mark.parametrize("write", STALE_WRITES)
@pytest.mark.parametrize("fate", ["queued", "claimed again", "ended"])
def test_an_attempt_that_lost_its_lease_writes_nothing(database: Database, tenant: str, write: str, fate: str) -> None:
    stale = running(database, tenant)
    expire_lease(database, stale.job_id)
    with database.write() as session:
        claims.reap_expired(session)
    if fate == "claimed again":
        claim(database, worker_id="w2")
    elif fate == "ended":
        with database.write() as session:
            jobs.request_cancel(session, tenant, stale.job_id)
    before = job(database, tenant, stale.job_id)
    with pytest.raises(LeaseLost), database.write() as session:
        STALE_WRITES[write](session, stale)
    assert job(database, tenant, stale.job_id) == before


def test_a_lease_runs_out_by_the_databases_clock_alone(database: Database, tenant: str, monkeypatch: Any) -> None:
    owner = running(database, tenant)
    # This process believes that it is 2001, and then that it is 2100.
    for wrong in (1e9, 4e9):
        monkeypatch.setattr("time.time", lambda wrong=wrong: wrong)
        with database.write() as session:
            assert claims.reap_expired(session) == []
    expire_lease(database, owner.job_id)
    with database.write() as session:
        assert claims.reap_expired(session) == [(owner.job_id, QueueName.CPU)]
    assert job(database, tenant, owner.job_id).status == JobStatus.QUEUED


def test_a_renewed_lease_ends_that_long_after_now(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        assert not claims.renew(session, owner.key, lease_seconds=1000).cancel_requested
        left = session.execute(text("SELECT lease_expires_at FROM jobs")).scalar_one() - session.scalar(now().select())
    assert 990 < left <= 1000


def test_a_renewal_tells_that_the_user_wants_the_job_cancelled(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        assert jobs.request_cancel(session, tenant, owner.job_id).cancel_requested
        assert claims.renew(session, owner.key, lease_seconds=9).cancel_requested


def test_an_attempt_that_was_late_but_not_reaped_goes_on(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    expire_lease(database, owner.job_id)
    with database.write() as session:
        claims.renew(session, owner.key, lease_seconds=60)
        assert claims.reap_expired(session) == []


def test_fruitless_attempts_use_up_the_job(database: Database, tenant: str) -> None:
    submit(database, tenant, max_attempts=2)
    assert _requeue(database, claim(database)) == JobStatus.QUEUED
    last = claim(database)
    assert _requeue(database, last) == JobStatus.FAILED
    ended = job(database, tenant, last.job_id)
    assert ended.status_reason is not None
    assert ended.status_reason.code == "attempts_exhausted"
    assert ended.status_reason.message.startswith("2 attempts in a row ended without a new checkpoint")
    assert ended.status_reason.retryable
    assert ended.finished_at == ended.status_reason.at


def test_a_job_that_makes_progress_is_never_given_up(database: Database, tenant: str) -> None:
    submit(database, tenant, max_attempts=2)
    for iteration in range(1, 6):
        assert _requeue(database, claim(database)) == JobStatus.QUEUED  # One fruitless attempt,
        fruitful = claim(database)
        checkpoint(database, fruitful, iteration)
        assert _requeue(database, fruitful) == JobStatus.QUEUED  # and one that moved on.
    assert job(database, tenant, fruitful.job_id).attempt == 10


def test_a_released_attempt_never_counts(database: Database, tenant: str) -> None:
    submit(database, tenant, max_attempts=1)
    for _ in range(3):
        assert _requeue(database, claim(database), AttemptOutcome.RELEASED) == JobStatus.QUEUED
    assert _requeue(database, claim(database)) == JobStatus.FAILED


def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        jobs.request_cancel(session, tenant, owner.job_id)
    assert _requeue(database, owner) == JobStatus.CANCELLED
    assert job(database, tenant, owner.job_id).status == JobStatus.CANCELLED


def test_the_end_of_an_attempt_is_recorded_with_its_reason(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    reason = Reason("env_error", "torn \0 and \ud800 text " + "x" * 5000)
    with database.write() as session:
        claims.finish(session, *owner.key, status=JobStatus.FAILED, outcome=AttemptOutcome.FAILED, reason=reason)
    with database.read() as session:
        [attempt] = jobs.list_attempts(session, tenant, owner.job_id)
    assert attempt.outcome == AttemptOutcome.FAILED
    assert attempt.reason is not None
    assert attempt.reason.message == "… " + "x" * 4000
    assert job(database, tenant, owner.job_id).status_reason == attempt.reason


def test_appending_numbers_events_without_a_gap(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    assert append(database, owner, metrics(1), metrics(2)) == 4
    assert append(database, owner) == 4
    assert append(database, owner, metrics(3)) == 5
    with database.read() as session:
        written = events.list_events(session, tenant, owner.job_id, after=2, limit=9)
    assert [(event.seq, event.data["iteration"], event.attempt) for event in written] == [
        (3, 1, 1),
        (4, 2, 1),
        (5, 3, 1),
    ]


def test_appending_keeps_progress_usage_and_latest_metrics(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    speed = Entry(EventType.METRICS, 3, {"iteration": 3, "timesteps": 30, "metrics": {"time/fps": 50.0}})
    with database.write() as session:
        claims.append(
            session,
            *owner.key,
            [metrics(1, ep_rew_mean=1.0, ep_len_mean=7.0), metrics(2, ep_rew_mean=2.0), speed],
            usage=UsageDelta(cpu_seconds=1.5, gpu_seconds=0.5, env_steps=20, train_seconds=2.0),
        )
        claims.append(
            session,
            *owner.key,
            [],
            progress=ProgressUpdate(timesteps=250, iteration=25),
            usage=UsageDelta(cpu_seconds=0.5, env_steps=10, train_seconds=1.0),
        )
    now_running = job(database, tenant, owner.job_id)
    assert now_running.latest_metrics == {"rollout/ep_rew_mean": 2.0, "rollout/ep_len_mean": 7.0, "time/fps": 50.0}
    progress = now_running.progress
    assert (progress.timesteps, progress.iteration, progress.fraction, progress.fps) == (250, 25, 0.25, 50.0)
    assert progress.eta_seconds == (1000 - 250) / 50
    assert (now_running.usage.cpu_seconds, now_running.usage.gpu_seconds, now_running.usage.env_steps) == (2.0, 0.5, 30)
    _requeue(database, owner)
    assert claim(database).train_seconds_before == 3.0


def test_a_transaction_that_fails_leaves_no_number_behind(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with pytest.raises(ZeroDivisionError), database.write() as session:
        1 // (claims.append(session, *owner.key, [metrics(1)]) - 3)
    assert append(database, owner, metrics(1)) == 3


def test_what_the_ledger_has_beyond_an_iteration_forgets_what_was_rewound(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    evaluation = Entry(EventType.EVALUATION, 2, {"iteration": 2, "timesteps": 20, "metrics": {"eval/mean_reward": 5.0}})
    append(database, owner, metrics(1), metrics(2, ep_rew_mean=1.0), evaluation, metrics(3), rewind(2))
    append(database, owner, metrics(4))
    with database.read() as session:
        found = claims.training_events_after(session, owner.job_id, 1)
    assert set(found) == {(EventType.METRICS, 2), (EventType.EVALUATION, 2), (EventType.METRICS, 4)}
    assert found[EventType.EVALUATION, 2] == evaluation.data


def test_the_runtime_of_an_attempt_is_the_jobs_own(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        claims.set_runtime(session, *owner.key, {"device": "cpu"}, "ckpt_old")
    with database.read() as session:
        [attempt] = jobs.list_attempts(session, tenant, owner.job_id)
    assert attempt.runtime == job(database, tenant, owner.job_id).runtime == {"device": "cpu"}
    assert attempt.resumed_from_checkpoint_id == "ckpt_old"


def test_only_queues_whose_jobs_wait_long_are_woken_again(database: Database, tenant: str) -> None:
    submit(database, tenant, queue=QueueName.CUDA)
    with database.read() as session:
        assert claims.queued_queues(session, older_than_seconds=60) == []
        assert claims.queued_queues(session, older_than_seconds=-1) == [QueueName.CUDA]
