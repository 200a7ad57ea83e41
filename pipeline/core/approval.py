"""Decisions of people that the pipeline waits for: the override of a gate, and the sign-off of a period.

Both name the hash of what was looked at, so that what changes afterwards has to be looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pipeline.core.manifest import canonical_json, sha256_hex


@dataclass(frozen=True, slots=True)
class Override:
    """A revision that may be accepted although gates failed, asked for by one person and approved by another.

    ``failures`` are the sentences of what failed, ``failures_hash`` their SHA-256: nothing else is overridden.
    """

    override_id: int
    window_id: str
    revision: int
    failures: tuple[str, ...]
    failures_hash: str
    reason: str
    requested_at: datetime
    requested_by: str
    approved_at: datetime | None = None
    approved_by: str | None = None


def failures_hash_of(failures: Sequence[str]) -> str:
    """Return the name of what failed, by which an override is asked for and approved."""
    return sha256_hex(canonical_json(list(failures)))


def approved_override(overrides: Iterable[Override], failures: Sequence[str]) -> Override | None:
    """Return the approved override of exactly these failures; of none there is none."""
    failures_hash = failures_hash_of(failures)
    fitting = [one for one in overrides if one.approved_at is not None and one.failures_hash == failures_hash]
    return fitting[-1] if failures and fitting else None


class Decision(StrEnum):
    """What was said about a period that is about to close; ``hold`` is an approval of all but the held accounts."""

    APPROVE = "approve"
    HOLD = "hold"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class PeriodFigures:
    """What a period would bill if it closed now, as somebody signs it.

    ``content_hash`` covers every line item, and all else that decides what an account is invoiced and owes: the tax
    table, the seller, the credits that are left, and the name and tax region of each account. Holds are not in it:
    holding an account after the approval issues less of it. ``accounts`` is how many have line items, the held ones
    among them. ``net`` is what would be issued by currency, before taxes; ``held_net`` what the held ones keep back.
    """

    period_id: str
    content_hash: str
    verdict: str
    accounts: int
    line_items: int
    net: Mapping[str, Decimal]
    held_net: Mapping[str, Decimal]
    held: Mapping[str, str]  # why, by account
    open_breaks: int

    def to_json(self) -> dict[str, Any]:
        nets = {
            name: {currency: f"{amount:f}" for currency, amount in sorted(amounts.items())}
            for name, amounts in (("net", self.net), ("held_net", self.held_net))
        }
        return {**asdict(self), **nets}


@dataclass(frozen=True, slots=True)
class Preparation:
    """Figures of a period that were prepared for a sign-off, with when and by whom; None is the pipeline itself."""

    figures: PeriodFigures
    prepared_at: datetime
    prepared_by: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the document that is published; ``from_json`` reads it."""
        return {
            "figures": self.figures.to_json(),
            "prepared_at": self.prepared_at.isoformat(),
            "prepared_by": self.prepared_by,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Preparation:
        """Return what a document says."""
        figures = content["figures"]
        nets = {
            name: {currency: Decimal(amount) for currency, amount in figures[name].items()}
            for name in ("net", "held_net")
        }
        return cls(
            PeriodFigures(**{**figures, **nets}),
            datetime.fromisoformat(content["prepared_at"]),
            content["prepared_by"],
        )


@dataclass(frozen=True, slots=True)
class SignOff:
    """A decision about a period; the newest one holds.

    ``content_hash`` and ``figures`` are those of the ``PeriodFigures`` that were looked at.
    """

    sign_off_id: int
    period_id: str
    decision: Decision
    content_hash: str
    figures: Mapping[str, Any]
    reason: str
    signed_at: datetime
    signed_by: str

    @property
    def allows_issuing(self) -> bool:
        return self.decision is not Decision.REJECT

    def released_since(self, held: Iterable[str]) -> list[str]:
        """Return the accounts that the decision left out because they were held, and that are held no more."""
        return sorted(set(self.figures.get("held", {})) - set(held))
