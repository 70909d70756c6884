"""Evaluations: jobs of another kind, which are claimed, kept, cancelled and told of like those that train."""

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Row, insert, select, update
from sqlalchemy.orm import Session

from ppo_engine.spec import SPEC_VERSION, EvaluationPlan
from ppo_jobs import tables
from ppo_jobs.clock import now, utc
from ppo_jobs.errors import CheckpointMissing, CheckpointNotFound, EvaluationNotFound, JobNotFound, LeaseLost
from ppo_jobs.ids import new_evaluation_id
from ppo_jobs.repository.jobs import withdraw
from ppo_jobs.repository.queue_places import queue_places
from ppo_jobs.repository.records import UNQUEUED, reason_of, usage_of
from ppo_jobs.repository.transitions import write_first_event
from ppo_jobs.schemas import Evaluation, EvaluationProgress, EvaluationResult, Page, QueuePlace
from ppo_jobs.states import EventType, JobKind, JobStatus, QueueName

_jobs = tables.jobs
_checkpoints = tables.checkpoints
_events = tables.events

MAX_ATTEMPTS = 3
"""That end without a finished block of episodes, in a row."""


def insert_evaluation(
    session: Session,
    tenant_id: str,
    checkpoint_id: str,
    *,
    spec: dict[str, JsonValue],
    plan: EvaluationPlan,
    wants: QueueName,
) -> Evaluation:
    """A new evaluation at the end of its queue. Until it has ended, its checkpoint stays.

    Args:
        spec: as the user sent it.

    Raises:
        CheckpointNotFound: there is none, or it is another tenant's.
    """
    mine = (_checkpoints.c.tenant_id == tenant_id, _checkpoints.c.id == checkpoint_id)
    # Locked: whoever is about to delete it looks for evaluations first, and must see this one or be done before.
    job_id = session.execute(select(_checkpoints.c.job_id).where(*mine).with_for_update()).scalar_one_or_none()
    if job_id is None:
        raise CheckpointNotFound(checkpoint_id)
    row = session.execute(
        insert(_jobs)
        .values(
            id=new_evaluation_id(),
            tenant_id=tenant_id,
            kind=JobKind.EVALUATE,
            metadata={},
            env_id=plan.env.id,
            spec=spec,
            resolved_spec=plan.model_dump(mode="json"),
            spec_version=SPEC_VERSION,
            queue=wants,
            priority=0,
            parent={"job_id": job_id, "checkpoint_id": checkpoint_id, "mode": str(JobKind.EVALUATE)},
            status=JobStatus.QUEUED,
            status_at=now(),
            max_attempts=MAX_ATTEMPTS,
            total_timesteps=0,
            latest_metrics={},
            last_seq=1,
            created_at=now(),
            updated_at=now(),
        )
        .returning(_jobs)
    ).one()
    write_first_event(session, row)
    return _present(session, [row])[0]


def checkpoint_of_job(session: Session, tenant_id: str, job_id: str, *, which: str) -> str:
    """The id of a job's `final`, `best` or `latest` checkpoint.

    Raises:
        JobNotFound: there is no such job, or it is another tenant's.
        CheckpointMissing: it has no such checkpoint.
    """
    row = session.execute(
        select(_jobs).where(_jobs.c.tenant_id == tenant_id, _jobs.c.id == job_id, _jobs.c.kind == JobKind.TRAIN)
    ).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    named = {"final": row.final_checkpoint_id, "best": row.best_checkpoint_id, "latest": row.latest_checkpoint_id}
    found = named[which]
    if found is None:
        raise CheckpointMissing(job_id, which, JobStatus(row.status))
    return str(found)


def get_evaluation(session: Session, tenant_id: str, id: str) -> Evaluation:
    """With the return and the length of each episode once it has succeeded.

    Raises:
        EvaluationNotFound: there is none, or it is another tenant's.
    """
    (found,) = _present(session, [_row(session, tenant_id, id)])
    if found.result is None:
        return found
    returns: list[float] = []
    lengths: list[int] = []
    for data in _played(session, id):
        returns += data["returns"]
        lengths += data["lengths"]
    return found.model_copy(update={"result": found.result.model_copy(update={"returns": returns, "lengths": lengths})})


