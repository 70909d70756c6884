"""Requests that were sent twice are answered once."""

from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import now
from ppo_jobs.errors import IdempotencyMismatch

_idempotency = tables.idempotency


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    status: int
    body: JsonValue


def answered(session: Session, tenant_id: str, key: str, *, request_hash: str) -> StoredAnswer | None:
    """The answer that was given to this key before; None if the caller is the first and now owns the key.

    Takes the key in the caller's transaction, in which the caller must do the work and `remember` the answer. A
    parallel request with the same key waits here until that transaction has ended.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    taken = session.execute(
        dialect.insert(_idempotency)
        .values(tenant_id=tenant_id, key=key, request_hash=request_hash, created_at=now())
        .on_conflict_do_nothing(index_elements=["tenant_id", "key"])
        .returning(_idempotency.c.key)
    ).one_or_none()
    if taken is not None:
        return None
    mine = (_idempotency.c.tenant_id == tenant_id, _idempotency.c.key == key)
    row = session.execute(select(_idempotency).where(*mine).with_for_update()).one()
    if row.request_hash != request_hash:
        raise IdempotencyMismatch(key)
    return None if row.status is None else StoredAnswer(row.status, row.body)


def remember(session: Session, tenant_id: str, key: str, *, request_hash: str, status: int, body: JsonValue) -> None:
    """Stores the answer to the request that took the key, in the same transaction as the work itself."""
    session.execute(
        update(_idempotency)
        .where(_idempotency.c.tenant_id == tenant_id, _idempotency.c.key == key)
        .where(_idempotency.c.request_hash == request_hash)
        .values(status=status, body=body)
    )


def forget_answers(session: Session, *, older_than_seconds: float) -> int:
    """Lets keys go that are older than clients repeat requests; returns how many."""
    gone = session.execute(
        delete(_idempotency).where(_idempotency.c.created_at < now() - older_than_seconds).returning(_idempotency.c.key)
    )
    return len(gone.all())
