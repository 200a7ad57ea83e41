"""Withdrawals: events that take another event back, by its key ``(source, id)``.

A *void* is never billed itself; a *replacement* is usage in the place of what it withdraws. Whatever order they are
received in, before the event or after it, and whichever window they are of, the named event is not billed. The first
received of several withdrawals of one key is the one that is shown. A void cannot be taken back: send the usage again
under another id. A replacement can be replaced in turn, and what it withdrew stays withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

Key = tuple[str, str]  # source, id


class WithdrawalFault(StrEnum):
    """Why a withdrawal has no effect."""

    NAMES_NO_EVENT = "names_no_event"
    NAMES_ITSELF = "names_itself"
    NAMES_A_VOID = "names_a_void"
    UNMATCHED = "unmatched"


WITHDRAWAL_FAULT_SENTENCES: dict[WithdrawalFault, str] = {
    WithdrawalFault.NAMES_NO_EVENT: "it does not say the source and the id of an event",
    WithdrawalFault.NAMES_ITSELF: "it names its own key",
    WithdrawalFault.NAMES_A_VOID: "it names a void, which cannot be taken back",
    WithdrawalFault.UNMATCHED: "no event with the key it names has been received yet",
}


@dataclass(frozen=True, slots=True)
class Withdrawal:
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

    @property
    def key(self) -> Key:
        return self.source, self.id

    @property
    def target(self) -> Key:
        return self.target_source or "", self.target_id or ""

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "event_at": self.event_at.isoformat(),
            "received_at": self.received_at.isoformat(),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Withdrawal:
        instants = {name: datetime.fromisoformat(fields[name]) for name in ("event_at", "received_at")}
        return cls(**{**fields, **instants})


def first_received(withdrawals: Iterable[Withdrawal]) -> list[Withdrawal]:
    """Return withdrawals in the order in which they were received; object and line break ties."""
    return sorted(withdrawals, key=lambda one: (one.received_at, one.object_id, one.line_number))


def standing_withdrawals(received: Iterable[Withdrawal]) -> list[Withdrawal]:
    """Return the first received copy of each withdrawal; a retry with other content names nothing."""
    standing: dict[Key, Withdrawal] = {}
    for withdrawal in first_received(received):
        standing.setdefault(withdrawal.key, withdrawal)
    return list(standing.values())


def faults(standing: Sequence[Withdrawal]) -> dict[Key, WithdrawalFault]:
    """Return, by its key, each withdrawal that can have no effect whatever has been received."""
    voids = {withdrawal.key for withdrawal in standing if not withdrawal.replaces}
    found = {}
    for withdrawal in standing:
        if not withdrawal.target_source or not withdrawal.target_id:
            found[withdrawal.key] = WithdrawalFault.NAMES_NO_EVENT
        elif withdrawal.target == withdrawal.key:
            found[withdrawal.key] = WithdrawalFault.NAMES_ITSELF
        elif withdrawal.target in voids:
            found[withdrawal.key] = WithdrawalFault.NAMES_A_VOID
    return found


def acting_withdrawals(standing: Sequence[Withdrawal]) -> dict[Key, Withdrawal]:
    """Return, by the key it names and in order of that key, the first received withdrawal that has an effect."""
    without_effect = faults(standing)
    acting: dict[Key, Withdrawal] = {}
    for withdrawal in first_received(standing):
        if withdrawal.key not in without_effect:
            acting.setdefault(withdrawal.target, withdrawal)
    return dict(sorted(acting.items()))
