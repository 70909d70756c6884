"""What a worker does with a job that it owns. Every write is fenced by the attempt's number.

An attempt owns its job from `claim` until it ends, or until its lease ran out and a sweeper gave the job away; from
then on each of these functions raises `LeaseLost` and writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import JsonValue
from sqlalchemy import Row, func, insert, null, select, update
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import later_of, now
from ppo_jobs.errors import LeaseLost
from ppo_jobs.repository.checkpoints import StoredCheckpoint, resumable_checkpoints
from ppo_jobs.repository.ledger import Entry as Entry
from ppo_jobs.repository.ledger import write_entries
from ppo_jobs.repository.retention import discard
from ppo_jobs.repository.transitions import Reason as Reason
from ppo_jobs.repository.transitions import page_of, storable_reason, transition
from ppo_jobs.states import TERMINAL, AttemptOutcome, EventType, JobKind, JobStatus, QueueName, ReasonCode
from ppo_jobs.tables import has_status

_jobs = tables.jobs
_attempts = tables.attempts


class ClaimKey(NamedTuple):
    """Which attempt at which job."""

    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A job, and the attempt that owns it now."""

    tenant_id: str
    job_id: str
    attempt: int
    kind: JobKind
    queue: QueueName
    resolved_spec: dict[str, JsonValue]
    spec_version: int
    checkpoints: tuple[StoredCheckpoint, ...]
    """To go on from, newest first; the last resort is the checkpoint of the job's parent. The only one of an
    evaluation is what it evaluates."""
    train_seconds_before: float
    """Spent by earlier attempts."""
    max_attempts: int
    last_seq: int

    @property
    def key(self) -> ClaimKey:
        return ClaimKey(self.job_id, self.attempt)


@dataclass(frozen=True, slots=True)
class Renewal:
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """How far an attempt has come."""

    timesteps: int
    iteration: int


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """What an attempt has used since it last said so."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    env_steps: int = 0
    train_seconds: float = 0.0
    """Wall-clock time; counted against `budget.max_wall_seconds`."""


def claim(session: Session, *, worker_id: str, queue: QueueName, lease_seconds: float) -> Claim | None:
    """Takes the first job of a queue: highest priority, then oldest. None if the queue is empty."""
    first = (
        select(_jobs.c.id)
        .where(has_status(_jobs, JobStatus.QUEUED), _jobs.c.queue == queue)
        .order_by(_jobs.c.priority.desc(), _jobs.c.created_at, _jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    moment = later_of(now(), _jobs.c.updated_at)
    row = transition(
        session,
        _jobs.c.id == first,
        to=JobStatus.RUNNING,
        values={
            "attempt": _jobs.c.attempt + 1,
            "worker_id": worker_id,
            "lease_expires_at": now() + lease_seconds,
            "started_at": func.coalesce(_jobs.c.started_at, moment),
        },
    )
    if row is None:
        return None
    session.execute(
        insert(_attempts).values(
            job_id=row.id,
            number=row.attempt,
            tenant_id=row.tenant_id,
            worker_id=worker_id,
            started_at=row.status_at,
            runtime={},
        )
    )
    return Claim(
        tenant_id=row.tenant_id,
        job_id=row.id,
        attempt=row.attempt,
        kind=JobKind(row.kind),
        queue=QueueName(row.queue),
        resolved_spec=row.resolved_spec,
        spec_version=row.spec_version,
        checkpoints=resumable_checkpoints(session, row.id, parent=row.parent),
        train_seconds_before=float(row.train_seconds),
        max_attempts=row.max_attempts,
        last_seq=row.last_seq,
    )


def renew(session: Session, claim_key: ClaimKey, *, lease_seconds: float) -> Renewal:
    """Owns the job for another `lease_seconds` from now, by the database's clock.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    row = session.execute(
        update(_jobs)
        .where(*_owned(*claim_key))
        .values(lease_expires_at=now() + lease_seconds)
        .returning(_jobs.c.cancel_requested_at)
    ).one_or_none()
    if row is None:
        raise LeaseLost(*claim_key)
    return Renewal(cancel_requested=row.cancel_requested_at is not None)


def explain(session: Session, job_id: str, attempt: int, reason: Reason) -> None:
    """Says why a running job does not train yet; `set_runtime` takes it back.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    moment = later_of(now(), _jobs.c.updated_at)
    _guarded(session, job_id, attempt, status_reason=storable_reason(reason), updated_at=moment)


def set_runtime(
    session: Session,
    job_id: str,
    attempt: int,
    runtime: dict[str, JsonValue],
    resumed_from_checkpoint_id: str | None,
) -> None:
    """Records what the attempt's child decided; it waits for nothing any more.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    moment = later_of(now(), _jobs.c.updated_at)
    _guarded(session, job_id, attempt, runtime=runtime, status_reason=null(), updated_at=moment)
    session.execute(
        update(_attempts)
        .where(_attempts.c.job_id == job_id, _attempts.c.number == attempt)
        .values(runtime=runtime, resumed_from_checkpoint_id=resumed_from_checkpoint_id)
    )


