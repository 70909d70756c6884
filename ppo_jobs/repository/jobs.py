"""Jobs as their tenant sees them."""

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.orm import Session

from ppo_engine.spec import SPEC_VERSION, TrainingSpec, resolution_of
from ppo_jobs import tables
from ppo_jobs.clock import later_of, now
from ppo_jobs.errors import CheckpointInUse, GroupNotFound, InvalidTransition, JobNotFound, JobNotTerminal
from ppo_jobs.ids import new_job_id
from ppo_jobs.repository.queue_places import queue_places
from ppo_jobs.repository.records import UNQUEUED, attempt_of, job_of
from ppo_jobs.repository.retention import awaited_by_other_jobs, discard
from ppo_jobs.repository.transitions import Reason, transition, write_first_event
from ppo_jobs.schemas import Attempt, Job, Page, Parent
from ppo_jobs.states import TERMINAL, JobKind, JobStatus, QueueName, ReasonCode

_jobs = tables.jobs
_checkpoints = tables.checkpoints
_INSERT = insert(_jobs).values(status_at=now(), created_at=now(), updated_at=now()).returning(_jobs)
"""Made once: to put it together takes longer than to execute it."""


def insert_job(
    session: Session,
    tenant_id: str,
    *,
    spec: dict[str, JsonValue],
    resolved: TrainingSpec,
    wants: QueueName,
    parent: Parent | None = None,
) -> Job:
    """A new job at the end of its queue, with the first event of its ledger.

    Args:
        spec: as the user sent it.
        resolved: with every default filled in that can be told without the environment.
        parent: the job, and the checkpoint if any, that this one goes on from.
    """
    row = session.execute(
        _INSERT,
        {
            "id": new_job_id(),
            "tenant_id": tenant_id,
            "kind": JobKind.TRAIN,
            "name": resolved.name,
            "metadata": dict(resolved.metadata),
            "group_name": resolved.group,
            "env_id": resolved.env.id,
            "spec": spec,
            "resolved_spec": resolution_of(resolved),
            "spec_version": SPEC_VERSION,
            "queue": wants,
            "priority": resolved.priority,
            "parent": None if parent is None else parent.model_dump(mode="json"),
            "status": JobStatus.QUEUED,
            "max_attempts": resolved.max_attempts,
            "total_timesteps": resolved.ppo.total_timesteps,
            "latest_metrics": {},
            "last_seq": 1,
        },
    ).one()
    write_first_event(session, row)
    return _present(session, [row])[0]


def get_job(session: Session, tenant_id: str, job_id: str) -> Job:
    """
    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    return _present(session, [_row(session, tenant_id, job_id)])[0]


def list_jobs(
    session: Session,
    tenant_id: str,
    *,
    limit: int,
    after: str | None = None,
    status: JobStatus | None = None,
    group: str | None = None,
    env_id: str | None = None,
    name: str | None = None,
) -> Page[Job]:
    """The tenant's jobs, newest first.

    Args:
        after: the last job of the page before; it need not exist any more.
    """
    query = select(_jobs).where(_jobs.c.tenant_id == tenant_id, _jobs.c.kind == JobKind.TRAIN)
    if after is not None:
        query = query.where(_jobs.c.id < after)
    for column, wanted in (
        (_jobs.c.status, status),
        (_jobs.c.group_name, group),
        (_jobs.c.env_id, env_id),
        (_jobs.c.name, name),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    rows = session.execute(query.order_by(_jobs.c.id.desc()).limit(limit + 1)).all()
    jobs = _present(session, rows[:limit])
    return Page[Job](
        data=jobs,
        has_more=len(rows) > limit,
        first_id=jobs[0].id if jobs else None,
        last_id=jobs[-1].id if jobs else None,
    )


def patch_job(session: Session, tenant_id: str, job_id: str, *, changes: dict[str, Any]) -> Job:
    """Renames a job, or tags it.

    Args:
        changes: the fields of a `JobPatch` that were set; None clears.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    if unknown := changes.keys() - {"name", "metadata"}:
        raise ValueError(f"a job's {', '.join(sorted(unknown))} cannot be changed")
    values = dict(changes)
    if "metadata" in values:
        values["metadata"] = values["metadata"] or {}
    row = session.execute(
        update(_jobs)
        .where(_jobs.c.tenant_id == tenant_id, _jobs.c.id == job_id)
        .values(updated_at=later_of(now(), _jobs.c.updated_at), **values)
        .returning(_jobs)
    ).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return _present(session, [row])[0]


