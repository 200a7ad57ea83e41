"""The fast road of collection against the strict parser: what it takes, the strict parser takes, with the same values.

Every test mixes odd lines with good ones, so that templates are learned, and compares each line that the fast road
takes with what the strict parser makes of it. A line that it leaves needs no comparison: the strict parser reads it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.adapters import record_blocks
from pipeline.adapters.block_parser import Block, BlockParser, ParsedLines
from pipeline.adapters.record_blocks import RecordBlock, RecordCutter
from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.record import TEXT_FIELDS, RawEvent, RecordParser, Rejection, parser_for

KEY = "usage/eu/2026-01-15.ndjson"
OBJECT_ID = f"{KEY}@0123456789ab"
RECEIVED_AT = datetime(2026, 1, 15, 13, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = int(np.iinfo(np.int64).max)
CHUNK_BYTES = 4_096


# Both roads ----------------------------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """One line, what the fast road took it for (None if it left it), and what the strict parser makes of it."""

    line: bytes
    fast: RawEvent | None
    strict: RawEvent | Rejection


@dataclass
class Roads:
    """Both roads of one contract. What the strict parser says of a line is remembered, as the tests repeat lines."""

    contract: SourceContract
    header: bytes | None = None
    remembered: dict[tuple[bytes, int | None], RawEvent | Rejection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parser = parser_for(self.contract, OBJECT_ID, KEY, RECEIVED_AT, self.header)
        assert isinstance(parser, RecordParser), parser
        self.parser = parser
        derived = [origin.derive for origin in self.contract.event.origins]
        self._needs_place = any(derive not in (None, "hash") for derive in derived)

    def strict(self, line: bytes, line_number: int, record_number: int) -> RawEvent | Rejection:
        key = (line, line_number if self._needs_place else None)
        if key not in self.remembered:
            self.remembered[key] = self.parser.parse(line_number, line, record_number)
        return self.remembered[key]

    def compare(self, content: bytes, block_bytes: int = 1 << 24) -> list[Compared]:
        """Read an object in blocks on both roads. Fails where the fast road takes what the strict one would not."""
        compared: list[Compared] = []
        fast = BlockParser(self.contract, self.parser.columns)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(record_blocks, "BLOCK_BYTES", block_bytes)
            cutter = RecordCutter(self.contract, partial(self._take, fast, compared))
            chunks = [content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)]
            cutter.add_object(0, chunks)
            cutter.flush()
        return compared

    def _take(self, fast: BlockParser, compared: list[Compared], block: RecordBlock) -> None:
        numbers = list(zip(block.line_numbers.tolist(), block.record_numbers.tolist(), strict=True))
        strict = [self.strict(block.records.record(row), *numbers[row]) for row in range(len(block.records))]
        latest = np.full(len(block.records), self._latest_event_at())
        read = fast.parse(block.records, latest, lambda row: isinstance(strict[row], RawEvent))
        events = {} if read is None else dict(zip(read.rows.tolist(), self._events(read, block), strict=True))
        for row, expected in enumerate(strict):
            line, event = block.records.record(row), events.get(row)
            compared.append(Compared(line, event, expected))
            if event is not None:
                assert event == expected, f"the fast road takes {line!r}"
        for long in block.unread:
            compared.append(Compared(long.line.head, None, self.parser.parse(long.line_number, long.line, 0)))

    def _latest_event_at(self) -> int:
        if self.contract.received == "event_time":
            return NEVER
        return (RECEIVED_AT + self.contract.limits.future_max - EPOCH) // timedelta(microseconds=1)

    def _events(self, read: ParsedLines, block: RecordBlock) -> Iterator[RawEvent]:
        """Yield the events of the fast road. An Arrow text that is no UTF-8 raises here."""
        texts = []
        for name in TEXT_FIELDS:
            text = read.text(name)
            places = zip(block.line_numbers[read.rows].tolist(), block.record_numbers[read.rows].tolist(), strict=True)
            texts.append(
                [self.parser.derived_text(name, *place) for place in places] if text is None else text.to_pylist()
            )
        times = [EPOCH + timedelta(microseconds=int(at)) for at in read.event_at]
        rows = zip(*texts, times, read.quantity().to_pylist(), read.data().to_pylist(), strict=True)
        return (RawEvent(*row) for row in rows)


def lines_of(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


# Feeds ---------------------------------------------------------------------------------------------------------------


def feed(**changed: Any) -> SourceContract:
    return SourceContract.model_validate(
        {"name": "feed", "version": "1", "prefix": "usage/", "format": "ndjson"} | changed
    )


JsonShape = Mapping[str, Any]  # name -> JSON text, or the shape of an object


def json_text(shape: JsonShape) -> str:
    """Return the JSON text of a shape, whose leaves are JSON texts already."""
    parts = [f'"{name}":{json_text(text) if isinstance(text, Mapping) else text}' for name, text in shape.items()]
    return "{" + ",".join(parts) + "}"


def json_line(shape: JsonShape) -> bytes:
    return json_text(shape).encode("utf-8", "surrogatepass")


def leaves(shape: JsonShape, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value, those that are objects too."""
    for name, text in shape.items():
        yield (*path, name)
        if isinstance(text, Mapping):
            yield from leaves(text, (*path, name))


