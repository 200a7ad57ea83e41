"""What a data engineer would write in ClickHouse, run inside the process by chDB: the same as the DuckDB statement.

Run as ``python -m benchmarks.window.chdb_statement EVENTS.parquet ACCOUNTS.csv DAY OUTPUT.parquet THREADS``.
"""

from __future__ import annotations

import sys

ACCOUNTS = (
    "account_id String, name String, currency String, time_zone String, plan String, "
    "valid_from String, valid_to String, external_references String"
)


def main(events: str, accounts: str, day: str, output: str, threads: str) -> None:
    """Write the usage of a day."""
    from chdb.session import Session

    statement = f"""
        SELECT
            account_id,
            event.1 AS sku,
            event.5 AS region,
            toStartOfHour(event.3) AS grain_start,
            sum(event.4) AS quantity,
            count() AS event_count
        FROM (
            SELECT argMin(
                (type, subject, event_at, quantity, JSONExtractString(assumeNotNull(data), 'region')), received_at
            ) AS event
            FROM file('{events}', Parquet)
            WHERE
                event_at >= toDateTime64('{day} 00:00:00', 6, 'UTC')
                AND event_at < toDateTime64('{day} 00:00:00', 6, 'UTC') + INTERVAL 1 DAY
            GROUP BY source, id
        ) AS first_copies
        INNER JOIN (
            SELECT
                account_id,
                external_references AS reference,
                parseDateTime64BestEffort(valid_from, 6, 'UTC') AS owned_from,
                if(valid_to = '', toDateTime64('2299-01-01 00:00:00', 6, 'UTC'),
                   parseDateTime64BestEffort(valid_to, 6, 'UTC')) AS owned_to
            FROM file('{accounts}', CSVWithNames, '{ACCOUNTS}')
        ) AS owners ON event.2 = owners.reference
        WHERE event.3 >= owned_from AND event.3 < owned_to
        GROUP BY account_id, sku, region, grain_start
        INTO OUTFILE '{output}' FORMAT Parquet
        SETTINGS max_threads = {int(threads)}, output_format_parquet_compression_method = 'zstd',
            schema_inference_make_columns_nullable = 1
    """  # noqa: S608
    with Session() as session:  # type: ignore[no-untyped-call]
        session.query(statement)


if __name__ == "__main__":
    main(*sys.argv[1:])
