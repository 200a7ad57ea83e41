from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.adapters.warehouse import Warehouse, sql_files
from pipeline.core.dataset import INSTANT, QUANTITY, RAW_EVENTS, Dataset
from pipeline.core.errors import PricingError
from pipeline.core.manifest import canonical_json

THINGS = Dataset(
    "things",
    (("name", "VARCHAR"), ("number", "BIGINT"), ("quantity", QUANTITY), ("seen_at", INSTANT), ("raw", "BLOB")),
    ("name", "number"),
)
SEEN_AT = datetime(2026, 1, 15, 12, 0, 0, 1, tzinfo=UTC)
ROWS: list[tuple[Any, ...]] = [
    ("b", 2, Decimal("1.5"), SEEN_AT, b"\x00\xff"),
    ("ä", 1, Decimal("-0.000000001"), None, None),
    ("b", 1, None, SEEN_AT, b""),
]


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    with Warehouse(tmp_path / "scratch") as opened:
        yield opened


def written(warehouse: Warehouse, rows: Sequence[Sequence[Any]], to: Path) -> Path:
    warehouse.table_rows("things", THINGS.columns, rows)
    return warehouse.write_table("things", to, THINGS)


def rows_in(warehouse: Warehouse, name: str) -> list[dict[str, Any]]:
    return warehouse.connection.table(name).to_arrow_table().to_pylist()


def test_rows_come_back_as_they_were_given(warehouse: Warehouse) -> None:
    warehouse.table_rows("things", THINGS.columns, ROWS)

    assert [tuple(row.values()) for row in rows_in(warehouse, "things")] == ROWS


def test_rows_are_written_in_the_order_of_the_key(warehouse: Warehouse, tmp_path: Path) -> None:
    path = written(warehouse, ROWS, tmp_path / "things.parquet")

    warehouse.view_files("stored", THINGS, [path])
    assert [(row["name"], row["number"]) for row in rows_in(warehouse, "stored")] == [("b", 1), ("b", 2), ("ä", 1)]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_same_rows_make_the_same_bytes_whatever_their_order_and_the_threads(tmp_path: Path, threads: int) -> None:
    rows = [(f"name-{number % 97}", number, Decimal(number), SEEN_AT, b"x") for number in range(5_000)]
    with Warehouse(tmp_path, threads=1) as one_thread:
        expected = written(one_thread, rows, tmp_path / "expected.parquet").read_bytes()

    with Warehouse(tmp_path, threads=threads) as many_threads:
        actual = written(many_threads, rows[::-1], tmp_path / "actual.parquet").read_bytes()

    assert actual == expected


def test_no_file_is_an_empty_relation_with_the_columns_of_the_dataset(warehouse: Warehouse) -> None:
    warehouse.view_files("things", THINGS, [])

    relation = warehouse.connection.table("things")
    assert tuple(zip(relation.columns, map(str, relation.types), strict=True)) == THINGS.columns
    assert rows_in(warehouse, "things") == []


@pytest.mark.parametrize("is_file", [True, False])
def test_rows_of_other_names_are_left_out_of_a_table_and_of_a_view(
    warehouse: Warehouse, tmp_path: Path, is_file: bool
) -> None:
    path = written(warehouse, ROWS, tmp_path / "things.parquet")
    if is_file:
        warehouse.view_files("things", THINGS, [path])

    warehouse.keep_rows("things", "name", {"b", "no such name"})

    assert sorted((row["name"], row["number"]) for row in rows_in(warehouse, "things")) == [("b", 1), ("b", 2)]
    warehouse.keep_rows("things", "name", set())
    assert rows_in(warehouse, "things") == []


def test_a_name_can_be_given_to_other_files_and_rows(warehouse: Warehouse, tmp_path: Path) -> None:
    path = written(warehouse, ROWS, tmp_path / "things.parquet")

    warehouse.view_files("things", THINGS, [path])
    warehouse.view_files("things", THINGS, [])
    warehouse.view_files("things", THINGS, [path])

    assert len(rows_in(warehouse, "things")) == 3


