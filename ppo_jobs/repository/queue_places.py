"""Where queued jobs stand, and why they wait."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, ScalarSelect, bindparam, func, select
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import now
from ppo_jobs.schemas import QueuePlace
from ppo_jobs.states import JobStatus, QueueName
from ppo_jobs.tables import has_status


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the living workers of one queue offer."""

    workers: int = 0
    draining: int = 0
    slots: int = 0
    """Of workers that do not drain."""
    busy: int = 0
    """Of these slots."""


def _count_ahead(*where: ColumnElement[bool]) -> ScalarSelect[int]:
    query = select(func.count()).where(has_status(_ahead, JobStatus.QUEUED), _ahead.c.queue == _jobs.c.queue, *where)
    return query.correlate(_jobs).scalar_subquery()


_jobs, _ahead, _workers = tables.jobs, tables.jobs.alias("ahead"), tables.workers
_PLACES = select(
    _jobs.c.id,
    _jobs.c.queue,
    # Three ranges of the index, which are counted four times as fast as a row number is given to each job of the queue.
    (
        _count_ahead(_ahead.c.priority > _jobs.c.priority)
        + _count_ahead(_ahead.c.priority == _jobs.c.priority, _ahead.c.created_at < _jobs.c.created_at)
        + _count_ahead(
            _ahead.c.priority == _jobs.c.priority, _ahead.c.created_at == _jobs.c.created_at, _ahead.c.id < _jobs.c.id
        )
    ).label("ahead"),
).where(has_status(_jobs, JobStatus.QUEUED), _jobs.c.id.in_(bindparam("job_ids", expanding=True)))
"""Made once: each of these takes longer to put together than to execute."""
_SLOTS = select(
    _workers.c.queue,
    _workers.c.slots,
    _workers.c.draining,
    select(func.count())
    .where(has_status(_jobs, JobStatus.RUNNING), _jobs.c.worker_id == _workers.c.id)
    .scalar_subquery()
    .label("busy"),
).where(_workers.c.heartbeat_at + _workers.c.lease_seconds > now())


def queue_places(session: Session, job_ids: Sequence[str]) -> dict[str, QueuePlace]:
    """The place of each of these jobs that is queued: 1 is claimed next."""
    if not job_ids:
        return {}
    rows = session.execute(_PLACES, {"job_ids": job_ids}).all()
    offered = capacities(session)
    return {
        row.id: QueuePlace(position=row.ahead + 1, reason=waiting_reason(QueueName(row.queue), row.ahead + 1, offered))
        for row in rows
    }


def capacities(session: Session) -> dict[QueueName, Capacity]:
    """Of each queue that has a living worker."""
    offered: dict[QueueName, Capacity] = {}
    for row in session.execute(_SLOTS):
        queue = QueueName(row.queue)
        sofar = offered.get(queue, Capacity())
        offered[queue] = Capacity(
            workers=sofar.workers + 1,
            draining=sofar.draining + row.draining,
            slots=sofar.slots + (0 if row.draining else row.slots),
            busy=sofar.busy + (0 if row.draining else min(row.slots, row.busy)),
        )
    return offered


def waiting_reason(queue: QueueName, position: int, offered: dict[QueueName, Capacity]) -> str:
    """Why the job at this position of a queue is not running, in words."""
    ahead = position - 1
    if not offered:
        return "no live worker"
    if queue not in offered:
        return f"no worker offers {queue}"
    here = offered[queue]
    if here.draining == here.workers:
        return f"every worker of queue {queue} is shutting down"
    if here.busy >= here.slots:
        return (
            f"{_all_slots(here.slots)} of queue {queue} {'is' if here.slots == 1 else 'are'} busy; {_told(ahead)} ahead"
        )
    if ahead < here.slots - here.busy:
        return "starting"
    return f"{_told(ahead)} ahead"


def _all_slots(count: int) -> str:
    return "the only slot" if count == 1 else f"all {count} slots"


def _told(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"
