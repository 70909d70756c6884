"""Which checkpoints stay, and which files nobody needs.

Whoever takes rows away says in the same transaction which files may have lost theirs. A sweeper deletes those at its
next sweep, whenever that is; what nobody told of, it finds by its age.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import now
from ppo_jobs.states import TERMINAL, JobStatus

_jobs = tables.jobs
_checkpoints = tables.checkpoints
_garbage = tables.garbage

KEYS_AT_ONCE = 1000
"""In one statement; drivers take so many parameters and no more."""

# Identifiers come from the clocks of several machines; attempts and iterations do not.
NEWEST_FIRST = (_checkpoints.c.attempt.desc(), _checkpoints.c.iteration.desc(), _checkpoints.c.id.desc())


def expired_by_retention(session: Session, job_id: str) -> list[tuple[str, str]]:
    """Locks the checkpoints of a job, and tells ids and keys of those that its retention lets go, oldest first.

    Final and pinned ones stay, those that another job has yet to start from, and those whose evaluation has not ended.
    """
    spec = session.execute(select(_jobs.c.resolved_spec).where(_jobs.c.id == job_id)).scalar_one_or_none()
    if spec is None:
        return []
    keep = spec["checkpoints"]
    c = _checkpoints.c
    # Locked before it is asked who awaits them: whoever is about to has the lock, or comes when they are gone.
    rows = session.execute(
        select(c.id, c.key, c.score, c.final, c.pinned)
        .where(c.job_id == job_id)
        .order_by(*NEWEST_FIRST)
        .with_for_update()
    ).all()
    kept = {row.id for row in rows[: keep["keep_last"]]}
    kept |= {row.id for row in rows if row.final or row.pinned}
    by_score = sorted((row for row in rows if row.score is not None), key=lambda row: row.score, reverse=True)
    kept |= {row.id for row in by_score[: keep["keep_best"]]}
    kept |= awaited_by_other_jobs(session, [row.id for row in rows if row.id not in kept])
    return [(row.id, row.key) for row in reversed(rows) if row.id not in kept]


def garbage_keys(session: Session, keys: Sequence[str]) -> list[str]:
    """Of the keys `{job}/{attempt}/{checkpoint}` in a store, those that no row names and no attempt is writing."""
    return [key for few in _portions(keys) for key in _garbage_among(session, few)]


def _garbage_among(session: Session, keys: Sequence[str]) -> list[str]:
    known = set(session.execute(select(_checkpoints.c.key).where(_checkpoints.c.key.in_(keys))).scalars())
    unnamed = [key for key in keys if key not in known]
    running = session.execute(
        select(_jobs.c.id, _jobs.c.attempt).where(
            _jobs.c.status == JobStatus.RUNNING, _jobs.c.id.in_({key.partition("/")[0] for key in unnamed})
        )
    )
    being_written = tuple(f"{row.id}/{row.attempt}/" for row in running)
    return [key for key in unnamed if not key.startswith(being_written)]


def _portions(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + KEYS_AT_ONCE] for start in range(0, len(keys), KEYS_AT_ONCE))


def discard(session: Session, prefixes: Sequence[str]) -> None:
    """Files below these prefixes that no row names are garbage from the commit on."""
    if prefixes:
        session.execute(insert(_garbage).values([{"prefix": prefix, "created_at": now()} for prefix in prefixes]))


def discarded(session: Session) -> list[str]:
    """The prefixes that somebody has yet to look at, oldest first."""
    query = select(_garbage.c.prefix).order_by(_garbage.c.created_at, _garbage.c.prefix).limit(KEYS_AT_ONCE)
    return list(session.execute(query).scalars())


def cleared(session: Session, prefixes: Sequence[str]) -> None:
    """Below these there is no garbage any more."""
    session.execute(delete(_garbage).where(_garbage.c.prefix.in_(prefixes)))


def awaited_by_other_jobs(session: Session, ids: Sequence[str]) -> set[str]:
    """Of these checkpoints, those that a job which has none of its own was told to start from, or to evaluate."""
    if not ids:
        return set()
    rows = session.execute(
        select(_jobs.c.parent).where(
            _jobs.c.parent.is_not(None), _jobs.c.latest_checkpoint_id.is_(None), _jobs.c.status.not_in(TERMINAL)
        )
    ).scalars()
    return {parent["checkpoint_id"] for parent in rows} & set(ids)