def test_a_folder_named_like_a_partition_adds_no_column(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = tmp_path / "event_date=2026-01-15"
    folder.mkdir()
    path = written(warehouse, ROWS, folder / "things.parquet")

    warehouse.view_files("stored", THINGS, [path])

    assert tuple(warehouse.connection.table("stored").columns) == THINGS.column_names


def test_a_file_of_another_shape_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    other = Dataset("other", (("name", "VARCHAR"), ("number", "INTEGER")), ("name",))
    warehouse.table_rows("other", other.columns, [("a", 1)])
    path = warehouse.write_table("other", tmp_path / "other.parquet", other)

    with pytest.raises(TypeError, match="does not hold things"):
        warehouse.view_files("things", THINGS, [path])
    with pytest.raises(TypeError, match="does not hold things"):
        warehouse.describe_file(THINGS, [path])


def test_a_query_that_does_not_make_the_dataset_leaves_no_file(warehouse: Warehouse, tmp_path: Path) -> None:
    excluded = (("object_id", "VARCHAR"), ("reason", "VARCHAR"))
    warehouse.table_rows("excluded_events", excluded, [("o1", "late")])

    with pytest.raises(TypeError, match="does not hold things"):
        warehouse.write("exclusion_counts", {}, tmp_path / "things.parquet", THINGS)

    assert not (tmp_path / "things.parquet").exists()


def test_a_query_is_selected_built_and_written_with_the_same_rows(warehouse: Warehouse, tmp_path: Path) -> None:
    counts = Dataset("counts", (("reason", "VARCHAR"), ("event_count", "BIGINT")), ("reason",))
    excluded = (("object_id", "VARCHAR"), ("reason", "VARCHAR"))
    warehouse.table_rows("excluded_events", excluded, [("o1", "late"), ("o2", "late"), ("o3", "exact_duplicate")])
    expected = [{"reason": "exact_duplicate", "event_count": 1}, {"reason": "late", "event_count": 2}]

    warehouse.build("exclusion_counts", {})
    path = warehouse.write("exclusion_counts", {}, tmp_path / "counts.parquet", counts)
    warehouse.view_files("stored", counts, [path])

    assert warehouse.select("exclusion_counts", {}) == expected
    assert rows_in(warehouse, "exclusion_counts") == expected
    assert rows_in(warehouse, "stored") == expected


def test_a_selected_instant_is_aware_and_in_utc(warehouse: Warehouse) -> None:
    columns = (("event_at", INSTANT), ("received_at", INSTANT))
    tokyo = SEEN_AT.astimezone(timezone(timedelta(hours=9)))
    warehouse.table_rows("raw_events", columns, [(tokyo, tokyo)])

    rows = warehouse.select("last_receipt", {"window_start": tokyo, "window_end": SEEN_AT + timedelta(microseconds=1)})

    assert rows == [{"event_count": 1, "last_received_at": SEEN_AT}]
    assert rows[0]["last_received_at"].utcoffset() == timedelta(0)


def test_a_parameter_that_is_missing_or_unknown_is_refused(warehouse: Warehouse) -> None:
    warehouse.table_rows("raw_events", (("event_at", INSTANT), ("received_at", INSTANT)), [])

    with pytest.raises(duckdb.Error):
        warehouse.select("last_receipt", {"window_start": SEEN_AT})
    with pytest.raises(duckdb.Error):
        warehouse.select("last_receipt", {"window_start": SEEN_AT, "window_end": SEEN_AT, "other": 1})


@pytest.mark.parametrize(
    ("value", "error"),
    [(SEEN_AT.replace(tzinfo=None), ValueError), (0.1, TypeError), ([0.1], TypeError), (object(), TypeError)],
)
def test_a_naive_instant_or_a_float_is_refused_as_parameter_and_as_row(
    warehouse: Warehouse, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        warehouse.select("last_receipt", {"window_start": value, "window_end": SEEN_AT})
    with pytest.raises(error):
        warehouse.table_rows("things", (("name", "VARCHAR"),), [(value,)])


def test_a_decimal_with_a_digit_too_many_is_refused_not_rounded(warehouse: Warehouse) -> None:
    with pytest.raises(PricingError, match="does not fit"):
        warehouse.table_rows("things", (("quantity", QUANTITY),), [(Decimal("0.0000000001"),)])


def test_the_content_hash_is_the_documented_one(warehouse: Warehouse, tmp_path: Path) -> None:
    def streams(values: list[Any]) -> tuple[bytes, bytes, bytes]:
        found = [value for value in values if value is not None]
        texts = [value.encode() if isinstance(value, str) else value for value in found]
        has_value = bytes(value is not None for value in values)
        if found and isinstance(texts[0], bytes):
            return has_value, b"".join(len(text).to_bytes(4, "little") for text in texts), b"".join(texts)
        return has_value, b"", b"".join(fixed(value) for value in found)

    def fixed(value: Any) -> bytes:
        if isinstance(value, Decimal):
            return int(value.scaleb(9)).to_bytes(16, "little", signed=True)
        if isinstance(value, datetime):
            value = (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        return int(value).to_bytes(8, "little", signed=True)

    columns = [list(column) for column in THINGS.columns]
    path = written(warehouse, ROWS, tmp_path / "things.parquet")
    rows = sorted(ROWS, key=lambda row: row[:2])
    digests = [hashlib.sha256(part).hexdigest() for values in zip(*rows, strict=True) for part in streams(list(values))]
    expected = hashlib.sha256(canonical_json(["things", columns, 3, digests])).hexdigest()

    assert warehouse.describe_file(THINGS, [path]) == (3, expected)


def test_the_content_hash_does_not_depend_on_where_files_end_but_on_the_order_of_rows(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    together = written(warehouse, ROWS, tmp_path / "together.parquet")
    ordered = sorted(ROWS, key=lambda row: row[:2])
    apart = [written(warehouse, [row], tmp_path / f"{number}.parquet") for number, row in enumerate(ordered)]

    assert warehouse.describe_file(THINGS, apart) == warehouse.describe_file(THINGS, [together])
    assert warehouse.describe_file(THINGS, apart[::-1]) != warehouse.describe_file(THINGS, [together])


def test_the_rows_of_a_large_file_are_hashed_in_their_order_on_any_number_of_threads(tmp_path: Path) -> None:
    numbers = Dataset("numbers", (("number", "BIGINT"), ("text", "VARCHAR")), ("number",))
    path = tmp_path / "numbers.parquet"
    found = set()
    for threads in (1, 2, 8):
        with Warehouse(tmp_path, threads=threads) as warehouse:
            if not path.exists():
                rows = "SELECT i AS number, repeat(CAST(i AS VARCHAR), 3) AS text FROM range(1_000_000) AS r (i)"
                warehouse.connection.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 10_000)")
            found |= {warehouse.describe_file(numbers, [path]) for _ in range(3)}

    assert len(found) == 1
    assert {count for count, _ in found} == {1_000_000}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([("a", 1, None, None, None)], [("a", 1, None, None, None)] * 2),
        ([("a", None, None, None, None)], [("a-", None, None, None, None)]),
        ([("", None, None, None, None)], [(None, None, None, None, None)]),
        ([("a", 1, Decimal(1), None, None)], [("a", 1, Decimal("1.000000001"), None, None)]),
        ([("a", 1, None, SEEN_AT, None)], [("a", 1, None, SEEN_AT + timedelta(microseconds=1), None)]),
        (
            [("a", 12, None, None, None), ("b", 3, None, None, None)],
            [("a", 1, None, None, None), ("b", 23, None, None, None)],
        ),
    ],
)
def test_other_rows_have_another_content_hash(
    warehouse: Warehouse, tmp_path: Path, before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    first = written(warehouse, before, tmp_path / "before.parquet")
    second = written(warehouse, after, tmp_path / "after.parquet")

    assert warehouse.describe_file(THINGS, [first])[1] != warehouse.describe_file(THINGS, [second])[1]


def test_no_rows_have_one_content_hash_with_and_without_a_file(warehouse: Warehouse, tmp_path: Path) -> None:
    empty = written(warehouse, [], tmp_path / "empty.parquet")

    assert warehouse.describe_file(THINGS, [empty]) == warehouse.describe_file(THINGS, [])
    assert warehouse.describe_file(THINGS, [])[0] == 0


def test_an_sql_file_is_pinned_by_the_hash_of_its_bytes() -> None:
    path = next(path for path in sql_files() if path.stem == "usage")

    assert Warehouse.sql_hash("usage") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_spilled_is_removed_with_the_session(tmp_path: Path) -> None:
    with Warehouse(tmp_path / "scratch", memory_limit="100MB", threads=1) as warehouse:
        warehouse.connection.execute(
            "CREATE TEMP TABLE big AS SELECT md5(CAST(i AS VARCHAR)) t FROM range(4_000_000) r(i)"
        )
        assert any((tmp_path / "scratch").glob("duckdb-*/*"))

    assert list((tmp_path / "scratch").iterdir()) == []


def test_no_extension_is_fetched(warehouse: Warehouse) -> None:
    rows = warehouse.connection.execute(
        "SELECT value FROM duckdb_settings() WHERE name LIKE 'auto%known_extensions' ORDER BY name"
    ).fetchall()

    assert rows == [("false",), ("false",)]


def test_a_session_is_in_utc_wherever_the_machine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with Warehouse(tmp_path) as warehouse:
            midnight = warehouse.connection.execute("SELECT CAST(TIMESTAMPTZ '2026-01-01T00:00:00Z' AS VARCHAR)")
            assert midnight.fetchall() == [("2026-01-01 00:00:00+00",)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_given_texts_run_instead_of_the_files_and_no_other_query_does(tmp_path: Path) -> None:
    with Warehouse(tmp_path, sql={"last_receipt": "SELECT 7 AS number"}) as pinned:
        assert pinned.select("last_receipt", {}) == [{"number": 7}]
        pinned.build("last_receipt", {}, "renamed")
        assert rows_in(pinned, "renamed") == [{"number": 7}]
        with pytest.raises(LookupError, match="usage is not among those given: last_receipt"):
            pinned.select("usage", {})


def test_rows_that_differ_are_paired_by_key_and_the_first_are_shown(warehouse: Warehouse, tmp_path: Path) -> None:
    def row(name: str, number: int, quantity: int) -> tuple[Any, ...]:
        return (name, number, Decimal(quantity), None, None)

    same = row("a", 1, 1)
    here, there = [row("b", 1, 1), row("c", 1, 1), row("d", 1, 1)], [row("b", 1, 2), row("e", 1, 1)]
    one = written(warehouse, [same, *here], tmp_path / "one.parquet")
    other = written(warehouse, [*there, same], tmp_path / "other.parquet")

    def shown(rows_max: int) -> list[tuple[Any, Any]]:
        pairs = warehouse.differing_rows(THINGS, [one], [other], rows_max)
        return [tuple(side and (side["name"], int(side["quantity"])) for side in pair) for pair in pairs]

    assert shown(10) == [(("b", 1), ("b", 2)), (("c", 1), None), (("d", 1), None), (None, ("e", 1))]
    assert shown(2) == [(("b", 1), ("b", 2)), (("c", 1), None)]
    assert warehouse.differing_rows(THINGS, [one], [one], 10) == []


def test_a_view_reads_its_bounds_and_leaves_the_order_to_its_reader(tmp_path: Path) -> None:
    start = datetime(2026, 1, 15, tzinfo=UTC)
    with Warehouse(tmp_path) as warehouse:
        events = [("s", str(hour), start + timedelta(hours=hour)) for hour in (-1, 0, 23, 24)]
        columns = (("source", "VARCHAR"), ("id", "VARCHAR"), ("event_at", "TIMESTAMP WITH TIME ZONE"))
        missing = ", ".join(
            f"NULL AS {name}"
            for name in ("key_hash", "type", "subject", "received_at", "quantity", "data", "object_id")
        )
        warehouse.table_rows("rows", columns, events)
        warehouse.connection.execute(f"CREATE TEMP VIEW raw_events AS SELECT *, {missing}, 1 AS line_number FROM rows")

        bounds = {"window_start": start, "window_end": start + timedelta(days=1)}
        warehouse.view("window_events", bounds, "metered_events")

        ids = {row[0] for row in warehouse.connection.table("metered_events").project("id").fetchall()}
        plan = warehouse.connection.execute("EXPLAIN FROM metered_events").fetchall()[0][1]
        with pytest.raises(TypeError, match="a view takes instants and durations"):
            warehouse.view("window_events", {**bounds, "window_end": "2026-01-16"}, "metered_events")
    assert ids == {"0", "23"}
    assert "ORDER" not in plan.upper()


@pytest.mark.parametrize("sorted_at_once", [1, 3, 1 << 26])
def test_values_that_are_there_more_than_once_are_found_whatever_the_number_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sorted_at_once: int
) -> None:
    monkeypatch.setattr("pipeline.adapters.warehouse.SORTED_AT_ONCE", sorted_at_once)
    hashes = [7, 7 + (1 << 32), 3, 4, 3, 10, 9, (1 << 64) - 1, (1 << 32) - 1, 4]
    bounds = {"window_start": datetime(2026, 1, 1, tzinfo=UTC), "window_end": datetime(2026, 1, 2, tzinfo=UTC)}

    with Warehouse(tmp_path) as warehouse:
        warehouse.connection.execute(
            f"CREATE TABLE raw_events AS SELECT CAST(key_hash AS UBIGINT) AS key_hash, "
            f"TIMESTAMPTZ '2026-01-01' AS event_at FROM UNNEST({hashes}) AS rows (key_hash)"
        )
        warehouse.table_repeated("window_hashes", bounds, "repeated_hashes", "raw_events")
        found = warehouse.connection.execute("SELECT short_hash FROM repeated_hashes ORDER BY ALL").fetchall()

    assert found == [(3,), (4,), (7,), ((1 << 32) - 1,)]


def test_nothing_is_there_more_than_once_where_there_is_nothing(tmp_path: Path) -> None:
    bounds = {"window_start": datetime(2026, 1, 1, tzinfo=UTC), "window_end": datetime(2026, 1, 2, tzinfo=UTC)}

    with Warehouse(tmp_path) as warehouse:
        warehouse.view_files("raw_events", RAW_EVENTS, [])
        warehouse.table_repeated("window_hashes", bounds, "repeated_hashes", "raw_events")
        found = warehouse.connection.table("repeated_hashes").to_arrow_table()

    assert (found.column_names, len(found)) == (["short_hash"], 0)


def test_a_table_of_arrow_has_the_columns_it_was_said_to_have(tmp_path: Path) -> None:
    rows = pa.table({"name": ["a"], "size": pa.array([1], pa.int32())})

    with Warehouse(tmp_path) as warehouse:
        warehouse.table_arrow("things", (("name", "VARCHAR"), ("size", "INTEGER")), rows)
        with pytest.raises(TypeError, match="things: expected"):
            warehouse.table_arrow("things", (("name", "VARCHAR"), ("size", "BIGINT")), rows)

        assert warehouse.connection.table("things").fetchall() == [("a", 1)]
