"""What a database cannot do now is an outage, whatever class of exception its driver makes of it."""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ppo_jobs.database import migrate, open_database, prove_writable
from ppo_jobs.errors import DatabaseFull, DatabaseReadOnly, DatabaseUnavailable, SchemaUnknown
from ppo_jobs.outages import outage
from ppo_jobs.repository import tenants
from ppo_jobs.settings import sqlite_url
from tests.postgresql import Server, own_postgresql, standby_of


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_postgresql() as running:
        migrate(running.url)
        yield running


def write_to(url: str) -> None:
    database = open_database(url, durable=False)
    try:
        with database.read() as session:
            session.execute(text("SELECT 1"))
        with database.write() as session:
            tenants.create_tenant(session, "somebody")
    finally:
        database.dispose()


def test_a_hot_standby_is_read_and_takes_no_writes(server: Server) -> None:
    with standby_of(server) as standby, pytest.raises(DatabaseReadOnly, match="read-only"):
        write_to(standby.url)


def test_a_server_that_turns_read_only_takes_no_writes_from_open_connections_either(server: Server) -> None:
    database = open_database(server.url, durable=False)
    with database.read() as session:
        session.execute(text("SELECT 1"))
    server.administer("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")

    def write_for_a_while() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with database.write() as session:
                prove_writable(session)

    try:
        with pytest.raises(DatabaseReadOnly):
            write_for_a_while()
    finally:
        server.administer("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
        database.dispose()


def test_a_server_without_room_for_more_connections_is_away(server: Server) -> None:
    server.administer("CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    with pytest.raises(DatabaseUnavailable, match="too many connections"):
        write_to(server.url.replace("postgres@", "few@"))


def test_a_right_that_was_taken_away_is_an_outage_and_a_broken_rule_is_none(server: Server) -> None:
    server.administer("CREATE ROLE poor LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO poor")
    with pytest.raises(DatabaseUnavailable, match="permission denied"):
        write_to(server.url.replace("postgres@", "poor@"))
    write_to(server.url)
    with pytest.raises(IntegrityError):
        write_to(server.url)


class Told(Exception):
    """What a driver raises, as far as it counts."""

    def __init__(self, *, sqlstate: str | None = None, sqlite_errorcode: int | None = None) -> None:
        super().__init__("told")
        self.sqlstate = sqlstate
        self.sqlite_errorcode = sqlite_errorcode


def raised(**code: str | int) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, Told(**code))  # type: ignore[arg-type]  # One of the two.


@pytest.mark.parametrize(
    "state",
    [
        "25006",
        "57P01",
        "57P02",
        "57P03",
        "53300",
        "53200",
        "40001",
        "40P01",
        "55P03",
        "58030",
        "08006",
        "0A000",
        "XX001",
    ],
)
def test_a_state_of_the_server_is_an_outage(state: str) -> None:
    assert isinstance(outage(raised(sqlstate=state)), DatabaseUnavailable)
    assert psycopg.errors.lookup(state)


@pytest.mark.parametrize("state", ["23505", "23503", "22003", "42601", "22P02"])
def test_a_fault_of_the_statement_is_none(state: str) -> None:
    assert outage(raised(sqlstate=state)) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, DatabaseFull),
        (sqlite3.SQLITE_READONLY_DBMOVED, DatabaseReadOnly),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, DatabaseUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, DatabaseUnavailable),
        (sqlite3.SQLITE_CORRUPT, DatabaseUnavailable),
        (sqlite3.SQLITE_NOTADB, DatabaseUnavailable),
        (sqlite3.SQLITE_CONSTRAINT_CHECK, type(None)),
        (sqlite3.SQLITE_MISMATCH, type(None)),
    ],
)
def test_sqlites_own_codes_count_too(code: int, kind: type[DatabaseUnavailable] | type[None]) -> None:
    assert type(outage(raised(sqlite_errorcode=code))) is kind


def test_a_full_server_is_full() -> None:
    assert isinstance(outage(raised(sqlstate="53100")), DatabaseFull)


def test_a_file_that_is_no_database_is_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "ppo.sqlite3"
    path.write_bytes(b"no database at all " * 1000)
    with pytest.raises(DatabaseUnavailable, match="not a database"):
        migrate(sqlite_url(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "ppo.sqlite3"
    migrate(sqlite_url(path))
    path.chmod(stat.S_IRUSR)
    with pytest.raises(DatabaseReadOnly):
        write_to(sqlite_url(path))


def test_a_schema_of_a_newer_version_is_named(empty_database_url: str) -> None:
    migrate(empty_database_url)
    database = open_database(empty_database_url, durable=False)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.dispose()
    with pytest.raises(SchemaUnknown, match="9999"):
        migrate(empty_database_url)
