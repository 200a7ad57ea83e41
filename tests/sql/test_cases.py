"""Every case below ``cases/`` is one behaviour of one SQL file: tiny input tables, the rows that must come out.

The file's name is the behaviour, ``why`` is the message when it fails. Tables are texts with ``|`` between cells; an
empty cell is null, '' is the empty text, a column that is left out is null everywhere, a table that is left out is
empty. ``expect`` names the columns it is about and lists every row in order.

Each case runs once more with every input relation split over files in another order and with more threads, and the
queries of a window once more in shards; the rows are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.adapters.warehouse import Warehouse, sql_files
from pipeline.core.dataset import (
    AMOUNT,
    AMOUNT_EXACT,
    DATASETS,
    EXCLUDED_EVENTS,
    INSTANT,
    LINE_ITEMS,
    PRICE_CHANGES,
    QUANTITY,
    RAW_EVENTS,
    UNIT_PRICE,
    USAGE,
    USAGE_EVENTS,
    USAGE_LEVELS,
    USAGE_VALUES,
)
from pipeline.core.duration import parse_duration
from pipeline.core.pricing_tables import COLUMNS as PRICING_TABLES
from pipeline.core.window import BillingWindow
from pipeline.steps.completeness import CONTRACT_OBJECTS, SUMMED_PATHS
from pipeline.steps.control_totals import LEDGER_OBJECTS, SEGMENT_DAYS
from pipeline.steps.daily_usage import ACCOUNT_ZONES, ZONE_DAYS
from pipeline.steps.diff import (
    CHANGED_ACCOUNTS,
    CHANGED_SKUS,
    COMPARED_EVENTS,
    COMPARED_OUTCOMES,
    REASON_STEPS,
    RESOURCE_OWNERS,
)
from pipeline.steps.estimate import ACCOUNT_FORECASTS, FORECAST_DAYS, FORECAST_REST, PROJECTED_USAGE
from pipeline.steps.external import EXTERNAL_DAYS, EXTERNAL_FIGURES
from pipeline.steps.inputs import (
    ACCOUNT_FALLBACK_COLUMNS,
    ACCOUNT_REFERENCE_COLUMNS,
    METER_COLUMNS,
    table_repeated_hashes,
)
from pipeline.steps.links import (
    NAMED_KEYS,
    NEIGHBOUR_COLUMNS,
    WITHDRAWAL_TYPE_COLUMNS,
    WITHDRAWN_EVENT_COLUMNS,
)
from pipeline.steps.outcomes import PLACE_COLUMNS
from pipeline.steps.period_usage import ACCOUNT_PERIODS, BILLED_METERS, METER_CHANGES, PRICED_DIMENSIONS
from pipeline.steps.report_facts import RECOUNTED_USAGE
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE
from tests.sql.header import parse_header
from tests.steps.raw_events import key_hash, payload_hash

CASES = sorted(Path(__file__).parent.glob("cases/*/*.yaml"))

# What every query of rating makes that makes lines.
RATED_LINES = (
    ("account_id", "VARCHAR"),
    ("sku", "VARCHAR"),
    ("segment", "INTEGER"),
    ("priced_segment", "INTEGER"),
    ("charge", "INTEGER"),
    ("kind", "VARCHAR"),
    ("id_suffix", "VARCHAR"),
    ("tier", "INTEGER"),
    ("description", "VARCHAR"),
    ("quantity", QUANTITY),
    ("unit", "VARCHAR"),
    ("unit_price", UNIT_PRICE),
    ("flat_fee", AMOUNT_EXACT),
    ("amount_exact", AMOUNT_EXACT),
    ("amount", AMOUNT),
)

NIGHT_LINES = (
    ("account_id", "VARCHAR"),
    ("period_id", "VARCHAR"),
    ("sku", "VARCHAR"),
    ("currency", "VARCHAR"),
    ("cause", "VARCHAR"),
    ("unit", "VARCHAR"),
    ("quantity", QUANTITY),
    ("amount", AMOUNT),
)

# Tables that are no dataset of the lake: made by a step, or by another SQL file, for one session.
HELPER_TABLES = {
    "usage_history": USAGE.columns,
    "meters": METER_COLUMNS,
    "account_references": ACCOUNT_REFERENCE_COLUMNS,
    "repeated_hashes": (("short_hash", "UINTEGER"),),
    "account_fallbacks": ACCOUNT_FALLBACK_COLUMNS,
    "neighbours": NEIGHBOUR_COLUMNS,
    "look_back_events": RAW_EVENTS.columns,
    "withdrawn_events": WITHDRAWN_EVENT_COLUMNS,
    "late_exclusions": PLACE_COLUMNS,
    "effective_replacements": PLACE_COLUMNS,
    "withdrawal_types": WITHDRAWAL_TYPE_COLUMNS,
    "named_keys": NAMED_KEYS,
    "account_periods": ACCOUNT_PERIODS,
    "priced_dimensions": PRICED_DIMENSIONS,
    "billed_meters": BILLED_METERS,
    "meter_changes": METER_CHANGES,
    "resource_owners": RESOURCE_OWNERS,
    "earlier_levels": USAGE_LEVELS.columns,
    "metered_events": USAGE_EVENTS.columns,
    "other_line_items": LINE_ITEMS.columns,
    "price_changes": PRICE_CHANGES.columns,
    "period_usage": PERIOD_USAGE,
    "event_values": EVENT_VALUES,
    **PRICING_TABLES,
    "charge_usage": (
        ("priced_segment", "INTEGER"),
        ("account_id", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("segment", "INTEGER"),
        ("charge", "INTEGER"),
        ("cell", "INTEGER"),
        ("unit", "VARCHAR"),
        ("used_before", QUANTITY),
        ("used_until", QUANTITY),
        ("used_in_all", QUANTITY),
        ("fees_paid", "BIGINT"),
        ("owes_volume_fee", "BOOLEAN"),
        ("event_count", "BIGINT"),
    ),
    "event_amounts": (
        ("account_id", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("segment", "INTEGER"),
        ("amount_exact", AMOUNT_EXACT),
    ),
    **dict.fromkeys(
        ("usage_lines", "fee_lines", "adjustment_lines", "plan_discount_lines", "commitment_lines", "rated_lines"),
        RATED_LINES,
    ),
    "reference_lines": LINE_ITEMS.columns,
    "day_usage": PERIOD_USAGE,
    "account_forecasts": ACCOUNT_FORECASTS,
    "forecast_days": FORECAST_DAYS,
    "forecast_rest": FORECAST_REST,
    "priced_by_event": PRICED_DIMENSIONS,
    "projected_usage": PROJECTED_USAGE,
    "account_zones": ACCOUNT_ZONES,
    "zone_days": ZONE_DAYS,
    "segment_days": SEGMENT_DAYS,
    "contract_objects": CONTRACT_OBJECTS,
    "summed_paths": SUMMED_PATHS,
    "from_excluded_events": EXCLUDED_EVENTS.columns,
    "to_excluded_events": EXCLUDED_EVENTS.columns,
    "found_exclusions": EXCLUDED_EVENTS.columns,
    "added_events": RAW_EVENTS.columns,
    "gone_events": RAW_EVENTS.columns,
    "from_usage_values": USAGE_VALUES.columns,
    "to_usage_values": USAGE_VALUES.columns,
    "from_usage_levels": USAGE_LEVELS.columns,
    "to_usage_levels": USAGE_LEVELS.columns,
    "changed_skus": CHANGED_SKUS,
    "from_usage": USAGE.columns,
    "to_usage": USAGE.columns,
    "from_usage_events": USAGE_EVENTS.columns,
    "to_usage_events": USAGE_EVENTS.columns,
    "compared_outcomes": COMPARED_OUTCOMES.columns,
    "compared_events": COMPARED_EVENTS.columns,
    "changed_accounts": CHANGED_ACCOUNTS,
    "reason_steps": REASON_STEPS,
    "lines_now": LINE_ITEMS.columns,
    "lines_before": LINE_ITEMS.columns,
    "recounted_usage": RECOUNTED_USAGE,
    "usage_now": USAGE.columns,
    "usage_before": USAGE.columns,
    **dict.fromkeys(("night_lines", "earlier_night_lines"), NIGHT_LINES),
    "external_days": EXTERNAL_DAYS,
    "external_figures": EXTERNAL_FIGURES,
    "ledger_objects": LEDGER_OBJECTS,
    "event_quantities": (
        ("object_id", "VARCHAR"),
        ("line_number", "BIGINT"),
        ("source", "VARCHAR"),
        ("id", "VARCHAR"),
        ("key_hash", "UBIGINT"),
        ("account_id", "VARCHAR"),
        ("subject", "VARCHAR"),
        ("event_at", INSTANT),
        ("received_at", INSTANT),
        ("sku", "VARCHAR"),
        ("unit", "VARCHAR"),
        ("aggregation", "VARCHAR"),
        ("is_computed", "BOOLEAN"),
        ("dimensions", "VARCHAR"),
        ("value_text", "VARCHAR"),
        ("quantity", QUANTITY),
    ),
}


SPLITS = 3
EMPTY_CELLS = {"": None, "''": ""}

# Which events a shard takes: a key as a whole, of a level the events of its resource. All else is there as a whole.
KEY_SHARD = "HASH(source, id)"
RESOURCE_SHARD = f"CASE WHEN aggregation IN ('latest', 'time_weighted_sum') THEN HASH(subject) ELSE {KEY_SHARD} END"
SHARDED = {
    "event_quantities": {"metered_events": KEY_SHARD},
    "excluded_events": {"raw_events": KEY_SHARD},
    "late_events": {"raw_events": KEY_SHARD},
    "named_events": {"raw_events": KEY_SHARD},
    "neighbours": {"raw_events": KEY_SHARD, "look_back_events": KEY_SHARD},
    "usage": {"event_quantities": RESOURCE_SHARD, "usage_levels": "HASH(resource)"},
    "usage_events": {"raw_events": KEY_SHARD},
    "usage_levels": {"event_quantities": RESOURCE_SHARD},
    "usage_values": {"event_quantities": RESOURCE_SHARD},
    "window_events": {"raw_events": KEY_SHARD},
    "window_hashes": {"raw_events": KEY_SHARD},
    "withdrawal_events": {"raw_events": KEY_SHARD},
}


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_case(path: Path, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(case) <= {"why", "params", "given", "expect"}, f"{path}: unknown key in {sorted(case)}"
    query = path.parent.name
    header = parse_header(next(file for file in sql_files() if file.stem == query).read_text(encoding="utf-8"))
    assert set(case["given"]) <= set(header.reads), f"{path}: {query} does not read {sorted(case['given'])}"

    with Warehouse(tmp_path, threads=1) as warehouse:
        for name in header.reads:
            make_table(warehouse, name, columns_of(name), case["given"].get(name, ""))
        if "repeated_hashes" in header.reads and "repeated_hashes" not in case["given"]:
            bounds = bound(header.params, case["params"])
            table_repeated_hashes(warehouse, BillingWindow(bounds["window_start"], bounds["window_end"]))
        parameters, columns = bound(header.params, case.get("params", {})), column_names(case["expect"])
        warehouse.build(query, parameters)
        actual = rows_of(warehouse, query, columns)
        make_table(warehouse, "expected_rows", types_of(warehouse, query), case["expect"])
        expected = rows_of(warehouse, "expected_rows", columns)
        split_over_files(warehouse, header.reads, tmp_path)
        warehouse.build(query, parameters)
        of_files = rows_of(warehouse, query, columns)
        of_shards = rows_of_shards(warehouse, query, parameters, columns) if query in SHARDED else expected

    assert actual == expected, f"{path.stem.replace('_', ' ')}: {case['why']}"
    assert of_files == expected, "the same rows in other files, in another order, on two threads make another result"
    assert sorted(of_shards, key=str) == sorted(expected, key=str), "shards make another result"


def test_every_sql_file_has_at_least_four_cases_and_every_case_an_sql_file() -> None:
    stems = {file.stem for file in sql_files()}
    counts = {stem: sum(case.parent.name == stem for case in CASES) for stem in stems}

    assert stems, "no SQL file was found"
    assert {stem: count for stem, count in counts.items() if count < 4} == {}
    assert {case.parent.name for case in CASES} <= stems
    assert set(SHARDED) <= stems


def columns_of(name: str) -> tuple[tuple[str, str], ...]:
    return HELPER_TABLES[name] if name in HELPER_TABLES else DATASETS[name].columns


def column_names(table: str) -> list[str]:
    return cells(table.splitlines()[0])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def make_table(warehouse: Warehouse, name: str, columns: tuple[tuple[str, str], ...], table: str) -> None:
    """Make a typed table of a text table: DuckDB casts each cell to the type of its column.

    The hashes of an event are as collect stores them, unless the case has its own.
    """
    lines = [line for line in table.splitlines() if line.strip()]
    given = cells(lines[0]) if lines else []
    unknown = set(given) - {column for column, _ in columns}
    assert not unknown, f"{name} has no column {sorted(unknown)}"
    texts = [(column, "VARCHAR") for column in ("row_number", *given)]
    rows: list[list[str | None]] = []
    for number, line in enumerate(lines[1:]):
        found = cells(line)
        assert len(found) == len(given), f"{name}: {len(given)} cells expected in {line!r}"
        rows.append([str(number), *(EMPTY_CELLS.get(cell, cell) for cell in found)])
    if ("key_hash", "UBIGINT") in columns and {"source", "id"} <= set(given) and "key_hash" not in given:
        places = [1 + given.index(name) for name in ("source", "id")]
        rows = [[*row, str(key_hash(*(row[place] or "" for place in places)))] for row in rows]
        given, texts = [*given, "key_hash"], [*texts, ("key_hash", "VARCHAR")]
    if ("payload_hash", "UBIGINT") in columns and given and "payload_hash" not in given:
        payloads = [{**dict.fromkeys(("quantity", "data")), **dict(zip(given, row[1:], strict=True))} for row in rows]
        hashes = [payload_hash(row["quantity"] and Decimal(row["quantity"]), row["data"]) for row in payloads]
        rows = [[*row, str(found)] for row, found in zip(rows, hashes, strict=True)]
        given, texts = [*given, "payload_hash"], [*texts, ("payload_hash", "VARCHAR")]
    warehouse.table_rows("cell_texts", texts, rows)
    selection = ", ".join(
        f"CAST({column if column in given else 'NULL'} AS {sql_type}) AS {column}" for column, sql_type in columns
    )
    warehouse.connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {selection} FROM cell_texts ORDER BY CAST(row_number AS BIGINT)"
    )


def split_over_files(warehouse: Warehouse, names: Iterable[str], folder: Path) -> None:
    """Put each relation into several files by a hash of the row, in another order, and read with two threads."""
    warehouse.connection.execute("SET threads = 2")
    for name in names:
        files = [str(folder / f"{name}-{number}.parquet") for number in range(SPLITS)]
        for number, file in enumerate(files):
            rows = f"SELECT * FROM {name} AS r WHERE HASH(r) % {SPLITS} = {number} ORDER BY HASH(r) DESC"
            warehouse.connection.execute(f"COPY ({rows}) TO '{file}' (FORMAT parquet)")
        warehouse.connection.execute(f"DROP TABLE {name}")
        warehouse.connection.read_parquet(files[::-1]).create_view(name)


def rows_of_shards(
    warehouse: Warehouse, query: str, parameters: dict[str, Any], columns: list[str]
) -> list[tuple[str, ...]]:
    """Return what shards that are computed one by one come to: usage and its values merged, the rest side by side."""
    sharded = SHARDED[query]
    for name in sharded:
        warehouse.connection.execute(f"CREATE TEMP TABLE every_{name} AS FROM {name}")
    for number in range(SPLITS):
        for name, shard in sharded.items():
            rows = f"FROM every_{name} WHERE {shard} % {SPLITS} = {number}"
            warehouse.connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {rows}")
        warehouse.build(query, parameters)
        insert = "INSERT INTO rows_of_shards" if number else "CREATE TEMP TABLE rows_of_shards AS"
        warehouse.connection.execute(f"{insert} FROM {query}")
    warehouse.connection.execute(f"CREATE OR REPLACE TEMP TABLE {query} AS FROM rows_of_shards")
    if query == "usage":
        warehouse.build("merged_usage", {})
        return rows_of(warehouse, "merged_usage", columns)
    if query == "usage_values":
        merged = "SELECT * EXCLUDE (event_count), SUM(event_count) AS event_count FROM usage_values GROUP BY ALL"
        warehouse.connection.execute(f"CREATE OR REPLACE TEMP TABLE usage_values AS {merged}")
    return rows_of(warehouse, query, columns)


def types_of(warehouse: Warehouse, table: str) -> tuple[tuple[str, str], ...]:
    relation = warehouse.connection.table(table)
    return tuple(zip(relation.columns, (str(sql_type) for sql_type in relation.types), strict=True))


def rows_of(warehouse: Warehouse, table: str, columns: list[str]) -> list[tuple[str, ...]]:
    """Return the rows as texts, in the order they were written."""
    selection = ", ".join(f"CAST({column} AS VARCHAR) AS {column}" for column in columns)
    return warehouse.connection.execute(f"SELECT {selection} FROM {table}").fetchall()


def bound(types: dict[str, str], given: dict[str, str]) -> dict[str, Any]:
    assert set(types) == set(given), f"expected the parameters {sorted(types)}, got {sorted(given)}"
    readers = {
        "TIMESTAMPTZ": datetime.fromisoformat,
        "INTERVAL": parse_duration,
        "BIGINT": int,
        "BOOLEAN": bool,
        "VARCHAR": str,
    }
    return {name: readers[types[name]](text) for name, text in given.items()}