def list_evaluations(
    session: Session,
    tenant_id: str,
    *,
    limit: int,
    after: str | None = None,
    job_id: str | None = None,
    checkpoint_id: str | None = None,
    status: JobStatus | None = None,
) -> Page[Evaluation]:
    """The tenant's evaluations, newest first.

    Args:
        after: the last evaluation of the page before.
        job_id: only of checkpoints of this job, which need not exist any more.
    """
    query = select(_jobs).where(_jobs.c.tenant_id == tenant_id, _jobs.c.kind == JobKind.EVALUATE)
    if after is not None:
        query = query.where(_jobs.c.id < after)
    if job_id is not None:
        query = query.where(_subject("job_id") == job_id)
    if checkpoint_id is not None:
        query = query.where(_subject("checkpoint_id") == checkpoint_id)
    if status is not None:
        query = query.where(_jobs.c.status == status)
    rows = session.execute(query.order_by(_jobs.c.id.desc()).limit(limit + 1)).all()
    found = _present(session, rows[:limit])
    return Page[Evaluation](
        data=found,
        has_more=len(rows) > limit,
        first_id=found[0].id if found else None,
        last_id=found[-1].id if found else None,
    )


def request_cancel(session: Session, tenant_id: str, id: str) -> Evaluation:
    """Cancels a waiting evaluation at once, and asks the worker of a running one to end it.

    Raises:
        EvaluationNotFound: there is none, or it is another tenant's.
        InvalidTransition: it has already ended otherwise.
    """
    return _present(session, [withdraw(session, _row(session, tenant_id, id, lock=True))])[0]


def set_result(session: Session, job_id: str, attempt: int, result: dict[str, JsonValue]) -> None:
    """Records what the episodes came to.

    Raises:
        LeaseLost: the attempt no longer owns the evaluation.
    """
    mine = (_jobs.c.id == job_id, _jobs.c.attempt == attempt, _jobs.c.status == JobStatus.RUNNING)
    row = session.execute(
        update(_jobs).where(*mine, _jobs.c.kind == JobKind.EVALUATE).values(result=result).returning(_jobs.c.id)
    ).one_or_none()
    if row is None:
        raise LeaseLost(job_id, attempt)


def newest_succeeded(session: Session, tenant_id: str, checkpoint_ids: Sequence[str]) -> list[Evaluation]:
    """Of each of these checkpoints that was evaluated, the newest evaluation that succeeded."""
    rows = session.execute(
        select(_jobs)
        .where(_jobs.c.tenant_id == tenant_id, _jobs.c.kind == JobKind.EVALUATE)
        .where(_jobs.c.status == JobStatus.SUCCEEDED, _subject("checkpoint_id").in_(checkpoint_ids))
        .order_by(_jobs.c.id)
    )
    return _present(session, list({row.parent["checkpoint_id"]: row for row in rows}.values()))


def _subject(key: str) -> ColumnElement[str]:
    column: ColumnElement[str] = _jobs.c.parent[key].as_string()
    return column


def _row(session: Session, tenant_id: str, id: str, *, lock: bool = False) -> Row[Any]:
    query = select(_jobs).where(_jobs.c.tenant_id == tenant_id, _jobs.c.id == id, _jobs.c.kind == JobKind.EVALUATE)
    row = session.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise EvaluationNotFound(id)
    return row


def _played(session: Session, id: str) -> Sequence[dict[str, Any]]:
    told = (_events.c.job_id == id, _events.c.type == EventType.EVALUATION)
    return session.execute(select(_events.c.data).where(*told).order_by(_events.c.iteration)).scalars().all()


def _present(session: Session, rows: Sequence[Row[Any]]) -> list[Evaluation]:
    places = queue_places(session, [row.id for row in rows if row.status == JobStatus.QUEUED])
    return [_evaluation_of(row, places.get(row.id, UNQUEUED)) for row in rows]


def _evaluation_of(row: Row[Any], queue: QueuePlace) -> Evaluation:
    plan = EvaluationPlan.model_validate(row.resolved_spec)
    episodes = plan.episodes_until(row.iteration)
    has_succeeded = row.status == JobStatus.SUCCEEDED
    return Evaluation(
        id=row.id,
        job_id=row.parent["job_id"],
        checkpoint_id=row.parent["checkpoint_id"],
        env_id=row.env_id,
        status=JobStatus(row.status),
        status_reason=reason_of(row.status_reason, row.status_at),
        spec=row.spec,
        resolved_spec=row.resolved_spec,
        wants=QueueName(row.queue),
        progress=EvaluationProgress(
            episodes=episodes,
            n_episodes=plan.n_episodes,
            fraction=episodes / plan.n_episodes,
            timesteps=row.timesteps,
        ),
        queue=queue,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        cancel_requested=row.cancel_requested_at is not None,
        runtime=row.runtime,
        result=EvaluationResult.model_validate(row.result) if has_succeeded else None,
        usage=usage_of(row),
        last_seq=row.last_seq,
        created_at=utc(row.created_at),
        started_at=utc(row.started_at),
        finished_at=utc(row.finished_at),
        updated_at=utc(row.updated_at),
    )
