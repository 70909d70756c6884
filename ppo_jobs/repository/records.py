"""Rows as wire models."""

from typing import Any, Literal

from sqlalchemy import Row

from ppo_jobs.clock import utc
from ppo_jobs.schemas import (
    Attempt,
    Checkpoint,
    CheckpointFile,
    Job,
    LedgerEvent,
    Parent,
    Progress,
    QueuePlace,
    StatusReason,
    Usage,
)
from ppo_jobs.states import AttemptOutcome, EventType, JobStatus, QueueName

UNQUEUED = QueuePlace(position=None, reason=None)


def job_of(row: Row[Any], queue: QueuePlace = UNQUEUED) -> Job:
    return Job(
        id=row.id,
        name=row.name,
        metadata=row.metadata,
        group=row.group_name,
        status=JobStatus(row.status),
        status_reason=reason_of(row.status_reason, row.status_at),
        spec=row.spec,
        resolved_spec=row.resolved_spec,
        spec_version=row.spec_version,
        wants=QueueName(row.queue),
        progress=_progress_of(row),
        queue=queue,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        cancel_requested=row.cancel_requested_at is not None,
        runtime=row.runtime,
        latest_metrics=row.latest_metrics,
        latest_checkpoint_id=row.latest_checkpoint_id,
        best_checkpoint_id=row.best_checkpoint_id,
        final_checkpoint_id=row.final_checkpoint_id,
        parent=None if row.parent is None else Parent.model_validate(row.parent),
        usage=usage_of(row),
        last_seq=row.last_seq,
        created_at=utc(row.created_at),
        started_at=utc(row.started_at),
        finished_at=utc(row.finished_at),
        updated_at=utc(row.updated_at),
    )


def _progress_of(row: Row[Any]) -> Progress:
    left = max(0, row.total_timesteps - row.timesteps)
    is_running = row.status == JobStatus.RUNNING
    return Progress(
        timesteps=row.timesteps,
        total_timesteps=row.total_timesteps,
        fraction=min(1.0, row.timesteps / row.total_timesteps),
        iteration=row.iteration,
        fps=row.fps,
        eta_seconds=left / row.fps if is_running and row.fps else None,
        last_iteration_at=utc(row.last_iteration_at),
    )


def usage_of(row: Row[Any]) -> Usage:
    return Usage(
        cpu_seconds=row.cpu_seconds,
        gpu_seconds=row.gpu_seconds,
        env_steps=row.env_steps,
        storage_bytes=row.storage_bytes,
    )


def reason_of(stored: dict[str, Any] | None, at: float | None) -> StatusReason | None:
    if stored is None or at is None:
        return None
    return StatusReason(code=stored["code"], message=stored["message"], at=utc(at), retryable=stored["retryable"])


def attempt_of(row: Row[Any]) -> Attempt:
    return Attempt(
        number=row.number,
        worker_id=row.worker_id,
        started_at=utc(row.started_at),
        finished_at=utc(row.finished_at),
        outcome=None if row.outcome is None else AttemptOutcome(row.outcome),
        reason=reason_of(row.reason, row.finished_at),
        resumed_from_checkpoint_id=row.resumed_from_checkpoint_id,
        runtime=row.runtime,
    )


def event_of(row: Row[Any]) -> LedgerEvent:
    return LedgerEvent(
        seq=row.seq, type=EventType(row.type), attempt=row.attempt, created_at=utc(row.created_at), data=row.data
    )


def checkpoint_of(row: Row[Any]) -> Checkpoint:
    """Of a checkpoint's row that carries its job's `latest_checkpoint_id` and `best_checkpoint_id`."""
    labels: list[Literal["latest", "best", "final", "pinned"]] = []
    if row.id == row.latest_checkpoint_id:
        labels.append("latest")
    if row.id == row.best_checkpoint_id:
        labels.append("best")
    if row.final:
        labels.append("final")
    if row.pinned:
        labels.append("pinned")
    return Checkpoint(
        id=row.id,
        job_id=row.job_id,
        timesteps=row.timesteps,
        iteration=row.iteration,
        attempt=row.attempt,
        labels=labels,
        metrics=row.metrics,
        resume=row.resume,
        size_bytes=row.size_bytes,
        files=[CheckpointFile.model_validate(file) for file in row.files],
        created_at=utc(row.created_at),
    )
