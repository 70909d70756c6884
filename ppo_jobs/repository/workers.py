"""Workers, and the catalogue of environments that they published. Both belong to the operator, not to a tenant."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ppo_engine.spec import EnvironmentDescription
from ppo_jobs import tables
from ppo_jobs.clock import now, utc
from ppo_jobs.schemas import Worker
from ppo_jobs.states import JobStatus, QueueName
from ppo_jobs.tables import has_status

_workers = tables.workers
_environments = tables.environments


def register_worker(
    session: Session,
    *,
    id: str,
    host: str,
    queue: QueueName,
    slots: int,
    devices: Sequence[Mapping[str, JsonValue]],
    versions: Mapping[str, str],
    environments: Sequence[EnvironmentDescription],
    pending: Mapping[str, JsonValue] | None = None,
    lease_seconds: float = 30.0,
) -> None:
    """Makes a worker and its environments known; one that registers again replaces what was known of it.

    Args:
        pending: by plugin, what it has still to describe: `origin`, and `ids`, which are null as long as they are not
            known either.
        lease_seconds: without a beat for so long, it counts as dead.
    """
    session.execute(delete(_workers).where(_workers.c.id == id))
    session.execute(
        insert(_workers).values(
            id=id,
            host=host,
            queue=queue,
            slots=slots,
            devices=[dict(device) for device in devices],
            versions=dict(versions),
            draining=False,
            pending_environments=dict(pending or {}),
            lease_seconds=lease_seconds,
            started_at=now(),
            heartbeat_at=now(),
        )
    )
    publish(session, environments, worker_id=id)


def beat(session: Session, worker_id: str, draining: bool = False) -> bool:
    """Tells that the worker lives. False if nobody knows it: it must register again."""
    beaten = session.execute(
        update(_workers)
        .where(_workers.c.id == worker_id)
        .values(heartbeat_at=now(), draining=draining)
        .returning(_workers.c.id)
    )
    return beaten.one_or_none() is not None


def tell_environments(
    session: Session,
    worker_id: str,
    environments: Sequence[EnvironmentDescription],
    *,
    pending: Mapping[str, JsonValue],
) -> None:
    """Puts what a worker has described meanwhile into the catalogue, and says what is left."""
    publish(session, environments, worker_id=worker_id)
    session.execute(update(_workers).where(_workers.c.id == worker_id).values(pending_environments=dict(pending)))


def pending_origins(session: Session, id: str, plugin: str | None = None) -> list[str]:
    """The distributions that a living worker describes, and that have, or may have, an environment of that id.

    Args:
        plugin: Only of this one, where it is known that it had the environment before.
    """
    living = _workers.c.heartbeat_at + _workers.c.lease_seconds > now()
    rows = session.execute(select(_workers.c.pending_environments).where(living)).scalars()
    pairs = [pair for pending in rows for pair in (pending or {}).items()]
    subjects = [subject for name, subject in pairs if plugin in (None, name)]
    return sorted({subject["origin"] for subject in subjects if subject["ids"] is None or id in subject["ids"]})


def remove_worker(session: Session, worker_id: str) -> None:
    """Forgets a worker that has gone; its environments stay in the catalogue."""
    session.execute(delete(_workers).where(_workers.c.id == worker_id))


def forget_dead_workers(session: Session, *, older_than_seconds: float) -> int:
    """Removes workers that were not heard of for so long; returns how many."""
    gone = session.execute(
        delete(_workers).where(_workers.c.heartbeat_at < now() - older_than_seconds).returning(_workers.c.id)
    )
    return len(gone.all())


def list_workers(session: Session) -> list[Worker]:
    """The living and those not yet forgotten, in the order they started."""
    jobs = tables.jobs
    busy = (
        select(func.count())
        .where(has_status(jobs, JobStatus.RUNNING), jobs.c.worker_id == _workers.c.id)
        .scalar_subquery()
    )
    is_alive = _workers.c.heartbeat_at + _workers.c.lease_seconds > now()
    rows = session.execute(
        select(_workers, busy.label("busy"), is_alive.label("alive")).order_by(_workers.c.started_at, _workers.c.id)
    )
    return [
        Worker(
            id=row.id,
            queue=QueueName(row.queue),
            slots=row.slots,
            free_slots=max(0, row.slots - row.busy) if row.alive and not row.draining else 0,
            devices=row.devices,
            versions=row.versions,
            draining=row.draining,
            alive=bool(row.alive),
            started_at=utc(row.started_at),
            heartbeat_at=utc(row.heartbeat_at),
        )
        for row in rows
    ]


def environments(session: Session) -> list[EnvironmentDescription]:
    """The catalogue by id: everything that a living or past worker can train on, as it was last described."""
    rows = session.execute(select(_environments.c.description).order_by(_environments.c.id)).scalars()
    return [EnvironmentDescription.model_validate(description) for description in rows]


def environment(session: Session, id: str) -> EnvironmentDescription | None:
    """One entry of the catalogue; None where no worker ever told of it."""
    query = select(_environments.c.description).where(_environments.c.id == id)
    description = session.execute(query).scalar_one_or_none()
    return None if description is None else EnvironmentDescription.model_validate(description)


def has_environments(session: Session) -> bool:
    """Whether the catalogue holds anything."""
    return session.execute(select(_environments.c.id).limit(1)).first() is not None


def environment_ids(session: Session) -> list[str]:
    """The ids of the catalogue, in order."""
    return list(session.execute(select(_environments.c.id).order_by(_environments.c.id)).scalars())


def publish(session: Session, environments: Sequence[EnvironmentDescription], *, worker_id: str) -> None:
    """Puts environments into the catalogue, in place of what it says of them."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    # In one order everywhere, so that two workers that start at once cannot wait for each other's rows.
    rows = [
        {"id": found.id, "description": found.model_dump(mode="json"), "worker_id": worker_id}
        for found in sorted(environments, key=lambda environment: environment.id)
    ]
    if not rows:
        return
    new = dialect.insert(_environments).values(updated_at=now())
    changed = {
        "description": new.excluded.description,
        "worker_id": new.excluded.worker_id,
        "updated_at": new.excluded.updated_at,
    }
    session.execute(new.on_conflict_do_update(index_elements=["id"], set_=changed), rows)
