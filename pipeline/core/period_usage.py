"""What an account used in a billing period: what rating prices, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """The usage of one SKU in one segment of an account's period, in the unit that is priced.

    ``dimensions`` is the JSON object of the meter's dimensions where a matrix prices the SKU, else empty: the quantity
    is then that of all dimensions. ``event_count`` is the number of the events that were counted.
    """

    account_id: str
    sku: str
    segment: int
    dimensions: str
    aggregation: str
    unit: str
    quantity: Decimal
    event_count: int


@dataclass(frozen=True, slots=True)
class EventValue:
    """So many events of one value in one grain, of a SKU whose price depends on each event."""

    account_id: str
    sku: str
    segment: int
    grain_start: datetime
    value: Decimal
    event_count: int
