"""Checks the suites of events over rows that were made before.

Run as ``python -m benchmarks.checks.ours FOLDER EVENTS PART``; the parts are prepare and check.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.adapters.checks import load_suite, run_suite
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.check import RELATIONS_BESIDE, CheckResult
from pipeline.core.dataset import RAW_EVENTS, USAGE_EVENTS
from pipeline.core.slo import SloSettings

ACCOUNTS = 100_000
START = datetime(2026, 1, 15, tzinfo=UTC)
END = START + timedelta(days=1)
SUITES = (RAW_EVENTS, USAGE_EVENTS)

# Every event is of a good night: a row that is wrong would be fetched as a sample, which costs more.
EVENTS = """
    SELECT
        'gateway' AS source, 'req-' || n AS id, CAST(HASH(n) AS UBIGINT) AS key_hash,
        'acct-' || LPAD(CAST(n * 7919 % {accounts} AS VARCHAR), 6, '0') AS account_id, 'request' AS type,
        'customer-' || n * 7919 % {accounts} AS subject,
        TIMESTAMPTZ '2026-01-15 00:00:00+00' + TO_MICROSECONDS(CAST(n * 86400000000 // {events} AS BIGINT)) AS event_at,
        TIMESTAMPTZ '2026-01-15 00:00:30+00' + TO_MICROSECONDS(CAST(n * 86400000000 // {events} AS BIGINT))
            AS received_at,
        CAST(NULL AS DECIMAL(38, 9)) AS quantity,
        '{{"model":"m-' || n % 20 || '","tokens":"' || n % 100000 || '"}}' AS data,
        'usage/2026/01/15/part-' || LPAD(CAST(n // 10000 AS VARCHAR), 6, '0') || '.ndjson@0123456789ab' AS object_id,
        n % 10000 + 1 AS line_number, FALSE AS has_fallback_account, CAST(HASH(n + 7) AS UBIGINT) AS payload_hash
    FROM RANGE({events}) AS numbers (n)
"""


def prepare(folder: Path, event_count: int) -> None:
    """Write the events as Parquet, for each suite with the columns of its dataset."""
    with Warehouse(folder) as warehouse:
        warehouse.connection.execute(f"CREATE VIEW events AS {EVENTS.format(accounts=ACCOUNTS, events=event_count)}")
        for dataset in SUITES:
            columns = ", ".join(f"CAST({name} AS {sql_type}) AS {name}" for name, sql_type in dataset.columns)
            path = folder / f"{dataset.name}.parquet"
            warehouse.connection.execute(
                f"COPY (SELECT {columns} FROM events) TO '{path}' (FORMAT parquet, COMPRESSION zstd)"  # noqa: S608
            )


def reference_rows(event_count: int) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the suites read beside the events."""
    accounts = [f"acct-{number:06}" for number in range(ACCOUNTS)]
    volumes = [("2026-01-01", event_count), ("2026-01-08", event_count)]
    return {
        "run": [(START, END, END + timedelta(hours=6), timedelta(hours=1), timedelta(minutes=5))],
        "accounts": [(account, "USD", "standard") for account in accounts],
        "account_validity": [(account, START, END) for account in accounts],
        "account_periods": [],
        "meters": [("requests", "request", "count", "requests", "requests")],
        "currencies": [("USD", Decimal("0.01"))],
        "price_books": [],
        "slo": list(SloSettings().percents()),
        "exclusions": [("exact_duplicate", event_count // 50)],
        "night": [(event_count, 0)],
        "volume_history": volumes,
    }


def main(folder: str, event_count: str, part: str) -> None:
    """Do the part, and print how many expectations held."""
    if part == "prepare":
        prepare(Path(folder), int(event_count))
        return
    with Warehouse(Path(folder)) as warehouse:
        for name, rows in reference_rows(int(event_count)).items():
            warehouse.table_rows(name, RELATIONS_BESIDE[RAW_EVENTS.name][name], rows)
        results: list[CheckResult] = []
        for dataset in SUITES:
            warehouse.view_files(dataset.name, dataset, [Path(folder) / f"{dataset.name}.parquet"])
            results += run_suite(load_suite(dataset), "window=2026-01-15", warehouse.connection)
    failed = [result for result in results if not result.success]
    if failed:
        raise RuntimeError(f"the events are good, and yet {failed}")
    sys.stdout.write(f"{len(results)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