def changed(shape: JsonShape, path: tuple[str, ...], text: Any) -> JsonShape:
    """Return the shape with one value replaced; with ``None``, without it."""
    name, rest = path[0], path[1:]
    if rest:
        return {**shape, name: changed(shape[name], rest, text)}
    if text is None:
        return {key: value for key, value in shape.items() if key != name}
    return {**shape, name: text}


@dataclass(frozen=True)
class Feed:
    """A contract, and how its good lines look: the n-th line, as a shape (JSON) or as values (CSV)."""

    contract: SourceContract
    good: Callable[[int], Any]
    header: bytes | None = None

    @property
    def is_csv(self) -> bool:
        return self.contract.format.value == "csv"

    def write(self, record: Any) -> bytes:
        return self.contract.delimiter.join(record).encode() if self.is_csv else json_line(record)

    def good_lines(self, count: int) -> list[bytes]:
        return [self.write(self.good(number)) for number in range(count)]

    def roads(self) -> Roads:
        return Roads(self.contract, self.header)


def event(number: int, **more: Any) -> dict[str, Any]:
    return {
        "specversion": '"1.0"',
        "id": f'"6f0b02fe-96fc-4eda-ab83-{number:012d}"',
        "source": f'"gateway-{number % 3}"',
        "type": '"request.completed"',
        "subject": f'"customer-{number % 17}"',
        "time": f'"2026-01-{1 + number % 15:02d}T{number % 24:02d}:00:{number % 60:02d}.{number % 1000:03d}Z"',
        "data": {
            "input_tokens": str(number),
            "cost": f'"{number}.{number % 100:02d}"',
            "model": '"größe-1"' if number % 2 else '"size-1"',
        },
    } | more


DECLARED = {
    "input_tokens": {"field": "data.input_tokens", "type": "decimal", "minimum": 0, "maximum": 1_000_000_000},
    "cost": {
        "field": "data.cost",
        "type": "decimal",
        "required": False,
        "minimum": "-5",
        "maximum": "999999.999999999",
    },
    "model": {"field": "data.model", "required": False},
}
CSV_COLUMNS = ("at", "account", "units", "cost", "note")
CSV_EVENT = {
    "id": {"derive": "object_and_line"},
    "source": {"constant": "trace"},
    "type": {"constant": "inference"},
    "subject": {"field": "account"},
    "time": {"field": "at", "time_zone": "UTC"},
    "quantity": {"field": "units", "type": "decimal", "minimum": 0},
    "data": {
        "cost": {"field": "cost", "type": "decimal", "required": False},
        "note": {"field": "note", "required": False},
    },
}


def csv_row(number: int) -> tuple[str, ...]:
    at = f"2026-01-{1 + number % 15:02d} {number % 24:02d}:00:{number % 60:02d}.{number % 1000:03d}0000"
    return (
        at,
        f"acct-{number % 7}",
        str(number + 1),
        f"{number}.5" if number % 3 else "",
        ("größe", "size", "")[number % 3],
    )


def csv_feed(delimiter: str = ",", **changed_contract: Any) -> Feed:
    contract = feed(format="csv", delimiter=delimiter, **({"event": CSV_EVENT} | changed_contract))
    return Feed(contract, csv_row, delimiter.join(CSV_COLUMNS).encode())


def csv_of_two_times(*fields: str) -> Feed:
    event = {
        "id": {"derive": "key_and_line"},
        "source": {"constant": "cdn"},
        "type": {"constant": "request"},
        "subject": {"constant": "anybody"},
        "time": {"fields": fields, "time_zone": "UTC"},
    }
    contract = feed(format="csv", delimiter="\t", quoted=False, comment="#", unknown_fields="keep", event=event)
    return Feed(
        contract,
        lambda number: (f"2026-01-{1 + number % 15:02d}", f"{number % 24:02d}:00:{number % 60:02d}", f"{number}"),
        b"date\tclock\tbytes",
    )


