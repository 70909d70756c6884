"""The tables. Rows that belong to a tenant carry its id; times are seconds since 1970 by the database's clock.

The triggers that make terminal states immutable and the ledger append-only stand in the migrations.
"""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    FromClause,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    literal_column,
    text,
)
from sqlalchemy.types import TypeEngine

from ppo_jobs.states import TERMINAL, AttemptOutcome, EventType, JobKind, JobStatus, QueueName


class StorableText(TypeDecorator[str]):
    """Text in which what some database refuses, NULs and lone surrogates, gives way to what every one takes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable_text(value)


def storable_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _json() -> TypeEngine[object]:
    return JSON(none_as_null=True)


def _one_of(column: str, values: Iterable[StrEnum]) -> str:
    names = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({names})"


def _tenant() -> Column[str]:
    return Column("tenant_id", StorableText, ForeignKey("tenants.id"), nullable=False)


def _job(*, primary_key: bool = False) -> Column[str]:
    return Column(
        "job_id", StorableText, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, primary_key=primary_key
    )


tenants = Table(
    "tenants",
    metadata,
    Column("id", StorableText, primary_key=True),
    Column("name", StorableText, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", StorableText, primary_key=True),
    _tenant(),
    Column("name", StorableText, nullable=False),
    Column("secret_sha256", StorableText, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Index(None, "tenant_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", StorableText, primary_key=True),
    _tenant(),
    Column("kind", StorableText, nullable=False),
    Column("name", StorableText),
    Column("metadata", _json(), nullable=False),
    Column("group_name", StorableText),
    Column("env_id", StorableText, nullable=False),
    Column("spec", _json(), nullable=False),
    Column("resolved_spec", _json(), nullable=False),
    Column("spec_version", Integer, nullable=False),
    Column("queue", StorableText, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("parent", _json()),
    Column("status", StorableText, nullable=False),
    Column("status_reason", _json()),
    Column("status_at", Double, nullable=False),
    Column("cancel_requested_at", Double),
    Column("attempt", Integer, nullable=False, default=0),
    Column("max_attempts", Integer, nullable=False),
    Column("fruitless_attempts", Integer, nullable=False, default=0),
    Column("worker_id", StorableText),
    Column("lease_expires_at", Double),
    Column("runtime", _json()),
    Column("timesteps", BigInteger, nullable=False, default=0),
    Column("total_timesteps", BigInteger, nullable=False),
    Column("iteration", BigInteger, nullable=False, default=0),
    Column("fps", Double),
    Column("last_iteration_at", Double),
    Column("latest_metrics", _json(), nullable=False),
    Column("latest_checkpoint_id", StorableText),
    Column("best_checkpoint_id", StorableText),
    Column("final_checkpoint_id", StorableText),
    Column("train_seconds", Double, nullable=False, default=0.0),
    Column("cpu_seconds", Double, nullable=False, default=0.0),
    Column("gpu_seconds", Double, nullable=False, default=0.0),
    Column("env_steps", BigInteger, nullable=False, default=0),
    Column("storage_bytes", BigInteger, nullable=False, default=0),
    Column("last_seq", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("updated_at", Double, nullable=False),
    Column("result", _json()),
    CheckConstraint(_one_of("kind", JobKind), "kind_known"),
    CheckConstraint("result IS NOT NULL OR kind <> 'evaluate' OR status <> 'succeeded'", "evaluation_has_result"),
    CheckConstraint(_one_of("status", JobStatus), "status_known"),
    CheckConstraint(_one_of("queue", QueueName), "queue_known"),
    CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", "running_has_lease"),
    CheckConstraint("(status = 'running') = (worker_id IS NOT NULL)", "running_has_worker"),
    CheckConstraint(f"({_one_of('status', TERMINAL)}) = (finished_at IS NOT NULL)", "terminal_has_finished"),
    CheckConstraint("attempt >= 0 AND fruitless_attempts >= 0 AND max_attempts >= 1", "attempts_counted"),
    CheckConstraint("last_seq >= 1", "ledger_begun"),
    CheckConstraint("timesteps >= 0 AND iteration >= 0 AND storage_bytes >= 0", "progress_counted"),
    Index(None, "tenant_id", "id"),
    Index(None, "tenant_id", "kind", "id"),
    Index(None, "tenant_id", "group_name"),
)
Index(
    "ix_jobs_queue_order",
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.created_at,
    jobs.c.id,
    sqlite_where=text("status = 'queued'"),
    postgresql_where=text("status = 'queued'"),
)
Index(
    "ix_jobs_leases",
    jobs.c.lease_expires_at,
    sqlite_where=text("status = 'running'"),
    postgresql_where=text("status = 'running'"),
)


def has_status(jobs: FromClause, status: JobStatus) -> ColumnElement[bool]:
    """Of `jobs` or an alias of it. The status is part of the SQL: for a parameter, SQLite uses no partial index."""
    is_status: ColumnElement[bool] = jobs.c.status == literal_column(f"'{status}'")
    return is_status


attempts = Table(
    "attempts",
    metadata,
    _job(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _tenant(),
    Column("worker_id", StorableText, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("outcome", StorableText),
    Column("reason", _json()),
    Column("resumed_from_checkpoint_id", StorableText),
    Column("runtime", _json(), nullable=False),
    # Of an evaluation: blocks of episodes.
    Column("new_checkpoints", Integer, nullable=False, default=0),
    CheckConstraint(f"outcome IS NULL OR {_one_of('outcome', AttemptOutcome)}", "outcome_known"),
    CheckConstraint("(outcome IS NULL) = (finished_at IS NULL)", "ended_has_outcome"),
)
Index(
    "uq_attempts_open",
    attempts.c.job_id,
    unique=True,
    sqlite_where=text("finished_at IS NULL"),
    postgresql_where=text("finished_at IS NULL"),
)

events = Table(
    "events",
    metadata,
    _job(),
    Column("seq", BigInteger, nullable=False),
    _tenant(),
    Column("type", StorableText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("iteration", BigInteger),
    Column("created_at", Double, nullable=False),
    Column("data", _json(), nullable=False),
    PrimaryKeyConstraint("job_id", "seq"),
    CheckConstraint(_one_of("type", EventType), "type_known"),
    CheckConstraint("seq >= 1", "seq_counted"),
    Index(None, "job_id", "iteration"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", StorableText, primary_key=True),
    _tenant(),
    _job(),
    Column("attempt", Integer, nullable=False),
    Column("key", StorableText, nullable=False, unique=True),
    Column("iteration", BigInteger, nullable=False),
    Column("timesteps", BigInteger, nullable=False),
    Column("metrics", _json(), nullable=False),
    Column("score", Double),
    Column("resume", StorableText, nullable=False),
    Column("fingerprint", _json(), nullable=False),
    Column("final", Boolean, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("files", _json(), nullable=False),
    Column("created_at", Double, nullable=False),
    CheckConstraint("resume IN ('exact', 'approximate')", "resume_known"),
    Index(None, "job_id", "id"),
)

logs = Table(
    "logs",
    metadata,
    Column("job_id", StorableText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    _tenant(),
    Column("text", StorableText, nullable=False),
    PrimaryKeyConstraint("job_id", "attempt", "position"),
    ForeignKeyConstraint(["job_id", "attempt"], ["attempts.job_id", "attempts.number"], ondelete="CASCADE"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", StorableText, primary_key=True),
    Column("host", StorableText, nullable=False),
    Column("queue", StorableText, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("devices", _json(), nullable=False),
    Column("versions", _json(), nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("pending_environments", _json(), nullable=False, server_default="{}"),
    Column("lease_seconds", Double, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    CheckConstraint(_one_of("queue", QueueName), "queue_known"),
    CheckConstraint("slots >= 1", "slots_counted"),
)

environments = Table(
    "environments",
    metadata,
    Column("id", StorableText, primary_key=True),
    Column("description", _json(), nullable=False),
    Column("worker_id", StorableText, nullable=False),
    Column("updated_at", Double, nullable=False),
)

garbage = Table(
    "garbage",
    metadata,
    # `{job}`, `{job}/{attempt}` or `{job}/{attempt}/{checkpoint}`: below it, files without a row are nobody's.
    Column("prefix", StorableText, primary_key=True),
    Column("created_at", Double, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    _tenant(),
    Column("key", StorableText, nullable=False),
    Column("request_hash", StorableText, nullable=False),
    Column("status", Integer),
    Column("body", _json()),
    Column("created_at", Double, nullable=False),
    PrimaryKeyConstraint("tenant_id", "key"),
    Index(None, "created_at"),
)
