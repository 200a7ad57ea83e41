"""Dropping duplicates as it is mostly done: the events of a day are written again without them.

Run as ``python -m benchmarks.window.duckdb_rewrite EVENTS.parquet DAY OUTPUT.parquet THREADS``.
"""

from __future__ import annotations

import sys

import duckdb


def main(events: str, day: str, output: str, threads: str) -> None:
    """Write the first received copy of each event of a day."""
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {int(threads)}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"""
            COPY (
                SELECT *
                FROM read_parquet('{events}', hive_partitioning = false)
                WHERE event_at >= TIMESTAMPTZ '{day}' AND event_at < TIMESTAMPTZ '{day}' + INTERVAL 1 DAY
                QUALIFY ROW_NUMBER() OVER (PARTITION BY source, id ORDER BY received_at, object_id, line_number) = 1
            ) TO '{output}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)
            """  # noqa: S608
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