FEEDS: dict[str, Feed] = {
    "declared data": Feed(feed(event={"data": DECLARED}), event),
    "whole data": Feed(
        feed(event_types=["request.completed", "request.failed"]),
        lambda number: event(
            number,
            data={
                "n": str(number),
                "s": f'"{number}"',
                "deep": {
                    "list": f'[1,"x{number}",true,null,{{"b":[]}}]',
                    "é": f'"{number % 5}"',
                    "a b": f"{number}.25",
                },
            },
        ),
    ),
    "renamed fields": Feed(
        feed(
            unknown_fields="ignore",
            event={
                "id": {"derive": "hash", "of": ["event_id", "count"]},
                "source": {"constant": "billing"},
                "type": {"field": "kind"},
                "subject": {"first_of": ["customer", "meta.user"]},
                "time": {"field": "ms", "format": "unix_milliseconds"},
                "quantity": {"field": "count", "type": "decimal", "minimum": "0.001", "maximum": 500_000},
                "data": {"unit": {"field": "meta.unit"}, "count": {"field": "count", "type": "decimal", "minimum": 1}},
            },
        ),
        lambda number: {
            "ms": f"{1768478400000 + number}",
            "kind": '"usage"',
            "event_id": f'"e-{number}"',
            "count": f"{number + 1}.5",
            "customer": f'"c{number % 9}"' if number % 2 else "null",
            "meta": {"user": f'"u{number % 4}"', "unit": '"requests"', "extra": "[1,2]"},
        },
    ),
    "unix seconds as text": Feed(
        feed(
            received="event_time",
            unknown_fields="ignore",
            event={
                "id": {"field": "id"},
                "source": {"object_key": "usage/([a-z]+)/"},
                "type": {"constant": "usage"},
                "subject": {"field": "account.id"},
                "time": {"field": "at", "format": "unix_seconds"},
                "quantity": {"field": "quantity", "type": "decimal", "required": False, "minimum": 0},
                "data_object": "account",
            },
        ),
        lambda number: {
            "id": f'"{number}"',
            "account": {"id": f'"a{number % 5}"', "name": '"Ä & Ö"' if number % 2 else '"A & O"'},
            "at": f'"{1768478400 + number}.{number % 1000:03d}"',
            "quantity": f'"{number}.000"' if number % 4 else '"12345678901.123456"',
        },
    ),
    "naive times": Feed(
        feed(
            unknown_fields="ignore",
            event={
                "id": {"derive": "key_and_line"},
                "time": {"field": "time", "time_zone": "UTC"},
                "quantity": {"field": "quantity", "type": "decimal", "required": False, "maximum": 0},
            },
        ),
        lambda number: event(
            number, time=f'"2026-01-{1 + number % 15:02d} {number % 24:02d}:15:00.{number:06d}"', quantity="0.00"
        ),
    ),
    "csv": csv_feed(),
    "csv with null text": csv_feed(";", null_text="\\N"),
    "csv with a null text that may be a value": csv_feed(";", null_text="0"),
    "csv with tabs": csv_feed("\t", quoted=False, null_text="-"),
    "csv with a long null text": csv_feed("|", null_text="nothing at all"),
    "csv with a null text of few characters and many bytes": csv_feed("|", null_text="—————"),
    "csv with a delimiter beyond ASCII": csv_feed("é"),
    "csv with a delimiter beyond a byte": csv_feed("€"),
    "csv with a date and a time": csv_of_two_times("date", "clock"),
    "csv with one column as date and time": csv_of_two_times("date", "date"),
    "a date and a time": Feed(
        feed(event={"time": {"fields": ["date", "time"]}, "data": DECLARED}),
        lambda number: event(
            number, date=f'"2026-01-{1 + number % 15:02d}"', time=f'"{number % 24:02d}:00:00.{number % 1000:03d}+02:00"'
        ),
    ),
    "csv of one column": Feed(
        feed(
            format="csv",
            delimiter="€",
            unknown_fields="ignore",
            event={
                "id": {"derive": "key_and_line"},
                "source": {"constant": "trace"},
                "type": {"constant": "inference"},
                "subject": {"constant": "anybody"},
                "time": {"field": "at"},
            },
        ),
        lambda number: (f"2026-01-15T10:00:{number % 60:02d}Z",),
        b"at",
    ),
    "csv that keeps unknown columns": csv_feed(unknown_fields="keep", event={**CSV_EVENT, "data": {}}),
    "kept fields": Feed(
        feed(unknown_fields="keep", received="event_time", event={"data": {"n": {"field": "data.n"}}}),
        lambda number: event(
            number,
            data={"n": f'"{number}"', "o": str(number), "p": "null", "deep": {"q": '"r"'}},
            more="[1]",
            other="null",
        ),
    ),
    "csv with columns and comments": Feed(
        feed(
            format="csv",
            delimiter=" ",
            quoted=False,
            comment="#",
            header="columns",
            columns=["at", "a", "b", "units", "id"],
            unknown_fields="ignore",
            event={
                "id": {"derive": "hash", "of": ["id", "units"]},
                "source": {"constant": "trace"},
                "type": {"constant": "inference"},
                "subject": {"first_of": ["a", "b"]},
                "time": {"field": "at", "format": "unix_seconds"},
                "data": {"units": {"field": "units", "type": "decimal"}},
            },
        ),
        lambda number: (
            f"{1768478400 + number}",
            "" if number % 2 else "a",
            "b" if number % 2 else "",
            f"{number}",
            f"i{number}",
        ),
    ),
    "csv whose time is a quantity too": csv_feed(
        event=CSV_EVENT | {"time": {"field": "at"}, "data": {"at": {"field": "at", "type": "decimal"}}},
        unknown_fields="ignore",
    ),
}
UNREADABLE = ("csv whose time is a quantity too", "csv with one column as date and time")
SLOW = ("csv of one column", "csv with a delimiter beyond ASCII", "csv with a delimiter beyond a byte")
JSON_FEEDS = [name for name, one in FEEDS.items() if not one.is_csv]


# Odd values ----------------------------------------------------------------------------------------------------------

