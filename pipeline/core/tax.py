"""Taxes: the rates of ``taxes.toml``, and what an invoice owes by them.

A rate is found by the account's ``tax_region`` and the charge's ``tax_category``; both are the project's own names. A
tax is owed on the sum of the net lines of its rate and rounded once, as tax law wants it, never line by line. A
project without the table charges no tax; in a project with it nothing is ever untaxed because somebody forgot a rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.decimals import Percent, plain_text
from pipeline.core.money import Money, RoundingMode, exact


class TaxRate(StrictModel):
    """What one category of charges owes in one region; a category may owe several taxes, each with its own name.

    ``reverse_charge`` and ``exempt`` owe nothing for a reason, and ``note`` is the sentence that says so on the
    document. ``category`` is the project's; ``code`` the one of EN 16931 (UNCL 5305): ``S`` standard, ``AE`` reverse
    charge, ``E`` exempt, ``Z`` zero, unless the table names another.
    """

    region: Annotated[str, Field(min_length=1)]
    category: Annotated[str, Field(min_length=1)] = "standard"
    name: Annotated[str, Field(min_length=1)]
    percent: Annotated[Percent, Field(ge=0, le=100)]
    reason: Literal["", "reverse_charge", "exempt"] = ""
    note: str = ""
    code: Annotated[str, Field(pattern=r"^[A-Z]{1,2}$")] | None = None

    @model_validator(mode="after")
    def _a_reason_owes_nothing_and_says_so(self) -> Self:
        if self.reason and self.percent:
            raise ValueError(f"reason {self.reason!r} owes nothing, but percent is {self.percent:f}; write percent = 0")
        if self.reason and not self.note.strip():
            raise ValueError(f"reason {self.reason!r} needs a note: the sentence that the document prints")
        return self

    @property
    def en16931_code(self) -> str:
        """Return the category code of EN 16931."""
        by_reason = {"reverse_charge": "AE", "exempt": "E", "": "S" if self.percent else "Z"}
        return self.code or by_reason[self.reason]


class TaxTable(StrictModel):
    """The file ``taxes.toml``."""

    rates: Annotated[tuple[TaxRate, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_rate_of_a_name(self) -> Self:
        seen: set[tuple[str, str, str]] = set()
        for rate in self.rates:
            key = (rate.region, rate.category, rate.name)
            if key in seen:
                raise ValueError(
                    f"region {rate.region!r}, category {rate.category!r} has two rates named {rate.name!r}"
                )
            seen.add(key)
        return self

    def rates_of(self, region: str, category: str) -> tuple[TaxRate, ...]:
        """Return the taxes of a category in a region, in the order written; none is a gap in the table."""
        return tuple(rate for rate in self.rates if (rate.region, rate.category) == (region, category))

    def missing(self, region: str, categories: Iterable[str]) -> list[str]:
        """Return the categories that have no rate in a region, in order."""
        return sorted(category for category in set(categories) if not self.rates_of(region, category))


@dataclass(frozen=True, slots=True)
class Tax:
    """One tax of a document: ``amount`` is owed on ``net``, the sum of the lines of ``categories``."""

    code: str
    name: str
    percent: Decimal
    reason: str
    note: str
    categories: tuple[str, ...]
    net: Decimal
    amount: Decimal

    def to_json(self) -> dict[str, object]:
        """Return the tax as a document has it."""
        return {
            "category": self.code,
            "name": self.name,
            "percent": plain_text(self.percent),
            "reason": self.reason,
            "note": self.note,
            "tax_categories": list(self.categories),
            "net": plain_text(self.net),
            "tax": plain_text(self.amount),
        }


def taxes_of(
    net_by_category: Mapping[str, Decimal], region: str, currency: str, table: TaxTable, rounding: RoundingMode
) -> tuple[Tax, ...]:
    """Return what is owed on net amounts, each rate rounded once on the sum of all its categories.

    Categories that owe the same tax at the same rate for the same reason are one sum. A category without a rate raises
    ``ValueError``; ask ``TaxTable.missing`` before.
    """
    nets: dict[tuple[str, str, Decimal, str, str], list[tuple[str, Decimal]]] = {}
    for category, net in sorted(net_by_category.items()):
        rates = table.rates_of(region, category)
        if not rates:
            raise ValueError(f"category {category!r} has no tax rate in region {region!r}")
        for rate in rates:
            key = (rate.en16931_code, rate.name, rate.percent, rate.reason, rate.note)
            nets.setdefault(key, []).append((category, net))
    taxes = []
    for (code, name, percent, reason, note), parts in nets.items():
        with exact():
            net = sum((part for _, part in parts), Decimal(0))
            tax = net * percent.scaleb(-2)
        amount = Money(tax, currency).round_to_minor_unit(rounding).amount
        taxes.append(Tax(code, name, percent, reason, note, tuple(category for category, _ in parts), net, amount))
    return tuple(sorted(taxes, key=lambda tax: (tax.name, -tax.percent, tax.code, tax.note)))
