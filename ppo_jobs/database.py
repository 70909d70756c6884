"""Sessions on SQLite or PostgreSQL, and the migration of their schema."""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from ppo_jobs.errors import DatabaseUnavailable, SchemaUnknown
from ppo_jobs.outages import outage

# Only who migrates imports it: that takes a third of a second.
if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_MS = 10_000
_WRITES = "ppo_writes"


def open_database(url: str, *, durable: bool) -> "Database":
    """Connections to `url`, opened when they are first needed.

    Args:
        url: `sqlite:///…` or `postgresql+psycopg://…`.
        durable: whether a commit on SQLite survives a loss of power. What a user was promised must; metrics, which a
            resumed attempt computes again, need not. PostgreSQL always is.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return Database(_sqlite_engine(url, durable=durable))
    return Database(_postgresql_engine(url))


def migrate(url: str) -> None:
    """Brings the schema of the database at `url` up to date; safe when several processes start at once.

    Raises:
        DatabaseUnavailable: it cannot be reached, or takes no writes.
        SchemaUnknown: a newer version of this program was here.
    """
    from alembic import command

    database = open_database(url, durable=True)
    try:
        with database.write() as session:
            config = alembic_config()
            _refuse_unknown_schema(session, config)
            config.attributes["connection"] = session.connection()
            command.upgrade(config, "head")
    finally:
        database.dispose()


def is_migrated(session: Session) -> bool:
    """Whether the schema is the one that this version of the program was written for."""
    if not inspect(session.connection()).has_table("alembic_version"):
        return False
    current = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return current == newest_revision()


@cache
def newest_revision() -> str:
    """Of the schema: the number that the name of the last migration begins with."""
    return max(path.name[:4] for path in files("migrations").joinpath("versions").iterdir() if path.name[0].isdigit())


def prove_writable(session: Session) -> None:
    """Write, for who must know that the database takes it: to its disk, not only in a transaction that changes nothing.

    Raises:
        DatabaseUnavailable: at the latest when the session commits.
    """
    session.execute(text("UPDATE alembic_version SET version_num = version_num"))


def _refuse_unknown_schema(session: Session, config: "Config") -> None:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    current = MigrationContext.configure(session.connection()).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise SchemaUnknown(current)


def alembic_config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


class Database:
    """A pool of connections; every session is one short transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writing = threading.Lock()
        self._writer = engine.execution_options(**{_WRITES: True})
        self._reader = engine
        if engine.dialect.name == "postgresql":
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        _start_afresh_after_fork(self)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits at the end of the block, and is undone if the block raises.

        Raises:
            DatabaseUnavailable: the connection was lost, or a lock was not given in time. A commit may have happened.
        """
        with _availability(), self._turn(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view in which nothing can be written, without keeping writers away.

        Raises:
            DatabaseUnavailable: the connection was lost.
        """
        with _availability(), Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    def dispose(self) -> None:
        """Closes every idle connection."""
        self.engine.dispose()

    def start_afresh(self) -> None:
        """After a fork: two processes on one connection would read each other's answers, and none gives this lock."""
        self._writing = threading.Lock()
        self.engine.dispose(close=False)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite has one writer at a time, and whoever waits there sleeps for up to a tenth of a second before it looks
        again. Threads of one process are woken here as soon as it is their turn."""
        if not self._is_sqlite:
            yield
            return
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise DatabaseUnavailable("the writers before this one did not end in time")
        try:
            yield
        finally:
            self._writing.release()


@contextmanager
def _availability() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if (unavailable := outage(error)) is None:
            raise
        raise unavailable from error
    except PoolExhausted as error:
        raise DatabaseUnavailable("every connection to the database is in use") from error


def _encode(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _sqlite_engine(url: str, *, durable: bool) -> Engine:
    path = make_url(url).database
    if not path or path == ":memory:":
        raise ValueError("SQLite needs a file, which several processes can share")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(f"the database's directory cannot be made: {error}") from error
    engine = create_engine(
        url, json_serializer=_encode, pool_size=10, max_overflow=0, pool_timeout=10, connect_args={"timeout": 10}
    )

    def configure(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        # The driver's own transaction mode sends no BEGIN before a SELECT, and loses updates.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        _use_write_ahead_log(connection)
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: Connection) -> None:
        # A deferred transaction that reads before it writes fails at once when another has written in between.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Readers and the writer no longer block each other. The file keeps the mode, so only the first one sets it."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            # The change of mode does not wait for a lock, whatever the busy timeout.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgresql_engine(url: str) -> Engine:
    # A peer that vanished without closing is noticed within 15 seconds.
    arguments: dict[str, Any] = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    engine = create_engine(
        url,
        json_serializer=_encode,
        # No more are opened than are kept: a connection beyond would be closed after each use.
        pool_size=10,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args=arguments,
    )
    # SQLAlchemy leaves behind a read-only transaction that the next one is to be writable, whatever the server was
    # told; a standby refuses that, and an operator's `default_transaction_read_only` would be passed over.
    event.listen(engine, "checkout", lambda connection, *_: setattr(connection, "read_only", None))
    return engine


def _start_afresh_after_fork(database: Database) -> None:
    reference = weakref.ref(database)

    def start_afresh() -> None:
        forked = reference()
        if forked is not None:
            forked.start_afresh()

    os.register_at_fork(after_in_child=start_afresh)
