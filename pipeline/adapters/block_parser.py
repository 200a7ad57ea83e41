"""The fast road of collection: reads the lines of a block that fit a template, all at once, and leaves the others.

A line is taken only where every byte is accounted for: its constants are those of the template, its values hold no
backslash, no control character and no invalid UTF-8, its numbers are plain and of at most 18 digits, its time is RFC
3339. The caller gives every line that is left to the strict parser, which decides. So a line can be slow, but never
wrong; a differential test holds the two roads against each other.

Numbers stay digits: they are read into integers and become decimals by shifting, never through a float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from csv import field_size_limit
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.adapters import block_kernels as kernels
from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.line_template import LineTemplate, Segment, Use, csv_template, json_template
from pipeline.core.money import QUANTITY_SCALE

TEMPLATES_MAX = 64
_LEARNED_PER_BLOCK = 12
_LINES_WORTH_LEARNING = 32
_WORD = 8

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
    """The lines of one template: their places in the block, and where their values are (variable x line)."""

    template: LineTemplate
    rows: Ints
    starts: Ints
    ends: Ints
    numbers: dict[int, Numbers]
    event_at: Ints

    def only(self, kept: Bools) -> _Match:
        if kept.all():
            return self
        return _Match(
            self.template,
            self.rows[kept],
            self.starts.compress(kept, axis=1),
            self.ends.compress(kept, axis=1),
            {index: Numbers(n.digits[kept], n.decimals[kept], n.end[kept]) for index, n in self.numbers.items()},
            self.event_at[kept],
        )


class ParsedLines:
    """Lines that were read: ``rows`` are their places in the block, ``event_at`` is in microseconds since 1970."""

    def __init__(self, block: Block, matches: Sequence[_Match]) -> None:
        self._block = block
        self._matches = matches
        self._texts: dict[str, Column] = {}
        rows = np.concatenate([match.rows for match in matches])
        self._order = np.argsort(rows, kind="stable") if len(matches) > 1 else np.arange(len(rows))
        self.rows: Ints = rows[self._order]
        self.event_at: Ints = np.concatenate([match.event_at for match in matches])[self._order]

    def arrange(self, order: Ints) -> None:
        """Give the rows, and everything asked for from now on, another order."""
        self._order = self._order[order]
        self.rows = self.rows[order]
        self.event_at = self.event_at[order]
        self._texts.clear()

    def only(self, kept: Bools) -> ParsedLines | None:
        """Return some of the lines, by their place among the rows; None if it is none of them."""
        if kept.all():
            return self
        is_kept: Bools = np.zeros(len(self._block), np.bool_)
        is_kept[self.rows[kept]] = True
        matches = [match.only(is_kept[match.rows]) for match in self._matches]
        matches = [match for match in matches if len(match.rows)]
        return ParsedLines(self._block, matches) if matches else None

    def text(self, name: str) -> Column | None:
        """Return the texts of a canonical field; None where it is no field of the record."""
        if name not in self._texts:
            texts = self._text(name)
            if texts is None:
                return None
            self._texts[name] = texts
        return self._texts[name]

    def _text(self, name: str) -> Column | None:
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
        return self._joined(match, match.template.data, order)

    def _hashes(self, match: _Match, uses: Sequence[Use]) -> Column:
        segments: list[Segment] = ['["']
        for index, use in enumerate(uses):
            segments += ['","', use] if index else [use]
        texts = self._joined(match, [*segments, '"]'], None)
        return pa.array([sha256(str(text).encode()).hexdigest() for text in texts.to_pylist()], pa.string())

    def _joined(self, match: _Match, segments: Sequence[Segment], order: Ints | None) -> Column:
        """Return the texts and values of the segments one after another, for each row."""
        constants, starts, ends = [b""], [], []
        for segment in segments:
            if isinstance(segment, str):
                constants[-1] += segment.encode()
            else:
                starts.append(match.starts[segment.variable])
                ends.append(match.numbers[segment.variable].end if segment.is_number else match.ends[segment.variable])
                constants.append(b"")
        shape = len(starts), len(match.rows)
        value_starts, value_ends = np.array(starts, np.int64).reshape(shape), np.array(ends, np.int64).reshape(shape)
        if order is not None:
            value_starts, value_ends = value_starts.take(order, axis=1), value_ends.take(order, axis=1)
        return _texts(*kernels.joined_texts(self._block.content, value_starts, value_ends, *_constants(constants)))

    def _strings(self, starts: Ints, ends: Ints) -> Column:
        return _texts(*kernels.copied_texts(self._block.content, starts, ends))


class BlockParser:
    """Reads the blocks of one feed. It learns templates as it goes; what it knows never changes what a line becomes.

    ``accepts`` tells whether the strict parser takes a line; only such a line is learned from.
    """

    def __init__(self, contract: SourceContract, columns: Sequence[str] = ()) -> None:
        self._contract = contract
        self._columns = tuple(columns)
        self._is_csv = contract.format is FileFormat.CSV
        self._templates: list[LineTemplate] = []
        self._patterns: dict[bytes, LineTemplate | None] = {}
        self._null = np.frombuffer(bytearray((contract.null_text or "").encode()), np.uint8)
        self._types = pa.array(sorted(contract.event_types), pa.string())

    def parse(self, block: Block, latest_event_at: Ints, accepts: Callable[[int], bool]) -> ParsedLines | None:
        """Read the records that fit a template; None if none does.

        ``latest_event_at`` is the last microsecond that the event of each record may have.
        """
        if not len(block):
            return None
        matches = self._csv_matches(block) if self._is_csv else self._json_matches(block, accepts)
        timely = [match.only(match.event_at <= latest_event_at[match.rows]) for match in matches]
        found = [match for match in timely if len(match.rows)]
        return self._of_known_type(ParsedLines(block, found)) if found else None

    def _of_known_type(self, lines: ParsedLines) -> ParsedLines | None:
        types = lines.text("type") if len(self._types) else None
        return lines if types is None else lines.only(np.asarray(pc.is_in(types, self._types)))

    # JSON ----

    def _json_matches(self, block: Block, accepts: Callable[[int], bool]) -> list[_Match]:
        matches: list[_Match] = []
        remaining: Bools = np.ones(len(block), np.bool_)
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
        rows = np.flatnonzero(remaining)
        if len(rows):
            match = _matched(block, template, rows)
            if len(match.rows):
                remaining[match.rows] = False
                matches.append(match)

    def _worth_learning(self, block: Block, remaining: Bools) -> Iterable[int]:
        """Yield lines that may teach a template that many fit: of each number of quotes, the most frequent first."""
        for _ in range(_LEARNED_PER_BLOCK):
            rows = np.flatnonzero(remaining)
            if len(rows) < _LINES_WORTH_LEARNING or len(self._templates) >= TEMPLATES_MAX:
                return
            counts = kernels.byte_counts(block.content, block.starts, block.ends, rows, ord('"'))
            group = rows[counts == np.bincount(counts).argmax()]
            if len(group) < _LINES_WORTH_LEARNING:
                return
            row = int(group[0])
            yield row
            remaining[row] = False  # if it taught nothing, the strict parser takes it, and another may teach

    # CSV ----

    def _csv_matches(self, block: Block) -> list[_Match]:
        delimiter = self._contract.delimiter.encode()
        if len(delimiter) > 1:
            return []
        is_short = block.ends - block.starts <= field_size_limit()  # what the strict parser's CSV reader takes
        rows, starts, ends = kernels.delimited_records(
            block.content,
            block.starts,
            block.ends,
            np.flatnonzero(is_short),
            len(self._columns),
            *_text_bytes(delimiter),
        )
        if not len(rows):
            return []
        starts, ends = starts[:, : len(rows)], ends[:, : len(rows)]
        present = np.array(
            [kernels.are_present(block.content, *bounds, self._null) for bounds in zip(starts, ends, strict=True)]
        )
        patterns, which = np.unique(np.packbits(present.T, axis=1), axis=0, return_inverse=True)
        matches = []
        for index, packed in enumerate(patterns[:TEMPLATES_MAX]):
            template = self._pattern_template(packed)
            if template is not None:
                like = np.flatnonzero(which.reshape(-1) == index)
                match = _with_values(block, template, rows[like], starts.take(like, axis=1), ends.take(like, axis=1))
                if len(match.rows):
                    matches.append(match)
        return matches

    def _pattern_template(self, packed: Bytes) -> LineTemplate | None:
        key = packed.tobytes()
        if key not in self._patterns:
            present = np.unpackbits(packed, count=len(self._columns)).astype(bool).tolist()
            self._patterns[key] = csv_template(self._contract, self._columns, present)
        return self._patterns[key]


# Records -------------------------------------------------------------------------------------------------------------


class Block:
    """Some records of a buffer, from ``starts`` to ``ends``. The buffer's length is a multiple of eight bytes."""

    def __init__(self, content: Bytes, starts: Ints, ends: Ints) -> None:
        self.content = content
        self.starts, self.ends = starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of_lines(cls, content: Bytes, byte_count: int) -> Block:
        """Return every physical line of the first bytes, which end with a line break; blank lines too."""
        return cls(content, *kernels.line_spans(content, byte_count))

    def only(self, kept: Bools) -> Block:
        """Return some of the records."""
        return self if kept.all() else Block(self.content, self.starts[kept], self.ends[kept])

    def record(self, row: int) -> bytes:
        return self.content[self.starts[row] : self.ends[row]].tobytes()


