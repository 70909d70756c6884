"""Evaluations: a second kind of job, whose outcome is a result instead of checkpoints."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_ONE_KIND = "kind IN ('train')"
_BOTH_KINDS = "kind IN ('evaluate', 'train')"
_PROVEN = "result IS NOT NULL OR kind <> 'evaluate' OR status <> 'succeeded'"
_CHECKED = f"CONSTRAINT ck_jobs_evaluation_has_result CHECK ({_PROVEN})"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        # Behind a column that is added, SQLite takes a check as well; the expression of an old one cannot be altered.
        op.execute(sa.text(f"ALTER TABLE jobs ADD COLUMN result JSON {_CHECKED}"))
        _replace_in_schema(_ONE_KIND, _BOTH_KINDS)
    else:
        op.add_column("jobs", sa.Column("result", sa.JSON(), nullable=True))
        op.create_check_constraint("ck_jobs_evaluation_has_result", "jobs", _PROVEN)
        op.drop_constraint("ck_jobs_kind_known", "jobs", type_="check")
        op.create_check_constraint("ck_jobs_kind_known", "jobs", _BOTH_KINDS)
    op.create_index("ix_jobs_tenant_id_kind_id", "jobs", ["tenant_id", "kind", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_tenant_id_kind_id", "jobs")
    # A job may go only once it has ended, and none that is waiting or running has a place in the schema before.
    op.execute(
        sa.text(
            "UPDATE jobs SET status = 'cancelled', finished_at = updated_at, worker_id = NULL, lease_expires_at = NULL "
            "WHERE kind = 'evaluate' AND status IN ('queued', 'running', 'paused')"
        )
    )
    op.execute(sa.text("DELETE FROM jobs WHERE kind = 'evaluate'"))
    if op.get_bind().dialect.name == "sqlite":
        _replace_in_schema(_BOTH_KINDS, _ONE_KIND)
        _replace_in_schema(f" {_CHECKED}", "")
        op.execute(sa.text("ALTER TABLE jobs DROP COLUMN result"))
    else:
        op.drop_constraint("ck_jobs_kind_known", "jobs", type_="check")
        op.create_check_constraint("ck_jobs_kind_known", "jobs", _ONE_KIND)
        op.drop_constraint("ck_jobs_evaluation_has_result", "jobs", type_="check")
        op.drop_column("jobs", "result")


def _replace_in_schema(old: str, new: str) -> None:
    """Changes a check of `jobs` on SQLite where it is written.

    To build the table anew and drop the old one would, with foreign keys on, take every row that belongs to a job with
    it. Source: https://sqlite.org/lang_altertable.html, section 7, the second procedure.
    """
    connection = op.get_bind()
    this = "WHERE type = 'table' AND name = 'jobs'"
    written = connection.execute(sa.text(f"SELECT sql FROM sqlite_schema {this}")).scalar_one()
    if written.count(old) != 1:
        raise RuntimeError(f"the table jobs has not exactly one {old!r}")
    version = connection.execute(sa.text("PRAGMA schema_version")).scalar_one()
    connection.execute(sa.text("PRAGMA writable_schema = ON"))
    connection.execute(
        sa.text(f"UPDATE sqlite_schema SET sql = :sql {this}"),
        {"sql": written.replace(old, new)},
    )
    connection.execute(sa.text(f"PRAGMA schema_version = {version + 1}"))
    connection.execute(sa.text("PRAGMA writable_schema = OFF"))
