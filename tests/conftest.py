"""A database and a broker of its own for each test: SQLite and files, or PostgreSQL and Redis where the variables
`PPO_TEST_DATABASE_URL` and `PPO_TEST_BROKER_URL` name a server.
"""

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from ppo_jobs.database import Database, migrate, open_database
from ppo_jobs.repository.tenants import create_api_key, create_tenant
from ppo_jobs.settings import Settings, sqlite_url
from ppo_jobs.tables import metadata

# A shell has what it starts in the background ignore SIGINT, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SERVER = os.environ.get("PPO_TEST_DATABASE_URL")
BROKER = os.environ.get("PPO_TEST_BROKER_URL")

OF_SERVERS = frozenset({"migrated_database_url", "empty_database_url", "broker_url"})
"""The fixtures that are another thing on PostgreSQL and Redis."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL and Redis only what uses them runs; all else did on SQLite and the embedded broker."""
    if SERVER is None:
        return
    others = [
        item
        for item in items
        if OF_SERVERS.isdisjoint(getattr(item, "fixturenames", ())) or item.get_closest_marker("processes") is not None
    ]
    config.hook.pytest_deselected(items=others)
    left_out = set(others)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def migrated_database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty, migrated database: of SQLite each test gets a copy, PostgreSQL's is emptied after each test."""
    if SERVER is None:
        url = sqlite_url(tmp_path_factory.mktemp("template") / "ppo.sqlite3")
        migrate(url)
        yield url
        return
    url = _create_postgresql_database(make_url(SERVER))
    migrate(url)
    yield url
    _drop_postgresql_database(make_url(url))


@pytest.fixture
def database_url(migrated_database_url: str, tmp_path: Path) -> Iterator[str]:
    """A migrated database without any row."""
    url = make_url(migrated_database_url)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        shutil.copy(url.database, tmp_path / "ppo.sqlite3")
        yield sqlite_url(tmp_path / "ppo.sqlite3")
        return
    yield migrated_database_url
    _empty_postgresql_database(url)


@pytest.fixture
def empty_database_url(tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if SERVER is None:
        yield sqlite_url(tmp_path / "empty.sqlite3")
        return
    url = _create_postgresql_database(make_url(SERVER))
    yield url
    _drop_postgresql_database(make_url(url))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, durable=False)
    yield opened
    opened.dispose()


@pytest.fixture
def broker_url(tmp_path: Path) -> Iterator[str]:
    """An empty broker."""
    if BROKER is None:
        yield f"fsatomic://{tmp_path}/broker"
        return
    import redis

    # One of the server's databases for each parallel test process; whatever else uses the server keeps number 0.
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    number = int(os.environ.get("PPO_TEST_REDIS_FIRST_DB", "1")) + process
    url = f"{BROKER.rstrip('/').rsplit('/', 1)[0] if BROKER.count('/') > 2 else BROKER}/{number}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def settings(tmp_path: Path, database_url: str, broker_url: str) -> Settings:
    """A deployment in `tmp_path`, with a short lease."""
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        broker_url=broker_url,
        lease_seconds=5.0,
        sweep_seconds=0.5,
        slots=2,
    )


@pytest.fixture
def tenant(database: Database) -> str:
    with database.write() as session:
        return create_tenant(session, "tester")


@pytest.fixture
def api_key(database: Database, tenant: str) -> str:
    with database.write() as session:
        return create_api_key(session, tenant, name="test")


def _create_postgresql_database(server: URL) -> str:
    name = f"ppo_test_{uuid.uuid4().hex}"
    _administer(server, f'CREATE DATABASE "{name}"')
    return server.set(database=name).render_as_string(hide_password=False)


def _empty_postgresql_database(url: URL) -> None:
    # A new database for each test, or TRUNCATE, would wait for the disk dozens of times.
    _administer(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{url.database}' AND pid <> pg_backend_pid()",
    )
    guarded = ("jobs", "events")
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for table in guarded:
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        for table in guarded:
            connection.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


def _drop_postgresql_database(url: URL) -> None:
    _administer(url, f'DROP DATABASE "{url.database}" WITH (FORCE)')


def _administer(server: URL, statement: str) -> None:
    engine = create_engine(server.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement))