_NUMBERS = """
    0 -0 0.0 00 007 0007 1. .5 . - +1 -1 1e5 1E5 1e+5 1e-7 1e400 -1e-400 1_000 1,5 0x10 1.5.5 1..5 1-2 --1 5-
    1.0e 1e 12345678901234567 123456789012345678 999999999999999999 1000000000000000000 1234567890123456789
    18446744073709551615 18446744073709551616 123456789012345678901 12345678901234567890123456
    12345678901234567890123456789 9999999999999999.99 123456789012345678901234567890 1.10000000000000000001
    1.100000000 1.1000000000 1.000000000000 0.0000001 0.000000001 0.0000000001 123456789.123456789
    1234567890.123456789 12345678901.123456789 90071992547.123456 999999999.999999 999999999.9999999
    999999999.999999999 1000000000 1000000000.0 1000000000.000000001 1000000001 999999.999999999 1000000 0.001
    0.0010 0.0009 500000 500000.000000001 12345678901234567890.123456789 4.1e-05 0.000041 1768478400
    1768478400.1234567 1768478400123 1768478400123.4567 7258118399 7258118400 7258118399999 7258118400000
    253402300799 253402300800 253402300799999 1e9 1768478400.999999999 99999999999999999 100000000000000000 NaN
    nan Infinity -Infinity inf sNaN ٣ １ ² 5\u00a0 true false null TRUE None 1_0
"""
NUMBERS = _NUMBERS.split()
_TIMES = """
    2026-01-15T10:00:00Z 2026-01-15T10:00:00z 2026-01-15t10:00:00Z 2026-01-15T10:00:00 2026-01-15
    2026-01-15T10:00Z 20260115T100000Z 2026-01-15T10:00:00+02:00 2026-01-15T10:00:00-00:00
    2026-01-15T10:00:00+0200 2026-01-15T10:00:00+02 2026-01-15T10:00:00+25:00 2026-01-15T10:00:00+24:00
    2026-01-15T10:00:00+23:59 2026-01-15T10:00:00-23:59 2026-01-15T10:00:00+23:60 2026-01-15T10:00:00+2:00
    2026-01-15T10:00:00.123456789Z 2026-01-15T10:00:00.1Z 2026-01-15T10:00:00.Z 2026-01-15T10:00:00.1234567890Z
    2026-01-15T10:00:00,5Z 2026-01-15T10:00:00.999999999999999999Z 2026-01-15T10:00:00.1234567890123456789Z
    2026-01-15T10:00:00.123-05:30 2026-01-15T10:00:00.-5Z 2026-01-15T24:00:00Z 2026-01-15T23:59:60Z
    2026-01-15T23:60:00Z 2026-01-15T25:00:00Z 2026-02-30T10:00:00Z 2026-02-29T10:00:00Z 2024-02-29T10:00:00Z
    2100-02-29T10:00:00Z 2000-02-29T10:00:00Z 2026-00-15T10:00:00Z 2026-13-15T10:00:00Z 2026-01-00T10:00:00Z
    2026-01-32T10:00:00Z 2026-04-31T10:00:00Z 2026-12-31T23:59:59.999999Z 0000-03-01T10:00:00Z
    0001-01-01T00:00:00Z 0001-01-01T00:00:00+01:00 9999-12-31T23:59:59Z 9999-12-31T23:59:59-01:00
    1969-12-31T23:59:59Z 1970-01-01T00:00:00Z 1970-01-01T00:00:00+05:00 1970-01-01T00:00:00.000001Z
    2199-12-31T23:59:59Z 2200-01-01T00:00:00Z 12026-01-15T10:00:00Z 2026-3-1T10:00:00.000Z 2026-01-15T1:00:00Z
    infinity now 2026-01-15T10:00:00ZZ 2026-01-15T10:00:00Z+02:00 2026-01-15T10:00:00+02:00Z
    2026/01/15T10:00:00Z 2026-01-15T10.00.00Z 2026-01-15T10:00:0Z 2026-01-15T10:00:00UTC
    2026-01-15T10:00:00+02:0 -2026-01-15T10:00:00Z +026-01-15T10:00:00Z 2026-01-15T10:00:00−02:00
    ２026-01-15T10:00:00Z 2026-01-22T13:00:00Z 2026-01-22T13:00:00.000001Z 2026-01-22T13:00:01Z
    2026-01-23T12:00:00+23:00 2026-01-15T10:00:00+12:345 2026-01-15T10:00:00.12:45 2026-01-15T10:00:00/02:00
"""
TIMES = [
    *_TIMES.split(),
    *("2025-02-29T10:00:00Z", "2025-02-30T10:00:00Z", "2025-04-31T10:00:00Z", "2025-11-31T10:00:00Z"),
    *(
        "10:00:00",
        "23:59:59.999999",
        "24:00:00",
        "10:00:60",
        "10:00",
        "T10:00:00",
        "10:00:00Z",
        "10:00:00+24:00",
        "10:00:00 ",
    ),
    *("2026-02-28", "2025-02-29", "2026-1-15", "2026-01-15T", "26-01-15", " 2026-01-15"),
    "2026-01-15 10:00:00Z",
    "2026-01-15 10:00:00",
    "2026-01-15 10:00:00.1234567",
    "2026-01-15 10:00:00 UTC",
    "2026-01-15T10:00:00 Z",
    " 2026-01-15T10:00:00Z",
    "2026-01-15T10:00:00Z ",
    "2026-01-15_10:00:00",
    "2026-01-15  10:00:00",
    "2026-01-15 10:00:00+01:00",
    "2026-01-15 10:00:00.12345+01:00",
]
TEXTS = [
    "",
    " ",
    "x",
    " x ",
    "twelve bytes",
    "thirteen byte",
    "a" * 300,
    "ü" * 6,
    "ü" * 7,
    "\u0085",
    "a\u009fb",
    "\u00a0",
    "\u2028",
    "\u2029x",
    "\ufeff",
    "a\ufeffb",
    "\ufffd",
    "\U0001f600",
    "\x7f",
    "a\x7f",
    "\ue000",
    "{",
    "}",
    "[]",
    "a:b",
    "a,b",
    "a, b",
    "a;b",
    "a|b",
    "a b",
    "é",
    "鐀",
    "request.failed",
    "Request.Completed",
    "null",
    "\\N",
    "-",
    "—————",
    "nothing at all",
    "1.0",
    "1.00",
    "0.3",
    "'",
    "''",
    "`",
    "=1+1",
    "#",
    "# x",
    "1.5 ",
    " 5",
    "5 ",
]
JSON_TEXTS = [
    r"\u0041bc",
    r"\u0000",
    r"\ud83d\ude00",
    r"\ud83d",
    r"\ude00x",
    r"\\",
    r"\"",
    r"\/",
    r"\n",
    r"\x",
    r"\u12",
    "\\",
    r"\",\"source\":\"x",
    '","source":"x',
    '","source":"x","a":"',
    '","id":"y',
    '":"',
    '"',
    '""',
    '","',
    "\t",
    "\r",
    "\x00",
    "\x01",
    "\x1f",
    "\n",
    "\r\n",
    "\ud800",
    "\udfff",
]
JSON_VALUES = [
    *(
        "true",
        "false",
        "null",
        "[]",
        "{}",
        '["x"]',
        '{"a":1}',
        "[1]",
        "[1,2]",
        '[[["x"]]]',
        '{"a":{"b":"c"}}',
        "[,]",
        "[1,]",
    ),
    *(
        '{"a":1,}',
        '{"a":1,"a":2}',
        r'{"a":1,"\u0061":2}',
        '{"a":{"b":1,"b":1}}',
        '{"":1}',
        '{"a":}',
        "",
        " ",
        "'x'",
        "x",
    ),
    *(
        '"x"y',
        '"x""y"',
        "1 2",
        "1,2",
        "tru",
        "nul",
        "True",
        "NaN",
        "-Infinity",
        "undefined",
        "/**/1",
        '"x"//',
        "[" * 70 + "]" * 70,
    ),
    *(
        '{"specversion":"0.3"}',
        '{"specversion":"1.0"}',
        "[null]",
        "[true,false]",
        "[1.50,1e3]",
        '{"b":"1","a":"2"}',
        "1 ",
        "\t1",
    ),
    *(
        '"a"\x0b',
        "1\x0c",
        "\u00a01",
        '{"a:b":"{c}"}',
        '{"}":"{"}',
        r'{"\"":1}',
        "[1.0,2]",
        "-1",
        "-0",
        "[-0]",
        "1\r",
        "\r1",
    ),
]