def settle_spec(session: Session, job_id: str, attempt: int, resolved_spec: dict[str, JsonValue]) -> None:
    """Completes the resolved spec by what could not be told before the environment was made; later attempts get it so.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    _guarded(session, job_id, attempt, resolved_spec=resolved_spec)


def append(
    session: Session,
    job_id: str,
    attempt: int,
    entries: Sequence[Entry],
    *,
    progress: ProgressUpdate | None = None,
    usage: UsageDelta | None = None,
) -> int:
    """Adds events to the ledger and keeps the job's progress, usage and latest metrics in step with them.

    Args:
        progress: None takes it from the newest entry that tells of an iteration.

    Returns: the seq of the ledger's newest event.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    spent = usage or UsageDelta()
    row = _guarded(
        session,
        job_id,
        attempt,
        last_seq=_jobs.c.last_seq + len(entries),
        updated_at=later_of(now(), _jobs.c.updated_at),
        cpu_seconds=_jobs.c.cpu_seconds + spent.cpu_seconds,
        gpu_seconds=_jobs.c.gpu_seconds + spent.gpu_seconds,
        env_steps=_jobs.c.env_steps + spent.env_steps,
        train_seconds=_jobs.c.train_seconds + spent.train_seconds,
    )
    if entries:
        write_entries(session, page_of(row, entries=len(entries)), entries)
    changes = _progress_columns(row, entries, progress)
    if changes:
        session.execute(update(_jobs).where(_jobs.c.id == job_id).values(changes))
    return int(row.last_seq)


def bear_fruit(session: Session, job_id: str, attempt: int, count: int) -> None:
    """Counts blocks of episodes, which a later attempt goes on behind, like checkpoints.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    _guarded(session, job_id, attempt, fruitless_attempts=0)
    session.execute(
        update(_attempts)
        .where(_attempts.c.job_id == job_id, _attempts.c.number == attempt)
        .values(new_checkpoints=_attempts.c.new_checkpoints + count)
    )


def finish(
    session: Session, job_id: str, attempt: int, *, status: JobStatus, outcome: AttemptOutcome, reason: Reason
) -> None:
    """Ends the attempt and the job for good.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    if status not in TERMINAL:
        raise ValueError(f"{status} ends no job")
    if transition(session, *_owned(job_id, attempt), to=status, reason=reason) is None:
        raise LeaseLost(job_id, attempt)
    _end_attempt(session, job_id, attempt, outcome=outcome, reason=reason)


