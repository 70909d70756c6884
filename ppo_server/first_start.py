"""The key that `ppo up` makes at its first start."""

from pathlib import Path

from ppo_jobs.database import Database
from ppo_jobs.repository import tenants
from ppo_server.readiness import write_private
from ppo_server.up import DEFAULT_TENANT


def ensure_api_key(database: Database, path: Path) -> None:
    """Keep the key in the file if it opens this database, else make one and put it there."""
    with database.write() as session:
        if path.exists() and tenants.authenticate(session, path.read_text().strip()) is not None:
            return
        tenant_id = tenants.tenant_named(session, DEFAULT_TENANT) or tenants.create_tenant(session, DEFAULT_TENANT)
        key = tenants.create_api_key(session, tenant_id, name="ppo up")
        write_private(path, f"{key}\n")
