"""Withdrawals: events that take another event back, by its key ``(source, id)``.

A *void* is never billed itself; a *replacement* is usage in the place of what it withdraws. A withdrawal acts on the
events of its key that are received before it or within the look-back after it, whichever window they are of; later use
of the key is another event, which another withdrawal may take back. The first received that acts on an event is the one
that is shown. Of several replacements of one key the first received stands, and the others are not billed. A void
cannot be taken back: send the usage again under another id. A replacement can be replaced in turn, and what it withdrew
stays withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Self

from pipeline.core.reason import ExclusionReason

Key = tuple[str, str]  # source, id
ONE_MICROSECOND = timedelta(microseconds=1)


class WithdrawalFault(StrEnum):
    """Why a withdrawal has no effect."""

    NAMES_NO_EVENT = "names_no_event"
    NAMES_ITSELF = "names_itself"
    NAMES_A_VOID = "names_a_void"
    NAMES_A_CYCLE = "names_a_cycle"
    REPLACED_ALREADY = "replaced_already"
    UNMATCHED = "unmatched"


WITHDRAWAL_FAULT_SENTENCES: dict[WithdrawalFault, str] = {
    WithdrawalFault.NAMES_NO_EVENT: "it does not say the source and the id of an event",
    WithdrawalFault.NAMES_ITSELF: "it names its own key",
    WithdrawalFault.NAMES_A_VOID: "it names a void, which cannot be taken back",
    WithdrawalFault.NAMES_A_CYCLE: "it was received last of replacements that replace each other in a ring",
    WithdrawalFault.REPLACED_ALREADY: "another replacement of the event was received before it, and stands",
    WithdrawalFault.UNMATCHED: "no event with the key it names has been received, up to the look-back after it",
}


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is kept as JSON; its instants end in ``_at``."""

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        instants = {name: datetime.fromisoformat(value) for name, value in fields.items() if name.endswith("_at")}
        return cls(**{**fields, **instants})


@dataclass(frozen=True, slots=True)
class Withdrawal(_Stored):
    """One event that withdraws another one, as it was received."""

    object_id: str
    line_number: int
    source: str
    id: str
    event_at: datetime
    received_at: datetime
    target_source: str | None
    target_id: str | None
    replaces: bool
    event_type: str

    @property
    def key(self) -> Key:
        return self.source, self.id

    @property
    def target(self) -> Key:
        return self.target_source or "", self.target_id or ""

    def acts_on(self, received_at: datetime, look_back: timedelta) -> bool:
        """Tell whether it takes back an event of the named key that was received then.

        Without a look-back it acts on what was received up to its own receipt, which is that of its whole object.
        """
        return received_at < self.received_at + max(look_back, ONE_MICROSECOND)


@dataclass(frozen=True, slots=True)
class NamedEvent(_Stored):
    """A raw event whose key a withdrawal names."""

    object_id: str
    line_number: int
    source: str
    id: str
    event_at: datetime
    received_at: datetime

    @property
    def key(self) -> Key:
        return self.source, self.id


@dataclass(frozen=True, slots=True)
class WithdrawnEvent(_Stored):
    """A raw event that is not billed because of a withdrawal, and the event that stands or acts instead of it.

    ``reason`` is ``voided``, or ``conflicting_duplicate`` for a replacement of what another one replaced before.
    """

    object_id: str
    line_number: int
    reason: str
    winner_object_id: str
    winner_line_number: int
    winner_event_at: datetime
    winner_received_at: datetime

    @classmethod
    def by(cls, event: NamedEvent | Withdrawal, reason: ExclusionReason, winner: Withdrawal) -> WithdrawnEvent:
        return cls(
            event.object_id,
            event.line_number,
            reason.value,
            winner.object_id,
            winner.line_number,
            winner.event_at,
            winner.received_at,
        )


@dataclass(frozen=True, slots=True)
class SettledWithdrawals:
    """Which withdrawals act, by the key that they name and in order of receipt, and why others do not, by their key.

    ``winners`` has, by the key of each replacement that came too late, the one that stands.
    """

    look_back: timedelta
    acting: Mapping[Key, Sequence[Withdrawal]]
    faults: Mapping[Key, WithdrawalFault]
    winners: Mapping[Key, Withdrawal]

    def of_event(self, event: NamedEvent) -> Withdrawal | None:
        """Return the first received withdrawal that acts on the event."""
        found = self.acting.get(event.key, ())
        return next((one for one in found if one.acts_on(event.received_at, self.look_back)), None)


