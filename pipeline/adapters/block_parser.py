"""The fast road of collection: reads the lines of a block that fit a template, all at once, and leaves the others.

A line is taken only where every byte is accounted for: its constants are those of the template, its values hold no
backslash, no control character and no invalid UTF-8, its numbers are plain and of at most 18 digits, its time is RFC
3339. The caller gives every line that is left to the strict parser, which decides. So a line can be slow, but never
wrong; a differential test holds the two roads against each other.

Numbers stay digits: they are read into integers and become decimals by shifting, never through a float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from csv import field_size_limit
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.line_template import LineTemplate, Use, csv_template, json_template
from pipeline.core.money import QUANTITY_SCALE

PADDING_BYTES = 64  # what a block needs after its last byte, so that reading words at any place stays inside
TEMPLATES_MAX = 64
_LEARNED_PER_BLOCK = 12
_LINES_WORTH_LEARNING = 32
_DIGITS_MAX = 18  # what an unsigned 64-bit integer holds for certain
_WORD = 8
_UTF8_PART_BYTES = 1_024  # of a text that is not UTF-8: less of it is not looked at in parts
LINE_BREAK, CARRIAGE_RETURN = 0x0A, 0x0D

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Column: TypeAlias = "pa.Array[Any]"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Plain decimals: all digits as one integer, how many are decimals, and where the last one that counts ends."""

    digits: Words
    decimals: Ints
    end: Ints


@dataclass(frozen=True, slots=True)
class _Match:
    """The lines of one template: their places in the block, and for each variable where its value is."""

    template: LineTemplate
    rows: Ints
    starts: Sequence[Ints]
    ends: Sequence[Ints]
    numbers: dict[int, Numbers]
    event_at: Ints

    def only(self, kept: Bools) -> _Match:
        if kept.all():
            return self
        return _Match(
            self.template,
            self.rows[kept],
            [start[kept] for start in self.starts],
            [end[kept] for end in self.ends],
            {index: Numbers(n.digits[kept], n.decimals[kept], n.end[kept]) for index, n in self.numbers.items()},
            self.event_at[kept],
        )


