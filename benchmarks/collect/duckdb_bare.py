"""What a data engineer would write in DuckDB: typed columns, broken lines ignored, one Parquet file.

No quarantine, no object or line number, no check of the types that the reader coerces; duplicates stay, as in ours.

Run as ``python -m benchmarks.collect.duckdb_bare FOLDER OUTPUT.parquet THREADS``.
"""

from __future__ import annotations

import sys

import duckdb

COLUMNS = {
    "id": "VARCHAR",
    "source": "VARCHAR",
    "type": "VARCHAR",
    "time": "TIMESTAMPTZ",
    "subject": "VARCHAR",
    "quantity": "DECIMAL(38,9)",
    "data": "JSON",
}


def main(folder: str, output: str, threads: str) -> None:
    """Read every file below the folder and write one Parquet file."""
    columns = ", ".join(f"{name}: '{sql_type}'" for name, sql_type in COLUMNS.items())
    is_whole = " AND ".join(f"{name} IS NOT NULL" for name in COLUMNS)
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {int(threads)}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"""
            COPY (
                SELECT {", ".join(COLUMNS)}
                FROM read_json(
                    '{folder}/**/*.ndjson*',
                    format = 'newline_delimited', ignore_errors = true, columns = {{{columns}}}
                )
                WHERE {is_whole}
            ) TO '{output}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION v2)
            """  # noqa: S608
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
