"""Price books: plans, charges and tiers, as finance writes them in TOML.

A book is read with exact decimals and named by the SHA-256 of its bytes. ``effective_from`` is a calendar date, and a
date begins in each account's own time zone: the book "from 1 January" prices the whole January of every account,
in Tokyo as in New York. A period is priced by the newest book that is effective on the period's first day.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.decimals import Quantity, UnitPrice, fits
from pipeline.core.money import UNIT_PRICE_SCALE, RoundingMode, exact, minor_unit_digits
from pipeline.core.window import calendar_date


class Tier(StrictModel):
    """One price step up to and including ``up_to`` units (absent in the last); ``flat_fee`` is due on entering it."""

    up_to: Quantity | None = None
    unit_price: UnitPrice
    flat_fee: UnitPrice = Decimal(0)


class _Charge(StrictModel):
    sku: Annotated[str, Field(min_length=1)]
    description: Annotated[str, Field(min_length=1)]
    currency: str
    per_units: Annotated[Quantity, Field(gt=0)] = Decimal(1)

    @field_validator("currency")
    @classmethod
    def _iso_currency(cls, currency: str) -> str:
        minor_unit_digits(currency)
        return currency

    def _refuse_inexact_price(self, unit_prices: Iterable[Decimal]) -> None:
        for unit_price in unit_prices:
            try:
                with exact():
                    price_of_one = unit_price / self.per_units
            except ArithmeticError:
                price_of_one = None
            if price_of_one is None or not fits(price_of_one, 18, UNIT_PRICE_SCALE):
                raise ValueError(
                    f"{unit_price:f} per {self.per_units:f} units is no exact price of one unit; "
                    "choose per_units as a power of ten, or a price it divides"
                )


class PerUnitCharge(_Charge):
    """Every unit costs ``unit_price`` for ``per_units`` units."""

    model: Literal["per_unit"]
    unit_price: UnitPrice

    @model_validator(mode="after")
    def _exact_price(self) -> Self:
        self._refuse_inexact_price([self.unit_price])
        return self


class GraduatedCharge(_Charge):
    """Each tier prices the units that fall into it; ``up_to`` is inclusive."""

    model: Literal["graduated"]
    tiers: Annotated[tuple[Tier, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _tiers_rise_to_an_open_end(self) -> Self:
        bounds = [tier.up_to for tier in self.tiers]
        if bounds[-1] is not None:
            raise ValueError("the last tier is open: it has no up_to")
        lower = Decimal(0)
        for number, bound in enumerate(bounds[:-1], start=1):
            if bound is None:
                raise ValueError(f"tier {number} is not the last one and needs an up_to")
            if bound <= lower:
                raise ValueError(f"tier {number}: up_to {bound:f} must be greater than {lower:f}, where it begins")
            lower = bound
        self._refuse_inexact_price(tier.unit_price for tier in self.tiers)
        return self


Charge = Annotated[PerUnitCharge | GraduatedCharge, Field(discriminator="model")]


class Plan(StrictModel):
    """A named set of charges; one charge per SKU and currency."""

    description: str = ""
    charges: Annotated[tuple[Charge, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_charge_per_sku_and_currency(self) -> Self:
        seen: set[tuple[str, str]] = set()
        for charge in self.charges:
            if (charge.sku, charge.currency) in seen:
                raise ValueError(f"SKU {charge.sku!r} has two charges in {charge.currency}")
            seen.add((charge.sku, charge.currency))
        return self

    def charge(self, sku: str, currency: str) -> PerUnitCharge | GraduatedCharge | None:
        """Return the charge that prices a SKU in a currency, if the plan has one."""
        return next((c for c in self.charges if (c.sku, c.currency) == (sku, currency)), None)


class PriceBook(StrictModel):
    """One dated set of prices."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    author: Annotated[str, Field(min_length=1)]
    effective_from: Annotated[date, BeforeValidator(calendar_date)]
    rounding: RoundingMode = RoundingMode.HALF_UP
    plans: Annotated[dict[str, Plan], Field(min_length=1)]
