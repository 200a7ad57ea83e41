"""The compiled loops of the fast road, each beside what Python says of the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters import block_kernels as kernels
from pipeline.adapters.block_parser import Block, Bytes, Ints

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def buffer(content: bytes) -> Bytes:
    """Return the bytes as a block holds them: with something behind them that must not be read as if it were theirs."""
    size = (len(content) + kernels.PADDING_BYTES) // 8 + 1
    held = np.full(size * 8, ord("\n"), np.uint8)
    held[: len(content)] = np.frombuffer(content, np.uint8)
    return held


def column(texts: list[bytes]) -> tuple[Bytes, Ints, Ints]:
    """Return texts one after another, and where each starts and ends."""
    edges = np.cumsum([0, *map(len, texts)])
    return buffer(b"".join(texts)), edges[:-1].astype(np.int64), edges[1:].astype(np.int64)


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"\x0b", b"\x09", b"\x8a", b"\xff" * 7, b"12345678"])))
def test_lines_are_those_of_python_wherever_in_a_word_they_end(parts: list[bytes]) -> None:
    content = b"".join(parts) + b"\n"

    block = Block.of_lines(buffer(content), len(content))

    assert [block.record(row) for row in range(len(block))] == [
        line.removesuffix(b"\r") for line in content.split(b"\n")[:-1]
    ]


def test_every_day_of_the_calendar_is_the_one_of_python() -> None:
    days = [EPOCH + timedelta(days=day) for day in range((datetime(2200, 1, 1, tzinfo=UTC) - EPOCH).days)]
    content, starts, ends = column([f"{day:%Y-%m-%d}T00:00:00Z".encode() for day in days])

    event_at, are_times = kernels.rfc3339_times(content, starts, starts + 11, ends, False, False)

    assert are_times.all()
    assert np.array_equal(event_at, np.arange(len(days)) * 86_400_000_000)


def test_days_that_no_month_has_are_no_times() -> None:
    texts = [
        f"{year}-{month:02}-{day:02}T00:00:00Z"
        for year in (1999, 2000, 2100)
        for month in range(14)
        for day in range(33)
    ]

    def is_day(text: str) -> bool:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            return False
        return True

    content, starts, ends = column([text.encode() for text in texts])
    _, are_times = kernels.rfc3339_times(content, starts, starts + 11, ends, False, False)

    assert are_times.tolist() == [is_day(text) for text in texts]


ODD_TIMES = [
    *("2026-01-15T23:59:59Z", "2026-01-15T24:00:00Z", "2026-01-15T23:60:00Z", "2026-01-15T23:59:60Z"),
    *("2026-01-15T12:00:00.1Z", "2026-01-15T12:00:00.123456789Z", "2026-01-15T12:00:00.1234567891Z"),
    *(
        "2026-01-15T12:00:00.Z",
        "2026-01-15T12:00:00.12a456Z",
        "2026-01-15T12:00:00.123456a89Z",
        "2026-01-15T12:00:00,1Z",
    ),
    *(
        "2026-01-15T12:00:00+23:59",
        "2026-01-15T12:00:00-23:59",
        "2026-01-15T12:00:00+24:00",
        "2026-01-15T12:00:00+00:60",
    ),
    *(
        "2026-01-15T12:00:00",
        "2026-01-15T12:00:00z",
        "2026-01-15 12:00:00Z",
        "2026-01-15t12:00:00Z",
        "1969-12-31T23:59:59Z",
    ),
    *(
        "2026-01-15T12:00:0Z",
        "2026-1-15T12:00:00Z",
        "2026-01-15T12:00:00.5+0200",
        "2026-01-15T1a:00:00Z",
        "2199-12-31T00:00:00Z",
    ),
]


def test_a_time_has_its_microseconds_and_its_zone_or_is_left_to_the_strict_parser() -> None:
    content, starts, ends = column([text.encode() for text in ODD_TIMES])

    event_at, are_times = kernels.rfc3339_times(content, starts, starts + 11, ends, False, False)

    read = {
        text: str(EPOCH + timedelta(microseconds=int(at)))
        for text, at, is_time in zip(ODD_TIMES, event_at, are_times, strict=True)
        if is_time
    }
    assert read == {
        "2026-01-15T23:59:59Z": "2026-01-15 23:59:59+00:00",
        "2026-01-15T12:00:00.1Z": "2026-01-15 12:00:00.100000+00:00",
        "2026-01-15T12:00:00.123456789Z": "2026-01-15 12:00:00.123456+00:00",
        "2026-01-15T12:00:00+23:59": "2026-01-14 12:01:00+00:00",
        "2026-01-15T12:00:00-23:59": "2026-01-16 11:59:00+00:00",
        "2199-12-31T00:00:00Z": "2199-12-31 00:00:00+00:00",
    }


def test_a_date_is_judged_by_itself_whatever_came_before_it() -> None:
    texts = ["2026-01-15T", "2026-01-15T", "2026-02-30T", "2026-02-30T", "2026-01-15T", "2026-01-16T", "2026-13-15T"]
    content, starts, ends = column([text.encode() + b"00:00:00Z" for text in texts])

    _, are_times = kernels.rfc3339_times(content, starts, starts + 11, ends, False, False)

    assert are_times.tolist() == [True, True, False, False, True, True, False]


def taken(texts: list[bytes]) -> list[bool]:
    """Tell which texts the fast road takes as values between two quotes."""
    content, starts, ends = column([b'"' + text + b'"' for text in texts])
    constants = np.frombuffer(bytearray(b'""' + bytes(8)), np.uint8)
    found, _, _ = kernels.fitting_records(
        content,
        starts,
        ends,
        np.arange(len(texts)),
        constants,
        np.array([0, 1, 2]),
        np.array([False]),
        np.array([False]),
        kernels.text_bytes(b'"', b"\\"),
        np.uint64(0x2222222222222222),
    )
    return np.isin(np.arange(len(texts)), found).tolist()


def is_plain(text: bytes) -> bool:
    """Tell, in Python's words, whether the fast road may take a text."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return False
    return not any(ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0 or one in '"\\' for one in decoded)


