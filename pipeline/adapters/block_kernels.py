"""The loops of the fast road of collection over bytes, compiled to machine code when they are first needed.

They know records, constants and values, and nothing of billing: ``block_parser`` decides what is read. Integers only; a
number is its digits and how many of them are decimals. The compiled code is kept beside this file, or in the user's
cache folder, so a machine compiles it once (some seconds).

Bytes are looked at eight at a time, as a *word* of a little-endian machine. So a buffer of records has
``PADDING_BYTES`` behind its last one, and a word may hold bytes of what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from pipeline.adapters.optional_imports import without

# Numba imports them for functions, settings and listings that are none of ours; that takes as long as the rest of it.
with without("scipy", "cffi", "yaml", "pygments"):
    import numba
    from llvmlite import ir
    from numba.core import types
    from numba.core.registry import cpu_target
    from numba.extending import intrinsic

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()

PADDING_BYTES = 16

Function = TypeVar("Function", bound=Callable[..., Any])

_LINE_BREAK, _CARRIAGE_RETURN = 0x0A, 0x0D
_BACKSLASH, _LAST_PRINTED = 0x5C, 0x7E
_ZERO, _POINT, _DASH, _PLUS, _COLON, _T, _SPACE, _Z = 0x30, 0x2E, 0x2D, 0x2B, 0x3A, 0x54, 0x20, 0x5A
_DIGITS_MAX = 18  # what an unsigned 64-bit integer holds for certain
_DECIMALS_MAX = 9
_SECOND = 1_000_000
_NO_NUMBER = 1_000_000
_FIRST_YEAR, _LAST_YEAR = 1970, 2199
_DAYS_TO_1970 = 719_468  # from 0000-03-01, where the years of the calendar computation begin

# What a byte of a text is. A multi-byte character is judged by its first byte and those that follow.
PLAIN, END, SPECIAL, LEAD = 0, 1, 2, 3


def text_bytes(ends: bytes, specials: bytes = b"") -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return what each byte is in a text: one that ends it, one that only the strict parser may judge, or neither."""
    kinds = np.full(256, PLAIN, np.uint8)
    kinds[:0x20] = SPECIAL
    kinds[0x7F] = SPECIAL
    kinds[0x80:] = LEAD
    for kind, several in ((SPECIAL, specials), (END, ends)):
        for byte in several:
            kinds[byte] = kind
    return kinds


def _compiled(signature: Any) -> Callable[[Function], Function]:
    def compile_function(function: Function) -> Function:
        try:
            compiled = numba.njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except RuntimeError:  # there is no folder to keep the compiled code in
            compiled = numba.njit(signature, nogil=True, error_model="numpy")(function)
        return cast("Function", compiled)

    return compile_function


def _inlined(function: Function) -> Function:
    """Make a function part of each kernel that calls it, because a call counts references to its arrays."""
    return cast("Function", numba.njit(inline="always")(function))


# Words ---------------------------------------------------------------------------------------------------------------


def _intrinsic(describe: Callable[..., Any]) -> Any:
    """Return what the function describes: it takes the arguments behind the first one."""
    return intrinsic(describe)


@_intrinsic
def _word_at(_: Any, content: Any, place: Any) -> Any:
    """Return the eight bytes from a place on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(content, types.int64), generate


@_intrinsic
def _put_word(_: Any, content: Any, place: Any, word: Any) -> Any:
    """Write eight bytes from a place on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(content, types.int64, types.uint64), generate


