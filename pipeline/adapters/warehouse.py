"""DuckDB: the one place that opens ``sql/`` and runs it.

A file of ``sql/`` is one SELECT without a path in it. This adapter gives its inputs their names (views on
Parquet files, small tables), binds its ``$parameters`` and takes its rows to where they are wanted. The
database is in memory and lives as long as one step; what does not fit spills into a folder of its own.
Sessions run in UTC, and no extension is ever fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.adapters.content_hash import RowContent
from pipeline.adapters.scratch import scratch_folder
from pipeline.core.dataset import Dataset
from pipeline.core.errors import PricingError

Parameters = Mapping[str, Any]
Columns = Sequence[tuple[str, str]]
_SCHEMAS: dict[Columns, pa.Schema] = {}  # what the types of columns are in Arrow, asked once

HASHED_ROWS = 1 << 17  # at once
HASHING_THREADS = 2
SORTED_AT_ONCE = 1 << 26
_LAST_ORDER_BY = re.compile(r"\nORDER BY[\w., \n]+\Z")
_OUT_OF_RANGE = re.compile(r"out of range|to (DECIMAL|INT)")  # what DuckDB says when a cast finds no room
_PARQUET_OPTIONS = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1"
_ALWAYS_EXACT = {str, int, Decimal, bytes, type(None)}
_EXACT_TYPES = (str, int, Decimal, date, timedelta, bytes, type(None))


def _sql_folder() -> Path:
    """Return the folder of the SQL files: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "sql"
    return beside if (beside / "usage_events.sql").is_file() else package / "bundled" / "sql"


def sql_files() -> list[Path]:
    """Return every SQL file, in order of name."""
    return sorted(_sql_folder().glob("*.sql"))


def sql_text(query: str) -> str:
    """Return the text of an SQL file as it is now."""
    return (_sql_folder() / f"{_identifier(query)}.sql").read_text(encoding="utf-8")


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot name a relation")
    return name


@contextmanager
def _numbers_fit(relation: str) -> Iterator[None]:
    """Turn a number that is too large for its column into a refusal; the engine never rounds or wraps it."""
    try:
        yield
    except (duckdb.OutOfRangeException, duckdb.ConversionException, pa.ArrowInvalid) as error:
        if isinstance(error, duckdb.ConversionException) and not _OUT_OF_RANGE.search(str(error)):
            raise
        raise PricingError(
            "warehouse.number_too_large",
            f"a number of {relation} does not fit its column",
            [
                f"the engine says: {str(error).splitlines()[0]}",
                "nothing was published; look for absurd quantities, and give the field a `maximum` in its contract",
            ],
        ) from error


