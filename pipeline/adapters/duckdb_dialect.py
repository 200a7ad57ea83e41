"""DuckDB as Great Expectations sees it: a small SQLAlchemy dialect over a live connection.

Great Expectations knows no DuckDB; it writes SQL for the dialects it knows by name. DuckDB parses PostgreSQL's
SQL, so this dialect *is* PostgreSQL, except where the two differ: reflection (DESCRIBE instead of ``pg_catalog``) and
connections (Great Expectations reads results after it has closed the connection, so each result is buffered).

Guaranteed: at most ``RESULT_ROWS_MAX`` rows of a result reach Python. A dataset is checked where it is, inside
DuckDB; an expectation that would fetch its rows fails instead. The connection given to ``connection_url`` is
used as it is, temporary views included, and is never closed from here: whoever opened it closes it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy import pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGDialect, PGExecutionContext
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.interfaces import ReflectedColumn

RESULT_ROWS_MAX = 10_000

_NAME = "duckdb_live"
_COLUMN_TYPES: dict[str, type[sa.types.TypeEngine[Any]]] = {
    "BIGINT": sa.BIGINT,
    "BLOB": sa.LargeBinary,
    "BOOLEAN": sa.BOOLEAN,
    "DATE": sa.DATE,
    "DOUBLE": sa.FLOAT,
    "HUGEINT": sa.NUMERIC,
    "INTEGER": sa.INTEGER,
    "TIMESTAMP": sa.TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": sa.TIMESTAMP,
    "VARCHAR": sa.VARCHAR,
}

_connections: dict[str, duckdb.DuckDBPyConnection] = {}
_ticket = itertools.count()


@contextmanager
def connection_url(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Lend an open connection under an SQLAlchemy URL; the URL means nothing after the ``with`` block."""
    name = f"{threading.get_ident()}-{next(_ticket)}"
    _connections[name] = connection
    try:
        yield f"{_NAME}:///{name}"
    finally:
        del _connections[name]


class _Cursor:
    """One statement and its result, read at once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.description: list[tuple[Any, ...]] | None = None
        self.rows: list[tuple[Any, ...]] = []
        self.rowcount = -1

    def execute(self, statement: str, parameters: Sequence[Any] | None = None) -> None:
        self._connection.execute(statement, list(parameters or ()))
        described = self._connection.description
        self.description = [(name, str(kind), *[None] * 5) for name, kind, *_ in described or ()] or None
        self.rows = self._connection.fetchmany(RESULT_ROWS_MAX + 1) if self.description else []
        if len(self.rows) > RESULT_ROWS_MAX:
            self.rows = []
            raise duckdb.ProgrammingError(
                f"a check may read at most {RESULT_ROWS_MAX:,} rows into Python; "
                f"let DuckDB count or compare them instead: {statement}"
            )

    def close(self) -> None:
        self.rows = []


class _Connection:
    """A lent connection; it runs single statements, so there is nothing to commit or to close."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class _Driver:
    """The DB-API module that SQLAlchemy asks a dialect for."""

    paramstyle = "qmark"
    Error = duckdb.Error
    DatabaseError = duckdb.DatabaseError
    DataError = duckdb.DataError
    IntegrityError = duckdb.IntegrityError
    InterfaceError = duckdb.Error
    InternalError = duckdb.InternalError
    NotSupportedError = duckdb.NotSupportedError
    OperationalError = duckdb.OperationalError
    ProgrammingError = duckdb.ProgrammingError

    @staticmethod
    def connect(name: str) -> _Connection:
        return _Connection(_connections[name])


class _ExecutionContext(PGExecutionContext):
    def post_exec(self) -> None:
        if self.cursor.description:
            self.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(self.cursor, initial_buffer=self.cursor.rows)


class DuckDBDialect(PGDialect):
    """What Great Expectations asks of a database, answered by DuckDB."""

    driver = _NAME
    default_paramstyle = "qmark"
    supports_statement_cache = True
    postfetch_lastrowid = False
    execution_ctx_cls = _ExecutionContext

    @classmethod
    def import_dbapi(cls) -> Any:
        return _Driver

    @classmethod
    def get_pool_class(cls, url: sa.URL) -> type[pool.Pool]:
        return pool.NullPool

    def create_connect_args(self, url: sa.URL) -> tuple[list[str], dict[str, Any]]:
        return [str(url.database)], {}

    def initialize(self, connection: sa.Connection) -> None:
        self.server_version_info = (15, 0)
        self.default_schema_name = "main"

    def _set_backslash_escapes(self, connection: sa.Connection) -> None:
        self._backslash_escapes = False

    def has_table(self, connection: sa.Connection, table_name: str, schema: str | None = None, **kw: Any) -> bool:
        query = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = ?"
        return bool(connection.exec_driver_sql(query, (table_name,)).scalar())

    def get_columns(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[ReflectedColumn]:
        quoted = table_name.replace('"', '""')
        described = connection.exec_driver_sql(f'DESCRIBE "{quoted}"')
        return [
            {"name": name, "type": _column_type(text), "nullable": True, "default": None}
            for name, text, *_ in described
        ]


def _column_type(sql_type: str) -> sa.types.TypeEngine[Any]:
    if sql_type.startswith("DECIMAL("):
        precision, scale = sql_type.removeprefix("DECIMAL(").removesuffix(")").split(",")
        return sa.NUMERIC(int(precision), int(scale))
    return _COLUMN_TYPES.get(sql_type, sa.VARCHAR)()


registry.register(_NAME, __name__, "DuckDBDialect")
