"""Blocks of records: the same records at the same places as in the simple splitter, however the bytes arrive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate, chain, repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.adapters import record_blocks
from pipeline.adapters.record_blocks import ObjectCount, RecordBlock, RecordCutter
from pipeline.core.contract import SourceContract
from pipeline.core.json_sequence import JsonSequence
from pipeline.core.record import LongLine, is_comment, split_lines

LINE_BYTES_MAX = 1_024
LONG = b"x" * (LINE_BYTES_MAX + 1)
Placed = tuple[int, int, int, int, bytes | LongLine]  # object, line, record, byte offset and the bytes


def feed(**changed: Any) -> SourceContract:
    return SourceContract.model_validate(
        {
            "name": "feed",
            "version": "1",
            "prefix": "",
            "format": "ndjson",
            "limits": {"line_bytes_max": LINE_BYTES_MAX},
        }
        | changed
    )


@dataclass
class Taken:
    """What a cutter handed on, put together from all its blocks."""

    placed: list[Placed] = field(default_factory=list)
    block_count: int = 0

    def take(self, block: RecordBlock) -> None:
        self.block_count += 1
        assert len(block.records) or block.unread
        for row in range(len(block.records)):
            place = (
                int(column[row])
                for column in (block.object_index, block.line_numbers, block.record_numbers, block.byte_offsets)
            )
            self.placed.append((*place, block.records.record(row)))  # type: ignore[arg-type]
        for long in block.unread:
            self.placed.append((long.object_index, long.line_number, -1, long.byte_offset, long.line))
        self.placed.sort(key=lambda placed: placed[:2])


def cut(
    contract: SourceContract, objects: Sequence[Iterable[bytes]], block_bytes: int = 64, **options: Any
) -> tuple[Taken, list[ObjectCount]]:
    taken = Taken()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_blocks, "BLOCK_BYTES", block_bytes)
        cutter = RecordCutter(contract, taken.take)
        counts = [cutter.add_object(index, chunks, **options) for index, chunks in enumerate(objects)]
        cutter.flush()
    return taken, counts


def in_chunks(content: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Return the bytes in chunks of these sizes, the last of them again and again."""
    chunks: list[bytes] = []
    for size in chain(sizes, repeat(sizes[-1])):
        if not content:
            return chunks
        chunks.append(content[:size])
        content = content[size:]
    raise AssertionError("unreachable: the sizes have no end")


def lines_one_by_one(contract: SourceContract, content: bytes, object_index: int, header_line: int = 0) -> list[Placed]:
    """Return the records that the simple splitter finds, with their places."""
    starts = [0, *accumulate(len(line) + 1 for line in content.split(b"\n"))]
    records: list[Placed] = []
    for number, line in split_lines([content], contract.limits.line_bytes_max):
        if number > header_line and not is_comment(contract, line):
            records.append((object_index, number, len(records) + 1, starts[number - 1], line))
    return records


def without_number_of_long(placed: Iterable[Placed]) -> list[Placed]:
    return [(*one[:2], -1, *one[3:]) if isinstance(one[4], LongLine) else one for one in placed]


# Lines ---------------------------------------------------------------------------------------------------------------

LINE_PIECES = st.sampled_from(
    [
        *(
            b"\n",
            b"\r\n",
            b"\n\n",
            b"\r",
            b" ",
            b"\t\n",
            b"\x0b",
            b"\x00",
            b"#",
            b"# x",
            b"#Fields: a",
            b'"',
            b"a",
            b"\xff",
            b"\xef\xbb\xbf",
        ),
        *(b"b" * 30, LONG, LONG[1:], LONG + b"\r", b" " * (LINE_BYTES_MAX + 10), b"#" + LONG, b"c\r\n", b'{"a":"b"}\n'),
    ]
)
TEXTS = st.lists(LINE_PIECES, max_size=25).map(b"".join) | st.binary(max_size=200)
SIZES = st.lists(st.integers(1, 2_000) | st.integers(1, 8), min_size=1, max_size=20)
BLOCK_SIZES = st.sampled_from([1, 7, 64, 1_000, 5_000])


@settings(deadline=None, max_examples=300)
@given(st.lists(TEXTS, min_size=1, max_size=4), SIZES, BLOCK_SIZES, st.sampled_from([None, "#", "# "]))
@example([LONG + b"\r\na\n"], [2_000], 64, None)
@example([LONG + b"\r\na\n"], [1], 64, None)
@example([b"a\n" * 3 + LONG], [1], 1, None)
@example([b"", b"\n", b"a"], [1], 64, None)
def test_the_lines_are_those_of_the_simple_splitter(
    texts: list[bytes], sizes: list[int], block_bytes: int, comment: str | None
) -> None:
    contract = feed() if comment is None else feed(format="csv", header="columns", columns=["a"], comment=comment)

    taken, counts = cut(contract, [in_chunks(text, sizes) for text in texts], block_bytes)

    expected = [placed for index, text in enumerate(texts) for placed in lines_one_by_one(contract, text, index)]
    assert taken.placed == without_number_of_long(expected)
    for index, (text, count) in enumerate(zip(texts, counts, strict=True)):
        assert count.counted == count.cut == len(text.removesuffix(b"\n").split(b"\n")) * bool(text)
        assert count.record_count == sum(placed[0] == index for placed in expected)
        assert count.is_blank == (not text.strip())


