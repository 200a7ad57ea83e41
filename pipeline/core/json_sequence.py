"""JSON values one after another: where each record starts and ends, without reading what is in it.

A stream is one JSON array, several, or objects with anything or nothing between them: line ends, spaces, commas.
A *record* is an object of it, from its first brace to the matching one. Whatever else stands between records is a
record too, so that it is rejected and shown (P3): every byte belongs to exactly one record, except white space, commas
between records, and the brackets of an array.

A broken record must not take its neighbours with it. Two things never occur in valid JSON, and each says that the
record before it cannot end any more: a line end inside a string, so a string reaches to the end of its line at most;
and a brace ``{`` outside strings that follows neither ``,`` nor ``:`` nor ``[``, so a record starts there whatever came
before. A record that is whole is never cut by these rules. What is torn right after one of these three marks takes
the next record with it, and on one line without line ends a torn string takes the rest of the line with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]
Flags = NDArray[np.bool_]

_QUOTE, _BACKSLASH, _LINE_END, _OPEN, _CLOSE = 1, 2, 3, 4, 5
_SEGMENT = 1 << 40  # more than the levels of any block
_STEPS_BACK = 4


def _table(values: dict[str, int]) -> Bytes:
    table = np.zeros(256, np.uint8)
    for character, value in values.items():
        table[ord(character)] = value
    return table


_KINDS = _table({'"': _QUOTE, "\\": _BACKSLASH, "\n": _LINE_END, "{": _OPEN, "}": _CLOSE})
_IS_SPACE = _table(dict.fromkeys(" \t\r\n", 1)).astype(np.bool_)
_IS_BEFORE_VALUE = _table(dict.fromkeys(",:[", 1)).astype(np.bool_)


@dataclass(frozen=True, slots=True)
class _Context:
    """What the bytes before a block mean for it; the defaults stand between two records."""

    in_string: bool = False
    is_escaped: bool = False
    last_byte: int = 0  # the last one that is no white space
    is_broken_after: bool = False  # a string was cut by a line end after it
    depth: int = 0


class _Structure(NamedTuple):
    """The braces of a block that are outside strings, in order, and where its strings are."""

    braces: Positions
    levels: Positions  # open braces after each, counted from the last one where a record certainly starts
    starts: Flags  # it opens a record
    ends: Flags  # it closes a record
    marks: Positions  # positions after which the flag below changes
    in_string: Flags  # whether what follows the mark is inside a string
    after: _Context


class JsonSequence:
    """Finds the records of one stream, block by block; ``is_array_open`` after the last block tells a missing ``]``."""

    def __init__(self) -> None:
        self.is_array_open = False
        self._long: _Context | None = None  # inside a record that is longer than a block
        self._is_long_object = False
        self._has_ended = False  # at the end of the last block that was skipped

    def cut(self, block: Bytes, is_last: bool) -> tuple[Positions, Positions, int]:
        """Return the starts and the ends (exclusive) of the records of a block, in order, and how much is used up.

        The bytes from ``consumed`` on are the beginning of a record that goes on: the next block starts with them. Of
        the last block everything is consumed. The records are the same wherever the stream is cut into blocks.
        """
        found = _structure(block, _Context())
        starts, ends = _paired(found, len(block))
        unfinished = len(block)
        if len(starts) and ends[-1] < 0:
            unfinished = int(starts[-1])
            starts, ends = starts[:-1], ends[:-1]
        junk_starts, junk_ends = self._junk(block, found, starts, ends, unfinished)
        if len(junk_ends) and junk_ends[-1] == len(block) and not is_last:
            unfinished = int(junk_starts[-1])
            junk_starts, junk_ends = junk_starts[:-1], junk_ends[:-1]
        elif unfinished < len(block) and is_last:
            starts, ends = np.append(starts, unfinished), np.append(ends, len(block))
        if len(junk_starts):
            starts, ends = np.concatenate([starts, junk_starts]), np.concatenate([ends, junk_ends])
            order = np.argsort(starts, kind="stable")
            starts, ends = starts[order], ends[order]
        return starts, ends, len(block) if is_last else unfinished

    def skip(self, block: Bytes) -> int:
        """Return how many bytes of a block belong to a record that is too long to be kept; all, if it goes on.

        The first call passes what ``cut`` did not consume, the next ones the bytes that follow, until less than all of
        them belong to it: none, when it ended with the block before. ``cut`` continues behind them.
        """
        if not len(block) or self._has_ended:
            self._has_ended = False
            return 0
        if self._long is None:
            self._long, self._is_long_object = _Context(), bool(block[0] == ord("{"))
        found = _structure(block, self._long)
        end = self._end_of_object(found) if self._is_long_object else self._end_of_junk(block, found)
        self._long = found.after if end is None else None
        self._has_ended = end == len(block)
        return len(block) if end is None else end

    def _end_of_object(self, found: _Structure) -> int | None:
        is_beginning = self._long == _Context()
        restarts = np.flatnonzero(found.starts)[1 if is_beginning else 0 :]
        closed = np.flatnonzero(found.ends)
        candidates = [int(found.braces[index[0]]) + add for index, add in ((restarts, 0), (closed, 1)) if len(index)]
        return min(candidates, default=None)

    def _end_of_junk(self, block: Bytes, found: _Structure) -> int | None:
        bracket = ord("]") if self.is_array_open else ord("[")
        breaks = np.flatnonzero((block == ord("\n")) | (block == ord(",")) | (block == bracket))
        breaks = breaks[(block[breaks] == ord("\n")) | ~_in_string_at(found, breaks, self._long)]
        opened = found.braces[found.starts]
        return min([int(positions[0]) for positions in (breaks, opened) if len(positions)], default=None)

    def _junk(
        self, block: Bytes, found: _Structure, starts: Positions, ends: Positions, end_of_gaps: int
    ) -> tuple[Positions, Positions]:
        """Return what stands between records and is no separator; remember whether an array is open behind it."""
        gap_starts = np.concatenate([np.zeros(1, np.int64), ends])
        gap_ends = np.append(starts, end_of_gaps)
        lengths = gap_ends - gap_starts
        offsets = np.cumsum(lengths) - lengths
        at = np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(gap_starts - offsets, lengths)
        gap_bytes = block[at]
        is_comma = gap_bytes == ord(",")
        is_line_end = gap_bytes == ord("\n")
        is_bracket = (gap_bytes == ord("[")) | (gap_bytes == ord("]"))
        if (gap_bytes == ord('"')).any():
            is_outside = ~_in_string_at(found, at, _Context())
            is_comma &= is_outside
            is_bracket &= is_outside
        is_bracket = self._array_brackets(gap_bytes, is_bracket)
        is_break = is_comma | is_line_end | is_bracket
        is_junk = ~(is_break | _IS_SPACE[gap_bytes])
        if not is_junk.any():
            return np.empty(0, np.int64), np.empty(0, np.int64)
        gap = np.repeat(np.arange(len(lengths)), lengths)
        part = np.cumsum(is_break) + gap  # another number behind each separator and each record
        junk = np.flatnonzero(is_junk)
        is_first = np.append(True, part[junk[1:]] != part[junk[:-1]])
        firsts = junk[is_first]
        breaks = np.append(np.flatnonzero(is_break), len(at))
        next_break = breaks[np.searchsorted(breaks, firsts)]
        break_at = np.append(at, len(block))[next_break]
        return at[firsts], np.minimum(break_at, gap_ends[gap[firsts]])

    def _array_brackets(self, gap_bytes: Bytes, is_bracket: Flags) -> Flags:
        """Return which brackets are those of an array: ``[`` and ``]`` take turns; any other stays junk."""
        indexes = np.flatnonzero(is_bracket)
        if not len(indexes):
            return is_bracket
        opens = gap_bytes[indexes] == ord("[")
        expected = (np.arange(len(indexes)) % 2 == 0) != self.is_array_open
        if (opens == expected).all():
            self.is_array_open = bool(opens[-1])
            return is_bracket
        taken = np.zeros(len(is_bracket), np.bool_)
        for index, is_open in zip(indexes.tolist(), opens.tolist(), strict=True):
            if is_open != self.is_array_open:
                taken[index] = True
                self.is_array_open = is_open
        return taken


def _structure(block: Bytes, before: _Context) -> _Structure:
    kinds_of_bytes = _KINDS[block]
    marks = np.flatnonzero(kinds_of_bytes)
    kinds = kinds_of_bytes[marks]
    is_quote = kinds == _QUOTE
    is_backslash = kinds == _BACKSLASH
    is_escaped_after = False
    if before.is_escaped or is_backslash.any():
        is_escaped, is_escaped_after = _escapes(marks, is_backslash, before.is_escaped, len(block))
        is_quote &= ~is_escaped
    is_line_end = kinds == _LINE_END
    # A line end closes a string, so quotes are counted from it on.
    quotes = np.cumsum(is_quote, dtype=np.int64) + before.in_string
    quotes_before_line = np.maximum.accumulate(np.where(is_line_end, quotes, 0)) if len(marks) else quotes
    in_string = ((quotes - quotes_before_line) & 1).astype(np.bool_)

    is_brace = ((kinds == _OPEN) | (kinds == _CLOSE)) & ~in_string
    braces = marks[is_brace]
    is_open = kinds[is_brace] == _OPEN
    cut_strings = marks[is_line_end & np.append(before.in_string, in_string[:-1])] if len(marks) else marks
    restarts = np.zeros(len(braces), np.bool_)
    restarts[is_open] = _is_certain_start(block, braces[is_open], cut_strings, before)
    levels, starts, ends = _levels(is_open, restarts, before.depth)

    last = _last_byte(block, len(block))
    is_broken_after = bool(len(cut_strings) and cut_strings[-1] > last) or (last < 0 and before.is_broken_after)
    after = _Context(
        in_string=bool(in_string[-1]) if len(marks) else before.in_string,
        is_escaped=is_escaped_after,
        last_byte=int(block[last]) if last >= 0 else before.last_byte,
        is_broken_after=is_broken_after,
        depth=int(levels[-1]) if len(levels) else before.depth,
    )
    return _Structure(braces, levels, starts, ends, marks, in_string, after)


def _escapes(marks: Positions, is_backslash: Flags, is_escaped: bool, length: int) -> tuple[Flags, bool]:
    """Return which marks follow an odd number of backslashes, and whether the byte after the block does."""
    count = len(marks)
    # A virtual backslash in front of the block stands for those before it.
    at = np.concatenate([[-1], marks, [length]])
    is_slash = np.concatenate([[is_escaped], is_backslash, [False]])
    follows = np.append(False, is_slash[:-1] & (at[1:] == at[:-1] + 1))
    index = np.arange(count + 2)
    run_start = np.maximum.accumulate(np.where(is_slash & ~follows, index, 0))
    run_length = np.append(0, (index - run_start)[:-1] + 1)
    escaped = follows & (run_length % 2 == 1)
    return escaped[1:-1], bool(escaped[-1])


def _is_certain_start(block: Bytes, opens: Positions, cut_strings: Positions, before: _Context) -> Flags:
    """Tell which open braces cannot stand inside a record that is still valid, so that a record starts there."""
    if not len(opens):
        return np.empty(0, np.bool_)
    previous = opens - 1
    for _ in range(_STEPS_BACK):
        is_space = (previous >= 0) & _IS_SPACE[block[previous]]
        if not is_space.any():
            break
        previous = previous - is_space
    else:
        for index in np.flatnonzero((previous >= 0) & _IS_SPACE[block[previous]]).tolist():
            previous[index] = _last_byte(block, int(previous[index]))
    previous_bytes = np.where(previous >= 0, block[previous], before.last_byte)
    is_certain: Flags = ~_IS_BEFORE_VALUE[previous_bytes]
    if len(cut_strings):
        is_certain |= np.searchsorted(cut_strings, opens) > np.searchsorted(cut_strings, previous)
    if before.is_broken_after:
        is_certain |= previous < 0
    return is_certain


def _last_byte(block: Bytes, end: int) -> int:
    """Return the position of the last byte before ``end`` that is no white space, -1 if there is none."""
    step = 64
    while end > 0:
        begin = max(0, end - step)
        found = np.flatnonzero(~_IS_SPACE[block[begin:end]])
        if len(found):
            return begin + int(found[-1])
        end, step = begin, step * 2
    return -1


def _levels(is_open: Flags, restarts: Flags, depth: int) -> tuple[Positions, Flags, Flags]:
    """Return the level after each brace, and which braces open and close a record.

    A closing brace outside a record changes nothing; a certain start begins a new count.
    """
    total = np.cumsum(np.where(is_open, 1, -1), dtype=np.int64) + depth
    segment = np.cumsum(restarts, dtype=np.int64)
    bases = np.append(0, total[restarts] - 1)
    levels = total - bases[segment]
    if len(levels) and levels.min() < 0:
        # The lowest level so far in each segment is the number of closing braces that had nothing to close.
        lowest = np.minimum.accumulate(np.minimum(levels, 0) - segment * _SEGMENT) + segment * _SEGMENT
        levels = levels - lowest
        is_stray = np.diff(lowest - np.zeros(1, np.int64), prepend=0) < 0
        is_stray &= ~is_open
    else:
        is_stray = np.zeros(len(levels), np.bool_)
    return levels, is_open & (levels == 1), ~is_open & (levels == 0) & ~is_stray


def _paired(found: _Structure, length: int) -> tuple[Positions, Positions]:
    """Return the starts and ends of the records; a broken one ends where the next starts, an unfinished one at -1."""
    starts = found.braces[found.starts]
    closed = found.braces[found.ends] + 1
    limits = np.append(starts[1:], np.iinfo(np.int64).max)
    candidates = np.append(closed, np.iinfo(np.int64).max)[np.searchsorted(closed, starts, side="right")]
    ends = np.minimum(candidates, limits)
    return starts, np.where(ends == np.iinfo(np.int64).max, -1, ends)


def _in_string_at(found: _Structure, positions: Positions, before: _Context | None) -> Flags:
    """Tell for each position whether it is inside a string or is one of its quotes."""
    index = np.searchsorted(found.marks, positions, side="left")
    in_string_before = bool(before is not None and before.in_string)
    inside: Any = np.append(in_string_before, found.in_string)[index]
    flags: Flags = inside.astype(np.bool_)
    return flags