def _matched(block: Block, template: LineTemplate, rows: Ints) -> _Match:
    """Return those of the lines that fit the template and whose values are plain."""
    are_filled = np.array([variable in template.filled for variable in range(len(template.are_numbers))], np.bool_)
    found, starts, ends = kernels.fitting_records(
        block.content,
        block.starts,
        block.ends,
        rows,
        *_constants(template.constants),
        np.array(template.are_numbers, np.bool_),
        are_filled,
        *_JSON_TEXT,
    )
    return _with_values(block, template, found, starts[:, : len(found)], ends[:, : len(found)])


def _with_values(block: Block, template: LineTemplate, rows: Ints, starts: Ints, ends: Ints) -> _Match:
    """Read the numbers and the time, and keep the lines in which they are plain and within their limits."""
    fits: Bools = np.ones(len(rows), np.bool_)
    numbers = {}
    for rule in template.numbers:
        *found, is_plain = kernels.plain_numbers(block.content, starts[rule.variable], ends[rule.variable])
        number = Numbers(*found)
        fits &= is_plain
        for limit, is_minimum in ((rule.minimum, True), (rule.maximum, False)):
            if limit is not None:
                fits &= _is_within(number, limit, is_minimum=is_minimum)
        numbers[rule.variable] = number
    date, clock = template.time
    if template.time_digits:
        event_at, is_time = _unix_times(numbers[date], template.time_digits)
    else:
        is_joined = date != clock
        if is_joined:
            fits &= ends[date] - starts[date] == _DATE_LENGTH
        clock_starts = starts[clock] + (0 if is_joined else _DATE_LENGTH + 1)
        event_at, is_time = kernels.rfc3339_times(
            block.content, starts[date], clock_starts, ends[clock], template.is_naive_time, is_joined
        )
    return _Match(template, rows, starts, ends, numbers, event_at).only(fits & is_time)


def _constants(constants: Sequence[bytes]) -> tuple[Bytes, Ints]:
    """Return constants in one array, eight bytes behind them, and where each of them starts in it, and the end."""
    edges = np.array(list(accumulate((len(constant) for constant in constants), initial=0)), np.int64)
    return np.frombuffer(bytearray(b"".join([*constants, bytes(_WORD)])), np.uint8), edges


def _text_bytes(end: bytes) -> tuple[Bytes, np.uint64]:
    """Return what each byte is in a text that ends with one: a quote in JSON, the delimiter in CSV."""
    return kernels.text_bytes(end, b'"\\'), np.uint64(int.from_bytes(end * _WORD, "little"))


_JSON_TEXT = _text_bytes(b'"')


def _texts(edges: npt.NDArray[np.int32], texts: Bytes) -> Column:
    return pa.Array.from_buffers(
        pa.string(), len(edges) - 1, [None, pa.py_buffer(edges.data), pa.py_buffer(texts.data)]
    )


# Numbers -------------------------------------------------------------------------------------------------------------


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

_DATE_LENGTH = 10


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