class ParsedLines:
    """Lines that were read: ``rows`` are their places in the block, ``event_at`` is in microseconds since 1970."""

    def __init__(self, block: Block, matches: Sequence[_Match]) -> None:
        self._words = block.words
        self._content = block.content
        self._matches = matches
        rows = np.concatenate([match.rows for match in matches])
        self._order = np.argsort(rows, kind="stable") if len(matches) > 1 else np.arange(len(rows))
        self.rows: Ints = rows[self._order]
        self.event_at: Ints = np.concatenate([match.event_at for match in matches])[self._order]

    def arrange(self, order: Ints) -> None:
        """Give the rows, and everything asked for from now on, another order."""
        self._order = self._order[order]
        self.rows = self.rows[order]
        self.event_at = self.event_at[order]

    def text(self, name: str) -> Column | None:
        """Return the texts of a canonical field; None where it is no field of the record."""
        if name in self._matches[0].template.hashed:
            hashed = [self._hashes(match, match.template.hashed[name]) for match in self._matches]
            return pa.concat_arrays(hashed).take(pa.array(self._order, pa.int64()))
        if name not in self._matches[0].template.texts:
            return None
        starts = np.concatenate([match.starts[match.template.texts[name]] for match in self._matches])
        ends = np.concatenate([match.ends[match.template.texts[name]] for match in self._matches])
        return self._strings(starts[self._order], ends[self._order])

    def quantity(self) -> Column:
        """Return the quantities as DECIMAL(38,9); null where the line has none."""
        digits, decimals, missing = [], [], []
        for match in self._matches:
            variable, count = match.template.quantity, len(match.rows)
            missing.append(np.full(count, variable is None))
            numbers = None if variable is None else match.numbers[variable]
            digits.append(np.zeros(count, np.uint64) if numbers is None else numbers.digits)
            decimals.append(np.zeros(count, np.int64) if numbers is None else numbers.decimals)
        upper, lower = _scaled(np.concatenate(digits)[self._order], np.concatenate(decimals)[self._order])
        values = np.empty((len(upper), 2), np.uint64)
        values[:, 0], values[:, 1] = lower, upper
        is_missing = np.concatenate(missing)[self._order]
        validity = pa.py_buffer(np.packbits(~is_missing, bitorder="little").data) if is_missing.any() else None
        return pa.Array.from_buffers(
            pa.decimal128(38, QUANTITY_SCALE), len(upper), [validity, pa.py_buffer(values.data)]
        )

    def data(self) -> Column:
        """Return the data of each event as canonical JSON."""
        if len(self._matches) == 1:
            return self._data(self._matches[0], self._order)
        arrays = [self._data(match, None) for match in self._matches]
        return pa.concat_arrays(arrays).take(pa.array(self._order, pa.int64()))

    def _data(self, match: _Match, order: Ints | None) -> Column:
        parts = [
            segment if isinstance(segment, str) else self._used(match, segment, order)
            for segment in match.template.data
        ]
        return _concatenated(parts, len(match.rows))

    def _used(self, match: _Match, use: Use, order: Ints | None) -> Column:
        start = match.starts[use.variable]
        end = match.numbers[use.variable].end if use.is_number else match.ends[use.variable]
        return self._strings(start, end) if order is None else self._strings(start[order], end[order])

    def _hashes(self, match: _Match, uses: Sequence[Use]) -> Column:
        parts: list[str | Column] = ['["']
        for index, use in enumerate(uses):
            parts += ['","'] if index else []
            parts.append(self._used(match, use, None))
        texts = _concatenated([*parts, '"]'], len(match.rows))
        return pa.array([sha256(str(text).encode()).hexdigest() for text in texts.to_pylist()], pa.string())

    def _strings(self, starts: Ints, ends: Ints) -> Column:
        """Return the bytes between as texts: Arrow's string views point into the block, the cast copies them out."""
        lengths = (ends - starts).astype(np.uint64)
        views = np.empty((len(starts), 2), np.uint64)
        # A long text is a pointer. Its first four bytes belong into the view too, but only comparisons read them.
        views[:, 0] = lengths
        views[:, 1] = starts.astype(np.uint64) << _HALF
        short = np.flatnonzero(lengths <= 12)
        if len(short):
            length = lengths[short]
            first, second = _words_at(self._words, starts[short], 2)
            first &= _mask(length)
            second &= _mask(np.maximum(length, _WORD) - np.uint64(_WORD))
            views[short, 0] = length | (first << _HALF)
            views[short, 1] = (first >> _HALF) | (second << _HALF)
        buffers = [None, pa.py_buffer(views.data), pa.py_buffer(self._content.data)]
        return pa.Array.from_buffers(pa.string_view(), len(starts), buffers).cast(pa.string())


