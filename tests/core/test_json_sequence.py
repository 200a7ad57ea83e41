"""JSON sequences: every byte of a stream belongs to one record, and a broken record does not take its neighbours."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.json_sequence import JsonSequence

SPACE = b" \t\r\n"


def records(text: bytes) -> list[bytes]:
    """Return the records of a stream that is one block."""
    starts, ends, consumed = JsonSequence().cut(np.frombuffer(text, np.uint8), is_last=True)
    assert consumed == len(text)
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def spans_in_blocks(text: bytes, block_bytes: list[int], kept_bytes_max: int) -> list[tuple[int, int]]:
    """Return the spans of a stream that arrives in blocks; what is longer than ``kept_bytes_max`` is skipped."""
    sequence, spans = JsonSequence(), []
    begin = end = 0
    sizes = iter(block_bytes)
    while end < len(text) or not end:
        end = min(len(text), end + next(sizes, 3))
        is_last = end == len(text)
        starts, ends, consumed = sequence.cut(np.frombuffer(text[begin:end], np.uint8), is_last)
        spans += [(begin + first, begin + last) for first, last in zip(starts.tolist(), ends.tolist(), strict=True)]
        begin += consumed
        if is_last:
            break
        if end - begin > kept_bytes_max:
            start, used = begin, begin + sequence.skip(np.frombuffer(text[begin:end], np.uint8))
            while used == end and end < len(text):
                end = min(len(text), end + next(sizes, 3))
                used += sequence.skip(np.frombuffer(text[used:end], np.uint8))
            spans.append((start, used))
            begin = used
            if end == len(text) and used == end:
                break
            end = used
    return spans


def spans_one_by_one(text: bytes) -> list[tuple[int, int]]:
    """Read the same rules off the bytes one at a time."""
    spans: list[tuple[int, int]] = []
    in_string = is_array_open = was_string_cut = False
    depth, start, junk, previous, backslashes = 0, -1, -1, 0, 0
    for at in range(len(text)):
        byte = text[at : at + 1]
        is_escaped, backslashes = backslashes % 2 == 1, backslashes + 1 if byte == b"\\" else 0
        was_in_string = in_string
        if byte == b"\n":
            was_string_cut |= in_string
            in_string = False
        elif byte == b'"' and not is_escaped:
            in_string = not in_string
        is_outside = not was_in_string and byte != b'"'
        if is_outside and byte == b"{":
            is_certain = bytes([previous]) not in (b",", b":", b"[") or was_string_cut
            if depth and is_certain:
                spans.append((start, at))
                depth = 0
            if not depth:
                if junk >= 0:
                    spans.append((junk, at))
                start, junk = at, -1
            depth += 1
        elif is_outside and byte == b"}" and depth:
            depth -= 1
            if not depth:
                spans.append((start, at + 1))
        elif not depth:
            is_own_bracket = is_outside and byte == (b"]" if is_array_open else b"[")
            if is_own_bracket or byte == b"\n" or (is_outside and byte == b","):
                if junk >= 0:
                    spans.append((junk, at))
                junk, is_array_open = -1, is_array_open != is_own_bracket
            elif junk < 0 and byte not in (b" ", b"\t", b"\r"):
                junk = at
        if byte not in (b" ", b"\t", b"\r", b"\n"):
            previous, was_string_cut = byte[0], False
    if depth or junk >= 0:
        spans.append((start if depth else junk, len(text)))
    return spans


# What is a record ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1}{"b":{"c":[{}]}}{"d":"}{"}',
        b'[{"a":1},{"b":{"c":[{}]}},\n {"d":"}{"}]',
        b'[{"a":1},{"b":{"c":[{}]}}]\n[{"d":"}{"}]\n',
        b'{"a":1}\n\n{"b":{"c":[{}]}} \t\r\n{"d":"}{"}',
        b'{"a":1},\n{"b":{"c":[{}]}},\n{"d":"}{"},\n',
    ],
    ids=["concatenated", "an array", "an array on each line", "lines", "lines with commas"],
)
def test_the_records_are_the_same_whatever_stands_between_them(text: bytes) -> None:
    assert records(text) == [b'{"a":1}', b'{"b":{"c":[{}]}}', b'{"d":"}{"}']


def test_a_record_may_stand_on_several_lines() -> None:
    pretty = json.dumps([{"a": {"b": [{"c": 1}, {"d": 2}]}}, {"e": {}}], indent=4).encode()

    assert [json.loads(record) for record in records(pretty)] == json.loads(pretty)


def test_braces_and_quotes_inside_strings_are_text() -> None:
    assert records(rb'{"a":"\"}{\\"}{"b":"\\\"{"}') == [rb'{"a":"\"}{\\"}', rb'{"b":"\\\"{"}']


@pytest.mark.parametrize("text", [b"", b" \r\n\t", b"[]", b"[ ]\n[]", b","])
def test_a_stream_without_records_has_none(text: bytes) -> None:
    assert records(text) == []


def test_an_array_that_is_not_closed_is_told() -> None:
    sequence = JsonSequence()
    sequence.cut(np.frombuffer(b'[{"a":1}', np.uint8), is_last=True)
    assert sequence.is_array_open
    sequence.cut(np.frombuffer(b"]", np.uint8), is_last=True)
    assert not sequence.is_array_open


# What is broken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b'{"a":1\n{"b":2}', [b'{"a":1\n', b'{"b":2}'], id="torn after a value"),
        pytest.param(b'{"a":"b,\n{"b":2}', [b'{"a":"b,\n', b'{"b":2}'], id="torn inside a string"),
        pytest.param(b'{"a":{"b":1}{"b":2}', [b'{"a":{"b":1}', b'{"b":2}'], id="a brace is missing, no line end"),
        pytest.param(b'{"a":[1}{"b":2}', [b'{"a":[1}', b'{"b":2}'], id="a bracket is missing"),
        pytest.param(b'{"a":1}}{"b":2}', [b'{"a":1}', b"}", b'{"b":2}'], id="a brace too many"),
        pytest.param(b'[}, {"a":1}, {"b":2}]', [b"}", b'{"a":1}', b'{"b":2}'], id="a brace too many in an array"),
        pytest.param(b'{"a":1}{"b":2', [b'{"a":1}', b'{"b":2'], id="torn at the end"),
        pytest.param(b'{"a":1,\n{"b":2}\n{"c":3}', [b'{"a":1,\n{"b":2}\n', b'{"c":3}'], id="torn after a comma"),
        pytest.param(b'[1, "x, y", {"a":1} null]', [b"1", b'"x, y"', b'{"a":1}', b"null"], id="no objects"),
        pytest.param(b'[[{"a":1}]]', [b"[", b'{"a":1}', b"]"], id="an array in an array"),
        pytest.param(b'"{"a":1}\n{"b":2}', [b'"{"a":1}', b'{"b":2}'], id="quote"),
        pytest.param(b"\x00\xff\n\x1f\x8b", [b"\x00\xff", b"\x1f\x8b"], id="no text"),
    ],
)
def test_a_broken_record_does_not_take_its_neighbours(text: bytes, expected: list[bytes]) -> None:
    assert records(text) == expected


# For any bytes -------------------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3), max_size=5)
PIECES = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\n",
        b" ",
        b"a",
        b'{"a":',
        b'"b"',
        b'{"a":1}',
        b"\\\\",
        b" " * 70,
    ]
)
STREAMS = st.lists(PIECES, max_size=40).map(b"".join) | st.binary(max_size=60)
BLOCKS = st.lists(st.integers(1, 12), max_size=40)


@given(OBJECTS, st.sampled_from(["", "\n", ",", " , ", "\n\n"]), st.booleans(), st.sampled_from([None, 1]))
def test_valid_records_are_found_as_they_were_written(
    objects: list[dict[str, Any]], separator: str, is_array: bool, indent: int | None
) -> None:
    texts = [json.dumps(value, ensure_ascii=False, indent=indent).encode() for value in objects]
    text = separator.encode().join(texts)

    assert records(b"[" + text + b"]" if is_array else text) == texts


@given(STREAMS)
@example(b'{"a":"b\n  \n{"c":1}')
@example(b'{"a":,' + b" " * 200 + b'\n{"c":1}')
def test_the_rules_are_the_same_read_at_once_and_byte_by_byte(text: bytes) -> None:
    assert records(text) == [text[start:end] for start, end in spans_one_by_one(text)]


@given(STREAMS)
def test_every_byte_is_in_one_record_unless_it_is_a_separator(text: bytes) -> None:
    starts, ends, _ = JsonSequence().cut(np.frombuffer(text, np.uint8), is_last=True)
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))

    assert all(start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    between = [0, *(place for span in spans for place in span), len(text)]
    gaps = b"".join(text[between[index] : between[index + 1]] for index in range(0, len(between), 2))
    assert set(gaps) <= set(b" \t\r\n,[]")


@settings(max_examples=500)
@given(STREAMS, BLOCKS, st.integers(0, 20))
@example(b'{"a":"b\\', [1] * 20, 0)
@example(b'{"a":"\\"}{","b":1}{"c":1}', [1] * 40, 0)
@example(b'{"a":"\\\\","b":"}{"}{"c":1}', [1] * 40, 0)
@example(b'{"a":"b,\n {"c":1}', [1] * 40, 0)
@example(b'x "\\", {" {"c":1}\n{"d":1}', [1] * 40, 0)
def test_the_records_are_the_same_wherever_the_stream_is_cut_and_however_long_they_are(
    text: bytes, block_bytes: list[int], kept_bytes_max: int
) -> None:
    assert spans_in_blocks(text, block_bytes, kept_bytes_max) == spans_one_by_one(text)
