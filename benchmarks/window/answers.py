"""What a contestant made, in a form that can be compared: a fast wrong answer does not count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb

USAGE_COLUMNS = "account_id, sku, region, grain_start, quantity, event_count"
OUR_USAGE_COLUMNS = "account_id, sku, dimensions ->> '$.region' AS region, grain_start, quantity, event_count"


@dataclass(frozen=True, slots=True)
class UsageAnswer:
    """Rows, quantity and events of usage, by SKU, and a hash of all rows whatever their order."""

    by_sku: tuple[tuple[str, int, Decimal, int], ...]
    row_hash: int

    @property
    def events(self) -> int:
        return sum(events for _, _, _, events in self.by_sku)


def read_usage(files: Iterable[Path], columns: str) -> UsageAnswer:
    """Read usage rows; ``columns`` are those of the files that make ``USAGE_COLUMNS``."""
    with _usage(files, columns) as connection:
        by_sku = connection.execute(
            "SELECT sku, COUNT(*), SUM(quantity), CAST(SUM(event_count) AS BIGINT) FROM usage GROUP BY sku ORDER BY sku"
        ).fetchall()
        found = connection.execute(f"SELECT BIT_XOR(HASH({USAGE_COLUMNS})) FROM usage").fetchone()  # noqa: S608
    if not by_sku or found is None:
        raise RuntimeError("a contestant made no usage")
    return UsageAnswer(tuple(by_sku), found[0])


def row_count(files: Iterable[Path]) -> int:
    """Return how many rows the files have together."""
    with duckdb.connect() as connection:
        row = connection.execute("SELECT COUNT(*) FROM read_parquet(?)", [[str(path) for path in files]]).fetchone()
    return int(row[0]) if row else 0


def window_event_count(events: str, day: str) -> int:
    """Return how many collected events a day has, copies among them."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        row = connection.execute(
            "SELECT COUNT(*) FROM read_parquet(?, hive_partitioning = false) "
            "WHERE event_at >= CAST(? AS TIMESTAMPTZ) AND event_at < CAST(? AS TIMESTAMPTZ) + INTERVAL 1 DAY",
            [events, day, day],
        ).fetchone()
    return int(row[0]) if row else 0


def require_same(label: str, expected: UsageAnswer | int, actual: UsageAnswer | int) -> None:
    """Refuse an answer that is not that of the contestant before; the rows that differ are named by SKU."""
    if expected == actual:
        return
    if isinstance(expected, UsageAnswer) and isinstance(actual, UsageAnswer):
        differing = sorted(set(expected.by_sku) ^ set(actual.by_sku))[:2]
        raise RuntimeError(
            f"{label} made other usage; its time does not count; SKU, rows, quantity, events: {differing}"
        )
    raise RuntimeError(f"{label} left {actual} events, expected {expected}; its time does not count")


def _usage(files: Iterable[Path], columns: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    paths = [str(path) for path in files]
    relation = connection.read_parquet(paths, hive_partitioning=False).project(columns)
    relation.project(
        "account_id, sku, region, CAST(grain_start AS TIMESTAMPTZ) AS grain_start, "
        "CAST(quantity AS DECIMAL(38, 9)) AS quantity, CAST(event_count AS BIGINT) AS event_count"
    ).create_view("usage")
    return connection