class BlockParser:
    """Reads the blocks of one feed. It learns templates as it goes; what it knows never changes what a line becomes.

    ``accepts`` tells whether the strict parser takes a line; only such a line is learned from.
    """

    def __init__(self, contract: SourceContract, columns: Sequence[str] = ()) -> None:
        self._contract = contract
        self._columns = tuple(columns)
        self._is_csv = contract.format is FileFormat.CSV
        self._mark = ord(contract.delimiter) if self._is_csv else ord('"')
        self._templates: list[LineTemplate] = []
        self._patterns: dict[bytes, LineTemplate | None] = {}
        self._null = (contract.null_text or "").encode()
        self._types = pa.array(sorted(contract.event_types), pa.string())

    @property
    def mark(self) -> int:
        return self._mark

    def parse(self, block: Block, latest_event_at: Ints, accepts: Callable[[int], bool]) -> ParsedLines | None:
        """Read the records that fit a template; None if none does.

        The block's content starts at a multiple of eight bytes in memory and has ``PADDING_BYTES`` behind it.
        ``latest_event_at`` is the last microsecond that the event of each record may have.
        """
        if not len(block):
            return None
        is_clean = block.clean_rows(self._mark, self._forbidden())
        matches = self._csv_matches(block, is_clean) if self._is_csv else self._json_matches(block, is_clean, accepts)
        timely = [match.only(match.event_at <= latest_event_at[match.rows]) for match in matches]
        found = [self._of_known_type(block, match) for match in timely if len(match.rows)]
        found = [match for match in found if len(match.rows)]
        return ParsedLines(block, found) if found else None

    def _forbidden(self) -> tuple[int, ...]:
        return (ord('"'), ord("\\")) if self._is_csv else (ord("\\"),)

    def _of_known_type(self, block: Block, match: _Match) -> _Match:
        if not len(self._types):
            return match
        types = ParsedLines(block, [match]).text("type")
        return match if types is None else match.only(np.asarray(pc.is_in(types, self._types)))

    # JSON ----

    def _json_matches(self, block: Block, remaining: Bools, accepts: Callable[[int], bool]) -> list[_Match]:
        matches: list[_Match] = []
        for template in self._templates:
            self._match(block, template, remaining, matches)
        for row in self._worth_learning(block, remaining):
            if not accepts(row):
                continue
            learned = json_template(self._contract, block.record(row))
            if learned is not None and len(self._templates) < TEMPLATES_MAX:
                self._templates.append(learned)
                self._match(block, learned, remaining, matches)
        return matches

    def _match(self, block: Block, template: LineTemplate, remaining: Bools, matches: list[_Match]) -> None:
        is_like = (block.mark_counts == template.mark_count) & (block.line_break_counts == template.line_break_count)
        rows = np.flatnonzero(remaining & is_like)
        if len(rows):
            match = _matched(block, template, rows)
            if len(match.rows):
                remaining[match.rows] = False
                matches.append(match)

    def _worth_learning(self, block: Block, remaining: Bools) -> Iterable[int]:
        """Yield lines that may teach a template that many fit: of each number of marks, the most frequent first."""
        for _ in range(_LEARNED_PER_BLOCK):
            rows = np.flatnonzero(remaining)
            if len(rows) < _LINES_WORTH_LEARNING or len(self._templates) >= TEMPLATES_MAX:
                return
            counts = block.mark_counts[rows]
            group = rows[counts == np.bincount(counts).argmax()]
            if len(group) < _LINES_WORTH_LEARNING:
                return
            row = int(group[0])
            yield row
            remaining[row] = False  # if it taught nothing, the strict parser takes it, and another may teach

    # CSV ----

    def _csv_matches(self, block: Block, is_clean: Bools) -> list[_Match]:
        if not self._contract.delimiter.isascii():
            return []  # a mark is one byte
        is_clean &= block.ends - block.starts <= field_size_limit()  # what the strict parser's CSV reader takes
        rows = np.flatnonzero(is_clean & (block.mark_counts == len(self._columns) - 1))
        if not len(rows):
            return []
        bounds = _Bounds(block, rows)
        present = np.empty((len(rows), len(self._columns)), np.bool_)
        for index in range(len(self._columns)):
            start, end = bounds.position(index, 1 if index else 0), bounds.position(index + 1, 0)
            present[:, index] = self._is_present(block, start, end)
        patterns, which = np.unique(np.packbits(present, axis=1), axis=0, return_inverse=True)
        matches = []
        for index, packed in enumerate(patterns[:TEMPLATES_MAX]):
            template = self._pattern_template(packed)
            if template is not None:
                match = _matched(block, template, rows[which.reshape(-1) == index])
                if len(match.rows):
                    matches.append(match)
        return matches

    def _is_present(self, block: Block, start: Ints, end: Ints) -> Bools:
        null = self._null
        is_present: Bools = end > start
        if null and len(null) <= _WORD:
            (word,) = _words_at(block.words, start, 1)
            expected = np.uint64(int.from_bytes(null, "little"))
            is_present &= (end - start != len(null)) | ((word & _mask(np.uint64(len(null)))) != expected)
        return is_present

    def _pattern_template(self, packed: Bytes) -> LineTemplate | None:
        key = packed.tobytes()
        if key not in self._patterns:
            if len(self._null) > _WORD:
                self._patterns[key] = None
            else:
                present = np.unpackbits(packed, count=len(self._columns)).astype(bool).tolist()
                self._patterns[key] = csv_template(self._contract, self._columns, present)
        return self._patterns[key]


