"""The agreement of the two raters (P7): which lines were rated twice, and on which the two do not agree.

Both price the same usage by the same terms and share nothing else. Who is rated twice is everybody, or, beyond a
limit that the project sets, a sample: the same accounts for the same period on every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from pipeline.core.decimals import plain_text
from pipeline.core.money import exact
from pipeline.core.terms import AccountTerms

_HASH_SPACE = 1 << 64


@dataclass(frozen=True, slots=True)
class LineFigures:
    """What one rater says of a line."""

    quantity: Decimal
    amount_exact: Decimal
    amount: Decimal

    def __str__(self) -> str:
        figures = (plain_text(number) for number in (self.quantity, self.amount_exact, self.amount))
        return "quantity {}, exact amount {}, amount {}".format(*figures)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A line on which the raters differ; None is said by the one that does not have it. ``inputs`` are sentences."""

    line_item_id: str
    account_id: str
    currency: str
    sql: LineFigures | None
    reference: LineFigures | None
    inputs: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Say which line, what each rater has, and from what.

        >>> figures = LineFigures(Decimal(2), Decimal("0.020"), Decimal("0.02"))
        >>> Disagreement("a/calls/2026-01/minimum", "a", "USD", figures, None, ("2 calls",)).sentence.split("; ")[1:]
        ['reference rater no such line', 'rated from 2 calls']
        """
        sides = [f"{name} rater {figures or 'no such line'}" for name, figures in self._sides()]
        return f"line {self.line_item_id}: {'; '.join(sides)}; rated from {'; '.join(self.inputs)}"

    def _sides(self) -> tuple[tuple[str, LineFigures | None], ...]:
        return (("SQL", self.sql), ("reference", self.reference))


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was rated twice in a period, out of what, and every disagreement, in order of line."""

    account_count: int
    line_count: int
    compared_account_count: int
    compared_line_count: int
    disagreements: tuple[Disagreement, ...]

    @property
    def accounts(self) -> dict[str, list[Disagreement]]:
        """Return the accounts that the raters do not agree on."""
        found: dict[str, list[Disagreement]] = {}
        for one in self.disagreements:
            found.setdefault(one.account_id, []).append(one)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what ``canonical_json`` takes: every number that is no count is a text."""
        fields = asdict(self)
        for one in fields["disagreements"]:
            for side in ("sql", "reference"):
                one[side] = one[side] and {name: plain_text(number) for name, number in one[side].items()}
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Agreement:
        disagreements = []
        for one in fields["disagreements"]:
            sides = {
                side: one[side] and LineFigures(**{name: Decimal(text) for name, text in one[side].items()})
                for side in ("sql", "reference")
            }
            disagreements.append(Disagreement(**{**one, **sides, "inputs": tuple(one["inputs"])}))
        return cls(**{**fields, "disagreements": tuple(disagreements)})


def amounts_of(disagreements: Sequence[Disagreement]) -> tuple[Decimal, Decimal]:
    """Return what the lines come to by the reference rater and by the SQL rater, exactly."""
    with exact():
        return (
            sum((one.reference.amount_exact for one in disagreements if one.reference), Decimal(0)),
            sum((one.sql.amount_exact for one in disagreements if one.sql), Decimal(0)),
        )


def rated_twice(
    terms: Iterable[AccountTerms], line_count: int, lines_max: int | None, held: Collection[str]
) -> frozenset[str] | None:
    """Return the accounts that the reference rater rates as well; None is everybody.

    With more lines than ``lines_max`` it is about that share of all accounts, chosen by a hash of the account id, and
    every account that is held or whose terms change inside the period.
    """
    if lines_max is None or line_count <= lines_max:
        return None
    chosen = set(held)
    for account in terms:
        account_id = account.account.account_id
        place = int.from_bytes(hashlib.sha256(account_id.encode()).digest()[:8], "big")
        if place * line_count < lines_max * _HASH_SPACE or _changes(account):
            chosen.add(account_id)
    return frozenset(chosen)


def _changes(terms: AccountTerms) -> bool:
    return len(terms.segments) > 1 or 0 < terms.active_days < terms.days