def odd_json_values() -> list[str]:
    quoted = [*NUMBERS, *TIMES, *TEXTS, *JSON_TEXTS]
    return [*NUMBERS, *JSON_VALUES, *(f'"{text}"' for text in quoted), '"' + "long " * 40_000 + '"']


def odd_json_lines(one: Feed) -> Iterator[bytes]:
    """Yield good lines with one thing changed: each value, what is there twice or not at all, the space, the ends."""
    for number, path in enumerate(leaves(one.good(1))):
        shape = one.good(number)
        for text in odd_json_values():
            yield json_line(changed(shape, path, text))
        yield json_line(changed(shape, path, None))
        name = path[-1]
        escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
        for repeated in (name, escaped):
            yield json_line(shape).removesuffix(b"}") + f',"{repeated}":"twice"}}'.encode()
            yield f'{{"{repeated}":1,'.encode() + json_line(shape).removeprefix(b"{")
            parent = changed(shape, path, f'"first","{repeated}":"second"')
            yield json_line(parent)
    for number in range(40):
        shape = one.good(number)
        good = json_line(shape)
        yield json_line(dict(reversed(shape.items())))
        yield json_line({**shape, f"more{number % 3}": "1"})
        yield json_line({**shape, "data": {**shape.get("data", {}), "more": '"x"'}})
        for space in (" ", "  ", "\t", "\r", "\n", "\x0b", "\u00a0", "\ufeff", "\x00"):
            for place in ('"', ":", ",", "{", "}"):
                index = good.find(place.encode(), number)
                yield good[:index] + space.encode() + good[index:]
                yield good[: index + 1] + space.encode() + good[index + 1 :]
        yield from (
            good + after for after in (b"X", b" ", b"{}", good, b",", b"//c", b"\x00", b"\r", b"\r\r", b"\xff", b"\\")
        )
        yield from (
            before + good for before in (b"\xef\xbb\xbf", b" ", b"\t", b"[", b"X", b"\x00", b"\xff", b",", b"\r")
        )
        yield from (
            good[:-1],
            good[:-1] + b",}",
            good[1:],
            good[: len(good) // 2],
            good.replace(b'"', b"'"),
            good.upper(),
        )
        for broken in INVALID_UTF8:
            place = good.find(b'"', 20 + number)
            yield good[:place] + broken + good[place:]


INVALID_UTF8 = (
    *(b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xed\xa0\x80", b"\xed\xb0\x80"),
    *(
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xff",
        b"\xc3",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xc2\x85",
        b"\xc2",
    ),
)


def odd_csv_lines(one: Feed) -> Iterator[bytes]:
    delimiter = one.contract.delimiter
    texts = [
        *NUMBERS,
        *TIMES,
        *TEXTS,
        "\t",
        "\r",
        "\x00",
        "\x1f",
        "\x0b",
        "\\",
        '"',
        '""',
        '"""',
        '"a"',
        '"a""b"',
        'a"b',
        '"a',
        'a"',
    ]
    texts += [f'"a{delimiter}b"', f"a{delimiter}b", '" a"', ' "a"', '"a" ', "x" * 200_000, f'"{"y" * 200_000}"']
    for number in range(len(one.good(0))):
        for text in texts:
            row = list(one.good(number))
            row[number] = text
            yield delimiter.join(row).encode()
    for number in range(40):
        row = one.good(number)
        good = delimiter.join(row).encode()
        yield delimiter.join(row[:-1]).encode()
        yield delimiter.join([*row, ""]).encode()
        yield delimiter.join([""] * len(row)).encode()
        yield delimiter.join(reversed(row)).encode()
        yield delimiter.join(f'"{value}"' for value in row).encode()
        yield from (good + after for after in (b"\r", b"\r\r", b" ", delimiter.encode(), b"\x00", b"\xff", b'"'))
        yield from (before + good for before in (b"\xef\xbb\xbf", b" ", b"#", b'"', b"\r"))
        for broken in INVALID_UTF8:
            yield good[:number] + broken + good[number:]


def odd_lines(one: Feed) -> list[bytes]:
    lines = odd_csv_lines(one) if one.is_csv else odd_json_lines(one)
    return [part for line in dict.fromkeys(lines) for part in line.split(b"\n")]


# The differential tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEEDS)
def test_plain_lines_take_the_fast_road(name: str) -> None:
    one = FEEDS[name]

    compared = one.roads().compare(lines_of(one.good_lines(300)))

    is_readable = name not in UNREADABLE
    assert [isinstance(line.strict, RawEvent) for line in compared] == [is_readable] * 300
    assert [line.fast is not None for line in compared] == [is_readable and name not in SLOW] * 300


@pytest.mark.parametrize("name", FEEDS)
def test_no_odd_line_among_good_ones_is_taken_otherwise_than_strictly(name: str) -> None:
    one = FEEDS[name]
    roads, odd, good = one.roads(), odd_lines(one), one.good_lines(500)
    assert len(odd) > 400

    for seed, block_bytes in enumerate([1 << 24, 50_000]):
        lines = [*odd, *good]
        random.Random(seed).shuffle(lines)
        compared = roads.compare(lines_of([*good[:50], *lines]), block_bytes)

        assert sum(isinstance(line.strict, Rejection) for line in compared) > 200
        taken = sum(line.fast is not None for line in compared)
        assert taken > 200 or name in UNREADABLE or name in SLOW


@pytest.mark.parametrize("name", JSON_FEEDS)
def test_a_template_learned_from_an_odd_line_takes_no_other_line_otherwise_than_strictly(name: str) -> None:
    one = FEEDS[name]
    roads = one.roads()
    odd = [line for line in odd_lines(one) if len(line) < 10_000]
    accepted = [line for line in odd if isinstance(roads.strict(line, 1, 1), RawEvent)]
    assert len(accepted) > 100

    for number, line in enumerate(random.Random(name).sample(accepted, 40)):
        others = random.Random(number).sample(odd, 200)
        roads.compare(lines_of([line] * 40 + others))


@pytest.mark.parametrize("item", ['"x"', "1", '{"a":"b"}'])
def test_lines_of_very_many_values_are_left_to_the_strict_parser(item: str) -> None:
    """Learning from one, and then looking at each value of all of them at once, would take minutes."""
    lines = [json_line(event(number, data={"values": f"[{','.join([item] * 5_000)}]"})) for number in range(40)]

    compared = FEEDS["whole data"].roads().compare(lines_of(lines))

    assert [isinstance(line.strict, RawEvent) for line in compared] == [True] * 40
    assert [line.fast for line in compared] == [None] * 40


def test_lines_that_are_nested_as_deep_as_accepted_take_the_fast_road() -> None:
    contract = feed(limits={"json_depth_max": 256})
    deep = '{"a":' * 200 + '"x"' + "}" * 200
    lines = [json_line(event(number, data={"d": deep})) for number in range(40)]

    assert all(line.fast for line in Roads(contract).compare(lines_of(lines)))


def as_sequence(contract: SourceContract) -> SourceContract:
    return contract.model_copy(update={"format": FileFormat.JSON})


@pytest.mark.parametrize("name", JSON_FEEDS)
@pytest.mark.parametrize("indent", [None, 2])
def test_no_odd_record_of_a_sequence_is_taken_otherwise_than_strictly(name: str, indent: int | None) -> None:
    """Records are cut at braces, so that a record, and even a text in it, may hold line ends."""
    one = FEEDS[name]
    roads = Roads(as_sequence(one.contract))
    good = [json.dumps(json.loads(line), indent=indent, ensure_ascii=False).encode() for line in one.good_lines(400)]
    odd = []
    for number, line in enumerate(good[:100]):
        for inserted in (b"\n", b"\r\n", b"\r", b"\\\n", b"\n\n", b" ", b'"', b"{", b"}", b'"\n', b"\xff"):
            places = [place for place, byte in enumerate(line) if byte == ord('"')]
            place = places[number % len(places)] + number // 7 % 2
            odd.append(line[:place] + inserted + line[place:])
    records = random.Random(name).sample([*good, *odd], len(good) + len(odd))

    for separator in (b"", b"\n", b",\n"):
        compared = roads.compare(separator.join([*good[:50], *records]))
        assert sum(line.fast is not None for line in compared) > 200


# Any bytes -----------------------------------------------------------------------------------------------------------

ALPHABET = [*(bytes([byte]) for byte in b'\x00\x09\x0a\x0d\x1f !"#+,-./0123456789:;ETZ[\\]_aetz{|}\x7f'), *INVALID_UTF8]
PIECES = st.sampled_from(
    [*ALPHABET, b'","', b'":"', b"null", b"true", b"1.0", b"e5", "\u0085".encode(), "\u2028".encode(), "ü".encode()]
)


class Change(NamedTuple):
    """One change of the bytes of a line; places are parts of a thousand of its length."""

    kind: str
    place: int
    length: int
    piece: bytes


CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from(["replace", "insert", "delete", "repeat", "move", "swap"]),
        st.integers(0, 1_000),
        st.integers(0, 12),
        PIECES | st.binary(max_size=3),
    ),
    min_size=1,
    max_size=3,
)


