"""What became of the events of a window revision, beyond the rows of ``excluded_events``: counts for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from pipeline.core.withdrawal import WithdrawalFault

WITHDRAWALS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class FallbackCount:
    """How many billed events of a source nobody owned, and the account that is billed for them."""

    source: str
    account_id: str
    event_count: int


@dataclass(frozen=True, slots=True)
class LateArrivals:
    """What a source sent at or after the cutoff of the policy: events (no SKU), or what they add to a SKU."""

    source: str
    age: str
    sku: str | None
    unit: str | None
    event_count: int
    quantity: Decimal | None


@dataclass(frozen=True, slots=True)
class IdleWithdrawal:
    """A withdrawal of this window that has no effect, and why."""

    object_id: str
    line_number: int
    source: str
    id: str
    target_source: str | None
    target_id: str | None
    fault: WithdrawalFault


@dataclass(frozen=True, slots=True)
class UnbilledReplacement:
    """A replacement of this window that takes an event back and is not billed itself; ``reason`` says why not."""

    object_id: str
    line_number: int
    source: str
    id: str
    target_source: str | None
    target_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class EventOutcomes:
    """The counts of one window revision, as of when it was computed.

    ``idle_withdrawals`` and ``unbilled_replacements`` are the first in order of object and line; their counts have all
    of them, by fault and by reason. ``look_back_seconds`` is how far copies were looked for.
    """

    window_event_count: int
    billed_event_count: int
    fallbacks: tuple[FallbackCount, ...]
    late_arrivals: tuple[LateArrivals, ...]
    idle_withdrawals: tuple[IdleWithdrawal, ...]
    idle_withdrawal_counts: Mapping[str, int]
    unbilled_replacements: tuple[UnbilledReplacement, ...]
    unbilled_replacement_counts: Mapping[str, int]
    look_back_seconds: int

    @property
    def fallback_event_count(self) -> int:
        return sum(fallback.event_count for fallback in self.fallbacks)

    def to_json(self) -> dict[str, Any]:
        late = [
            {**asdict(one), "quantity": None if one.quantity is None else f"{one.quantity:f}"}
            for one in self.late_arrivals
        ]
        return {**asdict(self), "late_arrivals": late}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> EventOutcomes:
        late = [
            {**one, "quantity": None if one["quantity"] is None else Decimal(one["quantity"])}
            for one in fields["late_arrivals"]
        ]
        idle = [{**one, "fault": WithdrawalFault(one["fault"])} for one in fields["idle_withdrawals"]]
        return cls(
            fields["window_event_count"],
            fields["billed_event_count"],
            tuple(FallbackCount(**one) for one in fields["fallbacks"]),
            tuple(LateArrivals(**one) for one in late),
            tuple(IdleWithdrawal(**one) for one in idle),
            fields["idle_withdrawal_counts"],
            tuple(UnbilledReplacement(**one) for one in fields["unbilled_replacements"]),
            fields["unbilled_replacement_counts"],
            fields["look_back_seconds"],
        )
