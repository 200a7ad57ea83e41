"""What a data engineer would write in DuckDB: one statement from collected events to hourly usage, in one Parquet file.

The copy received first is taken. No exclusion is kept, no late, future or orphaned event is told from another, nothing
is pinned or hashed, and rows come in no order. With ``ordered`` the result is the same on every run: of copies received
at one instant the first in the files is taken, and rows are written in total order.

Run as ``python -m benchmarks.window.duckdb_statement EVENTS.parquet ACCOUNTS.csv DAY OUTPUT.parquet THREADS
[ordered]``, where the events may be a pattern.
"""

from __future__ import annotations

import sys

import duckdb


def main(events: str, accounts: str, day: str, output: str, threads: str, order: str = "") -> None:
    """Write the usage of a day."""
    ties, rows = (", object_id, line_number", "ORDER BY ALL") if order else ("", "")
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {int(threads)}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"""
            COPY (
                WITH first_copies AS (
                    SELECT type, subject, event_at, quantity, data ->> '$.region' AS region
                    FROM read_parquet('{events}', hive_partitioning = false)
                    WHERE event_at >= TIMESTAMPTZ '{day}' AND event_at < TIMESTAMPTZ '{day}' + INTERVAL 1 DAY
                    QUALIFY ROW_NUMBER() OVER (PARTITION BY source, id ORDER BY received_at{ties}) = 1
                )
                SELECT
                    account_id,
                    type AS sku,
                    region,
                    DATE_TRUNC('hour', event_at) AS grain_start,
                    SUM(quantity) AS quantity,
                    COUNT(*) AS event_count
                FROM first_copies
                INNER JOIN read_csv('{accounts}', all_varchar = true) AS accounts
                    ON
                        subject = external_references
                        AND event_at >= CAST(valid_from AS TIMESTAMPTZ)
                        AND (valid_to IS NULL OR event_at < CAST(valid_to AS TIMESTAMPTZ))
                GROUP BY ALL
                {rows}
            ) TO '{output}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)
            """  # noqa: S608
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
