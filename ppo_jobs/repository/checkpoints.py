"""Checkpoints: the rows; their files are the artifact store's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue
from sqlalchemy import Row, Select, delete, insert, select, update
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import later_of, now
from ppo_jobs.errors import CheckpointInUse, CheckpointNotFound, LeaseLost
from ppo_jobs.repository.jobs import require_job
from ppo_jobs.repository.ledger import Entry, write_entries
from ppo_jobs.repository.records import checkpoint_of
from ppo_jobs.repository.retention import NEWEST_FIRST, awaited_by_other_jobs, discard
from ppo_jobs.repository.retention import cleared as cleared
from ppo_jobs.repository.retention import discarded as discarded
from ppo_jobs.repository.retention import expired_by_retention as expired_by_retention
from ppo_jobs.repository.retention import garbage_keys as garbage_keys
from ppo_jobs.repository.transitions import page_of
from ppo_jobs.schemas import Checkpoint, CheckpointFile, Page
from ppo_jobs.states import TERMINAL, EventType, JobStatus

_jobs = tables.jobs
_checkpoints = tables.checkpoints


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint that an attempt can go on from."""

    id: str
    key: str
    """Of its files in the artifact store."""
    iteration: int
    timesteps: int
    fingerprint: dict[str, JsonValue]
    """Of the machine that wrote it; a resume elsewhere may be approximate."""


def insert_checkpoint(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    id: str,
    key: str,
    iteration: int,
    timesteps: int,
    metrics: dict[str, float],
    resume: Literal["exact", "approximate"],
    files: Sequence[CheckpointFile],
    fingerprint: Mapping[str, JsonValue],
    final: bool,
    evaluated: bool = True,
) -> None:
    """Makes a stored checkpoint visible, and writes its ledger event; the same id again changes nothing.

    Args:
        key: of its files, which are stored already.
        fingerprint: what a later attempt compares its machine with.
        final: whether training ended with it.
        evaluated: whether `eval/…` in the metrics is of this very policy; else it is no score of it.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    if session.execute(select(_checkpoints.c.id).where(_checkpoints.c.id == id)).one_or_none() is not None:
        return
    size = sum(file.size_bytes for file in files)
    row = _point_to_new(session, job_id, attempt, id=id, size_bytes=size, final=final)
    session.execute(
        insert(_checkpoints).values(
            id=id,
            tenant_id=row.tenant_id,
            job_id=job_id,
            attempt=attempt,
            key=key,
            iteration=iteration,
            timesteps=timesteps,
            metrics=metrics,
            score=_score(metrics, score_metric(row.resolved_spec), evaluated=evaluated),
            resume=resume,
            fingerprint=dict(fingerprint),
            final=final,
            pinned=False,
            size_bytes=size,
            files=[file.model_dump(mode="json") for file in files],
            created_at=row.updated_at,
        )
    )
    _point_to_best(session, job_id)
    told: dict[str, JsonValue] = {"checkpoint_id": id, "iteration": iteration, "timesteps": timesteps}
    told |= {"metrics": dict(metrics), "resume": resume, "size_bytes": size, "final": final}
    write_entries(session, page_of(row, entries=1), [Entry(EventType.CHECKPOINT, iteration, told)])


def score_metric(resolved_spec: dict[str, Any]) -> str:
    """What makes a checkpoint of this job better than another: evaluation where there is any, else training returns."""
    is_evaluated = resolved_spec["evaluation"]["every_timesteps"] is not None
    return "eval/mean_reward" if is_evaluated else "rollout/ep_rew_mean"


def _score(metrics: Mapping[str, float], metric: str, *, evaluated: bool) -> float | None:
    return metrics.get(metric) if evaluated or not metric.startswith("eval/") else None


def resumable_checkpoints(
    session: Session, job_id: str, *, parent: dict[str, Any] | None
) -> tuple[StoredCheckpoint, ...]:
    """What a new attempt can go on from, newest first; the parent's checkpoint last."""
    c = _checkpoints.c
    columns = select(c.id, c.key, c.iteration, c.timesteps, c.fingerprint)
    rows = list(session.execute(columns.where(c.job_id == job_id).order_by(*NEWEST_FIRST)))
    if parent is not None and parent["checkpoint_id"] is not None:
        rows += session.execute(columns.where(c.id == parent["checkpoint_id"]))
    return tuple(StoredCheckpoint(*row) for row in rows)


def get_checkpoint(session: Session, tenant_id: str, id: str) -> Checkpoint:
    """
    Raises:
        CheckpointNotFound: there is none, or it is another tenant's.
    """
    return checkpoint_of(_row(session, tenant_id, id))


def checkpoint_location(session: Session, tenant_id: str, id: str) -> tuple[Checkpoint, str]:
    """A checkpoint, and the key of its files in the artifact store.

    Raises:
        CheckpointNotFound: there is none, or it is another tenant's.
    """
    row = _row(session, tenant_id, id)
    return checkpoint_of(row), row.key


