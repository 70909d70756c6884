"""What a job can go on from, what is kept, and what goes."""

import pytest

from ppo_jobs.artifacts import artifact_key
from ppo_jobs.database import Database
from ppo_jobs.errors import CheckpointInUse, CheckpointNotFound, JobNotFound
from ppo_jobs.repository import checkpoints, claims, events, jobs, tenants
from ppo_jobs.repository.claims import Claim
from ppo_jobs.schemas import Checkpoint, Parent
from ppo_jobs.states import AttemptOutcome, JobStatus
from tests.ppo_jobs.builders import (
    DONE,
    LOST,
    append,
    checkpoint,
    claim,
    evaluated,
    job,
    keep,
    metrics,
    running,
    submit,
)


def _finish(database: Database, owner: Claim) -> None:
    with database.write() as session:
        claims.finish(session, *owner.key, status=JobStatus.SUCCEEDED, outcome=AttemptOutcome.SUCCEEDED, reason=DONE)


def _requeue(database: Database, owner: Claim) -> None:
    with database.write() as session:
        claims.requeue(session, *owner.key, outcome=AttemptOutcome.LOST, reason=LOST)


def _read(database: Database, tenant: str, id: str) -> Checkpoint:
    with database.read() as session:
        return checkpoints.get_checkpoint(session, tenant, id)


def _expired(database: Database, owner: Claim) -> list[str]:
    with database.write() as session:
        return [id for id, _ in checkpoints.expired_by_retention(session, owner.job_id)]


def test_a_checkpoint_is_seen_with_its_event_and_its_labels(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, metrics(1))
    id = checkpoint(database, owner, 1, size=70, ep_rew_mean=3.0)
    seen = _read(database, tenant, id)
    assert (seen.job_id, seen.iteration, seen.timesteps, seen.attempt) == (owner.job_id, 1, 10, 1)
    assert (seen.labels, seen.size_bytes, seen.metrics) == (["latest", "best"], 70, {"rollout/ep_rew_mean": 3.0})
    with database.read() as session:
        newest = events.list_events(session, tenant, owner.job_id, after=3, limit=9)
        where = checkpoints.checkpoint_location(session, tenant, id)
    assert [(event.seq, event.type, event.data["checkpoint_id"]) for event in newest] == [(4, "checkpoint", id)]
    assert where == (seen, artifact_key(owner.job_id, 1, id))


def test_the_best_checkpoint_has_the_highest_training_return_and_the_newer_wins_a_tie(
    database: Database, tenant: str
) -> None:
    owner = running(database, tenant)
    checkpoint(database, owner, 1, ep_rew_mean=1.0)
    best = checkpoint(database, owner, 2, ep_rew_mean=9.0)
    checkpoint(database, owner, 3, ep_rew_mean=8.0)
    unscored = checkpoint(database, owner, 4)
    now_running = job(database, tenant, owner.job_id)
    assert (now_running.best_checkpoint_id, now_running.latest_checkpoint_id) == (best, unscored)
    newer = checkpoint(database, owner, 5, ep_rew_mean=9.0)
    assert job(database, tenant, owner.job_id).best_checkpoint_id == newer


def test_a_job_that_is_evaluated_is_judged_by_evaluation_only(database: Database, tenant: str) -> None:
    owner = running(database, tenant, evaluation=evaluated())
    best = checkpoint(database, owner, 1, eval__mean_reward=1.0, ep_rew_mean=0.0)
    checkpoint(database, owner, 2, ep_rew_mean=100.0)
    assert job(database, tenant, owner.job_id).best_checkpoint_id == best


