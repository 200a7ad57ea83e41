"""Synthetic usage events as columns: what happened, before any file layout.

Position k of a feed is the event with index k, or, with the probability of a duplicate, a copy of an earlier one; all
else follows from (seed, index). So any range of positions can be made alone and always comes out the same.

Accounts follow Zipf's law, one event in twenty carries an offset other than Z, half of the quantities are written as
strings, and *broken* positions are damaged in one of six ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.random_numbers import Unsigned, fractions, numbers

Integers: TypeAlias = NDArray[np.int64]
Column: TypeAlias = Any  # an Arrow array: its stubs know less than it does

FIRST_INSTANT = datetime(2026, 3, 1, tzinfo=UTC)
MILLISECONDS_PER_DAY = 86_400_000
JITTER_MILLISECONDS_MAX = 120_000  # an event arrives up to two minutes after it happened
LATE_HOURS_MAX = 72

SKUS = (
    "api.calls",
    "api.calls.premium",
    "compute.vcpu_seconds",
    "compute.gpu_seconds",
    "compute.mem_gib_seconds",
    "storage.gib_hours",
    "storage.archive_gib_hours",
    "storage.put_requests",
    "storage.get_requests",
    "storage.list_requests",
    "network.egress_gib",
    "network.ingress_gib",
    "network.nat_gib",
    "lb.lcu_hours",
    "lb.new_connections",
    "db.read_units",
    "db.write_units",
    "db.storage_gib_hours",
    "db.backup_gib_hours",
    "db.cpu_seconds",
    "queue.messages",
    "queue.batches",
    "email.sent",
    "sms.sent",
    "push.sent",
    "llm.input_tokens",
    "llm.output_tokens",
    "llm.cached_tokens",
    "embed.tokens",
    "search.queries",
    "search.index_gib_hours",
    "logs.ingest_gib",
    "logs.retained_gib_hours",
    "metrics.series_hours",
    "traces.spans",
    "cdn.requests",
    "cdn.egress_gib",
    "dns.queries",
    "vpn.connection_hours",
    "seats.active",
)
REGIONS = (
    "us-east-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-south-1",
    "ap-northeast-1",
    "sa-east-1",
    "ca-central-1",
)
SOURCES = tuple(f"api-gw-{number}" for number in range(1, 13))
_IS_FRACTIONAL = np.array([any(unit in sku for unit in ("gib", "seconds", "hours")) for sku in SKUS])
_OFFSETS = ("Z", "+02:00", "-05:30")
_OFFSET_MINUTES = np.array([0, 120, -330], dtype=np.int64)


class Broken(IntEnum):
    """How a record is damaged. A layout whose records cannot be cut has only the damaged fields."""

    NO = 0
    TRUNCATED = 1
    BAD_QUANTITY = 2
    BAD_TIME = 3
    NO_SUBJECT = 4
    QUANTITY_IS_AN_OBJECT = 5
    NOT_A_RECORD = 6


BAD_QUANTITY_TEXT = "12,5x"
BAD_TIME_TEXT = "2026-02-31 25:00"


@dataclass(frozen=True, slots=True)
class Feed:
    """What to generate; ``late``, ``duplicates`` and ``broken`` are shares of the events."""

    events: int
    seed: int = 1
    days: int = 1
    accounts: int = 100_000
    lines_per_file: int = 240_000
    broken: float = 0.001
    duplicates: float = 0.02
    late: float = 0.005

    @property
    def file_count(self) -> int:
        return -(-self.events // self.lines_per_file)

    def positions(self, file: int) -> range:
        """Return the positions of one file."""
        first = file * self.lines_per_file
        return range(first, min(self.events, first + self.lines_per_file))

    def instant(self, position: int) -> datetime:
        """Return when the feed reached a position; events happened shortly before."""
        milliseconds = position * self.days * MILLISECONDS_PER_DAY // self.events
        return datetime.fromtimestamp(FIRST_INSTANT.timestamp() + milliseconds // 1000, UTC)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a correct reader finds: sums over the records that are not broken."""

    lines: int
    broken: int
    duplicates: int
    quantity: Decimal
    milliseconds: int  # sum of the event times, milliseconds since 1970

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.lines + other.lines,
            self.broken + other.broken,
            self.duplicates + other.duplicates,
            self.quantity + other.quantity,
            self.milliseconds + other.milliseconds,
        )