@_intrinsic
def _first_byte(_: Any, marked: Any) -> Any:
    """Return the number of the first byte of a word that is not zero, in which only top bits are set."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.lshr(builder.cttz(arguments[0], ir.IntType(1)(0)), ir.IntType(64)(3))

    return types.int64(types.uint64), generate


_ONES = np.uint64(0x0101010101010101)
_TOPS = np.uint64(0x8080808080808080)
_QUOTES, _BACKSLASHES = np.uint64(0x2222222222222222), np.uint64(0x5C5C5C5C5C5C5C5C)
_LINE_BREAKS = np.uint64(0x0A0A0A0A0A0A0A0A)
_DELETES, _SPACES = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x2020202020202020)


@_inlined
def _zero_bytes(word: Any) -> Any:
    """Mark the bytes of a word that are zero. The first mark is right; those after it may be wrong."""
    return (word - _ONES) & ~word & _TOPS


# Records -------------------------------------------------------------------------------------------------------------


@_compiled("Tuple((i8[::1], i8[::1]))(u1[::1], i8)")
def line_spans(content: Any, byte_count: Any) -> Any:
    """Return where each line of the first bytes, which end with a line break, starts and ends."""
    line_count = 0
    for byte in content[:byte_count]:
        line_count += byte == _LINE_BREAK
    starts, ends = np.empty(line_count, np.int64), np.empty(line_count, np.int64)
    row, start = 0, 0
    for first in range(0, byte_count, 8):
        marked = _zero_bytes(_word_at(content, first) ^ _LINE_BREAKS)
        while marked != 0:
            place = first + _first_byte(marked)
            marked &= marked - np.uint64(1)
            if content[place] == _LINE_BREAK and place < byte_count:
                starts[row] = start
                ends[row] = place - 1 if place > start and content[place - 1] == _CARRIAGE_RETURN else place
                start = place + 1
                row += 1
    return starts, ends


@_compiled("i8[::1](u1[::1], i8[::1], i8[::1], i8[::1], u1)")
def byte_counts(content: Any, starts: Any, ends: Any, rows: Any, byte: Any) -> Any:
    """Return how often a byte occurs in each of some records."""
    counts = np.zeros(len(rows), np.int64)
    for index in range(len(rows)):
        for place in range(starts[rows[index]], ends[rows[index]]):
            counts[index] += content[place] == byte
    return counts


@_inlined
def _is_printed_ascii(record: Any) -> Any:
    """Tell whether no byte of a record needs a closer look: a backslash, a control character, or beyond ASCII."""
    count = 0
    for byte in record:
        count += (byte < _SPACE) | (byte == _BACKSLASH) | (byte > _LAST_PRINTED)
    return count == 0


@_compiled("i8(u1[::1], i8, i8, u1[::1], u8)")
def _text_end(content: Any, start: Any, end: Any, kinds: Any, end_word: Any) -> Any:
    """Return where a text ends, before ``end`` or there; -1 if only the strict parser may judge it.

    ``kinds`` tells what each byte is. The bytes worth asking for are found by words, and ``end_word`` repeats the END.
    """
    place = start
    while place < end:
        word = _word_at(content, place)
        marked = _zero_bytes(word ^ end_word) | _zero_bytes(word ^ _QUOTES) | _zero_bytes(word ^ _BACKSLASHES)
        marked |= _zero_bytes(word ^ _DELETES) | ((word - _SPACES) & ~word | word) & _TOPS
        if marked == 0:
            place += 8
            continue
        place += _first_byte(marked)
        if place >= end:
            break
        byte = content[place]
        kind = kinds[byte]
        if kind == END:
            return place
        if kind == SPECIAL:
            return -1
        if kind == PLAIN:
            place += 1
        else:
            # UTF-8 of two to four bytes, neither overlong nor a surrogate, nor U+0080 to U+009F (control characters).
            low, high = 0x80, 0xBF
            if 0xC2 <= byte <= 0xDF:
                length = 2
                if byte == 0xC2:
                    low = 0xA0
            elif 0xE0 <= byte <= 0xEF:
                length = 3
                if byte == 0xE0:
                    low = 0xA0
                elif byte == 0xED:
                    high = 0x9F
            elif 0xF0 <= byte <= 0xF4:
                length = 4
                if byte == 0xF0:
                    low = 0x90
                elif byte == 0xF4:
                    high = 0x8F
            else:
                return -1
            if place + length > end or not low <= content[place + 1] <= high:
                return -1
            for offset in range(2, length):
                if not 0x80 <= content[place + offset] <= 0xBF:
                    return -1
            place += length
    return end


@_compiled(
    "Tuple((i8[::1], i8[:, ::1], i8[:, ::1]))"
    "(u1[::1], i8[::1], i8[::1], i8[::1], u1[::1], i8[::1], b1[::1], b1[::1], u1[::1], u8)"
)
def fitting_records(
    content: Any,
    starts: Any,
    ends: Any,
    rows: Any,
    constants: Any,
    constant_edges: Any,
    are_numbers: Any,
    are_filled: Any,
    kinds: Any,
    end_word: Any,
) -> Any:
    """Return those of some records that fit a template, and for each of its values where that starts and ends in them.

    Of the places (value x record) only as many are meant as there are records that fit.

    Constant n, from ``constant_edges[n]`` to ``constant_edges[n + 1]`` of ``constants``, stands before value n, the
    last one at the end of the record. Behind the constants there are eight more bytes.
    """
    value_count = len(are_numbers)
    fitting = np.empty(len(rows), np.int64)
    value_starts = np.empty((value_count, len(rows)), np.int64)
    value_ends = np.empty((value_count, len(rows)), np.int64)
    shortest = constant_edges[value_count + 1]
    count = 0
    for index in range(len(rows)):
        row = rows[index]
        place, end = starts[row], ends[row]
        if end - place < shortest:
            continue
        is_printed_ascii = _is_printed_ascii(content[place:end])
        for value in range(value_count + 1):
            first, following = constant_edges[value], constant_edges[value + 1]
            if place + (following - first) > end:
                break
            differs = np.uint64(0)
            while following - first >= 8:
                differs |= _word_at(content, place) ^ _word_at(constants, first)
                place += 8
                first += 8
            if first < following:
                rest = _word_at(content, place) ^ _word_at(constants, first)
                differs |= rest << np.uint64(64 - 8 * (following - first))
                place += following - first
            if differs != 0:
                break
            if value == value_count:
                fitting[count] = row
                count += place == end
                break
            start = place
            if are_numbers[value]:
                while place < end and (content[place] - np.uint8(_ZERO) <= 9 or content[place] == _POINT):
                    place += 1
            elif is_printed_ascii:
                while place < end:
                    marked = _zero_bytes(_word_at(content, place) ^ end_word)
                    if marked != 0:
                        place += _first_byte(marked)
                        break
                    place += 8
            else:
                place = _text_end(content, start, end, kinds, end_word)
            if place < 0 or (are_filled[value] and place == start):
                break
            value_starts[value, count] = start
            value_ends[value, count] = place
    return fitting[:count], value_starts, value_ends


@_compiled("Tuple((i8[::1], i8[:, ::1], i8[:, ::1]))(u1[::1], i8[::1], i8[::1], i8[::1], i8, u1[::1], u8)")
def delimited_records(
    content: Any, starts: Any, ends: Any, rows: Any, column_count: Any, kinds: Any, end_word: Any
) -> Any:
    """Return those of some records that have exactly so many columns, and where each of these starts and ends.

    Of the places (column x record) only as many are meant as there are records returned.
    """
    fitting = np.empty(len(rows), np.int64)
    value_starts = np.empty((column_count, len(rows)), np.int64)
    value_ends = np.empty((column_count, len(rows)), np.int64)
    count = 0
    for index in range(len(rows)):
        row = rows[index]
        start, end = starts[row], ends[row]
        column = 0
        while True:
            place = _text_end(content, start, end, kinds, end_word)
            if place < 0 or column == column_count:
                column = -1
                break
            value_starts[column, count] = start
            value_ends[column, count] = place
            column += 1
            if place == end:
                break
            start = place + 1
        if column == column_count:
            fitting[count] = row
            count += 1
    return fitting[:count], value_starts, value_ends


@_compiled("b1[::1](u1[::1], i8[::1], i8[::1], u1[::1])")
def are_present(content: Any, starts: Any, ends: Any, null: Any) -> Any:
    """Tell which values are neither empty nor the text that stands for null."""
    present = np.empty(len(starts), np.bool_)
    for row in range(len(starts)):
        length = ends[row] - starts[row]
        differs = length != len(null)
        if not differs:
            for offset in range(length):
                differs |= content[starts[row] + offset] != null[offset]
        present[row] = length > 0 and differs
    return present


# Values --------------------------------------------------------------------------------------------------------------


@_compiled("Tuple((u8[::1], i8[::1], i8[::1], b1[::1]))(u1[::1], i8[::1], i8[::1])")
def plain_numbers(content: Any, starts: Any, ends: Any) -> Any:
    """Read plain decimals: digits with at most one point between them, no sign, no exponent, no leading zero.

    Returns all digits as one integer, how many are decimals, where the last one that counts ends (zeros behind it, and
    the point if nothing else follows, are cut off so that equal values have one text), and which are plain.
    """
    count = len(starts)
    digits = np.zeros(count, np.uint64)
    decimals = np.zeros(count, np.int64)
    value_ends = ends.copy()
    are_plain = np.zeros(count, np.bool_)
    for row in range(count):
        start, end = starts[row], ends[row]
        if end <= start or end - start > _DIGITS_MAX + 1:
            continue
        number, point, is_plain = np.uint64(0), -1, True
        for place in range(start, end):
            digit = content[place] - np.uint8(_ZERO)
            if digit <= 9:
                number = number * np.uint64(10) + np.uint64(digit)
            elif content[place] == _POINT and point < 0:
                point = place
            else:
                is_plain = False
                break
        integer_end = end if point < 0 else point
        if not is_plain or integer_end == start or (content[start] == _ZERO and integer_end > start + 1):
            continue
        if point < 0:
            is_plain = end - start <= _DIGITS_MAX
        else:
            decimals[row] = end - point - 1
            is_plain = 0 < decimals[row] <= _DECIMALS_MAX
            while content[end - 1] == _ZERO:
                end -= 1
            if end - 1 == point:
                end = point
        digits[row], value_ends[row], are_plain[row] = number, end, is_plain
    return digits, decimals, value_ends, are_plain


@_inlined
def _two_digits(content: Any, place: Any) -> Any:
    """Return the number that two digits write, or one that is beyond every limit."""
    tens, ones = int(content[place]) - _ZERO, int(content[place + 1]) - _ZERO
    return tens * 10 + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else _NO_NUMBER


@_compiled("i8(u1[::1], i8)")
def _days_since_1970(content: Any, start: Any) -> Any:
    """Return the days from 1970 to the date that ten bytes write, or less than zero if they write none."""
    if content[start + 4] != _DASH or content[start + 7] != _DASH:
        return -1
    year = _two_digits(content, start) * 100 + _two_digits(content, start + 2)
    month, day = _two_digits(content, start + 5), _two_digits(content, start + 8)
    if not (_FIRST_YEAR <= year <= _LAST_YEAR and 1 <= month <= 12):
        return -1
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    last_day = 30 + ((month + (month >> 3)) & 1) if month != 2 else 28 + is_leap
    if not 1 <= day <= last_day:
        return -1
    # The civil calendar, with years that begin in March.
    shifted = year - (month <= 2)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + day_of_year - _DAYS_TO_1970


@_compiled("Tuple((i8[::1], b1[::1]))(u1[::1], i8[::1], i8[::1], i8[::1], b1, b1)")
def rfc3339_times(content: Any, starts: Any, clock_starts: Any, ends: Any, is_naive: Any, is_joined: Any) -> Any:
    """Return the microseconds since 1970 of ``2026-01-15T12:00:00.123Z`` and the like, and which texts are such.

    ``starts`` are those of the dates, ten bytes each, ``clock_starts`` those of the clock times; what is between them
    is judged here unless the two stand in fields of their own (``is_joined``). Digits beyond microseconds are cut off.
    """
    count = len(starts)
    event_at = np.zeros(count, np.int64)
    are_times = np.zeros(count, np.bool_)
    known_month, known_day, days = np.uint64(0), np.uint64(0), 0
    for row in range(count):
        start, clock, end = starts[row], clock_starts[row], ends[row]
        if end - clock < 8 or content[clock + 2] != _COLON or content[clock + 5] != _COLON:
            continue
        if not is_joined:
            separator = content[start + 10]
            if separator != _T and not (separator == _SPACE and is_naive):
                continue
        # Most events are of the same date as the one before.
        month_text, day_text = _word_at(content, start), _word_at(content, start + 8) & np.uint64(0xFFFF)
        if month_text != known_month or day_text != known_day:
            days = _days_since_1970(content, start)
            known_month, known_day = month_text, day_text
        if days < 0:
            continue
        hour, minute = _two_digits(content, clock), _two_digits(content, clock + 3)
        second = _two_digits(content, clock + 6)
        if hour > 23 or minute > 59 or second > 59:
            continue
        # The zone: Z, an offset, or nothing where the contract names the zone of naive times.
        zone = 0
        place = end
        if content[end - 1] == _Z and end - clock >= 9:
            place = end - 1
        elif end - clock >= 14 and content[end - 3] == _COLON and content[end - 6] in (_PLUS, _DASH):
            hours, minutes = _two_digits(content, end - 5), _two_digits(content, end - 2)
            if hours > 23 or minutes > 59:
                continue
            zone = hours * 3_600 + minutes * 60
            if content[end - 6] == _DASH:
                zone = -zone
            place = end - 6
        elif not is_naive:
            continue
        # The fraction: a point and one to nine digits, or nothing.
        fraction, fraction_digits = 0, place - clock - 9
        is_fraction = fraction_digits == -1 or (1 <= fraction_digits <= 9 and content[clock + 8] == _POINT)
        if not is_fraction:
            continue
        for offset in range(max(fraction_digits, 0)):
            digit = int(content[clock + 9 + offset]) - _ZERO
            is_fraction &= 0 <= digit <= 9
            if offset < 6:
                fraction = fraction * 10 + digit
        for _ in range(fraction_digits, 6 if fraction_digits > 0 else fraction_digits):
            fraction *= 10
        if not is_fraction:
            continue
        event_at[row] = (days * 86_400 + hour * 3_600 + minute * 60 + second - zone) * _SECOND + fraction
        are_times[row] = True
    return event_at, are_times


# Texts ---------------------------------------------------------------------------------------------------------------


@_inlined
def _copy(texts: Any, to: Any, content: Any, start: Any, end: Any) -> Any:
    """Copy by words, up to seven bytes more than asked for, which the next copy writes over. Returns the new end."""
    for offset in range(0, end - start, 8):
        _put_word(texts, to + offset, _word_at(content, start + offset))
    return to + end - start


@_compiled("Tuple((i4[::1], u1[::1]))(u1[::1], i8[::1], i8[::1])")
def copied_texts(content: Any, starts: Any, ends: Any) -> Any:
    """Return the bytes between as Arrow keeps texts: where each starts among all of them, and all of them and eight."""
    edges = np.empty(len(starts) + 1, np.int32)
    total = 0
    for row in range(len(starts)):
        edges[row] = total
        total += ends[row] - starts[row]
    edges[len(starts)] = total
    texts = np.empty(total + 8, np.uint8)
    for row in range(len(starts)):
        _copy(texts, edges[row], content, starts[row], ends[row])
    return edges, texts


@_compiled("Tuple((i4[::1], u1[::1]))(u1[::1], i8[:, ::1], i8[:, ::1], u1[::1], i8[::1])")
def joined_texts(content: Any, starts: Any, ends: Any, constants: Any, constant_edges: Any) -> Any:
    """Return, as ``copied_texts`` does, for each row constants and values in turn: a constant is first and last."""
    value_count, count = starts.shape
    edges = np.empty(count + 1, np.int32)
    total = 0
    for row in range(count):
        edges[row] = total
        total += constant_edges[value_count + 1]
        for value in range(value_count):
            total += ends[value, row] - starts[value, row]
    edges[count] = total
    texts = np.empty(total + 8, np.uint8)
    to = 0
    for row in range(count):
        for value in range(value_count):
            to = _copy(texts, to, constants, constant_edges[value], constant_edges[value + 1])
            to = _copy(texts, to, content, starts[value, row], ends[value, row])
        to = _copy(texts, to, constants, constant_edges[value_count], constant_edges[value_count + 1])
    return edges, texts


# Hashes --------------------------------------------------------------------------------------------------------------

_PRIME_1, _PRIME_2, _PRIME_3, _PRIME_4, _PRIME_5 = (
    np.uint64(0x9E3779B185EBCA87),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
    np.uint64(0x85EBCA77C2B2AE63),
    np.uint64(0x27D4EB2F165667C5),
)
_STRIPE_BYTES = 32


@_inlined
def _rotated(word: Any, bits: Any) -> Any:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@_inlined
def _mixed(lane: Any, word: Any) -> Any:
    return _rotated(lane + word * _PRIME_2, 31) * _PRIME_1


@_inlined
def _merged(digest: Any, lane: Any) -> Any:
    return (digest ^ _mixed(np.uint64(0), lane)) * _PRIME_1 + _PRIME_4


@_compiled(
    types.uint64[::1](
        types.Array(types.uint8, 1, "C", readonly=True),
        types.Array(types.int32, 1, "C", readonly=True),
        types.uint64[::1],
    )
)
def text_hashes(content: Any, edges: Any, seeds: Any) -> Any:
    """Return the XXH64 of each text, from its own seed; text *n* is the bytes from edge *n* to the one behind it."""
    hashes = np.empty(len(seeds), np.uint64)
    for row in range(len(seeds)):
        place, end, seed = np.int64(edges[row]), np.int64(edges[row + 1]), seeds[row]
        byte_count = end - place
        if byte_count >= _STRIPE_BYTES:
            one, two = seed + _PRIME_1 + _PRIME_2, seed + _PRIME_2
            three, four = seed, seed - _PRIME_1
            while place + _STRIPE_BYTES <= end:
                one = _mixed(one, _word_at(content, place))
                two = _mixed(two, _word_at(content, place + 8))
                three = _mixed(three, _word_at(content, place + 16))
                four = _mixed(four, _word_at(content, place + 24))
                place += _STRIPE_BYTES
            digest = _rotated(one, 1) + _rotated(two, 7) + _rotated(three, 12) + _rotated(four, 18)
            digest = _merged(_merged(_merged(_merged(digest, one), two), three), four)
        else:
            digest = seed + _PRIME_5
        digest += np.uint64(byte_count)
        while place + 8 <= end:
            digest = _rotated(digest ^ _mixed(np.uint64(0), _word_at(content, place)), 27) * _PRIME_1 + _PRIME_4
            place += 8
        if place + 4 <= end:
            half = np.uint64(0)
            for offset in range(4):
                half |= np.uint64(content[place + offset]) << np.uint64(8 * offset)
            digest = _rotated(digest ^ (half * _PRIME_1), 23) * _PRIME_2 + _PRIME_3
            place += 4
        while place < end:
            digest = _rotated(digest ^ (np.uint64(content[place]) * _PRIME_5), 11) * _PRIME_1
            place += 1
        digest = (digest ^ (digest >> np.uint64(33))) * _PRIME_2
        digest = (digest ^ (digest >> np.uint64(29))) * _PRIME_3
        hashes[row] = digest ^ (digest >> np.uint64(32))
    return hashes
