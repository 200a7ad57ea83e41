"""Parquet objects as records, row by row, with the exact values that were stored.

Integers, decimals, texts, booleans, times and nested values keep every digit they have (of a time, microseconds). A
binary float has no digits of its own, so a column of floats is refused unless the contract says
``doubles = "shortest"``: the shortest decimal that reads back as the same float. Memory holds one batch of rows. Before
the first row is given out the whole file is decoded once, so a file that is damaged at its end yields no row at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.adapters.decompress import RATIO_FREE_BYTES, ObjectFault, growth_message
from pipeline.core.contract import SourceContract
from pipeline.core.csv_text import check_columns, mapped_fields, needed_fields
from pipeline.core.json_text import shown
from pipeline.core.reason import QuarantineReason, RejectedError, over_limit

BATCH_ROWS = 4_096
_BATCH_BYTES_MAX = 16 << 20


def read_records(path: Path, contract: SourceContract) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a Parquet file in order, in lists that fit in memory; a row maps column names to values.

    Values are ``str``, ``int``, ``Decimal``, ``bool``, ``None``, ``datetime``, ``date``, ``time``, ``bytes``, and lists
    and dictionaries of these. Where the contract ignores unknown fields, only the columns it maps are read. Raises
    ``ObjectFault``, before the first row, when the file is not Parquet, is damaged, encrypted or over a limit, lacks a
    column, or has one whose values are not exact.
    """
    try:
        with _open(path) as file:
            columns = _checked_columns(file, path, contract)
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
            batch_rows = BATCH_ROWS
            # As dictionaries, because a text that a file holds once may stand in every row of it.
            with _open(path, read_dictionary=texts) as encoded:
                for batch in encoded.iter_batches(BATCH_ROWS, columns=columns):
                    row_bytes = _checked_bytes_of_row(batch, contract)
                    batch_rows = min(batch_rows, max(1, _BATCH_BYTES_MAX // max(1, row_bytes)))
            for batch in file.iter_batches(batch_rows, columns=columns):
                yield _rows(batch)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ObjectFault(
            QuarantineReason.UNREADABLE_OBJECT, f"not a Parquet file that can be read: {reason}"
        ) from None
    except RejectedError as error:
        raise ObjectFault(error.rejection.reason, error.rejection.message) from None


def _open(path: Path, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, coerce_int96_timestamp_unit="us", **options)


def count_records(path: Path) -> int:
    """Return how many rows the file itself says it has, apart from reading them (P3)."""
    return int(pq.read_metadata(path).num_rows)


# What the file declares ----------------------------------------------------------------------------------------------


def _checked_columns(file: pq.ParquetFile, path: Path, contract: SourceContract) -> list[str] | None:
    """Return the columns to read, all of them if ``None``; raise if the file is not what the contract says."""
    limits, schema, metadata = contract.limits, file.schema_arrow, file.metadata
    if metadata.num_columns > limits.columns_max:
        raise ObjectFault(
            QuarantineReason.TOO_MANY_COLUMNS,
            over_limit(f"{metadata.num_columns:,} columns", limits.columns_max, "columns_max"),
        )
    byte_count = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if byte_count > limits.object_bytes_max:
        raise ObjectFault(
            QuarantineReason.OBJECT_TOO_LARGE,
            over_limit(f"{byte_count:,} bytes once decompressed", limits.object_bytes_max, "object_bytes_max"),
        )
    if byte_count > max(RATIO_FREE_BYTES, limits.decompression_ratio_max * path.stat().st_size):
        raise ObjectFault(
            QuarantineReason.COMPRESSION_RATIO_TOO_HIGH,
            growth_message(path.stat().st_size, limits.decompression_ratio_max),
        )
    # A name with dots may be a column, or a path into one.
    mapped = {_column_of(name, schema.names) for name in mapped_fields(contract)}
    needed = {_column_of(name, schema.names) for name in needed_fields(contract)}
    names = [name for name in schema.names if name in mapped or _is_data(name, contract)]
    check_columns(contract, tuple(schema.names), mapped | {*names}, needed)
    read = names if contract.unknown_fields == "ignore" else schema.names
    for name in read:
        _check_type(name, schema.field(name).type, contract, 2)
    return read if contract.unknown_fields == "ignore" else None


def _column_of(field: str, names: list[str]) -> str:
    return field if field in names else field.partition(".")[0]


def _is_data(name: str, contract: SourceContract) -> bool:
    return not contract.event.data and name == contract.event.data_object.partition(".")[0]


def _check_type(name: str, found: pa.DataType, contract: SourceContract, level: int) -> None:
    if level > contract.limits.json_depth_max:
        raise ObjectFault(
            QuarantineReason.NESTED_TOO_DEEP,
            f"column {shown(name)}: more than {contract.limits.json_depth_max:,} levels (limits.json_depth_max)",
        )
    if isinstance(found, pa.StructType):
        for index in range(found.num_fields):
            field = found.field(index)
            _check_type(f"{name}.{field.name}", field.type, contract, level + 1)
    elif isinstance(found, pa.MapType):
        if not pa.types.is_string(found.key_type):
            raise _inexact(name, found, "a map whose keys are texts")
        _check_type(name, found.item_type, contract, level + 1)
    elif isinstance(found, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        _check_type(name, found.value_type, contract, level + 1)
    elif isinstance(found, pa.DictionaryType):
        _check_type(name, found.value_type, contract, level)
    elif pa.types.is_floating(found):
        if contract.doubles == "refuse":
            raise ObjectFault(
                QuarantineReason.WRONG_TYPE,
                f"column {shown(name)} is of type {found}, whose digits are not exact; expected DECIMAL, an integer or "
                'a text, or doubles = "shortest" in the contract, or unknown_fields = "ignore" if it is not needed',
            )
    elif pa.types.is_duration(found) or pa.types.is_interval(found) or pa.types.is_nested(found):
        raise _inexact(name, found, "a number or a text")


def _inexact(name: str, found: pa.DataType, expected: str) -> ObjectFault:
    return ObjectFault(QuarantineReason.WRONG_TYPE, f"column {shown(name)}: expected {expected}, got {found}")


# What it holds -------------------------------------------------------------------------------------------------------

Conversion = Callable[[Any], Any]


def _checked_bytes_of_row(batch: pa.RecordBatch, contract: SourceContract) -> int:
    """Return how many bytes the texts of one row have at most; raise if one of them is over the limit."""
    row_bytes = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        longest = _longest(column)
        row_bytes += longest
        if longest > contract.limits.line_bytes_max:
            raise ObjectFault(
                QuarantineReason.LINE_TOO_LONG,
                over_limit(
                    f"a value of column {shown(name)} has {longest:,} bytes",
                    contract.limits.line_bytes_max,
                    "line_bytes_max",
                ),
            )
        if _holds_map(column.type):
            _values(column)
    return row_bytes


def _is_text(found: pa.DataType) -> bool:
    return pa.types.is_string(found) or pa.types.is_binary(found)


def _longest(column: Any) -> int:
    if isinstance(column, pa.DictionaryArray):
        return _longest(column.dictionary)
    if isinstance(column, pa.StructArray):
        return max((_longest(field) for field in column.flatten()), default=0)
    if isinstance(column, pa.ListArray):
        return _longest(column.values)
    if not _is_text(column.type):
        return 0
    return int(pc.max(pc.binary_length(column)).as_py() or 0)


def _holds_map(found: pa.DataType) -> bool:
    inner = [found.field(index).type for index in range(found.num_fields)]
    return pa.types.is_map(found) or any(_holds_map(item) for item in inner)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = [_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


_UNITS_OF_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def _check_clock_times(column: pa.Array[Any]) -> None:
    """Refuse a time of day that is none, such as the 24:00 of some databases: as a Python value it would be 00:00."""
    found: Any = column.type
    if pa.types.is_struct(found):
        for below in column.flatten():  # type: ignore[attr-defined]
            _check_clock_times(below)
    elif pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
        _check_clock_times(column.flatten())  # type: ignore[attr-defined]
    elif pa.types.is_time(found):
        limits: Any = pc.min_max(column.view(pa.int32() if pa.types.is_time32(found) else pa.int64())).as_py()
        if limits["min"] is not None and not 0 <= limits["min"] <= limits["max"] < _UNITS_OF_DAY[found.unit]:
            raise RejectedError(
                QuarantineReason.UNREADABLE_OBJECT, "a time of day is before 00:00:00, or 24:00:00 or later"
            )


def _values(column: pa.Array[Any]) -> list[Any]:
    _check_clock_times(column)
    target = _in_microseconds(column.type)
    if target != column.type:
        column = column.cast(target, safe=False)  # it cuts digits off and changes nothing else
    values: list[Any] = column.to_pylist()
    convert = _conversion(target)
    return values if convert is None else [convert(value) for value in values]


def _in_microseconds(found: pa.DataType) -> pa.DataType:
    """Return the type with times of microseconds at most, and with texts in place of numbers that stand for them."""
    if isinstance(found, pa.TimestampType):
        return pa.timestamp("us", found.tz) if found.unit == "ns" else found
    if pa.types.is_time64(found):
        return pa.time64("us")
    if isinstance(found, pa.DictionaryType):
        return _in_microseconds(found.value_type)
    if isinstance(found, pa.StructType):
        fields = [found.field(index) for index in range(found.num_fields)]
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in fields])
    if isinstance(found, pa.MapType):
        return pa.map_(found.key_type, _in_microseconds(found.item_type))
    if isinstance(found, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        return pa.list_(_in_microseconds(found.value_type))
    return found


def _conversion(found: pa.DataType) -> Conversion | None:
    """Return how a Python value of a type becomes an exact one, ``None`` where it is one already."""
    if pa.types.is_floating(found):
        width: Any = {16: np.float16, 32: np.float32}.get(found.bit_width)
        return _or_none(lambda value: Decimal(repr(value) if width is None else str(width(value))))
    if isinstance(found, pa.StructType):
        of_fields = {
            field.name: convert
            for field in (found.field(index) for index in range(found.num_fields))
            if (convert := _conversion(field.type)) is not None
        }
        return _or_none(lambda value: value | {name: of_fields[name](value[name]) for name in of_fields})
    if isinstance(found, pa.MapType):
        of_items = _conversion(found.item_type) or (lambda value: value)
        return _or_none(lambda pairs: _map_of([(key, of_items(item)) for key, item in pairs]))
    if isinstance(found, pa.ListType):
        of_values = _conversion(found.value_type)
        return None if of_values is None else _or_none(lambda values: [of_values(value) for value in values])
    return None


def _or_none(convert: Conversion) -> Conversion:
    return lambda value: None if value is None else convert(value)


def _map_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ObjectFault(QuarantineReason.DUPLICATE_JSON_KEY, "a map holds a key twice, so its value is ambiguous")
    return entries