@settings(deadline=None, max_examples=100)
@given(TEXTS, SIZES, BLOCK_SIZES, st.integers(0, 5))
def test_what_stands_before_the_records_is_counted_and_is_no_record(
    text: bytes, sizes: list[int], block_bytes: int, header_line: int
) -> None:
    contract = feed(format="csv", header="columns", columns=["a"])
    # A header that is too long rejects its object before anything is cut.
    text = b"\n".join(line[:LINE_BYTES_MAX] for line in text.split(b"\n"))

    taken, [count] = cut(contract, [in_chunks(text, sizes)], block_bytes, header_line=header_line, first_offset=3)

    expected = without_number_of_long(lines_one_by_one(contract, text, 0, header_line))
    assert taken.placed == [(*placed[:3], placed[3] + 3, placed[4]) for placed in expected]
    assert count.counted == count.cut


def test_a_long_line_is_hashed_whole_wherever_it_is_cut() -> None:
    line = LONG * 5

    for size in (1, 100, 10_000):
        taken, _ = cut(feed(), [in_chunks(b"a\n" + line + b"\nb\n", [size])], 1_000)

        assert [placed[1] for placed in taken.placed] == [1, 2, 3]
        assert taken.placed[1][4] == LongLine(line[:LINE_BYTES_MAX], len(line), sha256(line).hexdigest())


def test_small_objects_share_a_block_and_a_large_one_has_many() -> None:
    small, _ = cut(feed(), [[b"a\nb\n"]] * 10, 1_000)
    large, _ = cut(feed(), [[b"a\n" * 100] * 50], 1_000)

    assert (small.block_count, len(small.placed)) == (1, 20)
    assert (large.block_count, len(large.placed)) == (10, 5_000)


# JSON values ---------------------------------------------------------------------------------------------------------

JSON_PIECES = st.sampled_from(
    [
        *(
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
            b"\r\n",
        ),
        *(
            b'{"a":1}\n',
            b'{"b":{"c":[{}]}}',
            b'{"s":"' + LONG + b'"}',
            LONG,
            b'{"a":1},{"b":2}',
            b" " * 1_500,
            b'"' + LONG,
        ),
    ]
)
STREAMS = st.lists(JSON_PIECES, max_size=30).map(b"".join) | st.binary(max_size=100)


def values_at_once(text: bytes, object_index: int) -> tuple[list[Placed], bool]:
    """Return the records of a stream that is read in one piece, and whether its array stays open."""
    sequence = JsonSequence()
    starts, ends, _ = sequence.cut(np.frombuffer(text, np.uint8), is_last=True)
    placed: list[Placed] = []
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), start=1):
        content = text[start:end]
        is_long = len(content) > LINE_BYTES_MAX
        line = LongLine(content[:LINE_BYTES_MAX], len(content), sha256(content).hexdigest()) if is_long else content
        placed.append((object_index, number, -1 if is_long else number, start, line))
    return placed, sequence.is_array_open


@settings(deadline=None, max_examples=300)
@given(st.lists(STREAMS, min_size=1, max_size=3), SIZES, BLOCK_SIZES)
@example([b'{"s":"' + LONG * 3 + b'"}{"a":1}{"b":2}'], [100], 1)
@example([b'{"a":1}', b"", b'{"b":2}'], [1], 1)
def test_the_values_are_the_same_whatever_the_chunks_and_the_blocks(
    texts: list[bytes], sizes: list[int], block_bytes: int
) -> None:
    expected = [values_at_once(text, index) for index, text in enumerate(texts)]
    closed = [index for index, (_, is_open) in enumerate(expected) if not is_open]
    objects = [in_chunks(texts[index], sizes) for index in closed]

    taken, counts = cut(feed(format="json"), objects, block_bytes)

    assert taken.placed == [(closed.index(one[0]), *one[1:]) for index in closed for one in expected[index][0]]
    for count, index in zip(counts, closed, strict=True):
        assert (count.counted, count.record_count) == (count.cut, len(expected[index][0]))


def test_an_array_that_is_not_closed_is_shown_behind_its_records() -> None:
    taken, [count] = cut(feed(format="json"), [[b'[{"a":1},', b'{"a":2}\n']])

    assert [placed[-1] for placed in taken.placed[:2]] == [b'{"a":1}', b'{"a":2}']
    assert taken.placed[2][:4] == (0, 3, -1, 17)
    assert (len(taken.placed), count.record_count, count.counted) == (3, 3, count.cut)