def standing_withdrawals(received: Iterable[Withdrawal], future_tolerance: timedelta) -> list[Withdrawal]:
    """Return, in order of receipt, the copy of each withdrawal that stands; a retry with other content names nothing.

    It is the copy that stands of any event: first those that were not ahead of their receipt, then the earliest.
    """
    standing: dict[Key, Withdrawal] = {}
    for one in sorted(received, key=lambda one: (one.event_at - one.received_at > future_tolerance, *_receipt(one))):
        standing.setdefault(one.key, one)
    return sorted(standing.values(), key=_receipt)


def settled_withdrawals(standing: Sequence[Withdrawal], look_back: timedelta) -> SettledWithdrawals:
    """Decide which of the standing withdrawals act, whatever events there are."""
    voids = {withdrawal.key for withdrawal in standing if not withdrawal.replaces}
    faults = {}
    for withdrawal in standing:
        if not withdrawal.target_source or not withdrawal.target_id:
            faults[withdrawal.key] = WithdrawalFault.NAMES_NO_EVENT
        elif withdrawal.target == withdrawal.key:
            faults[withdrawal.key] = WithdrawalFault.NAMES_ITSELF
        elif withdrawal.target in voids:
            faults[withdrawal.key] = WithdrawalFault.NAMES_A_VOID
    replacements = {one.key: one for one in standing if one.replaces and one.key not in faults}
    for key in _last_of_each_ring(replacements, look_back):
        faults[key] = WithdrawalFault.NAMES_A_CYCLE
        del replacements[key]
    winners = _winners(replacements, look_back)
    faults |= dict.fromkeys(winners, WithdrawalFault.REPLACED_ALREADY)
    acting: dict[Key, list[Withdrawal]] = {}
    for withdrawal in standing:
        if withdrawal.key not in faults:
            acting.setdefault(withdrawal.target, []).append(withdrawal)
    return SettledWithdrawals(look_back, acting, faults, winners)


def _receipt(withdrawal: Withdrawal) -> tuple[datetime, str, int]:
    return withdrawal.received_at, withdrawal.object_id, withdrawal.line_number


def _replaced(replacements: Mapping[Key, Withdrawal], look_back: timedelta) -> dict[Key, Key]:
    """Return, by its key, the key of the replacement that a replacement replaces in turn."""
    return {
        key: one.target
        for key, one in replacements.items()
        if one.target in replacements and one.acts_on(replacements[one.target].received_at, look_back)
    }


def _last_of_each_ring(replacements: Mapping[Key, Withdrawal], look_back: timedelta) -> list[Key]:
    """Return the key of the last received replacement of each ring; one names one, so no two rings share any."""
    replaced = _replaced(replacements, look_back)
    walked_from: dict[Key, Key] = {}
    last = []
    for start in replaced:
        key = start
        while key in replaced and key not in walked_from:
            walked_from[key] = start
            key = replaced[key]
        if walked_from.get(key) == start:
            ring = [key]
            while replaced[ring[-1]] != key:
                ring.append(replaced[ring[-1]])
            last.append(max(ring, key=lambda one: _receipt(replacements[one])))
    return last


def _winners(replacements: Mapping[Key, Withdrawal], look_back: timedelta) -> dict[Key, Withdrawal]:
    """Return, by the key of each replacement that is not billed, the one that stands in its place.

    One that is received before the end of the look-back after another replacement of the same key comes too late, and
    so does one that replaces such a one. ``replacements`` are in order of receipt and without a ring.
    """
    first: dict[Key, Withdrawal] = {}
    before: dict[Key, Key] = {}
    for key, one in replacements.items():
        leader = first.get(one.target)
        if leader is None or not leader.acts_on(one.received_at, look_back):
            first[one.target] = one
        else:
            before[key] = leader.key
    following = {**_replaced(replacements, look_back), **before}
    stands: dict[Key, Key | None] = {}  # None: nothing stands in its place
    for start in replacements:
        path = [start]
        while path[-1] not in stands and path[-1] in following:
            path.append(following[path[-1]])
        stands.setdefault(path[-1], None)
        for after, key in pairwise(reversed(path)):
            stands[key] = stands[after] or (after if key in before else None)
    return {key: replacements[winner] for key, winner in stands.items() if winner is not None}
