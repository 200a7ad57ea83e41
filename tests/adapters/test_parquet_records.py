"""Parquet records: rows in order with the exact values that were stored, or one reason why the file is refused."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.decompress import ObjectFault
from pipeline.adapters.parquet_records import count_records, read_records
from pipeline.core.contract import SourceContract
from pipeline.core.reason import QuarantineReason
from pipeline.core.record import RawEvent, RecordParser, Rejection, parser_for

RECEIVED_AT = datetime(2026, 1, 15, 13, tzinfo=UTC)


def contract(**changed: Any) -> SourceContract:
    event = {
        "source": {"constant": "export"},
        "id": {"field": "id"},
        "type": {"constant": "line"},
        "subject": {"field": "account"},
        "time": {"field": "at"},
        "data": {"amount": {"field": "amount", "type": "decimal"}},
    }
    fields = {
        "name": "feed",
        "version": "1",
        "prefix": "",
        "format": "parquet",
        "event": event | changed.pop("event", {}),
    }
    return SourceContract.model_validate(fields | {"unknown_fields": "ignore"} | changed)


def written(folder: Path, columns: dict[str, pa.Array[Any]], **options: Any) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def columns(count: int = 1, **changed: pa.Array[Any]) -> dict[str, pa.Array[Any]]:
    return {
        "id": pa.array([f"line-{number}" for number in range(count)]),
        "account": pa.array(["acct-1"] * count),
        "at": pa.array([datetime(2026, 1, 15, 12, tzinfo=UTC)] * count, pa.timestamp("us", "UTC")),
        "amount": pa.array([Decimal("1.50")] * count, pa.decimal128(38, 9)),
        **changed,
    }


def rows(path: Path, feed: SourceContract) -> list[dict[str, Any]]:
    return [row for part in read_records(path, feed) for row in part]


def events(path: Path, feed: SourceContract) -> list[RawEvent | Rejection]:
    parser = parser_for(feed, "rows.parquet@1", "rows.parquet", RECEIVED_AT, None)
    assert isinstance(parser, RecordParser)
    return [parser.parse_record(number, row) for number, row in enumerate(rows(path, feed), start=1)]


def fault(path: Path, feed: SourceContract) -> ObjectFault:
    with pytest.raises(ObjectFault) as caught:
        next(iter(read_records(path, feed)), None)
    return caught.value


def value_of(folder: Path, stored: pa.Array[Any], **changed: Any) -> Any:
    """Return what a column of one value is read as."""
    feed = contract(event={"data": {"x": {"field": "x", "required": False}}}, **changed)
    return rows(written(folder, columns(x=stored)), feed)[0]["x"]


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (
            pa.array([Decimal("123456789012345678901.123456789")], pa.decimal128(38, 9)),
            "123456789012345678901.123456789",
        ),
        (pa.array([Decimal("-0.000000001")], pa.decimal256(60, 9)), "-1E-9"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array([-(2**63)], pa.int64()), "-9223372036854775808"),
        (pa.array([True]), "True"),
        (pa.array(["text"]), "text"),
        (pa.array(["text"]).dictionary_encode(), "text"),
        (pa.array([None], pa.string()), "None"),
        (pa.array([date(2026, 1, 15)]), "2026-01-15"),
        (pa.array([time(12, 0, 0, 1)]), "12:00:00.000001"),
    ],
)
def test_a_value_keeps_every_digit(tmp_path: Path, stored: pa.Array[Any], value: str) -> None:
    assert str(value_of(tmp_path, stored)) == value


def test_nanoseconds_of_a_time_are_cut_off(tmp_path: Path) -> None:
    stored = pa.array([1_768_478_400_123_456_999], pa.timestamp("ns", "UTC"))

    assert value_of(tmp_path, stored) == datetime(2026, 1, 15, 12, 0, 0, 123_456, tzinfo=UTC)


def test_nested_values_are_exact_at_any_depth(tmp_path: Path) -> None:
    amount = pa.decimal128(20, 2)
    stored = pa.array(
        [{"list": [Decimal("1.10"), None], "map": [("a", 1)], "at": 1_768_478_400_123_456_999, "f": 0.1}],
        pa.struct(
            {
                "list": pa.list_(amount),
                "map": pa.map_(pa.string(), pa.int64()),
                "at": pa.timestamp("ns", "UTC"),
                "f": pa.float32(),
            }
        ),
    )

    assert value_of(tmp_path, stored, doubles="shortest") == {
        "list": [Decimal("1.10"), None],
        "map": {"a": 1},
        "at": datetime(2026, 1, 15, 12, 0, 0, 123_456, tzinfo=UTC),
        "f": Decimal("0.1"),
    }


def test_a_row_becomes_the_same_event_as_its_json(tmp_path: Path) -> None:
    feed = contract(event={"data": {}, "data_object": "usage"})
    usage = pa.array([{"tokens": 1200, "model": "large", "note": None}])

    [event] = events(written(tmp_path, columns(usage=usage)), feed)

    assert event == RawEvent(
        source="export",
        id="line-0",
        type="line",
        subject="acct-1",
        event_at=datetime(2026, 1, 15, 12, tzinfo=UTC),
        quantity=None,
        data='{"model":"large","tokens":"1200"}',
    )


def test_a_time_without_zone_is_read_only_where_the_contract_declares_one(tmp_path: Path) -> None:
    path = written(tmp_path, columns(at=pa.array([1_768_478_400_000_000], pa.timestamp("us"))))

    [refused] = events(path, contract())
    [read] = events(path, contract(event={"time": {"field": "at", "time_zone": "UTC"}}))

    assert isinstance(refused, Rejection)
    assert refused.reason is QuarantineReason.INVALID_TIME
    assert isinstance(read, RawEvent)
    assert read.event_at == datetime(2026, 1, 15, 12, tzinfo=UTC)


# Floats --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("float_type", [pa.float32(), pa.float64()])
def test_a_column_of_floats_is_refused_with_its_name_its_type_and_what_to_do(
    tmp_path: Path, float_type: pa.DataType
) -> None:
    found = fault(written(tmp_path, columns(amount=pa.array([0.1], float_type))), contract())

    assert found.reason is QuarantineReason.WRONG_TYPE
    assert found.message.startswith(f"column 'amount' is of type {float_type}, whose digits are not exact")
    assert 'doubles = "shortest"' in found.message


@pytest.mark.parametrize("float_type", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("number", ["0.1", "1E-7", "16777216.0", "0.3"])
def test_a_contract_may_take_the_shortest_decimal_of_a_float(
    tmp_path: Path, float_type: pa.DataType, number: str
) -> None:
    path = written(tmp_path, columns(amount=pa.array([float(number)], float_type)))

    [row] = rows(path, contract(doubles="shortest"))

    assert row["amount"] == Decimal(number)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_float_that_is_no_number_quarantines_its_row(tmp_path: Path, number: float) -> None:
    path = written(tmp_path, columns(2, amount=pa.array([number, 1.0])))

    refused, read = events(path, contract(doubles="shortest"))

    assert isinstance(refused, Rejection)
    assert refused.reason is QuarantineReason.NOT_A_NUMBER
    assert isinstance(read, RawEvent)


def test_a_float_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, columns(price=pa.array([0.1])))

    [row] = rows(path, contract())

    assert "price" not in row
    assert fault(path, contract(unknown_fields="keep")).reason is QuarantineReason.WRONG_TYPE


# Whole files ---------------------------------------------------------------------------------------------------------


def test_rows_come_in_order_across_row_groups_and_as_many_as_the_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, columns(10_000), row_group_size=3_000)

    read = rows(path, contract())

    assert [row["id"] for row in read] == [f"line-{number}" for number in range(10_000)]
    assert count_records(path) == 10_000


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PARE" * 10])
def test_a_file_that_is_not_parquet_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)

    assert fault(path, contract()).reason is QuarantineReason.UNREADABLE_OBJECT


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_was_cut_off_is_unreadable(tmp_path: Path, kept: float) -> None:
    path = written(tmp_path, columns(5_000))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    assert fault(path, contract()).reason is QuarantineReason.UNREADABLE_OBJECT


def test_a_file_whose_last_page_is_damaged_yields_no_row_at_all(tmp_path: Path) -> None:
    path = written(tmp_path, columns(20_000), row_group_size=5_000, compression="gzip", use_dictionary=False)
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(3).column(0)
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)

    assert fault(path, contract()).reason is QuarantineReason.UNREADABLE_OBJECT


def test_a_file_without_a_column_that_is_needed_has_the_wrong_header(tmp_path: Path) -> None:
    path = written(tmp_path, {name: column for name, column in columns().items() if name != "amount"})

    found = fault(path, contract())

    assert (found.reason, found.message) == (QuarantineReason.WRONG_HEADER, "the header lacks 'amount'")


def test_a_column_that_is_not_in_the_contract_is_refused_unless_it_says_otherwise(tmp_path: Path) -> None:
    path = written(tmp_path, columns(region=pa.array(["eu"])))

    found = fault(path, contract(unknown_fields="quarantine"))
    [kept] = events(path, contract(unknown_fields="keep"))

    assert (found.reason, found.message) == (QuarantineReason.UNKNOWN_FIELD, "not in the contract: 'region'")
    assert isinstance(kept, RawEvent)
    assert kept.data == '{"amount":"1.5","region":"eu"}'


def test_a_map_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    stored = pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))
    feed = contract(event={"data": {"x": {"field": "x", "required": False}}})

    assert fault(written(tmp_path, columns(x=stored)), feed).reason is QuarantineReason.DUPLICATE_JSON_KEY


# Limits --------------------------------------------------------------------------------------------------------------


def test_more_columns_than_accepted_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, columns())

    assert rows(path, contract(limits={"columns_max": 4}))
    assert fault(path, contract(limits={"columns_max": 3})).reason is QuarantineReason.TOO_MANY_COLUMNS


def test_a_file_that_is_larger_than_accepted_once_decompressed_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, columns(1_000))

    found = fault(path, contract(limits={"object_bytes_max": 1_024}))

    assert found.reason is QuarantineReason.OBJECT_TOO_LARGE


def test_a_value_longer_than_a_line_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, columns(account=pa.array(["x" * 2_000])))

    assert fault(path, contract(limits={"line_bytes_max": 1_024})).reason is QuarantineReason.LINE_TOO_LONG
    assert rows(path, contract(limits={"line_bytes_max": 2_000}))


def test_columns_nested_deeper_than_accepted_are_refused(tmp_path: Path) -> None:
    stored = pa.array([[[1]]])
    feed = {"data": {"x": {"field": "x", "required": False}}}

    path = written(tmp_path, columns(x=stored))

    assert rows(path, contract(event=feed, limits={"json_depth_max": 4}))
    found = fault(path, contract(event=feed, limits={"json_depth_max": 3}))
    assert found.reason is QuarantineReason.NESTED_TOO_DEEP


def test_a_text_that_repeats_in_every_row_does_not_fill_memory(tmp_path: Path) -> None:
    count = 20_000
    account = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int8()), pa.array(["x" * 1_000_000]))
    path = written(tmp_path, columns(count, account=account))
    assert path.stat().st_size < 4 << 20
    arrow_before = pa.total_allocated_bytes()

    tracemalloc.start()
    read = arrow_peak = 0
    for part in read_records(path, contract()):
        read += len(part)
        arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - arrow_before)
        if read > 500:
            break
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert read > 0
    assert python_peak + arrow_peak < 200 << 20


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("kind", [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")])
@pytest.mark.parametrize(("seconds", "is_time"), [(0, True), (86_399, True), (86_400, False), (-1, False)])
def test_a_time_of_day_that_is_none_is_refused_and_not_moved_to_another_day(
    tmp_path: Path, kind: Any, seconds: int, is_time: bool, is_nested: bool
) -> None:
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    width = pa.int32() if kind.bit_width == 32 else pa.int64()
    times: Any = pa.array([0, None, seconds * units], width).view(kind)
    if is_nested:
        times = pa.StructArray.from_arrays([times], ["clock"])
    path = written(tmp_path, columns(3, at=times))
    feed = contract(event={"time": {"field": "at.clock" if is_nested else "at"}})

    if is_time:
        last = rows(path, feed)[2]["at"]
        clock = (RECEIVED_AT.replace(hour=0) + timedelta(seconds=seconds)).time()
        assert (last["clock"] if is_nested else last) == clock
    else:
        with pytest.raises(ObjectFault, match="time of day"):
            rows(path, feed)
