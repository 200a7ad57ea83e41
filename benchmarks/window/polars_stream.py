"""What a data engineer would write in Polars: the same as the DuckDB statement, as one streamed query.

Run as ``python -m benchmarks.window.polars_stream EVENTS.parquet ACCOUNTS.csv DAY OUTPUT.parquet THREADS``.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta


def main(events: str, accounts: str, day: str, output: str, threads: str) -> None:
    """Write the usage of a day."""
    os.environ["POLARS_MAX_THREADS"] = threads  # read when polars is imported
    import polars as pl

    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    instant = pl.col("valid_from", "valid_to").str.to_datetime("%+", time_unit="us", time_zone="UTC")
    owners = pl.scan_csv(accounts, infer_schema=False).select(
        "account_id", pl.col("external_references").alias("subject"), instant
    )
    columns = ("type", "subject", "event_at", "quantity", "data")
    first_copies = (
        pl.scan_parquet(events, hive_partitioning=False)
        .filter(pl.col("event_at") >= start, pl.col("event_at") < start + timedelta(days=1))
        .group_by("source", "id")
        .agg(pl.col(name).min_by("received_at") for name in columns)
    )
    usage = (
        first_copies.join(owners, on="subject")
        .filter(
            pl.col("event_at") >= pl.col("valid_from"),
            pl.col("valid_to").is_null() | (pl.col("event_at") < pl.col("valid_to")),
        )
        .group_by(
            "account_id",
            pl.col("type").alias("sku"),
            pl.col("data").str.json_path_match("$.region").alias("region"),
            pl.col("event_at").dt.truncate("1h").alias("grain_start"),
        )
        .agg(pl.col("quantity").sum(), pl.len().alias("event_count"))
    )
    usage.sink_parquet(output, compression="zstd", compression_level=1, maintain_order=False, engine="streaming")


if __name__ == "__main__":
    main(*sys.argv[1:])