def requeue(session: Session, job_id: str, attempt: int, *, outcome: AttemptOutcome, reason: Reason) -> JobStatus:
    """Ends the attempt and queues the job again, unless its user wants it cancelled or its attempts are used up.

    A lost attempt without a new checkpoint, or of an evaluation without a new block of episodes, was fruitless.
    `max_attempts` fruitless ones in a row fail the job; one that made progress starts the count again, and a released
    one never counts.

    Returns: the job's status now: queued, cancelled or failed.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    if outcome not in {AttemptOutcome.LOST, AttemptOutcome.RELEASED}:
        raise ValueError(f"an attempt that {outcome} leaves nothing to queue")
    row = _owned_row(session, job_id, attempt)
    made = session.execute(
        select(_attempts.c.new_checkpoints).where(_attempts.c.job_id == job_id, _attempts.c.number == attempt)
    ).scalar_one()
    was_fruitless = outcome is AttemptOutcome.LOST and made == 0
    fruitless = row.fruitless_attempts + 1 if was_fruitless else row.fruitless_attempts
    to, why = JobStatus.QUEUED, reason
    if row.cancel_requested_at is not None:
        to, why = JobStatus.CANCELLED, Reason(ReasonCode.USER_REQUEST, "cancelled on request")
    elif was_fruitless and fruitless >= row.max_attempts:
        to, why = JobStatus.FAILED, _exhausted(fruitless, JobKind(row.kind), reason)
    transition(session, *_owned(job_id, attempt), to=to, reason=why, values={"fruitless_attempts": fruitless})
    _end_attempt(session, job_id, attempt, outcome=outcome, reason=reason)
    return to


def reap_expired(session: Session) -> list[tuple[str, QueueName]]:
    """Ends every attempt whose lease ran out by the database's clock; what is left to do is queued again.

    Returns: the jobs, and the queues that may have work now.
    """
    expired = session.execute(
        select(_jobs.c.id, _jobs.c.attempt, _jobs.c.queue, _jobs.c.worker_id)
        .where(has_status(_jobs, JobStatus.RUNNING), _jobs.c.lease_expires_at < now())
        .order_by(_jobs.c.lease_expires_at)
        .with_for_update(skip_locked=True)
    ).all()
    for row in expired:
        reason = Reason(ReasonCode.WORKER_LOST, f"worker {row.worker_id} was not heard of in time", retryable=True)
        requeue(session, row.id, row.attempt, outcome=AttemptOutcome.LOST, reason=reason)
    return [(row.id, QueueName(row.queue)) for row in expired]


def queued_queues(session: Session, *, older_than_seconds: float) -> list[QueueName]:
    """The queues in which a job has waited so long that its message may have been lost."""
    query = (
        select(_jobs.c.queue)
        .where(has_status(_jobs, JobStatus.QUEUED), _jobs.c.status_at < now() - older_than_seconds)
        .distinct()
        .order_by(_jobs.c.queue)
    )
    return [QueueName(queue) for queue in session.execute(query).scalars()]


def training_events_after(
    session: Session, job_id: str, iteration: int
) -> dict[tuple[EventType, int], dict[str, JsonValue]]:
    """The metrics, evaluations and diagnoses that the ledger has beyond an iteration and that no rewind took back."""
    events = tables.events
    rows = session.execute(
        select(events.c.type, events.c.iteration, events.c.data)
        .where(events.c.job_id == job_id)
        .where((events.c.iteration > iteration) | (events.c.type == EventType.REWIND))
        .order_by(events.c.seq)
    )
    found: dict[tuple[EventType, int], dict[str, JsonValue]] = {}
    for row in rows:
        kind = EventType(row.type)
        if kind is EventType.REWIND:
            found = {key: data for key, data in found.items() if key[1] <= row.data["to_iteration"]}
        elif kind in {EventType.METRICS, EventType.EVALUATION, EventType.DIAGNOSIS}:
            found[kind, row.iteration] = row.data
    return found


def _owned(job_id: str, attempt: int) -> tuple[Any, ...]:
    return (_jobs.c.id == job_id, _jobs.c.attempt == attempt, _jobs.c.status == JobStatus.RUNNING)


def _owned_row(session: Session, job_id: str, attempt: int) -> Row[Any]:
    row = session.execute(select(_jobs).where(*_owned(job_id, attempt)).with_for_update()).one_or_none()
    if row is None:
        raise LeaseLost(job_id, attempt)
    return row


def _guarded(session: Session, job_id: str, attempt: int, **values: Any) -> Row[Any]:
    row = session.execute(update(_jobs).where(*_owned(job_id, attempt)).values(values).returning(_jobs)).one_or_none()
    if row is None:
        raise LeaseLost(job_id, attempt)
    return row


def _end_attempt(session: Session, job_id: str, attempt: int, *, outcome: AttemptOutcome, reason: Reason) -> None:
    ended_at = select(_jobs.c.updated_at).where(_jobs.c.id == job_id).scalar_subquery()
    session.execute(
        update(_attempts)
        .where(_attempts.c.job_id == job_id, _attempts.c.number == attempt)
        .values(finished_at=ended_at, outcome=outcome, reason=storable_reason(reason))
    )
    # What it was storing will get no row now.
    discard(session, [f"{job_id}/{attempt}"])


def _exhausted(fruitless: int, kind: JobKind, last: Reason) -> Reason:
    fruit = "a finished block of episodes" if kind is JobKind.EVALUATE else "a new checkpoint"
    times = "one attempt" if fruitless == 1 else f"{fruitless} attempts in a row"
    return Reason(
        ReasonCode.ATTEMPTS_EXHAUSTED,
        f"{times} ended without {fruit}, the last one so: {last.message}",
        last.retryable,
    )


def _progress_columns(row: Row[Any], entries: Sequence[Entry], progress: ProgressUpdate | None) -> dict[str, Any]:
    told = [entry for entry in entries if entry.type in {EventType.METRICS, EventType.EVALUATION}]
    metrics: dict[str, Any] = {}
    for entry in told:
        measured = entry.data.get("metrics")
        if isinstance(measured, dict):
            metrics |= measured
    columns: dict[str, Any] = {}
    if metrics:
        columns["latest_metrics"] = row.latest_metrics | metrics
    if "time/fps" in metrics:
        columns["fps"] = metrics["time/fps"]
    if progress is not None:
        columns |= {"timesteps": progress.timesteps, "iteration": progress.iteration}
    elif told:
        columns |= {"timesteps": told[-1].data["timesteps"], "iteration": told[-1].data["iteration"]}
    if "iteration" in columns and columns["iteration"] != row.iteration:
        columns["last_iteration_at"] = row.updated_at
    return columns
