"""What child and environment printed: the head of it and the newest tail, per attempt."""

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.errors import AttemptNotFound, JobNotFound, LeaseLost
from ppo_jobs.schemas import LogChunk
from ppo_jobs.states import JobStatus
from ppo_jobs.tables import storable_text

HEAD_CHARACTERS = 1024 * 1024
TAIL_CHARACTERS = 64 * 1024
_PIECE = 16 * 1024

_logs = tables.logs
_jobs = tables.jobs


def append_log(session: Session, job_id: str, attempt: int, text: str) -> None:
    """Adds to the log of the running attempt. Beyond the first MiB only the last 64 KiB are kept.

    Raises:
        LeaseLost: the attempt no longer owns the job.
    """
    tenant_id = session.execute(
        select(_jobs.c.tenant_id)
        .where(_jobs.c.id == job_id, _jobs.c.attempt == attempt, _jobs.c.status == JobStatus.RUNNING)
        .with_for_update()
    ).scalar_one_or_none()
    if tenant_id is None:
        raise LeaseLost(job_id, attempt)
    mine = (_logs.c.job_id == job_id, _logs.c.attempt == attempt)
    end = session.execute(select(func.max(_logs.c.position + func.length(_logs.c.text))).where(*mine)).scalar_one() or 0
    pieces = _pieces(storable_text(text), end)
    if not pieces:
        return
    common = {"job_id": job_id, "attempt": attempt, "tenant_id": tenant_id}
    session.execute(insert(_logs), [common | {"position": at, "text": piece} for at, piece in pieces])
    newest = pieces[-1][0] + len(pieces[-1][1])
    session.execute(
        delete(_logs).where(
            *mine,
            _logs.c.position >= HEAD_CHARACTERS,
            _logs.c.position + func.length(_logs.c.text) <= newest - TAIL_CHARACTERS,
        )
    )


def read_log(session: Session, tenant_id: str, job_id: str, *, attempt: int | None = None) -> LogChunk:
    """The log of an attempt; of the newest one by default.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        AttemptNotFound: the job has no such attempt.
    """
    started = session.execute(
        select(_jobs.c.attempt).where(_jobs.c.tenant_id == tenant_id, _jobs.c.id == job_id)
    ).scalar_one_or_none()
    if started is None:
        raise JobNotFound(job_id)
    number = started if attempt is None else attempt
    if attempt is not None and not 1 <= attempt <= started:
        raise AttemptNotFound(job_id, attempt)
    rows = session.execute(
        select(_logs.c.position, _logs.c.text)
        .where(_logs.c.job_id == job_id, _logs.c.attempt == number)
        .order_by(_logs.c.position)
    ).all()
    text, end, is_truncated = "", 0, False
    for position, piece in rows:
        if position > end:
            is_truncated = True
            text += f"\n… {position - end} characters left out …\n"
        text += piece
        end = position + len(piece)
    return LogChunk(job_id=job_id, attempt=number, text=text, truncated=is_truncated)


def _pieces(text: str, end: int) -> list[tuple[int, str]]:
    """Cuts so small that whole pieces can be dropped from the tail, the first cut being where the head ends."""
    pieces = []
    start = 0
    while start < len(text):
        position = end + start
        room = HEAD_CHARACTERS - position if position < HEAD_CHARACTERS else _PIECE
        size = min(_PIECE, room)
        pieces.append((position, text[start : start + size]))
        start += size
    return pieces