def mutated(line: bytes, change: Change, other: bytes) -> bytes:
    start = len(line) * change.place // 1_000
    end = start + change.length
    match change.kind:
        case "replace":
            return line[:start] + change.piece + line[start + len(change.piece) :]
        case "insert":
            return line[:start] + change.piece + line[start:]
        case "delete":
            return line[:start] + line[end:]
        case "repeat":
            return line[:end] + line[start:end] + line[end:]
        case "move":
            return line[:start] + line[end : end + 8] + line[start:end] + line[end + 8 :]
    return line[:start] + other[start:end] + line[end:]


REMEMBERED = {name: one.roads() for name, one in FEEDS.items()}


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(list(FEEDS)),
    st.lists(st.tuples(st.integers(0, 39), CHANGES), min_size=1, max_size=12),
    st.integers(1, 6),
)
@example("declared data", [(5, [Change("insert", 999, 0, b"\r")])], 1)
@example("csv", [(1, [Change("insert", 999, 0, b"\r")])], 1)
def test_no_line_with_changed_bytes_is_taken_otherwise_than_strictly(
    name: str, changes: list[tuple[int, list[Change]]], copies: int
) -> None:
    one = FEEDS[name]
    good = one.good_lines(80)
    lines = list(good)
    for number, several in changes:
        line = good[number]
        for change in several:
            line = mutated(line, change, good[number + 1])
        lines += [line] * copies

    compared = REMEMBERED[name].compare(lines_of(lines))

    if name not in UNREADABLE and name not in SLOW:
        assert any(line.fast is not None for line in compared)