def list_checkpoints(
    session: Session, tenant_id: str, job_id: str, limit: int, after: str | None = None
) -> Page[Checkpoint]:
    """A job's checkpoints, newest first.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    require_job(session, tenant_id, job_id)
    query = _labelled().where(_checkpoints.c.job_id == job_id)
    if after is not None:
        query = query.where(_checkpoints.c.id < after)
    rows = session.execute(query.order_by(_checkpoints.c.id.desc()).limit(limit + 1)).all()
    found = [checkpoint_of(row) for row in rows[:limit]]
    return Page[Checkpoint](
        data=found,
        has_more=len(rows) > limit,
        first_id=found[0].id if found else None,
        last_id=found[-1].id if found else None,
    )


def pin(session: Session, tenant_id: str, id: str, *, pinned: bool) -> Checkpoint:
    """Keeps a checkpoint from retention, or gives it back to it.

    Raises:
        CheckpointNotFound: there is none, or it is another tenant's.
    """
    mine = (_checkpoints.c.tenant_id == tenant_id, _checkpoints.c.id == id)
    session.execute(update(_checkpoints).where(*mine).values(pinned=pinned))
    return get_checkpoint(session, tenant_id, id)


def delete_checkpoint(session: Session, tenant_id: str, id: str) -> str:
    """Forgets a checkpoint, a pinned one too.

    Returns: the key of its files, which are garbage after the commit.

    Raises:
        CheckpointNotFound: there is none, or it is another tenant's.
        CheckpointInUse: its job has not ended and would go on from it, another job has yet to start from it, or an
            evaluation of it has not ended.
    """
    session.execute(select(_checkpoints.c.id).where(_checkpoints.c.id == id).with_for_update())
    row = _row(session, tenant_id, id)
    status = JobStatus(row.job_status)
    if status not in TERMINAL and (row.final or id == row.latest_checkpoint_id):
        raise CheckpointInUse(id)
    if awaited_by_other_jobs(session, [id]):
        raise CheckpointInUse(id)
    forget(session, [id])
    return str(row.key)


def forget(session: Session, ids: Sequence[str]) -> None:
    """Deletes the rows; after the commit a sweeper deletes the files. Ids without a row are passed over."""
    gone = session.execute(
        delete(_checkpoints)
        .where(_checkpoints.c.id.in_(ids))
        .returning(_checkpoints.c.job_id, _checkpoints.c.key, _checkpoints.c.size_bytes)
    ).all()
    discard(session, [row.key for row in gone])
    freed: dict[str, int] = {}
    for row in gone:
        freed[row.job_id] = freed.get(row.job_id, 0) + row.size_bytes
    for job_id, size in sorted(freed.items()):
        session.execute(
            update(_jobs)
            .where(_jobs.c.id == job_id)
            .values(storage_bytes=_jobs.c.storage_bytes - size, updated_at=later_of(now(), _jobs.c.updated_at))
        )
        _point_to_newest(session, job_id)
        _point_to_best(session, job_id)


def _labelled() -> Select[Any]:
    return select(
        _checkpoints, _jobs.c.latest_checkpoint_id, _jobs.c.best_checkpoint_id, _jobs.c.status.label("job_status")
    ).join(_jobs, _jobs.c.id == _checkpoints.c.job_id)


def _row(session: Session, tenant_id: str, id: str) -> Row[Any]:
    query = _labelled().where(_checkpoints.c.tenant_id == tenant_id, _checkpoints.c.id == id)
    row = session.execute(query).one_or_none()
    if row is None:
        raise CheckpointNotFound(id)
    return row


def _point_to_new(session: Session, job_id: str, attempt: int, *, id: str, size_bytes: int, final: bool) -> Row[Any]:
    """Takes the number of the checkpoint's event; the attempt has borne fruit."""
    row = session.execute(
        update(_jobs)
        .where(_jobs.c.id == job_id, _jobs.c.attempt == attempt, _jobs.c.status == JobStatus.RUNNING)
        .values(
            last_seq=_jobs.c.last_seq + 1,
            updated_at=later_of(now(), _jobs.c.updated_at),
            storage_bytes=_jobs.c.storage_bytes + size_bytes,
            fruitless_attempts=0,
            latest_checkpoint_id=id,
            final_checkpoint_id=id if final else _jobs.c.final_checkpoint_id,
        )
        .returning(_jobs)
    ).one_or_none()
    if row is None:
        raise LeaseLost(job_id, attempt)
    attempts = tables.attempts
    session.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.number == attempt)
        .values(new_checkpoints=attempts.c.new_checkpoints + 1)
    )
    return row


def _point_to_best(session: Session, job_id: str) -> None:
    best = (
        select(_checkpoints.c.id)
        .where(_checkpoints.c.job_id == job_id, _checkpoints.c.score.is_not(None))
        .order_by(_checkpoints.c.score.desc(), *NEWEST_FIRST)
        .limit(1)
        .scalar_subquery()
    )
    session.execute(update(_jobs).where(_jobs.c.id == job_id).values(best_checkpoint_id=best))


def _point_to_newest(session: Session, job_id: str) -> None:
    mine = _checkpoints.c.job_id == job_id
    newest = select(_checkpoints.c.id).where(mine).order_by(*NEWEST_FIRST).limit(1)
    final = newest.where(_checkpoints.c.final)
    session.execute(
        update(_jobs)
        .where(_jobs.c.id == job_id)
        .values(latest_checkpoint_id=newest.scalar_subquery(), final_checkpoint_id=final.scalar_subquery())
    )