class Warehouse:
    """One DuckDB session over named inputs; a context manager that removes what it spilled.

    ``sql`` holds, by query, the texts to run instead of the files of ``sql/``, so that an old revision runs what it
    ran at the time; a query that is not among them is refused with ``LookupError``.
    """

    def __init__(
        self,
        scratch: Path,
        memory_limit: str = "1600MB",
        threads: int | None = None,
        sql: Mapping[str, str] | None = None,
    ) -> None:
        self._sql_texts = sql
        self._open = ExitStack()
        self._spill = self._open.enter_context(scratch_folder(scratch, "duckdb"))
        config: dict[str, Any] = {
            "memory_limit": memory_limit,
            "temp_directory": str(self._spill),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        if threads is not None:
            config["threads"] = str(threads)
        self.connection = duckdb.connect(":memory:", config=config)
        self.connection.execute("SET TimeZone = 'UTC'")
        # Files of sql/ write the smaller side of a join on its right. The engine does not know how many rows a Parquet
        # file keeps after a filter: left to itself it holds all events of a window in memory to look up an account.
        self.connection.execute("SET disabled_optimizers = 'build_side_probe_side'")
        self.connection.execute("SET enable_progress_bar = false")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()
        self._open.close()

    def view_files(self, name: str, dataset: Dataset, paths: Sequence[Path]) -> None:
        """Name the rows of Parquet files; no file at all is an empty relation of the dataset's columns.

        A file whose columns are not the dataset's raises ``TypeError``.
        """
        if not paths:
            self.table_rows(name, dataset.columns, [])
            return
        for path in paths:
            self._require_columns(path, dataset)
        self._drop(name)
        self._relation_of(paths).create_view(_identifier(name))

    def table_files(
        self, name: str, dataset: Dataset, paths: Sequence[Path], only: tuple[str, Sequence[str]] | None = None
    ) -> None:
        """Make a table of the rows of Parquet files; ``only`` those that have one of these texts in a column."""
        self.view_files("rows_of_files", dataset, paths)
        self._drop(name)
        rows = f"SELECT * FROM rows_of_files{self._semi_join(only)}"  # noqa: S608
        self.connection.execute(f"CREATE TEMP TABLE {_identifier(name)} AS {rows}")
        self._drop("rows_of_files")

    def _semi_join(self, only: tuple[str, Sequence[str]] | None) -> str:
        if only is None:
            return ""
        column, texts = only
        self.table_rows("chosen_texts", ((column, "VARCHAR"),), [(text,) for text in texts])
        return f" SEMI JOIN chosen_texts USING ({_identifier(column)})"

    def rows(self, name: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table, read a batch at a time; until the last one the session can do nothing else."""
        for batch in self.connection.table(_identifier(name)).to_arrow_reader(HASHED_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def row_count(self, name: str) -> int:
        """Return how many rows a relation has."""
        [(count,)] = self.connection.execute(f"SELECT COUNT(*) FROM {_identifier(name)}").fetchall()  # noqa: S608
        return int(count)

    def table_rows(self, name: str, columns: Columns, rows: Sequence[Sequence[Any]]) -> None:
        """Make a table of rows held in Python; a float, a naive datetime or a digit too many raises."""
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"{name}: a row has {len(row)} values for {len(columns)} columns: {row!r}")
        for values in zip(*rows, strict=True):
            for value in {id(value): value for value in values if type(value) not in _ALWAYS_EXACT}.values():
                _refuse_inexact(name, value)
        schema = self._schema(tuple(columns))
        with _numbers_fit(name):
            arrays = [pa.array([row[index] for row in rows], type=field.type) for index, field in enumerate(schema)]
        self._make_table(name, pa.Table.from_arrays(arrays, schema=schema))

    def _schema(self, columns: Columns) -> pa.Schema:
        if columns not in _SCHEMAS:
            selection = ", ".join(f"CAST(NULL AS {sql_type}) AS {_identifier(column)}" for column, sql_type in columns)
            _SCHEMAS[columns] = self.connection.sql(f"SELECT {selection} LIMIT 0").to_arrow_table().schema
        return _SCHEMAS[columns]

    def table_arrow(self, name: str, columns: Columns, rows: pa.Table) -> None:
        """Make a table of rows held in Arrow; other columns or types than these raise ``TypeError``."""
        found = self.connection.from_arrow(rows)
        if tuple(zip(found.columns, map(str, found.types), strict=True)) != tuple(columns):
            raise TypeError(f"{name}: expected {columns}, found {rows.schema}")
        self._make_table(name, rows)

    def _make_table(self, name: str, rows: pa.Table) -> None:
        self._drop(name)
        self.connection.register("incoming_rows", rows)
        try:
            self.connection.execute(f"CREATE TEMP TABLE {_identifier(name)} AS FROM incoming_rows")
        finally:
            self.connection.unregister("incoming_rows")

    def view_span(self, name: str, of: str, column: str, start: datetime, end: datetime) -> None:
        """Name the rows of a relation whose instant is in ``[start, end)``."""
        column = _identifier(column)
        span = f"{column} >= {_literal(start)} AND {column} < {_literal(end)}"
        self._drop(name)
        self.connection.execute(f"CREATE TEMP VIEW {_identifier(name)} AS SELECT * FROM {_identifier(of)} WHERE {span}")  # noqa: S608

    def keep_rows(self, name: str, column: str, values: Iterable[str]) -> None:
        """Leave only those rows of a table or view whose text in a column is one of these."""
        self._join_rows(name, "SEMI", ((column, "VARCHAR"),), [(value,) for value in sorted(values)])

    def leave_out_rows(self, name: str, columns: Columns, rows: Sequence[Sequence[Any]]) -> None:
        """Leave out those rows of a table or view whose values in some columns are those of one of these rows."""
        self._join_rows(name, "ANTI", columns, rows)

    def _join_rows(self, name: str, kind: str, columns: Columns, rows: Sequence[Sequence[Any]]) -> None:
        self.table_rows("chosen_values", columns, rows)
        using = ", ".join(_identifier(column) for column, _ in columns)
        found = f"SELECT * FROM {_identifier(name)} {kind} JOIN chosen_values USING ({using})"  # noqa: S608
        self.connection.execute(f"CREATE TEMP TABLE kept_rows AS {found}")
        self._drop(name)
        self.connection.execute(f"ALTER TABLE kept_rows RENAME TO {_identifier(name)}")

    def encode(self, name: str, columns: Sequence[tuple[str, str]]) -> None:
        """Keep the texts of these columns (table, column) once, as the dictionary ``name``.

        Nothing changes but speed: rows hold a number in the order of the texts, and are grouped and sorted by it.
        """
        texts = " UNION ".join(f"SELECT {_identifier(c)} FROM {_identifier(t)}" for t, c in columns)  # noqa: S608
        dictionary = f"SELECT * FROM ({texts}) AS texts (text) WHERE text IS NOT NULL ORDER BY text"  # noqa: S608
        if not self.connection.execute(f"{dictionary} LIMIT 1").fetchall():
            return
        self.connection.execute(f"CREATE OR REPLACE TYPE {_identifier(name)} AS ENUM ({dictionary})")
        for table in dict.fromkeys(table for table, _ in columns):
            casts = ", ".join(f"CAST({c} AS {name}) AS {c}" for t, c in columns if t == table)
            # Made again, because altering a column takes ten times as long; what it is made from may be a view.
            encoded = f"SELECT * REPLACE ({casts}) FROM {_identifier(table)}"  # noqa: S608
            self.connection.execute(f"CREATE OR REPLACE TEMP TABLE encoded_rows AS {encoded}")
            self._drop(table)
            self.connection.execute(f"ALTER TABLE encoded_rows RENAME TO {_identifier(table)}")

    def is_empty(self, table: str) -> bool:
        """Tell whether a relation has no row."""
        return not self.connection.execute(f"SELECT 1 FROM {_identifier(table)} LIMIT 1").fetchall()  # noqa: S608

    def is_ordered(self, table: str, key: Sequence[str]) -> bool:
        """Tell whether the rows of a table come in strictly ascending order of these columns."""
        columns = ", ".join(_identifier(column) for column in key)
        before = ", ".join(f"LAG({column}) OVER ()" for column in key)
        rows = f"SELECT ({columns}) > ({before}) AS rises, ROW_NUMBER() OVER () AS place FROM {_identifier(table)}"  # noqa: S608
        unordered = f"SELECT 1 FROM ({rows}) WHERE place > 1 AND NOT COALESCE(rises, FALSE) LIMIT 1"  # noqa: S608
        return not self.connection.execute(unordered).fetchall()

    def build(
        self,
        query: str,
        parameters: Parameters,
        name: str | None = None,
        *,
        keeps_order: bool = False,
        rows_max: int | None = None,
    ) -> None:
        """Make a table of the rows of the SQL file, named like it unless another name is given.

        With ``keeps_order`` rows are not sorted: they are left in the order in which the query finds them. No more than
        ``rows_max`` rows are computed.
        """
        table = name or query
        self._drop(table)
        with _numbers_fit(query):
            rows = self._ordered(query, keeps_order)
            rows = rows if rows_max is None else f"FROM ({rows}) LIMIT {rows_max}"
            text = f"CREATE TEMP TABLE {_identifier(table)} AS {rows}"
            self.connection.execute(text, _bound(parameters))

    def table_repeated(self, query: str, parameters: Parameters, name: str, relation: str) -> None:
        """Make a table of the values that an SQL file of one column of integers gives more than once.

        ``part`` and ``part_count`` are parameters of it: parts are looked at one after another, the more the more rows
        ``relation`` has, so that memory has an end. Sorting integers takes a third of the time that grouping them does.
        """
        text = _LAST_ORDER_BY.sub("\n", self._sql(query))
        [(row_count,)] = self.connection.execute(f"SELECT COUNT(*) FROM {_identifier(relation)}").fetchall()  # noqa: S608
        part_count = row_count // SORTED_AT_ONCE + 1
        repeated = []
        for part in range(part_count):
            found = self.connection.sql(text, params=_bound({**parameters, "part": part, "part_count": part_count}))
            [column] = found.to_arrow_table().columns
            repeated.append(_repeated(np.array(column.to_numpy())))  # which is sorted in place
        self._make_table(name, pa.table({found.columns[0]: np.concatenate(repeated)}))

    def view(self, query: str, parameters: Parameters, name: str | None = None) -> None:
        """Name the rows of the SQL file without computing them; whoever reads the view has them computed, in no order.

        A view has no parameters, so they are written into it: instants and durations only.
        """
        text = self._ordered(query, keeps_order=True)
        literals = {f"${parameter}": _literal(value) for parameter, value in _bound(parameters).items()}
        text = re.sub(r"\$[a-z_]+\b", lambda match: literals[match[0]], text)
        self._drop(name or query)
        self.connection.execute(f"CREATE TEMP VIEW {_identifier(name or query)} AS {text}")

    def select(self, query: str, parameters: Parameters) -> list[dict[str, Any]]:
        """Return the rows of the SQL file as dictionaries; instants are aware and in UTC."""
        with _numbers_fit(query):
            return _rows(self.connection.sql(self._sql(query), params=_bound(parameters)))

    def stream(self, query: str, parameters: Parameters, rows_at_once: int) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of the SQL file in its order, so many of them in memory; numbers and texts only."""
        with _numbers_fit(query):
            for batch in self.connection.sql(self._sql(query), params=_bound(parameters)).to_arrow_reader(rows_at_once):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def write(
        self, query: str, parameters: Parameters, to: Path, dataset: Dataset, *, keeps_order: bool = False
    ) -> Path:
        """Write the rows of the SQL file, in its order, as Parquet: the same rows make the same bytes.

        With ``keeps_order`` they are not sorted; the relation that the query reads has them in that order. Rows whose
        columns or types are not the dataset's raise ``TypeError`` and leave no file.
        """
        bound = {**_bound(parameters), "output_path": str(to)}
        to.parent.mkdir(parents=True, exist_ok=True)
        with _numbers_fit(query):
            self.connection.execute(
                f"COPY ({self._ordered(query, keeps_order)}) TO $output_path ({_PARQUET_OPTIONS})", bound
            )
        return self._checked(to, dataset)

    def write_table(self, name: str, to: Path, dataset: Dataset, only: tuple[str, Sequence[str]] | None = None) -> Path:
        """Write a named relation in the total order of the dataset's key; same promises as ``write``.

        ``only`` rows with one of these texts in a column are written.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        columns, key = ", ".join(dataset.column_names), ", ".join(dataset.key)
        selection = f"SELECT {columns} FROM {_identifier(name)}{self._semi_join(only)} ORDER BY {key}"  # noqa: S608
        self.connection.execute(f"COPY ({selection}) TO $output_path ({_PARQUET_OPTIONS})", {"output_path": str(to)})
        return self._checked(to, dataset)

    def describe_file(self, dataset: Dataset, paths: Sequence[Path]) -> tuple[int, str]:
        """Return the row count and the content hash of the rows in the files, which are in the dataset's total order.

        The hash depends on the dataset's columns and on its rows, and on nothing else: not on the number of files,
        their compression or the version of DuckDB; see ``RowContent``.
        """
        content = RowContent(dataset)
        with ThreadPoolExecutor(HASHING_THREADS) as hashing:
            adding: list[Future[None]] = []
            for path in paths:
                self._require_columns(path, dataset)
                for rows in self._relation_of([path]).to_arrow_reader(HASHED_ROWS):
                    for column in adding:
                        column.result()
                    adding = [hashing.submit(content.add_column, *numbered) for numbered in enumerate(rows.columns)]
                    content.row_count += rows.num_rows
            for column in adding:
                column.result()
        return content.row_count, content.hexdigest()

    def differing_rows(
        self, dataset: Dataset, paths: Sequence[Path], other_paths: Sequence[Path], rows_max: int
    ) -> list[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
        """Return the first keys, in the dataset's order, whose rows differ between two sets of files, with both rows.

        A row that is on one side only, or there more often, is paired with None.
        """
        columns, key = ", ".join(dataset.column_names), ", ".join(dataset.key)
        sides = []
        for mine, others in ((paths, other_paths), (other_paths, paths)):
            self.view_files("rows_of_one", dataset, mine)
            self.view_files("rows_of_other", dataset, others)
            only = f"(SELECT {columns} FROM rows_of_one EXCEPT ALL SELECT {columns} FROM rows_of_other)"  # noqa: S608
            found = self.connection.sql(f"SELECT * FROM {only} ORDER BY {key} LIMIT {rows_max}")  # noqa: S608
            sides.append(
                [{k: _in_utc(value) for k, value in row.items()} for row in found.to_arrow_table().to_pylist()]
            )
            self._drop("rows_of_one")
            self._drop("rows_of_other")
        keyed = [{tuple(row[column] for column in dataset.key): row for row in side} for side in sides]
        keys = sorted({*keyed[0], *keyed[1]}, key=lambda key: [(value is not None, value) for value in key])
        return [(keyed[0].get(key), keyed[1].get(key)) for key in keys[:rows_max]]

    @staticmethod
    def sql_hash(query: str) -> str:
        """Return the SHA-256 of an SQL file, to be pinned."""
        return hashlib.sha256(sql_text(query).encode()).hexdigest()

    def _sql(self, query: str) -> str:
        if self._sql_texts is None:
            return sql_text(query)
        if query not in self._sql_texts:
            raise LookupError(f"the query {query} is not among those given: {', '.join(sorted(self._sql_texts))}")
        return self._sql_texts[query]

    def _ordered(self, query: str, keeps_order: bool) -> str:
        return _LAST_ORDER_BY.sub("\n", self._sql(query)) if keeps_order else self._sql(query)

    def _relation_of(self, paths: Sequence[Path]) -> duckdb.DuckDBPyRelation:
        # A folder named event_date=... is our layout; it must not become a column.
        return self.connection.read_parquet([str(path) for path in paths], hive_partitioning=False)

    def _require_columns(self, path: Path, dataset: Dataset) -> None:
        relation = self._relation_of([path])
        found = tuple(zip(relation.columns, (str(column_type) for column_type in relation.types), strict=True))
        if found != dataset.columns:
            raise TypeError(f"{path.name} does not hold {dataset.name}: expected {dataset.columns}, found {found}")

    def _checked(self, path: Path, dataset: Dataset) -> Path:
        try:
            self._require_columns(path, dataset)
        except TypeError:
            path.unlink()
            raise
        return path

    def _drop(self, name: str) -> None:
        try:
            self.connection.execute(f"DROP TABLE IF EXISTS {_identifier(name)}")
        except duckdb.CatalogException:  # it is a view; asking first takes fifty times as long
            self.connection.execute(f"DROP VIEW {_identifier(name)}")


def _repeated(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return each value that is there more than once; the values are sorted in place, by two threads."""
    if len(values) > 1:
        middle = len(values) // 2
        values.partition(middle)
        with ThreadPoolExecutor(2) as sorting:
            list(sorting.map(lambda half: half.sort(), (values[:middle], values[middle:])))
    repeated = values[1:][values[1:] == values[:-1]]
    return np.concatenate([repeated[:1], repeated[1:][repeated[1:] != repeated[:-1]]])


def _bound(parameters: Parameters) -> dict[str, Any]:
    for name, value in parameters.items():
        _refuse_inexact(f"${name}", value)
    return dict(parameters)


def _literal(value: Any) -> str:
    """Return an instant or a duration as SQL; a view has no parameters."""
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat()}'"
    if isinstance(value, timedelta):
        return f"TO_MICROSECONDS({value // timedelta(microseconds=1)})"
    raise TypeError(f"a view takes instants and durations, got {type(value).__name__} {value!r}")


def _refuse_inexact(where: str, value: Any) -> None:
    for item in _leaves(value):
        if not isinstance(item, _EXACT_TYPES):
            raise TypeError(f"{where}: {type(item).__name__} {item!r} has no exact meaning in SQL")
        if isinstance(item, datetime) and item.utcoffset() is None:
            raise ValueError(f"{where}: the instant {item.isoformat()} needs a time zone")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _rows(relation: duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
    rows = relation.to_arrow_table().to_pylist()
    return [{column: _in_utc(value) for column, value in row.items()} for row in rows]


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value
