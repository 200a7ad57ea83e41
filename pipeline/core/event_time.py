"""Event times as producers write them, read as instants in UTC; digits beyond microseconds are cut off."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Literal

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})([Tt ])((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
    r"(?:\.([0-9]{1,18}))?([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)
_SHAPE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})([Tt ])([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_CLOCK = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]")
_FRACTION_DIGITS_MAX = 18
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE_DIGITS_MAX = 16  # of milliseconds; the last instant of the calendar has 15 of them


def parse_event_time(text: str, naive_zone: Literal["UTC"] | None = None) -> datetime | None:
    """Return the instant in UTC of an RFC 3339 time, digits beyond microseconds cut off; ``None`` if it is not one.

    A time without zone, or with a space for the ``T``, is read only where the contract declares the zone.

    >>> parse_event_time("2026-01-15T12:00:00.9999999+02:00").isoformat()
    '2026-01-15T10:00:00.999999+00:00'
    >>> parse_event_time("2026-01-15T12:00:00") is None
    True
    >>> parse_event_time("2023-11-16 18:17:03.9799600", "UTC").isoformat()
    '2023-11-16T18:17:03.979960+00:00'
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, separator, clock, fraction, zone = match.groups()
    if (zone is None or separator == " ") and naive_zone is None:
        return None
    offset = "+00:00" if zone is None or zone in "Zz" else zone
    try:
        return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def time_fault(text: str, naive_zone: Literal["UTC"] | None = None) -> str:
    """Return what makes a time impossible that is written as one; empty where it is not written as a time at all.

    >>> time_fault("2026-02-30T12:00:00Z"), time_fault("2026-01-15T24:00:00Z"), time_fault("yesterday")
    ('2026-02-30 is no date', '24:00:00 is no time of day', '')
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        return ""
    day, separator, clock, fraction, zone = match.groups()
    try:
        date.fromisoformat(day)
    except ValueError:
        return f"{day} is no date"
    if not _CLOCK.fullmatch(clock):
        return f"{clock} is no time of day"
    if zone is not None and zone not in "Zz" and not _CLOCK.fullmatch(f"{zone[1:]}:00"):
        return f"{zone} is no offset of a zone"
    if fraction is not None and len(fraction) > _FRACTION_DIGITS_MAX:
        return f"a second has {len(fraction)} digits after the point, accepted {_FRACTION_DIGITS_MAX}"
    if zone is None and naive_zone is None:
        return 'it has no zone, and the contract declares none (time_zone = "UTC")'
    if separator == " " and naive_zone is None:
        return 'a space stands for the T, which is read with time_zone = "UTC" in the contract only'
    return "it is outside of the years 1 to 9999 in UTC"


def parse_unix_time(number: Decimal, microseconds_per_unit: int) -> datetime | None:
    """Return the instant that lies ``number`` units after 1970, cut off at microseconds; ``None`` if there is none.

    An instant before 1970 is no time of usage, and one after the year 9999 is a number in another unit.

    >>> parse_unix_time(Decimal("1768478400.1234567"), 1_000_000).isoformat()
    '2026-01-15T12:00:00.123456+00:00'
    >>> parse_unix_time(Decimal("-1"), 1_000) is None
    True
    """
    if not number.is_finite() or number < 0 or number.adjusted() >= _WHOLE_DIGITS_MAX:
        return None
    # In integers: arithmetic of Decimal rounds to its context, which would lose digits of a long number.
    _, digits, exponent = number.as_tuple()
    scaled = int("".join(map(str, digits))) * microseconds_per_unit
    microseconds = scaled * 10 ** int(exponent) if int(exponent) >= 0 else scaled // 10 ** -int(exponent)
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
