"""What other prices change: the same usage under two books, added up for people who decide about prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from pipeline.core.decimals import plain_text
from pipeline.core.money import exact

_LISTS = ("by_plan", "by_sku", "pay_more", "pay_less")


@dataclass(frozen=True, slots=True)
class AmountChange:
    """One amount now and under the other prices; ``name`` is a plan, a SKU or an account, empty for a currency's total.

    ``accounts`` is how many there are, ``changed_accounts`` how many of them pay another amount; both are 1 for an
    account.
    """

    name: str
    amount_now: Decimal
    amount_then: Decimal
    accounts: int = 1
    changed_accounts: int = 1

    @property
    def change(self) -> Decimal:
        with exact():
            return self.amount_then - self.amount_now

    @property
    def percent(self) -> Decimal | None:
        """Return the change in percent of what is paid now, to one decimal for reading; None where that is zero.

        >>> AmountChange("p", Decimal("3.00"), Decimal("4.00")).percent
        Decimal('33.3')
        """
        if self.amount_now == 0:
            return None
        return (100 * self.change / abs(self.amount_now)).quantize(Decimal("0.1"), rounding=ROUND_HALF_UP)


@dataclass(frozen=True, slots=True)
class CurrencyComparison:
    """Everything about one currency; amounts of two currencies never add up."""

    currency: str
    total: AmountChange
    by_plan: tuple[AmountChange, ...]
    by_sku: tuple[AmountChange, ...]
    pay_more: tuple[AmountChange, ...]  # the greatest increase first
    pay_less: tuple[AmountChange, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what ``canonical_json`` takes: amounts are texts."""

        def as_row(one: AmountChange) -> list[Any]:
            return [
                one.name,
                plain_text(one.amount_now),
                plain_text(one.amount_then),
                one.accounts,
                one.changed_accounts,
            ]

        lists = {name: [as_row(one) for one in getattr(self, name)] for name in _LISTS}
        return {"currency": self.currency, "total": as_row(self.total), **lists}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> CurrencyComparison:
        """Return what ``to_json`` was made of.

        >>> one = CurrencyComparison("USD", AmountChange("", Decimal("1.5"), Decimal(2)), (), (), (), ())
        >>> CurrencyComparison.from_json(one.to_json()) == one
        True
        """

        def of_row(row: Sequence[Any]) -> AmountChange:
            return AmountChange(row[0], Decimal(row[1]), Decimal(row[2]), *row[3:])

        lists = {name: tuple(of_row(row) for row in fields[name]) for name in _LISTS}
        return cls(fields["currency"], of_row(fields["total"]), **lists)


def currency_comparisons(
    totals: Iterable[Mapping[str, Any]], accounts: Iterable[Mapping[str, Any]]
) -> list[CurrencyComparison]:
    """Return one comparison per currency, from the rows of ``price_change_totals`` and ``price_change_accounts``.

    A plan's or a SKU's changes that do not add up to the currency's raise ``ValueError``: a row was lost.
    """
    found: dict[str, dict[str, list[AmountChange]]] = {}
    for row in totals:
        of_currency = found.setdefault(row["currency"], {})
        of_currency.setdefault(row["total_of"], []).append(
            AmountChange(
                row["grouped_by"] or "",
                row["amount_now"],
                row["amount_then"],
                row["account_count"],
                row["changed_account_count"],
            )
        )
    for row in accounts:
        found[row["currency"]].setdefault(row["direction"], []).append(
            AmountChange(row["account_id"], row["amount_now"], row["amount_then"])
        )
    comparisons = []
    for currency, groups in sorted(found.items()):
        [total] = groups["all"]
        for name in ("plan", "sku"):
            with exact():
                together = sum((one.change for one in groups.get(name, ())), Decimal(0))
            if together != total.change:
                raise ValueError(f"changes by {name} add up to {together:f} {currency}, expected {total.change:f}")
        comparisons.append(
            CurrencyComparison(
                currency,
                total,
                *(tuple(groups.get(name, ())) for name in ("plan", "sku", "more", "less")),
            )
        )
    return comparisons
