"""Which errors of a driver mean that the database cannot do its work now, so that the same call may succeed later.

They are known by the codes of the databases themselves: which class of exception a driver makes of one is an accident.
"""

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from ppo_jobs.errors import DatabaseFull, DatabaseReadOnly, DatabaseUnavailable

READ_ONLY_STATE = "25006"
"""A standby, or a server that was told so (`default_transaction_read_only`), as when its disk is full."""

DISK_FULL_STATE = "53100"

OUTAGES = (
    "08",  # The connection failed.
    "0A000",  # A standby refuses what it could do as a primary; a prepared statement is of an older schema.
    "25P03",  # A transaction stood still for too long, or took too long:
    "25P04",
    "28",  # No admission any more: a password or a rule has changed.
    "3D",  # There is no such database, yet.
    "40",  # Serialization failed, or a deadlock was broken.
    "42501",  # The right to write was taken away, as hosts do to a database that has outgrown its plan.
    "42703",  # A column or a table is missing: the schema has not been migrated yet.
    "42P01",
    "53",  # Too many connections, no memory, no space.
    "55",  # Something is locked, or not in a state for this, as during recovery.
    "57",  # The server is shut down, starts, recovers, or cancels.
    "58",  # The server's system failed.
    "F0",  # The server's configuration is broken.
    "XX",  # The server is broken.
)
"""SQLSTATEs and classes of them, from PostgreSQL's appendix A."""

SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_NOTADB,
    }
)


def outage(error: DBAPIError) -> DatabaseUnavailable | None:
    """What a caller is told of a driver's error; None where it is the caller's own fault."""
    state, code = getattr(error.orig, "sqlstate", None), getattr(error.orig, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF  # The rest says more precisely what happened.
    if state == DISK_FULL_STATE or primary == sqlite3.SQLITE_FULL:
        return DatabaseFull()
    if state == READ_ONLY_STATE or primary == sqlite3.SQLITE_READONLY:
        return DatabaseReadOnly(str(error.orig))
    is_known = (state or "").startswith(OUTAGES) or primary in SQLITE_OUTAGES or error.connection_invalidated
    # A driver that lost the server, or never reached it, has no code to tell.
    if is_known or (state is None and isinstance(error, OperationalError | InterfaceError)):
        return DatabaseUnavailable(f"the database did not answer: {error.orig}")
    return None
