"""Why a window's quantities differ between two revisions (P8): causes, and the waterfall that splits a change.

The split is a waterfall of states: from the earlier revision one cause after the other is applied, in the order of
``Cause``, and usage is counted after each. What a cause changed is its part. So the parts add up to the change, also
where quantities do not (a maximum, a unique count); the price is that a part depends on the order, which is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise

from pipeline.core.errors import PublicationError
from pipeline.core.money import exact

NOT_COLLECTED = "not_collected"  # the event was not there yet when the earlier revision was opened

Key = tuple[str, str, str]  # account, SKU, unit
Quantities = Mapping[Key, Decimal]


class Cause(StrEnum):
    """What changed a quantity, in the order in which causes are applied. What has no name here is ``other:<what>``."""

    LATE_EVENTS = "late_events"
    DUPLICATES = "duplicates"
    VOIDS = "voids"
    ACCOUNT_MAPPING = "account_mapping"
    METER_CHANGE = "meter_change"


SETTINGS = "other:settings"  # grain, SQL: whatever is left when every event is where it belongs

# The reason why an event is not billed in one of two revisions, and the cause that it stands for.
CAUSE_OF_REASON = {
    NOT_COLLECTED: Cause.LATE_EVENTS,
    "late": Cause.LATE_EVENTS,
    "exact_duplicate": Cause.DUPLICATES,
    "conflicting_duplicate": Cause.DUPLICATES,
    "voided": Cause.VOIDS,
    "withdrawal": Cause.VOIDS,
    "orphaned_account": Cause.ACCOUNT_MAPPING,
    "unknown_sku": Cause.METER_CHANGE,
    "unreadable_quantity": Cause.METER_CHANGE,
}


def cause_of(reason: str) -> str:
    """Return the cause that a reason stands for; one that is not listed is a cause of its own.

    >>> cause_of("late"), cause_of("in_the_future")
    ('late_events', 'other:in_the_future')
    """
    cause = CAUSE_OF_REASON.get(reason)
    return f"other:{reason}" if cause is None else cause.value


def causes_in_order(reasons: Iterable[str]) -> list[str]:
    """Return every cause in the order of the waterfall: the named ones, those of other reasons, the settings."""
    named = [cause.value for cause in Cause]
    others = sorted({cause_of(reason) for reason in reasons} - {*named, SETTINGS})
    return [*named, *others, SETTINGS]


@dataclass(frozen=True, slots=True)
class QuantityChange:
    """How the quantity of an account and SKU changed, and the part of each cause that changed it."""

    account_id: str
    sku: str
    unit: str
    quantity_from: Decimal
    quantity_to: Decimal
    change: Decimal
    parts: Mapping[str, Decimal]

    def backwards(self) -> QuantityChange:
        """Return the same change seen from the later revision: the same causes, each part with its sign turned."""
        with exact():
            parts = {cause: -part for cause, part in self.parts.items()}
            return replace(
                self, quantity_from=self.quantity_to, quantity_to=self.quantity_from, change=-self.change, parts=parts
            )


def waterfall(causes: Sequence[str], states: Sequence[Quantities]) -> list[QuantityChange]:
    """Return each change between the first state and the last; ``states[n + 1]`` is after ``causes[n]``.

    Keys whose quantity is the same in every state are left out; those that changed and came back are not. A key that a
    state lacks has the quantity zero in it.
    """
    if len(states) != len(causes) + 1:
        raise ValueError(f"{len(causes)} causes need {len(causes) + 1} states, got {len(states)}")
    changes = []
    for key in sorted({key for state in states for key in state}):
        quantities = [state.get(key, Decimal(0)) for state in states]
        with exact():
            steps = [after - before for before, after in pairwise(quantities)]
            change = quantities[-1] - quantities[0]
            unexplained = change - sum(steps, Decimal(0))
        if unexplained != 0:
            raise PublicationError(
                "diff.does_not_tie",
                f"the parts of a change do not add up: account {key[0]}, SKU {key[1]}",
                [f"expected {change:f} {key[2]}, {unexplained:f} is unexplained; this is a defect of the pipeline"],
            )
        parts = {cause: step for cause, step in zip(causes, steps, strict=True) if step != 0}
        if parts:
            changes.append(QuantityChange(*key, quantities[0], quantities[-1], change, parts))
    return changes


def totals_of(changes: Iterable[QuantityChange]) -> list[QuantityChange]:
    """Return the changes of all accounts together, by SKU and unit; the account of a total is empty."""
    of_sku: dict[tuple[str, str], list[QuantityChange]] = {}
    for change in changes:
        of_sku.setdefault((change.sku, change.unit), []).append(change)
    totals = []
    for (sku, unit), together in sorted(of_sku.items()):
        parts: dict[str, Decimal] = {}
        with exact():
            for cause, part in (item for change in together for item in change.parts.items()):
                parts[cause] = parts.get(cause, Decimal(0)) + part
            quantity_from = sum((change.quantity_from for change in together), Decimal(0))
            quantity_to = sum((change.quantity_to for change in together), Decimal(0))
            total = QuantityChange("", sku, unit, quantity_from, quantity_to, quantity_to - quantity_from, parts)
        totals.append(total)
    return totals
