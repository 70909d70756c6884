"""Writing events. Whoever calls holds the job's row and has taken the numbers from its `last_seq`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue
from sqlalchemy import insert
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.states import EventType


@dataclass(frozen=True, slots=True)
class Entry:
    """One event to be written."""

    type: EventType
    iteration: int | None = None
    """What the event tells of; None where it tells of no iteration."""
    data: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Where in which ledger entries go."""

    tenant_id: str
    job_id: str
    attempt: int
    first_seq: int
    at: float


def write_entries(session: Session, page: Page, entries: Sequence[Entry]) -> None:
    session.execute(
        insert(tables.events),
        [
            {
                "job_id": page.job_id,
                "seq": seq,
                "tenant_id": page.tenant_id,
                "type": entry.type,
                "attempt": page.attempt,
                "iteration": entry.iteration,
                "created_at": page.at,
                "data": entry.data,
            }
            for seq, entry in enumerate(entries, page.first_seq)
        ],
    )