NOTHING = Totals(0, 0, 0, Decimal(0), 0)


@dataclass(frozen=True, slots=True)
class Events:
    """The events of some positions, one array entry each; text is as a record writes it."""

    broken: Integers  # a Broken
    cut: Integers  # where a truncated record ends, in bytes
    id: Column
    source: Column
    sku: Column
    subject: Column
    local_time: Column  # RFC 3339 without the offset, milliseconds
    offset: Column
    utc_time: Column  # as local_time, in UTC
    milliseconds: Integers  # since 1970
    quantity: Column  # plain digits, at most 6 after the point
    is_quantity_string: NDArray[np.bool_]
    micros: Integers  # the quantity in millionths
    region: Column
    request_id: Column
    totals: Totals

    def is_broken(self, kind: Broken) -> Column:
        """Return which records are damaged this way, as an Arrow mask."""
        return pa.array(self.broken == kind)


def make_events(feed: Feed, positions: range) -> Events:
    """Return the events of a range of positions."""
    position = np.arange(positions.start, positions.stop, dtype=np.uint64)
    is_duplicate, index = _with_duplicates(feed, position)
    broken = np.where(
        fractions(feed.seed, 22, position) < feed.broken,
        1 + (numbers(feed.seed, 23, position) % np.uint64(6)).astype(np.int64),
        np.int64(Broken.NO),
    )

    def choice(stream: int, count: int) -> Integers:
        return (numbers(feed.seed, stream, index) % np.uint64(count)).astype(np.int64)

    sku = _by_zipf(numbers(feed.seed, 2, index), len(SKUS))
    milliseconds = _milliseconds(feed, index)
    hundredth = choice(6, 100)
    offset = np.where(hundredth < 3, 1, np.where(hundredth < 5, 2, 0))
    micros = np.where(_IS_FRACTIONAL[sku], choice(7, 5_000_000_000) + 1, (choice(7, 200) + 1) * 1_000_000)
    account = 1 + _by_zipf(numbers(feed.seed, 1, index), feed.accounts)
    is_good = broken == Broken.NO
    return Events(
        broken=broken,
        cut=5 + (numbers(feed.seed, 24, position) % np.uint64(200)).astype(np.int64),
        id=_uuid_text(numbers(feed.seed, 11, index), numbers(feed.seed, 12, index)),
        source=_chosen(SOURCES, choice(9, len(SOURCES))),
        sku=_chosen(SKUS, sku),
        subject=_fixed_text(b"acct_000000", {5: _digits(account, 6)}),
        local_time=_time_text(milliseconds + _OFFSET_MINUTES[offset] * 60_000),
        offset=_chosen(_OFFSETS, offset),
        utc_time=_time_text(milliseconds),
        milliseconds=milliseconds,
        quantity=_quantity_text(micros),
        is_quantity_string=choice(8, 2) == 1,
        micros=micros,
        region=_chosen(REGIONS, choice(10, len(REGIONS))),
        request_id=_fixed_text(b"req_0000000000000000", {4: _hexadecimal(numbers(feed.seed, 13, index))}),
        totals=Totals(
            lines=len(positions),
            broken=int((~is_good).sum()),
            duplicates=int(is_duplicate.sum()),
            quantity=Decimal(int(micros[is_good].sum())).scaleb(-6),
            milliseconds=int(milliseconds[is_good].sum()),
        ),
    )


