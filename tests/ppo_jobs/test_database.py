"""Transactions: nothing lost, nothing half done, and a lost database says so."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from ppo_jobs.database import Database, migrate, open_database
from ppo_jobs.errors import DatabaseFull, DatabaseUnavailable
from ppo_jobs.repository import jobs, tenants
from ppo_jobs.settings import sqlite_url
from ppo_jobs.states import QueueName
from tests.ppo_jobs.builders import spec, submit

ROOT = Path(__file__).parents[2]


def _is_sqlite(database: Database) -> bool:
    return database.engine.dialect.name == "sqlite"


def _names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.execute(text("SELECT name FROM tenants ORDER BY name")).scalars())


def _idle_connections(database: Database) -> int:
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedin()


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        1 // len(tenants.create_tenant(session, "half")[:0])
    assert _names(database) == []


def test_a_reading_session_cannot_write(database: Database) -> None:
    with pytest.raises((DBAPIError, DatabaseUnavailable)), database.read() as session:
        tenants.create_tenant(session, "sneaked in")
    assert _names(database) == []
    with database.write() as session:
        tenants.create_tenant(session, "the same connection can write again")


def test_a_reading_session_sees_one_moment(database: Database) -> None:
    with database.read() as reader:
        assert reader.execute(text("SELECT count(*) FROM tenants")).scalar_one() == 0
        with database.write() as session:
            tenants.create_tenant(session, "meanwhile")
        assert reader.execute(text("SELECT count(*) FROM tenants")).scalar_one() == 0
    assert _names(database) == ["meanwhile"]


def test_sqlite_is_set_up_as_the_reference_asks(tmp_path: Path) -> None:
    for durable, synchronous in ((True, 2), (False, 1)):
        database = open_database(sqlite_url(tmp_path / "a.sqlite3"), durable=durable)
        with database.write() as session:
            answers = [
                session.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
            ]
        database.dispose()
        assert answers == ["wal", synchronous, 10_000, 1]


def test_a_database_that_stays_locked_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppo_jobs.database.BUSY_TIMEOUT_MS", 50)
    database = open_database(sqlite_url(tmp_path / "a.sqlite3"), durable=False)
    with database.read() as session:
        session.execute(text("SELECT 1"))
    other = sqlite3.connect(tmp_path / "a.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="locked"), database.write() as session:
        session.execute(text("SELECT 1"))
    with database.read() as session:
        session.execute(text("SELECT 1"))
    other.execute("ROLLBACK")
    other.close()
    with database.write() as session:
        session.execute(text("SELECT 1"))
    database.dispose()


def test_a_database_without_room_says_so_and_can_be_read(tmp_path: Path) -> None:
    database = open_database(sqlite_url(tmp_path / "a.sqlite3"), durable=False)
    with database.write() as session:
        session.execute(text("CREATE TABLE sizes (content BLOB)"))
        # Not below its present size.
        session.execute(text("PRAGMA max_page_count = 1"))
    with pytest.raises(DatabaseFull, match="no space"), database.write() as session:
        session.execute(text("INSERT INTO sizes VALUES (zeroblob(100000))"))
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM sizes")).scalar_one() == 0
    database.dispose()


@pytest.mark.parametrize(
    "url",
    ["postgresql+psycopg://nobody@127.0.0.1:1/none", "sqlite:////dev/null/such.sqlite3"],
    ids=["nothing listens", "no such directory"],
)
def test_a_database_that_cannot_be_reached_is_unavailable(url: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        migrate(url)


def test_a_connection_that_was_cut_is_replaced(database: Database) -> None:
    if _is_sqlite(database):
        pytest.skip("SQLite has no connections to cut")

    def lose_the_connection(session: Session) -> None:
        tenants.create_tenant(session, "lost")
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with database.write() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable), database.write() as session:
        lose_the_connection(session)
    assert _names(database) == []
    with database.write() as session:
        tenants.create_tenant(session, "kept")
    assert _names(database) == ["kept"]


def test_a_process_killed_within_a_transaction_leaves_nothing(database: Database, database_url: str) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from ppo_jobs.database import open_database
        from ppo_jobs.repository import tenants
        with open_database(sys.argv[1], durable=True).write() as session:
            tenants.create_tenant(session, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    run = subprocess.run([sys.executable, "-c", program, database_url], cwd=ROOT, timeout=60, check=False)
    assert run.returncode == -signal.SIGKILL
    assert _names(database) == []
    with database.write() as session:
        tenants.create_tenant(session, "next")


def test_a_forked_process_opens_connections_of_its_own(database: Database, tenant: str) -> None:
    def count() -> None:
        inherited = _idle_connections(database)
        with database.read() as session:
            os._exit(10 * inherited + len(jobs.list_jobs(session, tenant, limit=9).data))

    submit(database, tenant)
    assert _idle_connections(database) > 0
    child = multiprocessing.get_context("fork").Process(target=count)
    child.start()
    child.join(30)
    assert child.exitcode == 1
    submit(database, tenant)
    with database.read() as session:
        assert len(jobs.list_jobs(session, tenant, limit=9).data) == 2


def test_a_writer_of_the_same_process_waits_without_a_connection_and_then_has_its_turn(database: Database) -> None:
    if not _is_sqlite(database):
        pytest.skip("PostgreSQL has many writers at a time")

    def write(name: str) -> None:
        with database.write() as session:
            tenants.create_tenant(session, name)

    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    with ThreadPoolExecutor(20) as threads:
        with database.write() as session:
            tenants.create_tenant(session, "0")
            waiting = [threads.submit(write, str(number)) for number in range(1, 20)]
            assert not wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED).done
            assert pool.checkedout() == 1
        for written in waiting:
            written.result(timeout=30)
    assert len(_names(database)) == 20


def test_a_process_that_was_forked_while_another_thread_had_its_turn_can_write(database: Database) -> None:
    def write() -> None:
        with database.write() as session:
            tenants.create_tenant(session, "child")
        os._exit(0)

    with ThreadPoolExecutor(1) as threads:
        writing, forked = Event(), Event()

        def hold() -> None:
            with database.write() as session:
                writing.set()
                assert forked.wait(30)
                tenants.create_tenant(session, "parent")

        held = threads.submit(hold)
        assert writing.wait(30)
        child = multiprocessing.get_context("fork").Process(target=write)
        child.start()
        forked.set()
        held.result(timeout=30)
        child.join(30)
    assert child.exitcode == 0
    assert _names(database) == ["child", "parent"]


def test_numbers_and_texts_come_back_as_they_were(database: Database, tenant: str) -> None:
    sent = {"float": 0.1 + 0.2, "large": 2**62, "small": 5e-324, "text": "ü 🚀 \0", "none": None, "list": [1, 2.5]}
    with database.write() as session:
        new = jobs.insert_job(session, tenant, spec=sent, resolved=spec(), wants=QueueName.CPU)
    with database.read() as session:
        assert jobs.get_job(session, tenant, new.id).spec == sent


def test_a_password_is_in_no_message() -> None:
    url = "postgresql+psycopg://user:s3cret@127.0.0.1:1/none"
    database = open_database(url, durable=False)
    with pytest.raises(DatabaseUnavailable) as error, database.read() as session:
        session.execute(text("SELECT 1"))
    assert "s3cret" not in f"{error.value!r} {error.value} {database.engine!r} {make_url(url)!r}"
