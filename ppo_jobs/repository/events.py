"""Reading the ledger."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.downsampling import representative_rows
from ppo_jobs.repository.jobs import require_job
from ppo_jobs.repository.records import event_of
from ppo_jobs.schemas import LedgerEvent, MetricsTable
from ppo_jobs.states import EventType

_events = tables.events


def list_events(
    session: Session, tenant_id: str, job_id: str, *, after: int, limit: int, kind: EventType | None = None
) -> list[LedgerEvent]:
    """At most `limit` events whose seq is greater than `after`, in order; of one kind, if it is given.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    require_job(session, tenant_id, job_id)
    query = select(_events).where(_events.c.job_id == job_id, _events.c.seq > after)
    if kind is not None:
        query = query.where(_events.c.type == kind)
    query = query.order_by(_events.c.seq).limit(limit)
    return [event_of(row) for row in session.execute(query)]


def metrics_table(
    session: Session,
    tenant_id: str,
    job_id: str,
    *,
    keys: Sequence[str] | None = None,
    after: int = 0,
    max_points: int | None = None,
) -> MetricsTable:
    """A job's metrics and evaluations as columns: one row per iteration, the later value where two attempts differ.

    Args:
        keys: which columns; None for all. One that no event has is all nulls.
        after: only what the ledger holds after this seq.
        max_points: so many rows at most, chosen to keep the curves' shape.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    require_job(session, tenant_id, job_id)
    rows: dict[int, dict[str, float]] = {}
    last_seq = after
    told = [EventType.METRICS, EventType.EVALUATION, EventType.REWIND]
    query = (
        select(_events.c.seq, _events.c.type, _events.c.data)
        .where(_events.c.job_id == job_id, _events.c.seq > after, _events.c.type.in_(told))
        .order_by(_events.c.seq)
    )
    for seq, kind, data in session.execute(query):
        last_seq = seq
        if kind == EventType.REWIND:
            rows = {iteration: row for iteration, row in rows.items() if iteration <= data["to_iteration"]}
            continue
        row = rows.setdefault(data["iteration"], {})
        row["timesteps"] = data["timesteps"]
        row |= data["metrics"]
    return _table(job_id, rows, keys=keys, max_points=max_points, last_seq=last_seq)


def _table(
    job_id: str,
    rows: dict[int, dict[str, float]],
    *,
    keys: Sequence[str] | None,
    max_points: int | None,
    last_seq: int,
) -> MetricsTable:
    iterations = sorted(rows)
    columns: dict[str, list[float | None]] = {
        "iteration": list(iterations),
        "timesteps": [rows[iteration]["timesteps"] for iteration in iterations],
    }
    asked = sorted({key for row in rows.values() for key in row}) if keys is None else dict.fromkeys(keys)
    # Who asks for what is a column anyway has asked for no curve.
    wanted = [key for key in asked if key not in columns]
    columns |= {key: [rows[iteration].get(key) for iteration in iterations] for key in wanted}
    if max_points is not None and len(iterations) > max_points:
        chosen = representative_rows(iterations, [columns[key] for key in wanted], max_points)
        columns = {key: [column[index] for index in chosen] for key, column in columns.items()}
    return MetricsTable(job_id=job_id, columns=columns, last_seq=last_seq)