# Any contract --------------------------------------------------------------------------------------------------------

NAMES = ["id", "source", "type", "subject", "time", "data", "a", "b", "ü", "a b", "c:d", "{", "specversion", "quantity"]
LEAF_POOLS: dict[str, list[str]] = {
    "word": [
        "x",
        "api-1",
        "größe",
        "request.completed",
        "a, b",
        "1.50",
        "007",
        "2026-01-15T10:00:00Z",
        "twelve bytes",
        "a" * 40,
        "",
    ],
    "number": [
        "0",
        "1",
        "7.50",
        "123456789012345678",
        "0.000000001",
        "-1",
        "1e3",
        "1.0000000000",
        "1768478400",
        "1768478400123",
    ],
    "time": [
        "2026-01-15T10:00:00Z",
        "2026-01-15T10:00:00.5+02:00",
        "2026-01-15 10:00:00",
        "2026-01-31T00:00:00.123456789Z",
    ],
    "constant": ["true", "null", "[]", "{}"],
}


def random_tree(chance: random.Random, depth: int) -> dict[str, Any]:
    """Return a shape: each name with the kind of its value, or the shape of an object, or a list of kinds."""
    tree: dict[str, Any] = {}
    for name in chance.sample(NAMES, chance.randint(1, 5)):
        kinds = chance.choices(["word", "number", "time", "constant", "object", "list"], [4, 3, 1, 1, 1, 1])[0]
        if kinds == "object" and depth < 3:
            tree[name] = random_tree(chance, depth + 1)
        elif kinds == "list":
            tree[name] = [chance.choice(["word", "number", "constant"]) for _ in range(chance.randint(0, 3))]
        else:
            tree[name] = "word" if kinds == "object" else kinds
    return tree


def random_text(chance: random.Random, kind: Any, is_odd: bool) -> str:
    """Return the JSON text of a value of some kind; an odd one may be of any kind."""
    if isinstance(kind, dict):
        return (
            "{"
            + ",".join(f"{json.dumps(name)}:{random_text(chance, below, is_odd)}" for name, below in kind.items())
            + "}"
        )
    if isinstance(kind, list):
        return "[" + ",".join(random_text(chance, item, is_odd) for item in kind) + "]"
    kind = chance.choice(list(LEAF_POOLS)) if is_odd and chance.random() < 0.2 else kind
    pool = LEAF_POOLS[kind]
    text = chance.choice(pool if is_odd else pool[:4])
    return text if kind in ("number", "constant") else json.dumps(text, ensure_ascii=False)


