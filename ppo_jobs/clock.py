"""The database's clock, in SQL: leases of several machines are compared by one clock only.

Times are stored as seconds since 1970 in double precision, the same on SQLite and PostgreSQL.
"""

from datetime import UTC, datetime
from typing import Any, overload

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import GenericFunction


class now(GenericFunction[float]):  # noqa: N801 (SQL functions are lower case)
    """Seconds since 1970 at this moment, not at the start of the transaction."""

    type = Double()
    inherit_cache = True
    name = "now_epoch"

    def __init__(self) -> None:
        super().__init__()


class later_of(GenericFunction[float]):  # noqa: N801
    """The later of two times: a clock that was set back must not turn a history around."""

    type = Double()
    inherit_cache = True
    name = "later_of"

    def __init__(self, first: ColumnElement[float], second: ColumnElement[float]) -> None:
        super().__init__(first, second)


@compiles(now, "sqlite")
def _now_on_sqlite(element: now, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_on_postgresql(element: now, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(later_of, "sqlite")
def _later_of_on_sqlite(element: later_of, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"max({compiler.process(element.clauses, **kwargs)})"


@compiles(later_of, "postgresql")
def _later_of_on_postgresql(element: later_of, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"greatest({compiler.process(element.clauses, **kwargs)})"


@overload
def utc(seconds: float) -> datetime: ...
@overload
def utc(seconds: None) -> None: ...
def utc(seconds: float | None) -> datetime | None:
    """A stored time as an aware datetime, to the millisecond that SQLite's clock knows."""
    return None if seconds is None else datetime.fromtimestamp(round(seconds, 3), UTC)