# Positions -----------------------------------------------------------------------------------------------------------


class Block:
    """Some records of a buffer: where each starts and ends, and where its marks are."""

    def __init__(
        self,
        content: Bytes,
        starts: Ints,
        ends: Ints,
        marks: Ints,
        first_mark: Ints,
        mark_counts: Ints,
        line_break_counts: Ints,
    ) -> None:
        self.content = content
        self.words: Words = content[: len(content) // _WORD * _WORD].view(np.uint64)
        self.starts, self.ends = starts, ends
        self.marks, self.first_mark, self.mark_counts = marks, first_mark, mark_counts
        self.line_break_counts = line_break_counts

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of_lines(cls, content: Bytes, byte_count: int, mark: int) -> Block:
        """Return every physical line of the first bytes, which end with a line break; blank lines too."""
        text = content[:byte_count]
        hits: Ints = np.flatnonzero((text == mark) | (text == LINE_BREAK))
        breaks = np.flatnonzero(text[hits] == LINE_BREAK)
        ends = hits[breaks]
        starts = np.empty_like(ends)
        first_mark = np.empty_like(breaks)
        if len(breaks):
            starts[0], starts[1:] = 0, ends[:-1] + 1
            first_mark[0], first_mark[1:] = 0, breaks[:-1] + 1
        ends = ends - ((ends > starts) & (content[np.maximum(ends - 1, 0)] == CARRIAGE_RETURN))
        return cls(content, starts, ends, hits, first_mark, breaks - first_mark, np.zeros_like(breaks))

    @classmethod
    def of_spans(cls, content: Bytes, starts: Ints, ends: Ints, mark: int) -> Block:
        """Return the records that were cut in another way than at line breaks."""
        first, last = (int(starts[0]), int(ends[-1])) if len(starts) else (0, 0)
        marks: Ints = np.flatnonzero(content[first:last] == mark) + first
        breaks = np.flatnonzero(content[first:last] == LINE_BREAK) + first
        first_mark: Ints = np.searchsorted(marks, starts)
        mark_counts = np.searchsorted(marks, ends) - first_mark
        line_break_counts = np.searchsorted(breaks, ends) - np.searchsorted(breaks, starts)
        return cls(content, starts, ends, marks, first_mark, mark_counts, line_break_counts)

    def only(self, kept: Bools) -> Block:
        """Return some of the records."""
        if kept.all():
            return self
        return Block(
            self.content,
            self.starts[kept],
            self.ends[kept],
            self.marks,
            self.first_mark[kept],
            self.mark_counts[kept],
            self.line_break_counts[kept],
        )

    def record(self, row: int) -> bytes:
        return self.content[self.starts[row] : self.ends[row]].tobytes()

    def clean_rows(self, mark: int, forbidden: Sequence[int]) -> Bools:
        """Tell which records hold no byte that only the strict parser may judge."""
        is_clean: Bools = np.ones(len(self), np.bool_)
        first, last = int(self.starts[0]), int(self.ends[-1])
        for places in _special_places(self.content[first:last], mark, forbidden):
            # A place between two records belongs to none; the one before it is left to the strict parser all the same.
            is_clean[np.maximum(np.searchsorted(self.starts, places + first, side="right") - 1, 0)] = False
        return is_clean


def _special_places(text: Bytes, mark: int, forbidden: Sequence[int]) -> Iterable[Ints]:
    """Yield the places of bytes that only the strict parser may judge."""
    line_break_count = int(np.count_nonzero(text == LINE_BREAK))
    for byte in forbidden:
        if byte != mark:
            yield np.flatnonzero(text == byte)
    if int(np.count_nonzero(text < 0x20)) != line_break_count:
        controls = np.flatnonzero(text < 0x20)
        yield controls[(text[controls] != LINE_BREAK) & (text[controls] != CARRIAGE_RETURN) & (text[controls] != mark)]
        returns = controls[text[controls] == CARRIAGE_RETURN]
        yield returns[text[np.minimum(returns + 1, len(text) - 1)] != LINE_BREAK]
    if len(text) and int(text.max()) >= 0x7F:
        yield np.flatnonzero(text == 0x7F)
        # U+0080 to U+009F are control characters too.
        leads = np.flatnonzero(text == 0xC2)
        yield leads[text[np.minimum(leads + 1, len(text) - 1)] < 0xA0]
        yield from _not_utf8(text)


def _not_utf8(text: Bytes) -> Iterable[Ints]:
    """Yield the places of what is not ASCII in those parts of a text that are not UTF-8."""
    if _is_utf8(text):
        return
    ascii_places = np.flatnonzero(text[len(text) // 2 :][:_WORD] < 0x80)
    if len(text) <= _UTF8_PART_BYTES or not len(ascii_places):
        yield np.flatnonzero(text >= 0x80)
        return
    middle = len(text) // 2 + int(ascii_places[0])
    for part, start in ((text[:middle], 0), (text[middle:], middle)):
        for places in _not_utf8(part):
            yield places + start


def _is_utf8(text: Bytes) -> bool:
    offsets = pa.py_buffer(np.array([0, len(text)], np.int64).data)
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(text.data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


class _Bounds:
    """The bounds of some lines that have the same number of marks."""

    def __init__(self, block: Block, rows: Ints) -> None:
        self._block = block
        self._rows = rows
        self._first_mark = block.first_mark[rows]
        self._last = int(block.mark_counts[rows[0]]) + 1

    def position(self, bound: int, distance: int) -> Ints:
        if bound == 0:
            place = self._block.starts[self._rows]
        elif bound == self._last:
            place = self._block.ends[self._rows]
        else:
            place = self._block.marks.take(self._first_mark + (bound - 1))
        return place + distance if distance else place


def _matched(block: Block, template: LineTemplate, rows: Ints) -> _Match:
    """Return those of the lines, all with the marks of the template, that fit it and whose values are plain."""
    bounds = _Bounds(block, rows)
    starts = [bounds.position(v.start_bound, v.start_distance) for v in template.variables]
    ends = [bounds.position(v.end_bound, v.end_distance) for v in template.variables]
    fits: Bools = np.ones(len(rows), np.bool_)
    if template.constants is not None:
        edges = [block.starts[rows], *ends]
        nexts = [*starts, block.ends[rows]]
        for constant, edge, following in zip(template.constants, edges, nexts, strict=True):
            fits &= following - edge == len(constant)
            _require_constant(block.words, edge, constant, fits)
    for variable in template.filled:
        fits &= ends[variable] > starts[variable]
    match = _Match(template, rows, starts, ends, {}, np.zeros(len(rows), np.int64)).only(fits)
    return _with_numbers(block, match)


def _with_numbers(block: Block, match: _Match) -> _Match:
    """Read the numbers and the time, and keep the lines in which they are plain and within their limits."""
    fits: Bools = np.ones(len(match.rows), np.bool_)
    numbers = {}
    for rule in match.template.numbers:
        found, is_plain = _numbers(block.content, block.words, match.starts[rule.variable], match.ends[rule.variable])
        fits &= is_plain
        for limit, is_minimum in ((rule.minimum, True), (rule.maximum, False)):
            if limit is not None:
                fits &= _is_within(found, limit, is_minimum=is_minimum)
        numbers[rule.variable] = found
    date, clock = match.template.time
    is_joined = date != clock
    if match.template.time_digits:
        event_at, is_time = _unix_times(numbers[date], match.template.time_digits)
    else:
        if is_joined:
            fits &= match.ends[date] - match.starts[date] == _DATE_LENGTH
        event_at, is_time = _rfc3339_times(
            block.content,
            block.words,
            match.starts[date],
            match.starts[clock] + (0 if is_joined else _DATE_LENGTH + 1),
            match.ends[clock],
            is_naive=match.template.is_naive_time,
            is_joined=is_joined,
        )
    return _Match(match.template, match.rows, match.starts, match.ends, numbers, event_at).only(fits & is_time)


# Words ---------------------------------------------------------------------------------------------------------------


def _words_at(words: Words, places: Ints, count: int) -> list[Words]:
    """Return ``count`` words of eight bytes from each place on, wherever it is: two aligned words make one."""
    index = places >> 3
    shift = ((places & 7) << 3).astype(np.uint64)
    rest = np.uint64(64) - shift  # a shift by 64 is zero in NumPy
    aligned = [words.take(index + step, mode="clip") for step in range(count + 1)]
    return [(here >> shift) | (following << rest) for here, following in pairwise(aligned)]


def _bytes_at(words: Words, places: Ints, count: int) -> Iterator[Bytes]:
    """Yield, for each of ``count`` offsets, the byte at that offset from each place."""
    for word in _words_at(words, places, -(-count // _WORD)):
        octets = word.astype("<u8", copy=False).view(np.uint8).reshape(-1, _WORD)
        for offset in range(min(count, _WORD)):
            yield octets[:, offset]
        count -= _WORD


def _mask(byte_counts: npt.NDArray[np.uint64] | np.uint64) -> Words:
    """Return words whose first bytes are all ones; a count of eight or more is the whole word."""
    bits = np.minimum(byte_counts, np.uint64(_WORD)) << np.uint64(3)
    return np.asarray(~(~np.uint64(0) << bits))


def _require_constant(words: Words, places: Ints, constant: bytes, fits: Bools) -> None:
    """Unset ``fits`` where the bytes at the place are not the constant."""
    if not constant:
        return
    count = -(-len(constant) // _WORD)
    for index, word in enumerate(_words_at(words, places, count)):
        part = constant[index * _WORD : (index + 1) * _WORD]
        expected = np.uint64(int.from_bytes(part, "little"))
        found = word if len(part) == _WORD else word & _mask(np.uint64(len(part)))
        fits &= found == expected


# Numbers -------------------------------------------------------------------------------------------------------------


def _numbers(content: Bytes, words: Words, start: Ints, end: Ints) -> tuple[Numbers, Bools]:
    """Read plain decimals: digits with at most one point between them, no sign, no exponent, no leading zero."""
    length = end - start
    is_plain: Bools = (length > 0) & (length <= _DIGITS_MAX + 1)
    digits = np.zeros(len(start), np.uint64)
    point = np.full(len(start), -1, np.int64)
    longest = int(np.where(is_plain, length, 0).max(initial=0))
    for offset, byte in enumerate(_bytes_at(words, start, longest)):
        is_inside = offset < length
        digit = byte - np.uint8(48)
        is_digit = digit <= 9
        is_point = byte == 46
        is_plain &= ~is_inside | is_digit | (is_point & (point < 0))
        point = np.where(is_inside & is_point & (point < 0), offset, point)
        digits = np.where(is_inside & is_digit, digits * np.uint64(10) + digit, digits)
    has_point = point >= 0
    decimals = np.where(has_point, length - 1 - point, 0)
    integer_length = np.where(has_point, point, length)
    starts_with_zero = content.take(start, mode="clip") == 48
    is_plain &= (integer_length > 0) & (~starts_with_zero | (integer_length == 1))
    is_plain &= (~has_point | (decimals > 0)) & (decimals <= QUANTITY_SCALE)
    is_plain &= length - has_point <= _DIGITS_MAX
    return _trimmed(content, Numbers(digits, decimals, end), is_plain), is_plain


def _trimmed(content: Bytes, numbers: Numbers, is_plain: Bools) -> Numbers:
    """Cut zeros off the end of decimals, so that equal values have one text."""
    decimals, kept, end = numbers.decimals, numbers.decimals.copy(), numbers.end.copy()
    rows = np.flatnonzero(is_plain & (decimals > 0))
    while len(rows):
        rows = rows[content.take(end[rows] - 1, mode="clip") == 48]
        end[rows] -= 1
        kept[rows] -= 1
        rows = rows[kept[rows] > 0]
    end[is_plain & (decimals > 0) & (kept == 0)] -= 1  # the point itself
    return Numbers(numbers.digits, decimals, end)


_POWERS_OF_TEN = np.array([10**power for power in range(QUANTITY_SCALE + 1)], np.uint64)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def _scaled(digits: Words, decimals: Ints) -> tuple[Words, Words]:
    """Return each number times 10**9 as the upper and lower half of a 128-bit integer."""
    factor = _POWERS_OF_TEN.take(QUANTITY_SCALE - np.clip(decimals, 0, QUANTITY_SCALE))
    low = (digits & _LOW) * factor
    high = (digits >> _HALF) * factor
    lower = low + (high << _HALF)
    upper = (high >> _HALF) + (lower < low)
    return upper, lower


def _is_within(numbers: Numbers, limit: Decimal, *, is_minimum: bool) -> Bools:
    scaled = int(Fraction(limit) * 10**QUANTITY_SCALE)
    if scaled <= 0:
        return np.full(len(numbers.digits), is_minimum) if scaled or is_minimum else numbers.digits == 0
    upper, lower = _scaled(numbers.digits, numbers.decimals)
    limit_upper, limit_lower = np.uint64(min(scaled >> 64, 2**64 - 1)), np.uint64(scaled & (2**64 - 1))
    is_equal_upper = upper == limit_upper
    if is_minimum:
        return np.asarray((upper > limit_upper) | (is_equal_upper & (lower >= limit_lower)))
    return np.asarray((upper < limit_upper) | (is_equal_upper & (lower <= limit_lower)))


# Times ---------------------------------------------------------------------------------------------------------------

_FIRST_YEAR, _LAST_YEAR = 1970, 2199
_MONTHS = [(year, month) for year in range(_FIRST_YEAR, _LAST_YEAR + 2) for month in range(1, 13)]
_MONTH_STARTS = np.array([date(year, month, 1).toordinal() - date(1970, 1, 1).toordinal() for year, month in _MONTHS])
_SECOND = 1_000_000
_DATE_LENGTH = 10


def _rfc3339_times(
    content: Bytes, words: Words, start: Ints, clock_start: Ints, end: Ints, *, is_naive: bool, is_joined: bool
) -> tuple[Ints, Bools]:
    """Return the microseconds since 1970 of ``2026-01-15T12:00:00.123Z`` and the like, and which texts are such.

    ``start`` is that of the date, ``clock_start`` that of the clock time; what is between them is judged here unless
    the two stand in fields of their own (``is_joined``).
    """
    length = end - clock_start + 11  # as if a T stood between date and clock time
    is_time: Bools = length >= 19
    last = content.take(end - 1, mode="clip")
    has_zulu = (last == ord("Z")) & (length >= 20)
    sign = content.take(end - 6, mode="clip")
    has_offset = ~has_zulu & (length >= 25) & ((sign == ord("+")) | (sign == ord("-")))
    has_offset &= content.take(end - 3, mode="clip") == ord(":")
    zone_length = np.where(has_zulu, 1, np.where(has_offset, 6, 0))
    if not is_naive:
        is_time &= zone_length > 0
    text = [*_bytes_at(words, start, 11), *_bytes_at(words, clock_start, 8)]
    for offset, separator in ((4, "-"), (7, "-"), (13, ":"), (16, ":")):
        is_time &= text[offset] == ord(separator)
    if not is_joined:
        is_time &= (text[10] == ord("T")) | ((text[10] == ord(" ")) & is_naive)
    year, is_year = _number_of(text[0:4])
    month, is_month = _number_of(text[5:7])
    day, is_day = _number_of(text[8:10])
    hour, is_hour = _number_of(text[11:13])
    minute, is_minute = _number_of(text[14:16])
    second, is_second = _number_of(text[17:19])
    is_time &= is_year & is_month & is_day & is_hour & is_minute & is_second
    is_time &= (year >= _FIRST_YEAR) & (year <= _LAST_YEAR) & (month >= 1) & (month <= 12)
    is_time &= (hour <= 23) & (minute <= 59) & (second <= 59)
    index = np.clip((year - _FIRST_YEAR) * 12 + month - 1, 0, len(_MONTHS) - 2)
    month_start = _MONTH_STARTS.take(index)
    is_time &= (day >= 1) & (day <= _MONTH_STARTS.take(index + 1) - month_start)
    seconds = (month_start + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second
    event_at = seconds * _SECOND
    fraction_length = length - 19 - zone_length
    _add_fraction(content, clock_start + 8, fraction_length, event_at, is_time)
    if has_offset.any():
        rows = np.flatnonzero(has_offset)
        zone = list(_bytes_at(words, end[rows] - 5, 5))
        hours, is_hours = _number_of(zone[0:2])
        minutes, is_minutes = _number_of(zone[3:5])
        is_time[rows] &= is_hours & is_minutes & (hours <= 23) & (minutes <= 59)
        offset_seconds = (hours * 3_600 + minutes * 60) * np.where(sign[rows] == ord("-"), -1, 1)
        event_at[rows] -= offset_seconds * _SECOND
    return event_at, is_time


def _add_fraction(content: Bytes, start: Ints, length: Ints, event_at: Ints, is_time: Bools) -> None:
    """Add ``.123`` to the times, digits beyond microseconds cut off; a fraction has 1 to 9 digits or is not there."""
    is_time &= (length == 0) | ((length >= 2) & (length <= 10))
    rows = np.flatnonzero(is_time & (length > 0))
    if not len(rows):
        return
    is_time[rows] &= content.take(start[rows], mode="clip") == ord(".")
    for offset in range(1, int(length[rows].max()) + 1):
        rows = rows[length[rows] > offset] if offset > 1 else rows
        digit = content.take(start[rows] + offset, mode="clip") - np.uint8(48)
        is_time[rows] &= digit <= 9
        if offset <= 6:
            event_at[rows] += digit.astype(np.int64) * 10 ** (6 - offset)


def _number_of(text: Sequence[Bytes]) -> tuple[Ints, Bools]:
    """Return the number that some digits write, and where they are digits."""
    digits = [byte - np.uint8(48) for byte in text]
    value = digits[0].astype(np.int64)
    is_number: Bools = digits[0] <= 9
    for digit in digits[1:]:
        value = value * 10 + digit
        is_number &= digit <= 9
    return value, is_number


def _unix_times(numbers: Numbers, digits_to_microseconds: int) -> tuple[Ints, Bools]:
    """Return the microseconds of decimals that count seconds (6 digits to go) or milliseconds (3), the rest cut off."""
    shift = digits_to_microseconds - numbers.decimals
    is_time = numbers.digits < np.uint64(10**17)
    up = np.clip(shift, 0, QUANTITY_SCALE)
    down = np.clip(-shift, 0, QUANTITY_SCALE)
    powers = _POWERS_OF_TEN.astype(np.int64)
    digits = np.where(is_time, numbers.digits, 0).astype(np.int64)
    integer_digits = digits // powers.take(np.clip(numbers.decimals, 0, QUANTITY_SCALE))
    is_time &= integer_digits < 7_258_118_400 * 10 ** (6 - digits_to_microseconds)  # the year 2200
    safe = np.where(is_time, digits, 0)
    return safe * powers.take(up) // powers.take(down), is_time


def _concatenated(parts: Sequence[str | Column], count: int) -> Column:
    """Return the texts of each row one after another."""
    if all(isinstance(part, str) for part in parts):
        return pa.array(["".join(str(part) for part in parts)] * count, pa.string())
    columns: list[Any] = [pa.scalar(part) if isinstance(part, str) else part for part in parts]
    joined: Column = pc.binary_join_element_wise(*columns, "")
    return joined
