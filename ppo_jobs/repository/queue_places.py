"""Where queued jobs stand, and why they wait."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import now
from ppo_jobs.schemas import QueuePlace
from ppo_jobs.states import JobStatus, QueueName


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the living workers of one queue offer."""

    workers: int = 0
    draining: int = 0
    slots: int = 0
    """Of workers that do not drain."""
    busy: int = 0
    """Of these slots."""


def queue_places(session: Session, job_ids: Sequence[str]) -> dict[str, QueuePlace]:
    """The place of each of these jobs that is queued: 1 is claimed next."""
    if not job_ids:
        return {}
    jobs = tables.jobs
    position = func.row_number().over(
        partition_by=jobs.c.queue, order_by=(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
    )
    line = (
        select(jobs.c.id, jobs.c.queue, position.label("position")).where(jobs.c.status == JobStatus.QUEUED).subquery()
    )
    rows = session.execute(select(line).where(line.c.id.in_(job_ids))).all()
    offered = capacities(session)
    return {
        row.id: QueuePlace(position=row.position, reason=waiting_reason(QueueName(row.queue), row.position, offered))
        for row in rows
    }


def capacities(session: Session) -> dict[QueueName, Capacity]:
    """Of each queue that has a living worker."""
    jobs, workers = tables.jobs, tables.workers
    running = (
        select(func.count())
        .where(jobs.c.status == JobStatus.RUNNING, jobs.c.worker_id == workers.c.id)
        .scalar_subquery()
    )
    rows = session.execute(
        select(workers.c.queue, workers.c.slots, workers.c.draining, running.label("busy")).where(
            workers.c.heartbeat_at + workers.c.lease_seconds > now()
        )
    ).all()
    offered: dict[QueueName, Capacity] = {}
    for row in rows:
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
            f"{_all_slots(here.slots)} of queue {queue} {'is' if here.slots == 1 else 'are'} busy; {_jobs(ahead)} ahead"
        )
    if ahead < here.slots - here.busy:
        return "starting"
    return f"{_jobs(ahead)} ahead"


def _all_slots(count: int) -> str:
    return "the only slot" if count == 1 else f"all {count} slots"


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"
