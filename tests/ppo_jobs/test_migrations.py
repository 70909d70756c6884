"""The schema comes from the migrations alone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from ppo_jobs.database import Database, alembic_config, is_migrated, migrate, open_database
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


def _at_first_revision(url: str) -> Database:
    database = open_database(url, durable=False)
    with database.write() as session:
        config = alembic_config()
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "0001")
        session.execute(text("INSERT INTO tenants (id, name, created_at) VALUES ('t', 't', 1)"))
        session.execute(text(A_JOB), {"id": "job_1", "kind": "train"})
        session.execute(text(ITS_EVENT))
    return database


A_JOB = """
INSERT INTO jobs (id, tenant_id, kind, metadata, env_id, spec, resolved_spec, spec_version, queue, priority, status,
    status_at, attempt, max_attempts, fruitless_attempts, timesteps, total_timesteps, iteration, latest_metrics,
    train_seconds, cpu_seconds, gpu_seconds, env_steps, storage_bytes, last_seq, created_at, updated_at)
VALUES (:id, 't', :kind, '{}', 'CartPole-v1', '{}', '{}', 1, 'cpu', 0, 'queued', 1, 0, 3, 0, 0, 1, 0, '{}', 0, 0, 0, 0,
    0, 1, 1, 1)
"""
ITS_EVENT = """
INSERT INTO events (job_id, seq, tenant_id, type, attempt, created_at, data)
VALUES ('job_1', 1, 't', 'status', 0, 1, '{}')
"""


def _migrate_to(database: Database, revision: str) -> None:
    with database.write() as session:
        config = alembic_config()
        config.attributes["connection"] = session.connection()
        (command.upgrade if revision == "head" else command.downgrade)(config, revision)


def _count(database: Database, table: str) -> int:
    with database.read() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_a_database_with_jobs_learns_of_evaluations_and_keeps_all_its_rows_and_rules(empty_database_url: str) -> None:
    database = _at_first_revision(empty_database_url)
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(text(A_JOB), {"id": "eval_1", "kind": "evaluate"})
    _migrate_to(database, "head")
    assert (_count(database, "jobs"), _count(database, "events")) == (1, 1)
    with database.write() as session:
        session.execute(text(A_JOB), {"id": "eval_1", "kind": "evaluate"})
    for wrong in (
        "UPDATE jobs SET kind = 'dance'",
        "UPDATE jobs SET status = 'succeeded', finished_at = 2 WHERE id = 'job_1'",  # A trigger of the first schema.
        "UPDATE jobs SET spec = NULL",
        "DELETE FROM jobs WHERE id = 'job_1'",
    ):
        with pytest.raises(IntegrityError), database.write() as session:
            session.execute(text(wrong))
    database.dispose()


def test_an_evaluation_cannot_succeed_without_its_result(empty_database_url: str) -> None:
    database = _at_first_revision(empty_database_url)
    _migrate_to(database, "head")
    running = "UPDATE jobs SET status = 'running', worker_id = 'w', lease_expires_at = 9 WHERE id = 'eval_1'"
    ended = "UPDATE jobs SET status = 'succeeded', finished_at = 2, worker_id = NULL, lease_expires_at = NULL"
    with database.write() as session:
        session.execute(text(A_JOB), {"id": "eval_1", "kind": "evaluate"})
        session.execute(text(running))
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(text(f"{ended} WHERE id = 'eval_1'"))
    with database.write() as session:
        session.execute(text(f"{ended}, result = '{{}}' WHERE id = 'eval_1'"))
    database.dispose()


def test_going_back_to_the_first_schema_takes_only_the_evaluations(empty_database_url: str) -> None:
    database = _at_first_revision(empty_database_url)
    _migrate_to(database, "head")
    with database.write() as session:
        session.execute(text(A_JOB), {"id": "eval_1", "kind": "evaluate"})
    _migrate_to(database, "0001")
    assert (_count(database, "jobs"), _count(database, "events")) == (1, 1)
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(text(A_JOB), {"id": "eval_2", "kind": "evaluate"})
    with database.read() as session:
        assert "result" not in {column["name"] for column in inspect(session.connection()).get_columns("jobs")}
    _migrate_to(database, "head")
    database.dispose()
