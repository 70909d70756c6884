"""The schema comes from the migrations alone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from ppo_jobs.database import alembic_config, is_migrated, migrate, open_database
from ppo_jobs.tables import metadata

ROOT = Path(__file__).parents[2]


def _tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_alembic_upgrade_head_makes_every_table(empty_database_url: str) -> None:
    arguments = [sys.executable, "-m", "alembic", "-x", f"url={empty_database_url}", "upgrade", "head"]
    subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert _tables(empty_database_url) == set(metadata.tables) | {"alembic_version"}


def test_models_and_migrations_describe_the_same_schema(database_url: str) -> None:
    database = open_database(database_url, durable=False)
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
    database.dispose()
    assert differences == []


def test_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    program = "import sys; from ppo_jobs.database import migrate; migrate(sys.argv[1])"
    arguments = [sys.executable, "-c", program, empty_database_url]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=60), range(4)))
    assert [run.returncode for run in runs] == [0] * 4, b"\n".join(run.stderr for run in runs).decode()
    assert _tables(empty_database_url) == set(metadata.tables) | {"alembic_version"}


def test_a_database_is_migrated_only_at_the_newest_revision(empty_database_url: str) -> None:
    database = open_database(empty_database_url, durable=False)
    with database.read() as session:
        assert not is_migrated(session)
    migrate(empty_database_url)
    migrate(empty_database_url)
    with database.read() as session:
        assert is_migrated(session)
    database.dispose()


def test_downgrading_leaves_nothing_behind_and_upgrading_again_works(empty_database_url: str) -> None:
    migrate(empty_database_url)
    database = open_database(empty_database_url, durable=False)
    with database.write() as session:
        config = alembic_config()
        config.attributes["connection"] = session.connection()
        command.downgrade(config, "base")
    database.dispose()
    assert _tables(empty_database_url) == {"alembic_version"}
    migrate(empty_database_url)
    assert _tables(empty_database_url) == set(metadata.tables) | {"alembic_version"}
