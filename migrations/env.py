"""Runs the migrations in one transaction, on the connection of `ppo_jobs.database.migrate` or one of its own."""

from alembic import context
from sqlalchemy import Connection, text

from ppo_jobs.database import open_database
from ppo_jobs.settings import load_settings
from ppo_jobs.tables import metadata

ADVISORY_LOCK = 0x70706F
"""Whoever comes second waits for it, and then finds nothing left to do."""


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    context.run_migrations()


def main() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    url = context.get_x_argument(as_dictionary=True).get("url") or load_settings().database_url
    database = open_database(url, durable=True)
    try:
        with database.write() as session:
            run(session.connection())
    finally:
        database.dispose()


main()