def test_the_same_checkpoint_again_changes_nothing(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        for _ in range(2):
            checkpoints.insert_checkpoint(
                session, *owner.key, id="ckpt_1", key="j/1/c", iteration=1, timesteps=10, metrics={},
                resume="exact", files=[], fingerprint={}, final=False,
            )  # fmt: skip
    assert job(database, tenant, owner.job_id).last_seq == 3


def test_retention_keeps_the_last_the_best_the_final_and_the_pinned(database: Database, tenant: str) -> None:
    owner = running(database, tenant, checkpoints=keep(last=2, best=1))
    returns = [5.0, 9.0, 1.0, 2.0, 3.0, 4.0]  # Iterations 1 to 6.
    ids = [checkpoint(database, owner, i, ep_rew_mean=value) for i, value in enumerate(returns, 1)]
    assert _expired(database, owner) == [ids[0], ids[2], ids[3]]  # The second is the best; the last two stay.
    with database.write() as session:
        assert checkpoints.pin(session, tenant, ids[2], pinned=True).labels == ["pinned"]
    assert _expired(database, owner) == [ids[0], ids[3]]
    with database.write() as session:
        checkpoints.forget(session, [ids[0], ids[3]])
    assert _expired(database, owner) == []
    final = checkpoint(database, owner, 7, final=True, ep_rew_mean=0.0)
    _finish(database, owner)
    assert _expired(database, owner) == [ids[4]]
    ended = job(database, tenant, owner.job_id)
    assert (ended.best_checkpoint_id, ended.latest_checkpoint_id, ended.final_checkpoint_id) == (ids[1], final, final)
    assert ended.usage.storage_bytes == 5 * 100


def test_retention_of_a_later_attempt_goes_by_attempt_and_not_by_iteration(database: Database, tenant: str) -> None:
    owner = running(database, tenant, checkpoints=keep(last=1, best=0))
    old = checkpoint(database, owner, 9)
    _requeue(database, owner)
    owner = claim(database)
    checkpoint(database, owner, 5)
    assert _expired(database, owner) == [old]


def test_a_checkpoint_that_a_retry_has_yet_to_start_from_stays(database: Database, tenant: str) -> None:
    owner = running(database, tenant, checkpoints=keep(last=1, best=0))
    old, _ = checkpoint(database, owner, 1), checkpoint(database, owner, 2)
    retry = submit(database, tenant, parent=Parent(job_id=owner.job_id, checkpoint_id=old, mode="retry"))
    assert _expired(database, owner) == []
    started = claim(database)
    assert (started.job_id, [each.id for each in started.checkpoints]) == (retry.id, [old])
    own = checkpoint(database, started, 3)
    assert _expired(database, owner) == [old]
    _requeue(database, started)
    assert [each.id for each in claim(database).checkpoints] == [own, old]


def test_what_a_retry_has_yet_to_start_from_is_not_deleted_even_with_its_job(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    id = checkpoint(database, owner, 1)
    _finish(database, owner)
    retry = submit(database, tenant, parent=Parent(job_id=owner.job_id, checkpoint_id=id, mode="retry"))
    with pytest.raises(CheckpointInUse), database.write() as session:
        checkpoints.delete_checkpoint(session, tenant, id)
    with pytest.raises(CheckpointInUse), database.write() as session:
        jobs.delete_job(session, tenant, owner.job_id)
    with database.write() as session:
        jobs.request_cancel(session, tenant, retry.id)
        jobs.delete_job(session, tenant, owner.job_id)


def test_an_attempt_is_offered_the_newest_checkpoint_first(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    first, second = checkpoint(database, owner, 1), checkpoint(database, owner, 2)
    _requeue(database, owner)
    offered = claim(database).checkpoints
    assert [(each.id, each.iteration, each.timesteps) for each in offered] == [(second, 2, 20), (first, 1, 10)]
    assert offered[0].key == artifact_key(owner.job_id, 1, second)
    assert offered[0].fingerprint == {"cpu": "any"}


def test_what_an_unfinished_job_goes_on_from_cannot_be_deleted(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    first, second = checkpoint(database, owner, 1, ep_rew_mean=2.0), checkpoint(database, owner, 2, ep_rew_mean=1.0)
    for _ in ("running", "queued"):
        with pytest.raises(CheckpointInUse), database.write() as session:
            checkpoints.delete_checkpoint(session, tenant, second)
        if job(database, tenant, owner.job_id).status == JobStatus.RUNNING:
            _requeue(database, owner)
    with database.write() as session:
        assert checkpoints.delete_checkpoint(session, tenant, first) == artifact_key(owner.job_id, 1, first)
    left = job(database, tenant, owner.job_id)
    assert (left.best_checkpoint_id, left.latest_checkpoint_id, left.usage.storage_bytes) == (second, second, 100)


def test_of_a_job_that_has_ended_every_checkpoint_can_be_deleted(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    id = checkpoint(database, owner, 1, final=True)
    _finish(database, owner)
    with database.write() as session:
        checkpoints.delete_checkpoint(session, tenant, id)
    ended = job(database, tenant, owner.job_id)
    assert (ended.latest_checkpoint_id, ended.final_checkpoint_id, ended.usage.storage_bytes) == (None, None, 0)
    with pytest.raises(CheckpointNotFound):
        _read(database, tenant, id)


def test_checkpoints_are_listed_newest_first_in_pages(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    ids = [checkpoint(database, owner, i) for i in range(1, 4)]
    with database.read() as session:
        first = checkpoints.list_checkpoints(session, tenant, owner.job_id, 2)
        rest = checkpoints.list_checkpoints(session, tenant, owner.job_id, 2, first.last_id)
    assert ([each.id for each in first.data], first.has_more) == ([ids[2], ids[1]], True)
    assert ([each.id for each in rest.data], rest.has_more) == ([ids[0]], False)


def test_another_tenant_finds_no_checkpoint(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    id = checkpoint(database, owner, 1)
    with database.write() as session:
        stranger = tenants.create_tenant(session, "stranger")
        with pytest.raises(JobNotFound):
            checkpoints.list_checkpoints(session, stranger, owner.job_id, 9)
        for ask in (
            lambda: checkpoints.get_checkpoint(session, stranger, id),
            lambda: checkpoints.checkpoint_location(session, stranger, id),
            lambda: checkpoints.pin(session, stranger, id, pinned=True),
            lambda: checkpoints.delete_checkpoint(session, stranger, id),
        ):
            with pytest.raises(CheckpointNotFound):
                ask()
    assert _read(database, tenant, id).labels == ["latest"]


def test_files_are_garbage_once_no_row_names_them_and_no_attempt_writes_them(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    known = artifact_key(owner.job_id, 1, checkpoint(database, owner, 1))
    half_written = artifact_key(owner.job_id, 1, "ckpt_half")
    foreign = artifact_key("job_deleted", 1, "ckpt_x")
    keys = [known, half_written, foreign]
    with database.read() as session:
        assert checkpoints.garbage_keys(session, keys) == [foreign]
    _requeue(database, owner)
    claim(database)
    with database.read() as session:
        assert checkpoints.garbage_keys(session, keys) == [half_written, foreign]
        assert checkpoints.garbage_keys(session, []) == []
