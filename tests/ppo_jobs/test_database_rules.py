"""What the database itself refuses, whoever writes."""

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.exc import IntegrityError

from ppo_jobs import tables
from ppo_jobs.database import Database
from ppo_jobs.repository import claims, jobs
from ppo_jobs.states import TRANSITIONS, AttemptOutcome, JobStatus
from tests.ppo_jobs.builders import DONE, append, claim, job, metrics, running, submit

LEGAL = [(old, new) for old, followers in TRANSITIONS.items() for new in sorted(followers)]
ILLEGAL = [(old, new) for old in JobStatus for new in JobStatus if old != new and new not in TRANSITIONS[old]]
ROUTES = {
    JobStatus.QUEUED: [],
    JobStatus.RUNNING: ["running"],
    JobStatus.PAUSED: ["running", "paused"],
    JobStatus.SUCCEEDED: ["running", "succeeded"],
    JobStatus.FAILED: ["running", "failed"],
    JobStatus.CANCELLED: ["cancelled"],
}


def _move(database: Database, job_id: str, to: str) -> None:
    """Writes past the repository, with all columns that belong to the status."""
    leased = "'w', 1e12" if to == "running" else "NULL, NULL"
    finished = "updated_at" if to in {"succeeded", "failed", "cancelled"} else "NULL"
    with database.write() as session:
        session.execute(
            text(
                f"UPDATE jobs SET status = :to, finished_at = {finished}, "
                f"worker_id = {leased.split(', ')[0]}, lease_expires_at = {leased.split(', ')[1]} WHERE id = :id"
            ),
            {"to": to, "id": job_id},
        )


@pytest.mark.parametrize(("old", "new"), ILLEGAL)
def test_an_illegal_transition_is_refused(database: Database, tenant: str, old: JobStatus, new: JobStatus) -> None:
    job_id = submit(database, tenant).id
    for status in ROUTES[old]:
        _move(database, job_id, status)
    with pytest.raises(IntegrityError, match=r"never changes|cannot follow"):
        _move(database, job_id, new)
    assert job(database, tenant, job_id).status == old


@pytest.mark.parametrize(("old", "new"), LEGAL)
def test_a_legal_transition_is_taken(database: Database, tenant: str, old: JobStatus, new: JobStatus) -> None:
    job_id = submit(database, tenant).id
    for status in [*ROUTES[old], new]:
        _move(database, job_id, status)
    assert job(database, tenant, job_id).status == new


@pytest.mark.parametrize(
    "change",
    [
        "status = 'sleeping'",
        "lease_expires_at = 1.0, worker_id = 'w'",
        "status = 'running'",
        "finished_at = updated_at",
        "status = 'cancelled'",
        "queue = 'tpu'",
        "attempt = -1",
        "last_seq = 0",
        "updated_at = updated_at - 1",
        "storage_bytes = -1",
    ],
)
def test_a_row_that_contradicts_itself_is_refused(database: Database, tenant: str, change: str) -> None:
    job_id = submit(database, tenant).id
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": job_id})


@pytest.mark.parametrize("change", ["attempt = 9", "last_seq = 9", "finished_at = 1.0"])
def test_the_end_of_a_job_is_not_rewritten(database: Database, tenant: str, change: str) -> None:
    job_id = submit(database, tenant).id
    with database.write() as session:
        jobs.request_cancel(session, tenant, job_id)
    with pytest.raises(IntegrityError, match="has ended"), database.write() as session:
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": job_id})


def test_an_event_is_never_rewritten(database: Database, tenant: str) -> None:
    submit(database, tenant)
    with pytest.raises(IntegrityError, match="never rewritten"), database.write() as session:
        session.execute(update(tables.events).values(data={}))


def test_an_event_is_deleted_only_with_its_job(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, metrics(1))
    with pytest.raises(IntegrityError, match="only with its job"), database.write() as session:
        session.execute(delete(tables.events))
    with database.write() as session:
        claims.finish(session, *owner.key, status=JobStatus.SUCCEEDED, outcome=AttemptOutcome.SUCCEEDED, reason=DONE)
        jobs.delete_job(session, tenant, owner.job_id)
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM events")).scalar_one() == 0


def test_a_running_job_is_not_deleted(database: Database, tenant: str) -> None:
    running(database, tenant)
    with pytest.raises(IntegrityError, match="has not ended"), database.write() as session:
        session.execute(delete(tables.jobs))


@pytest.mark.parametrize("seq", [1, 2, 4])
def test_an_event_out_of_sequence_is_refused(database: Database, tenant: str, seq: int) -> None:
    owner = running(database, tenant)  # The ledger has 1 (queued) and 2 (running).
    event = {"job_id": owner.job_id, "seq": seq, "tenant_id": tenant, "type": "metrics", "attempt": 1}
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(insert(tables.events).values(**event, created_at=1.0, data={}))


def test_a_job_has_at_most_one_open_attempt(database: Database, tenant: str) -> None:
    submit(database, tenant)
    owner = claim(database)
    second = {"job_id": owner.job_id, "number": 2, "tenant_id": tenant, "worker_id": "w2", "started_at": 1.0}
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(insert(tables.attempts).values(**second, runtime={}, new_checkpoints=0))
