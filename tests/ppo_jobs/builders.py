"""Jobs, claims and checkpoints with as few words as a test needs."""

from typing import Any

from sqlalchemy import update

from ppo_engine.spec import CheckpointSpec, EnvSpec, EvaluationSpec, PPOSpec, TrainingSpec
from ppo_jobs import tables
from ppo_jobs.artifacts import artifact_key
from ppo_jobs.database import Database
from ppo_jobs.ids import new_checkpoint_id
from ppo_jobs.repository import checkpoints, claims, jobs
from ppo_jobs.repository.claims import Claim, Entry, Reason
from ppo_jobs.schemas import CheckpointFile, Job, Parent
from ppo_jobs.states import EventType, QueueName

LOST = Reason("worker_lost", "the worker is gone", retryable=True)
DONE = Reason("target_reached", "done")


def spec(**fields: Any) -> TrainingSpec:
    fields.setdefault("ppo", PPOSpec(total_timesteps=1000))
    return TrainingSpec(env=EnvSpec(id=fields.pop("env_id", "CartPole-v1")), seed=1, **fields)


def submit(
    database: Database, tenant: str, *, queue: QueueName = QueueName.CPU, parent: Parent | None = None, **fields: Any
) -> Job:
    resolved = spec(**fields)
    with database.write() as session:
        sent = {"env": {"id": resolved.env.id}}
        return jobs.insert_job(session, tenant, spec=sent, resolved=resolved, wants=queue, parent=parent)


def claim(database: Database, *, queue: QueueName = QueueName.CPU, worker_id: str = "w1", lease: float = 60.0) -> Claim:
    with database.write() as session:
        claimed = claims.claim(session, worker_id=worker_id, queue=queue, lease_seconds=lease)
    assert claimed is not None
    return claimed


def running(database: Database, tenant: str, **fields: Any) -> Claim:
    submit(database, tenant, **fields)
    return claim(database)


def job(database: Database, tenant: str, job_id: str) -> Job:
    with database.read() as session:
        return jobs.get_job(session, tenant, job_id)


def metrics(iteration: int, **values: float) -> Entry:
    """`ep_rew_mean=1.0` becomes `rollout/ep_rew_mean`; ten timesteps an iteration."""
    named = {f"rollout/{key}": value for key, value in values.items()}
    data: dict[str, Any] = {"iteration": iteration, "timesteps": 10 * iteration, "metrics": named}
    return Entry(EventType.METRICS, iteration, data)


def rewind(to_iteration: int) -> Entry:
    return Entry(EventType.REWIND, None, {"to_iteration": to_iteration, "reason": "another machine"})


def append(database: Database, owner: Claim, *entries: Entry) -> int:
    with database.write() as session:
        return claims.append(session, owner.job_id, owner.attempt, entries)


def checkpoint(
    database: Database, owner: Claim, iteration: int, *, size: int = 100, final: bool = False, **values: float
) -> str:
    """A checkpoint of one file; `ep_rew_mean=1.0` is its `rollout/ep_rew_mean`."""
    id = new_checkpoint_id()
    file = CheckpointFile(name="state.json", size_bytes=size, sha256="0" * 64, media_type="application/json")
    with database.write() as session:
        checkpoints.insert_checkpoint(
            session,
            owner.job_id,
            owner.attempt,
            id=id,
            key=artifact_key(owner.job_id, owner.attempt, id),
            iteration=iteration,
            timesteps=10 * iteration,
            metrics={key.replace("__", "/") if "__" in key else f"rollout/{key}": v for key, v in values.items()},
            resume="exact",
            files=[file],
            fingerprint={"cpu": "any"},
            final=final,
        )
    return id


def expire_lease(database: Database, job_id: str) -> None:
    """As if the lease had run out long ago by the database's clock."""
    with database.write() as session:
        session.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(lease_expires_at=1.0))


def keep(last: int, best: int) -> CheckpointSpec:
    return CheckpointSpec(keep_last=last, keep_best=best)


def evaluated() -> EvaluationSpec:
    return EvaluationSpec(every_timesteps=100)