def _with_duplicates(feed: Feed, position: Unsigned) -> tuple[NDArray[np.bool_], Unsigned]:
    """Return which positions repeat an earlier event, and the index of the event at each position.

    Half of the copies come within 5,000 lines, three in ten within the length of a file, the rest within 48 hours.
    """
    share = fractions(feed.seed, 20, position)
    two_days = max(1, feed.events * 2 // max(feed.days, 2))
    reach = np.where(
        share < feed.duplicates * 0.5,
        np.uint64(5_000),
        np.where(share < feed.duplicates * 0.8, np.uint64(feed.lines_per_file), np.uint64(two_days)),
    )
    is_duplicate = (share < feed.duplicates) & (position > 0)
    one = np.uint64(1)
    earlier = position - one - numbers(feed.seed, 21, position) % np.minimum(reach, np.maximum(position, one))
    return is_duplicate, np.where(is_duplicate, earlier, position)


def _milliseconds(feed: Feed, index: Unsigned) -> Integers:
    span = feed.days * MILLISECONDS_PER_DAY
    reached = index.astype(np.int64) * span // feed.events
    jitter = (numbers(feed.seed, 3, index) % np.uint64(JITTER_MILLISECONDS_MAX)).astype(np.int64)
    lateness = 3_600_000 + (numbers(feed.seed, 5, index) % np.uint64((LATE_HOURS_MAX - 1) * 3_600_000)).astype(np.int64)
    late = np.where(fractions(feed.seed, 4, index) < feed.late, lateness, 0)
    return int(FIRST_INSTANT.timestamp()) * 1000 + reached - jitter - late


def _by_zipf(number: Unsigned, count: int) -> Integers:
    """Return a rank of 0 to ``count - 1`` for each number, rank r with a weight of 1 / (r + 1); integers throughout."""
    ends = np.cumsum(np.uint64(2**52) // np.arange(1, count + 1, dtype=np.uint64))
    ranks: Integers = np.searchsorted(ends, number % ends[-1], side="right").astype(np.int64)
    return ranks


# ---- numbers as text ----


def _chosen(texts: tuple[str, ...], choice: Integers) -> Column:
    indices: Column = pa.array(choice)
    return pa.array(texts).take(indices)


def _digits(value: Integers, count: int) -> NDArray[np.uint8]:
    """Return the last digits of non-negative numbers as ASCII, one row each."""
    digits = np.empty((len(value), count), dtype=np.uint8)
    for column in reversed(range(count)):
        value, digit = np.divmod(value, 10)
        digits[:, column] = digit + 48
    return digits


_HEXADECIMAL = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype="S2")


def _hexadecimal(value: Unsigned) -> NDArray[np.uint8]:
    """Return 16 hexadecimal digits of each number as ASCII, one row each."""
    octets = value.astype(">u8").view(np.uint8)
    return _HEXADECIMAL[octets].view(np.uint8).reshape(len(value), 16)


def _fixed_text(template: bytes, parts: dict[int, NDArray[np.uint8]]) -> Column:
    """Return texts of one length: the template, overwritten by the rows of each part from its place on."""
    count = len(next(iter(parts.values())))
    characters = np.tile(np.frombuffer(template, dtype=np.uint8), (count, 1))
    for place, part in parts.items():
        characters[:, place : place + part.shape[1]] = part
    offsets = np.arange(count + 1, dtype=np.int32) * len(template)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets.data), pa.py_buffer(characters.data))


def _uuid_text(high: Unsigned, low: Unsigned) -> Column:
    left, right = _hexadecimal(high), _hexadecimal(low)
    parts = {0: left[:, :8], 9: left[:, 8:12], 15: left[:, 13:], 20: right[:, 1:4], 24: right[:, 4:]}
    return _fixed_text(b"00000000-0000-4000-a000-000000000000", parts)


def _time_text(milliseconds: Integers) -> Column:
    days, rest = np.divmod(milliseconds, MILLISECONDS_PER_DAY)
    first, last = int(days.min()), int(days.max())
    calendar = np.arange(first, last + 1).astype("datetime64[D]").astype("S10").view(np.uint8).reshape(-1, 10)
    seconds, thousandths = np.divmod(rest, 1000)
    return _fixed_text(
        b"0000-00-00T00:00:00.000",
        {
            0: calendar[days - first],
            11: _digits(seconds // 3600, 2),
            14: _digits(seconds // 60 % 60, 2),
            17: _digits(seconds % 60, 2),
            20: _digits(thousandths, 3),
        },
    )


def _quantity_text(micros: Integers) -> Column:
    units, fraction = np.divmod(micros, 1_000_000)
    points = pc.ascii_rtrim(pc.ascii_rtrim(_fixed_text(b".000000", {1: _digits(fraction, 6)}), "0"), ".")
    return pc.binary_join_element_wise(pc.cast(pa.array(units), pa.string()), points, "")
