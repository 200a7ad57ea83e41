"""The canary: a new price book rates a share of the accounts in the shadow: who takes part, and what it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipeline.core.decimals import plain_text
from pipeline.core.line_item import LineItem
from pipeline.core.money import exact

ACCOUNTS_SHOWN_MAX = 20


def takes_part(account_id: str, percent: Decimal) -> bool:
    """Tell whether an account is in the sample: the same accounts every night, and more of them in a larger share.

    >>> takes_part("acct-7", Decimal(100)), takes_part("acct-7", Decimal("0.0000000001"))
    (True, False)
    """
    place = int.from_bytes(hashlib.sha256(account_id.encode()).digest()[:8])
    with exact():
        return place * 100 < percent * 2**64


@dataclass(frozen=True, slots=True)
class Comparison:
    """An amount under the book in force and under another one; ``name`` is a SKU, an account or empty (the total)."""

    name: str
    currency: str
    live: Decimal
    other: Decimal

    @property
    def difference(self) -> Decimal:
        with exact():
            return self.other - self.live


@dataclass(frozen=True, slots=True)
class BookComparison:
    """What lines of one period come to under two books, by total, SKU and account; accounts by size of the change."""

    totals: list[Comparison]
    by_sku: list[Comparison]
    by_account: list[Comparison]


def compared(live: Sequence[LineItem], other: Sequence[LineItem]) -> BookComparison:
    """Return the two sets of lines side by side; a name without a line on one side is zero there."""
    by_account = _by(live, other, lambda line: line.account_id)
    return BookComparison(
        _by(live, other, lambda line: ""),
        _by(live, other, lambda line: line.sku),
        sorted(by_account, key=lambda one: (-abs(one.difference), one.name, one.currency)),
    )


def _by(live: Sequence[LineItem], other: Sequence[LineItem], name_of: Callable[[LineItem], str]) -> list[Comparison]:
    sums: dict[tuple[str, str], list[Decimal]] = {}
    with exact():
        for side, lines in enumerate((live, other)):
            for line in lines:
                amounts = sums.setdefault((name_of(line), line.currency), [Decimal(0), Decimal(0)])
                amounts[side] += line.amount
    return [Comparison(name, currency, *amounts) for (name, currency), amounts in sorted(sums.items())]


def canary_view(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the canary showed as the report has it, with decimals instead of their texts."""
    amounts = ("live", "other", "difference")
    periods = [
        {
            **period,
            **{
                part: [{**row, **{key: Decimal(row[key]) for key in amounts}} for row in period[part]]
                for part in ("totals", "by_sku", "accounts")
            },
        }
        for period in document["periods"]
    ]
    return {**document, "percent": Decimal(document["percent"]), "periods": periods}


def comparison_document(comparison: BookComparison) -> dict[str, object]:
    """Return a comparison as JSON of texts; only the accounts that changed, the largest changes first."""

    def rows(found: Iterable[Comparison]) -> list[dict[str, str]]:
        return [
            {
                "name": one.name,
                "currency": one.currency,
                "live": plain_text(one.live),
                "other": plain_text(one.other),
                "difference": plain_text(one.difference),
            }
            for one in found
        ]

    changed = [one for one in comparison.by_account if one.difference]
    return {
        "totals": rows(comparison.totals),
        "by_sku": rows(comparison.by_sku),
        "accounts": rows(changed[:ACCOUNTS_SHOWN_MAX]),
        "changed_account_count": len(changed),
    }
