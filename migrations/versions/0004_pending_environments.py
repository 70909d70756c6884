"""Environments that a worker has still to describe, so that a job for one of them is told to wait."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("pending_environments", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("workers", "pending_environments")