EDGES = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF]


@pytest.mark.parametrize("before", [b"", b"abcdefg"])
@pytest.mark.parametrize(
    "sequences",
    [
        [bytes([byte]) for byte in range(256)],
        [bytes(pair) for pair in product(range(0x80, 256), range(256))],
        [bytes(three) for three in product(range(0xE0, 0xF0), EDGES, EDGES)],
        [bytes(four) for four in product(range(0xF0, 256), EDGES, EDGES, EDGES)],
    ],
    ids=["one byte", "two bytes", "three bytes", "four bytes"],
)
def test_a_text_is_taken_if_it_is_utf8_without_anything_special(before: bytes, sequences: list[bytes]) -> None:
    texts = [before + sequence + b"z" for sequence in sequences]

    assert taken(texts) == [is_plain(text) for text in texts]


def test_a_character_that_is_cut_off_at_the_end_of_a_record_is_left() -> None:
    assert taken(["ü".encode()[:1], "日".encode()[:2], "\U0001f600".encode()[:3], b"ok"]) == [False, False, False, True]


@given(st.lists(st.text("0123456789.-+eE", max_size=22), min_size=1))
def test_a_number_is_plain_digits_or_left_to_the_strict_parser(texts: list[str]) -> None:
    content, starts, ends = column([text.encode() for text in texts])

    digits, decimals, value_ends, are_plain = kernels.plain_numbers(content, starts, ends)

    for row, text in enumerate(texts):
        whole, point, fraction = text.partition(".")
        is_number = whole.isdigit() and (not point or fraction.isdigit()) and str(int(whole)) == whole
        assert are_plain[row] == (is_number and len(whole + fraction) <= 18 and len(fraction) <= 9), text
        if are_plain[row]:
            assert (int(digits[row]), int(decimals[row])) == (int(whole + fraction), len(fraction))
            shortest = text.rstrip("0").rstrip(".") if point else text
            assert content[starts[row] : value_ends[row]].tobytes().decode() == shortest
