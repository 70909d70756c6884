"""The one function that changes the status of a job."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, null, update
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import later_of, now
from ppo_jobs.repository.ledger import Entry, Page, write_entries
from ppo_jobs.states import TERMINAL, TRANSITIONS, EventType, JobStatus
from ppo_jobs.tables import storable_text

logger = logging.getLogger(__name__)

MAX_MESSAGE = 4000
"""Characters of a reason's message that are kept: its end, which is where a traceback says what went wrong."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job has its status."""

    code: str
    message: str
    retryable: bool = False


def storable_reason(reason: Reason) -> dict[str, Any]:
    message = storable_text(reason.message)
    if len(message) > MAX_MESSAGE:
        message = "… " + message[-MAX_MESSAGE:]
    return {"code": reason.code, "message": message, "retryable": reason.retryable}


def transition(
    session: Session,
    *where: ColumnElement[bool],
    to: JobStatus,
    reason: Reason | None = None,
    values: Mapping[str, Any] | None = None,
) -> Row[Any] | None:
    """Moves the job that `where` selects to another status and writes the ledger's `status` event.

    Args:
        where: selects at most one job.
        values: columns that change along with the status.

    Returns: the job's row as it is now; None if no job was selected, or if `to` cannot follow its status.
    """
    jobs = tables.jobs
    moment = later_of(now(), jobs.c.updated_at)
    may_precede = [status for status, followers in TRANSITIONS.items() if to in followers]
    columns: dict[str, Any] = {
        "status": to,
        "status_reason": null() if reason is None else storable_reason(reason),
        "status_at": moment,
        "updated_at": moment,
        "last_seq": jobs.c.last_seq + 1,
        "worker_id": None,
        "lease_expires_at": None,
        "finished_at": moment if to in TERMINAL else None,
    }
    row = session.execute(
        update(jobs).where(jobs.c.status.in_(may_precede), *where).values(columns | dict(values or {})).returning(jobs)
    ).one_or_none()
    if row is None:
        return None
    write_entries(
        session, page_of(row, entries=1), [Entry(EventType.STATUS, data=_status_data(to, row.attempt, reason))]
    )
    logger.info("job %s is %s", row.id, to, extra={"job_id": row.id, "status": str(to), "attempt": row.attempt})
    return row


def page_of(row: Row[Any], *, entries: int) -> Page:
    """Where the entries go whose numbers were just added to the row's `last_seq`."""
    return Page(row.tenant_id, row.id, row.attempt, row.last_seq - entries + 1, row.updated_at)


def write_first_event(session: Session, row: Row[Any]) -> None:
    """The ledger begins with the job's acceptance."""
    entries: Sequence[Entry] = [Entry(EventType.STATUS, data=_status_data(JobStatus.QUEUED, 0, None))]
    write_entries(session, page_of(row, entries=1), entries)


def _status_data(status: JobStatus, attempt: int, reason: Reason | None) -> dict[str, Any]:
    data: dict[str, Any] = {"status": status, "attempt": attempt}
    if reason is not None:
        data["reason"] = storable_reason(reason)
    return data