def random_contract(chance: random.Random, tree: Mapping[str, Any]) -> SourceContract:
    fields = [*dotted(tree), "absent"]

    def one_of(*kinds: str) -> str:
        """Return a field that is mostly of one of these kinds."""
        return chance.choice(list(dotted(tree, kinds)) if chance.random() < 0.9 else fields)

    def origin() -> dict[str, Any]:
        return chance.choice(
            [
                {"field": one_of("word")},
                {"field": one_of("word")},
                {"constant": "x"},
                {"derive": "hash", "of": [one_of("word", "number"), one_of("word", "number", "time")]},
                {"first_of": [chance.choice(fields), one_of("word")]},
                {"derive": "object_and_line"},
            ]
        )

    def declared() -> dict[str, Any]:
        kind = chance.choice(["text", "decimal"])
        limits = {"minimum": chance.choice([0, "0.5", -2]), "maximum": chance.choice([7, "7.5", 10**18])}
        return {
            "field": one_of("number") if kind == "decimal" else one_of("word", "time"),
            "type": kind,
            "required": chance.random() < 0.5,
            **{name: limit for name, limit in limits.items() if kind == "decimal" and chance.random() < 0.5},
        }

    time: dict[str, Any] = {"field": one_of("time"), "time_zone": "UTC"}
    if chance.random() < 0.4:
        time = {"field": one_of("number"), "format": chance.choice(["unix_seconds", "unix_milliseconds"])}
    elif chance.random() < 0.5:
        time = {"field": one_of("time")}
    event: dict[str, Any] = {"id": origin(), "source": origin(), "type": origin(), "subject": origin(), "time": time}
    if chance.random() < 0.5:
        event["quantity"] = declared() | {"type": "decimal"}
    if chance.random() < 0.5:
        event["data"] = {name: declared() for name in chance.sample(["p", "q", "r"], chance.randint(1, 3))}
    if chance.random() < 0.3:
        event["data_object"] = chance.choice(fields)
    return feed(
        event=event,
        unknown_fields=chance.choice(["ignore", "ignore", "keep", "keep", "quarantine"]),
        received=chance.choice(["last_modified", "event_time"]),
        limits={"json_depth_max": chance.choice([3, 64, 64, 64]), "columns_max": chance.choice([6, 1_000, 1_000])},
    )


def dotted(tree: Mapping[str, Any], wanted: Sequence[str] = (), prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of a shape; only those of some kinds, where kinds are named."""
    for name, below in tree.items():
        if not wanted or (isinstance(below, str) and below in wanted):
            yield prefix + name
        if isinstance(below, dict):
            yield from dotted(below, wanted, f"{prefix}{name}.")


def random_feed(chance: random.Random) -> tuple[SourceContract, dict[str, Any]]:
    """Return a contract and a shape; where it can be, one that some lines of the shape fulfil."""
    tree = random_tree(chance, 0) | {"at": "time", "word": "word", "count": "number"}
    for _ in range(20):
        contract = random_contract(chance, tree)
        lines = [random_text(chance, tree, is_odd=False).encode() for _ in range(3)]
        if any(isinstance(Roads(contract).strict(line, 1, 1), RawEvent) for line in lines):
            break
    return contract, tree


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32))
def test_no_random_record_under_a_random_contract_is_taken_otherwise_than_strictly(seed: int) -> None:
    chance = random.Random(seed)
    contract, tree = random_feed(chance)
    lines = [random_text(chance, tree, is_odd=number > 40).encode() for number in range(120)]

    Roads(contract).compare(lines_of([*lines[:40], *chance.sample(lines, len(lines))]))


def test_many_random_contracts_have_lines_for_the_fast_road() -> None:
    """Without it, the test above might compare nothing."""
    taken = []
    for seed in range(100):
        chance = random.Random(seed)
        contract, tree = random_feed(chance)
        lines = [random_text(chance, tree, is_odd=False).encode() for _ in range(120)]
        taken.append(sum(line.fast is not None for line in Roads(contract).compare(lines_of(lines))))

    assert sum(count > 0 for count in taken) > 25


@pytest.mark.parametrize("name", ['x"":""1"",""input_tokens', "DOMAIN\\user", 'size 3.5""', "naïve", "tab\tbed"])
def test_the_name_of_a_column_or_of_a_data_field_is_escaped_like_any_text(name: str) -> None:
    columns = ["id", "time", "subject", name.replace('""', '"')]
    header = f'id,time,subject,"{name}"'.encode()
    lines = [f"req-{number},2026-01-15T12:00:00Z,customer-1,{number}".encode() for number in range(60)]
    event = {"source": {"constant": "s"}, "type": {"constant": "t"}}
    kept = SourceContract.model_validate(
        {"name": "feed", "version": "1", "prefix": "", "format": "csv", "unknown_fields": "keep", "event": event}
    )
    parser = parser_for(kept, "k@v", "k", datetime(2026, 1, 16, tzinfo=UTC), header)
    assert isinstance(parser, RecordParser)
    assert list(parser.columns) == columns
    content = np.zeros(16_384, np.uint64).view(np.uint8)
    text = b"".join(line + b"\n" for line in lines)
    content[: len(text)] = np.frombuffer(text, np.uint8)
    block = Block.of_lines(content, len(text))

    read = BlockParser(kept, columns).parse(block, np.full(len(block), 2**62), lambda row: True)

    assert read is not None
    events = [parser.parse(number, line) for number, line in enumerate(lines, start=1)]
    assert read.data().to_pylist() == [event.data for event in events if isinstance(event, RawEvent)]
    assert len(read.rows) == len(lines)
    assert all(json.loads(data) == {columns[3]: str(number)} for number, data in enumerate(read.data().to_pylist()))