def delete_job(session: Session, tenant_id: str, job_id: str) -> None:
    """Deletes a job that has ended, with its ledger, logs and checkpoints; their files are garbage from now on.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        JobNotTerminal: it has not ended.
        CheckpointInUse: another job has yet to start from one of its checkpoints, or an evaluation of one has not
            ended.
    """
    row = _row(session, tenant_id, job_id)
    if row.status not in TERMINAL:
        raise JobNotTerminal(job_id, JobStatus(row.status))
    own = list(
        session.execute(select(_checkpoints.c.id).where(_checkpoints.c.job_id == job_id).with_for_update()).scalars()
    )
    if awaited := awaited_by_other_jobs(session, own):
        raise CheckpointInUse(min(awaited))
    session.execute(delete(_jobs).where(_jobs.c.id == job_id))
    discard(session, [job_id])


def request_cancel(session: Session, tenant_id: str, job_id: str) -> Job:
    """Cancels a waiting job at once, and asks the worker of a running one to end it; asking twice changes nothing.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        InvalidTransition: it has already ended otherwise.
    """
    return _present(session, [withdraw(session, _row(session, tenant_id, job_id, lock=True))])[0]


def withdraw(session: Session, row: Row[Any]) -> Row[Any]:
    """The row of a job of any kind, which the caller has locked, once it is cancelled or asked to end.

    Raises:
        InvalidTransition: it has already ended otherwise.
    """
    job_id, status = row.id, JobStatus(row.status)
    if status in TERMINAL and status is not JobStatus.CANCELLED:
        raise InvalidTransition(status, JobStatus.CANCELLED)
    if status is JobStatus.RUNNING and row.cancel_requested_at is None:
        moment = later_of(now(), _jobs.c.updated_at)
        row = session.execute(
            update(_jobs)
            .where(_jobs.c.id == job_id)
            .values(cancel_requested_at=moment, updated_at=moment)
            .returning(_jobs)
        ).one()
    elif status in {JobStatus.QUEUED, JobStatus.PAUSED}:
        reason = Reason(ReasonCode.USER_REQUEST, "cancelled before it ran" if row.attempt == 0 else "cancelled")
        cancelled = transition(
            session,
            _jobs.c.id == job_id,
            to=JobStatus.CANCELLED,
            reason=reason,
            values={"cancel_requested_at": later_of(now(), _jobs.c.updated_at)},
        )
        assert cancelled is not None, "the row is locked, and both states may be cancelled"
        row = cancelled
    return row


def list_attempts(session: Session, tenant_id: str, job_id: str) -> list[Attempt]:
    """First to last.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    require_job(session, tenant_id, job_id)
    attempts = tables.attempts
    rows = session.execute(select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number))
    return [attempt_of(row) for row in rows]


def latest_seqs(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[int, JobStatus]]:
    """The newest event's number and the status of each of these jobs that exists, in one query."""
    query = select(_jobs.c.id, _jobs.c.last_seq, _jobs.c.status).where(_jobs.c.id.in_(job_ids))
    return {row.id: (row.last_seq, JobStatus(row.status)) for row in session.execute(query)}


def group_members(session: Session, tenant_id: str, group: str, *, limit: int) -> list[Job]:
    """The jobs of a group, oldest first, `limit` at most.

    Raises:
        GroupNotFound: there are none.
    """
    mine = (_jobs.c.tenant_id == tenant_id, _jobs.c.group_name == group, _jobs.c.kind == JobKind.TRAIN)
    rows = session.execute(select(_jobs).where(*mine).order_by(_jobs.c.id).limit(limit)).all()
    if not rows:
        raise GroupNotFound(group)
    return [job_of(row) for row in rows]


def require_job(session: Session, tenant_id: str, job_id: str) -> None:
    """
    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    query = select(_jobs.c.id).where(_jobs.c.tenant_id == tenant_id, _jobs.c.id == job_id)
    if session.execute(query).one_or_none() is None:
        raise JobNotFound(job_id)


def _row(session: Session, tenant_id: str, job_id: str, *, lock: bool = False) -> Row[Any]:
    query = select(_jobs).where(_jobs.c.tenant_id == tenant_id, _jobs.c.id == job_id, _jobs.c.kind == JobKind.TRAIN)
    row = session.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return row


def _present(session: Session, rows: Sequence[Row[Any]]) -> list[Job]:
    places = queue_places(session, [row.id for row in rows if row.status == JobStatus.QUEUED])
    return [job_of(row, places.get(row.id, UNQUEUED)) for row in rows]
