"""Every case below ``cases/`` is one behaviour of one SQL file: tiny input tables, the rows that must come out.

The file's name is the behaviour, ``why`` is the message when it fails. Tables are texts with ``|`` between cells; an
empty cell is null, a column that is left out is null everywhere, a table that is left out is empty. ``expect`` names
the columns it is about and lists every row in order.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.adapters.warehouse import Warehouse, sql_files
from pipeline.core.dataset import (
    DATASETS,
    EXCLUDED_EVENTS,
    INSTANT,
    QUANTITY,
    RAW_EVENTS,
    USAGE,
    USAGE_EVENTS,
    USAGE_VALUES,
)
from pipeline.core.duration import parse_duration
from pipeline.steps.completeness import CONTRACT_OBJECTS, SUMMED_PATHS
from pipeline.steps.diff import (
    CHANGED_ACCOUNTS,
    CHANGED_SKUS,
    COMPARED_EVENTS,
    COMPARED_OUTCOMES,
    REASON_STEPS,
    RESOURCE_OWNERS,
)
from pipeline.steps.inputs import ACCOUNT_FALLBACK_COLUMNS, ACCOUNT_REFERENCE_COLUMNS, METER_COLUMNS
from pipeline.steps.links import NAMED_KEYS, NEIGHBOUR_COLUMNS, WITHDRAWAL_COLUMNS, WITHDRAWAL_TYPE_COLUMNS
from pipeline.steps.rate import ACCOUNT_PERIODS, BILLED_METERS, METER_CHANGES
from tests.sql.header import parse_header

CASES = sorted(Path(__file__).parent.glob("cases/*/*.yaml"))

# Tables that are no dataset of the lake: made by a step, or by another SQL file, for one session.
HELPER_TABLES = {
    "meters": METER_COLUMNS,
    "account_references": ACCOUNT_REFERENCE_COLUMNS,
    "account_fallbacks": ACCOUNT_FALLBACK_COLUMNS,
    "neighbours": NEIGHBOUR_COLUMNS,
    "look_back_events": RAW_EVENTS.columns,
    "withdrawals": WITHDRAWAL_COLUMNS,
    "withdrawal_types": WITHDRAWAL_TYPE_COLUMNS,
    "named_keys": NAMED_KEYS,
    "account_periods": ACCOUNT_PERIODS,
    "billed_meters": BILLED_METERS,
    "meter_changes": METER_CHANGES,
    "resource_owners": RESOURCE_OWNERS,
    "earlier_usage": USAGE.columns,
    "metered_events": USAGE_EVENTS.columns,
    "period_usage": (
        ("account_id", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("aggregation", "VARCHAR"),
        ("unit", "VARCHAR"),
        ("quantity", QUANTITY),
    ),
    "contract_objects": CONTRACT_OBJECTS,
    "summed_paths": SUMMED_PATHS,
    "from_excluded_events": EXCLUDED_EVENTS.columns,
    "to_excluded_events": EXCLUDED_EVENTS.columns,
    "added_events": RAW_EVENTS.columns,
    "gone_events": RAW_EVENTS.columns,
    "from_usage_values": USAGE_VALUES.columns,
    "to_usage_values": USAGE_VALUES.columns,
    "changed_skus": CHANGED_SKUS,
    "from_usage": USAGE.columns,
    "to_usage": USAGE.columns,
    "from_usage_events": USAGE_EVENTS.columns,
    "to_usage_events": USAGE_EVENTS.columns,
    "compared_outcomes": COMPARED_OUTCOMES.columns,
    "compared_events": COMPARED_EVENTS.columns,
    "changed_accounts": CHANGED_ACCOUNTS,
    "reason_steps": REASON_STEPS,
    "ledger_objects": (("object_id", "VARCHAR"), ("is_of_night", "BOOLEAN")),
    "event_quantities": (
        ("object_id", "VARCHAR"),
        ("line_number", "BIGINT"),
        ("source", "VARCHAR"),
        ("id", "VARCHAR"),
        ("account_id", "VARCHAR"),
        ("subject", "VARCHAR"),
        ("event_at", INSTANT),
        ("received_at", INSTANT),
        ("sku", "VARCHAR"),
        ("unit", "VARCHAR"),
        ("aggregation", "VARCHAR"),
        ("dimensions", "VARCHAR"),
        ("value_text", "VARCHAR"),
        ("quantity", QUANTITY),
    ),
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
        warehouse.build(query, bound(header.params, case.get("params", {})))
        actual = rows_of(warehouse, query, column_names(case["expect"]))
        make_table(warehouse, "expected_rows", types_of(warehouse, query), case["expect"])
        expected = rows_of(warehouse, "expected_rows", column_names(case["expect"]))

    assert actual == expected, f"{path.stem.replace('_', ' ')}: {case['why']}"


def test_every_sql_file_has_at_least_four_cases_and_every_case_an_sql_file() -> None:
    stems = {file.stem for file in sql_files()}
    counts = {stem: sum(case.parent.name == stem for case in CASES) for stem in stems}

    assert stems, "no SQL file was found"
    assert {stem: count for stem, count in counts.items() if count < 4} == {}
    assert {case.parent.name for case in CASES} <= stems


def columns_of(name: str) -> tuple[tuple[str, str], ...]:
    return HELPER_TABLES[name] if name in HELPER_TABLES else DATASETS[name].columns


def column_names(table: str) -> list[str]:
    return cells(table.splitlines()[0])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def make_table(warehouse: Warehouse, name: str, columns: tuple[tuple[str, str], ...], table: str) -> None:
    """Make a typed table of a text table: DuckDB casts each cell to the type of its column."""
    lines = [line for line in table.splitlines() if line.strip()]
    given = cells(lines[0]) if lines else []
    unknown = set(given) - {column for column, _ in columns}
    assert not unknown, f"{name} has no column {sorted(unknown)}"
    texts = [(column, "VARCHAR") for column in ("row_number", *given)]
    rows: list[list[str | None]] = []
    for number, line in enumerate(lines[1:]):
        found = cells(line)
        assert len(found) == len(given), f"{name}: {len(given)} cells expected in {line!r}"
        rows.append([str(number), *(cell or None for cell in found)])
    warehouse.table_rows("cell_texts", texts, rows)
    selection = ", ".join(
        f"CAST({column if column in given else 'NULL'} AS {sql_type}) AS {column}" for column, sql_type in columns
    )
    warehouse.connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {selection} FROM cell_texts ORDER BY CAST(row_number AS BIGINT)"
    )


def types_of(warehouse: Warehouse, table: str) -> tuple[tuple[str, str], ...]:
    relation = warehouse.connection.table(table)
    return tuple(zip(relation.columns, (str(sql_type) for sql_type in relation.types), strict=True))


def rows_of(warehouse: Warehouse, table: str, columns: list[str]) -> list[tuple[str, ...]]:
    """Return the rows as texts, in the order they were written."""
    selection = ", ".join(f"CAST({column} AS VARCHAR) AS {column}" for column in columns)
    return warehouse.connection.execute(f"SELECT {selection} FROM {table}").fetchall()


def bound(types: dict[str, str], given: dict[str, str]) -> dict[str, Any]:
    assert set(types) == set(given), f"expected the parameters {sorted(types)}, got {sorted(given)}"
    readers = {"TIMESTAMPTZ": datetime.fromisoformat, "INTERVAL": parse_duration, "BIGINT": int, "VARCHAR": str}
    return {name: readers[types[name]](text) for name, text in given.items()}
