"""Price books: plans, charges, discounts, commitments and overrides, as finance writes them in TOML.

A book is read with exact decimals and named by the SHA-256 of its bytes. ``effective_from`` is a calendar date, and a
date begins in each account's own time zone: the book "from 1 January" prices the whole January of every account,
in Tokyo as in New York. What every model comes to is in docs/pricing.md; this module says what a book may hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, TypeAdapter, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.decimals import ExactDecimal, Factor, FlatAmount, Percent, Quantity, fits
from pipeline.core.money import UNIT_PRICE_SCALE, RoundingMode, exact, minor_unit_digits
from pipeline.core.window import calendar_date

SHOWN_DIGITS_MAX = 80
UNIT_PRICE_DIGITS = 6  # before the point
HIGHER_PRICES = (
    'a million and more for one unit is model = "package" with package_size = 1 and the price as package_price'
)
PLAN_SKU = "plan:"  # what is charged for a plan as a whole has this and the plan's name as its SKU

Problem = tuple[tuple[str | int, ...], str]  # where in a book, and "found ..., accepted ..."


class BookError(ValueError):
    """What is wrong with a part of a book, each with where it stands, seen from that part."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(sentence for _, sentence in problems))


def _fitting_price(price: Decimal) -> Decimal:
    if not fits(price, UNIT_PRICE_DIGITS + UNIT_PRICE_SCALE, UNIT_PRICE_SCALE):
        found = f"{price:f}" if abs(price.adjusted()) < SHOWN_DIGITS_MAX else str(price)
        accepted = f"up to {UNIT_PRICE_DIGITS} digits before the point and {UNIT_PRICE_SCALE} after it"
        raise BookError(((), f"found {found[:SHOWN_DIGITS_MAX]}, accepted {accepted}; {HIGHER_PRICES}"))
    return price


UnitPrice = Annotated[ExactDecimal, AfterValidator(_fitting_price)]


def _iso_currency(currency: str) -> str:
    minor_unit_digits(currency)
    return currency


class Change(StrEnum):
    """What a new book, another plan or an override does that begins inside a billing period.

    ``next_period``: nothing yet; the terms of the period's first day price all of it. ``split_counting_on``: each part
    of the period has its own prices, and tiers, included units and packages go on counting. ``split_starting_again``:
    each part is priced by itself, as if it were a period.
    """

    NEXT_PERIOD = "next_period"
    SPLIT_COUNTING_ON = "split_counting_on"
    SPLIT_STARTING_AGAIN = "split_starting_again"


class Tier(StrictModel):
    """One price step up to and including ``up_to`` units (absent in the last); ``flat_fee`` is due on entering it."""

    up_to: Annotated[Quantity, Field(gt=0)] | None = None
    unit_price: Annotated[UnitPrice, Field(ge=0)] = Decimal(0)
    flat_fee: Annotated[FlatAmount, Field(ge=0)] = Decimal(0)

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if not {"unit_price", "flat_fee"} & self.model_fields_set:
            raise BookError(
                ((), "found a tier without a price, accepted unit_price, flat_fee or both (unit_price = 0 is free)")
            )
        return self


class PercentTier(StrictModel):
    """One step of a percentage: of the amount above the bound before, up to and including ``up_to``."""

    up_to: Annotated[Quantity, Field(gt=0)] | None = None
    percent: Annotated[Percent, Field(ge=0)]
    flat_fee: Annotated[FlatAmount, Field(ge=0)] = Decimal(0)


class Cell(StrictModel):
    """The price of the usage whose dimensions have these values."""

    match: Annotated[dict[str, str], Field(min_length=1)]
    unit_price: UnitPrice


class Discount(StrictModel):
    """Exactly one of ``percent`` and ``amount`` off; never more than there is to pay."""

    description: Annotated[str, Field(min_length=1)] = "Discount"
    percent: Annotated[Percent, Field(gt=0, le=100)] | None = None
    amount: Annotated[FlatAmount, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.percent is None) == (self.amount is None):
            found = "neither percent nor amount" if self.percent is None else "percent and amount"
            raise BookError(((), f"found {found}, accepted exactly one of them"))
        return self


class _Charge(StrictModel):
    """What every charge has.

    ``discounts`` are taken off in the order written, then ``maximum_amount`` caps and ``minimum_amount`` tops up.
    """

    sku: Annotated[str, Field(min_length=1)]
    description: Annotated[str, Field(min_length=1)]
    currency: Annotated[str, BeforeValidator(_iso_currency)]
    tax_category: Annotated[str, Field(min_length=1)] = "standard"
    discounts: tuple[Discount, ...] = ()
    minimum_amount: Annotated[FlatAmount, Field(gt=0)] | None = None
    maximum_amount: Annotated[FlatAmount, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _minimum_below_maximum(self) -> Self:
        if self.minimum_amount and self.maximum_amount and self.minimum_amount > self.maximum_amount:
            found, most = self.minimum_amount, self.maximum_amount
            raise BookError((("minimum_amount",), f"found {found:f}, accepted at most maximum_amount, {most:f}"))
        return self


class _UnitCharge(_Charge):
    """A charge whose units may be sold by the ``per_units``; ``included_units`` of a period are free."""

    included_units: Annotated[Quantity, Field(ge=0)] = Decimal(0)
    per_units: Annotated[Quantity, Field(gt=0)] = Decimal(1)

    def _refuse_inexact_price(self, unit_prices: Mapping[tuple[str | int, ...], Decimal]) -> None:
        problems: list[Problem] = []
        for at, unit_price in unit_prices.items():
            try:
                with exact():
                    price_of_one = unit_price / self.per_units
            except ArithmeticError:
                price_of_one = None
            if price_of_one is None or not fits(price_of_one, 18, UNIT_PRICE_SCALE):
                sentence = (
                    f"found {unit_price:f} per {self.per_units:f} units, which is no exact price of one unit in "
                    f"{UNIT_PRICE_SCALE} decimals; accepted per_units that is a power of ten, or a price it divides"
                )
                if price_of_one is not None and price_of_one.adjusted() >= UNIT_PRICE_DIGITS:
                    sentence = (
                        f"found {unit_price:f} per {self.per_units:f} units, accepted up to {UNIT_PRICE_DIGITS} digits "
                        f"before the point for one unit; {HIGHER_PRICES}"
                    )
                problems.append((at, sentence))
        if problems:
            raise BookError(*problems)


class PerUnitCharge(_UnitCharge):
    """Every unit costs ``unit_price`` for ``per_units`` units."""

    model: Literal["per_unit"]
    unit_price: UnitPrice

    @model_validator(mode="after")
    def _exact_price(self) -> Self:
        self._refuse_inexact_price({("unit_price",): self.unit_price})
        return self


class _TieredCharge(_UnitCharge):
    """Tiers rise; whether the last one is open is asked of a book, not of a charge that is tried alone."""

    tiers: Annotated[tuple[Tier, ...], Field(min_length=1)]
    zero_usage_flat_fee: Literal["charge", "skip"] = "charge"

    @model_validator(mode="after")
    def _tiers_rise(self) -> Self:
        _require_rising([tier.up_to for tier in self.tiers])
        self._refuse_inexact_price(
            {("tiers", place, "unit_price"): tier.unit_price for place, tier in enumerate(self.tiers)}
        )
        return self


class GraduatedCharge(_TieredCharge):
    """Each tier prices the units that fall into it; ``up_to`` is inclusive."""

    model: Literal["graduated"]


class VolumeCharge(_TieredCharge):
    """The tier that the whole quantity falls into prices every unit."""

    model: Literal["volume"]


class StairstepCharge(_TieredCharge):
    """The tier that the whole quantity falls into has one price for all: its flat fee."""

    model: Literal["stairstep"]

    @model_validator(mode="after")
    def _flat(self) -> Self:
        problems = [
            (
                ("tiers", place, "unit_price"),
                f"found {tier.unit_price:f}, accepted none: a step costs its flat_fee only",
            )
            for place, tier in enumerate(self.tiers)
            if tier.unit_price
        ]
        if problems:
            raise BookError(*problems)
        return self


class PackageCharge(_Charge):
    """Units are sold in packages; a package that is not full is charged whole (``up``) or not at all (``down``)."""

    model: Literal["package"]
    package_size: Annotated[Quantity, Field(gt=0)]
    package_price: FlatAmount
    package_rounding: Literal["up", "down"] = "up"
    included_units: Annotated[Quantity, Field(ge=0)] = Decimal(0)


class PercentageCharge(_Charge):
    """A share of the amount that the SKU sums up, and a fixed fee for each event.

    The meter's quantity is an amount of the charge's currency. ``free_events`` or ``free_amount`` of a period cost
    nothing; ``minimum_per_event`` and ``maximum_per_event`` bound what one event costs. These four need each event's
    value: a meter with ``keep_values = true``.
    """

    model: Literal["percentage"]
    percent: Annotated[Percent, Field(ge=0)]
    fixed_fee_per_event: Annotated[FlatAmount, Field(ge=0)] = Decimal(0)
    minimum_per_event: Annotated[FlatAmount, Field(ge=0)] | None = None
    maximum_per_event: Annotated[FlatAmount, Field(ge=0)] | None = None
    free_events: Annotated[int, Field(ge=0)] = 0
    free_amount: Annotated[Quantity, Field(ge=0)] = Decimal(0)

    @property
    def needs_values(self) -> bool:
        """Tell whether the price depends on each event, not only on their sum and number."""
        bounds = (self.minimum_per_event, self.maximum_per_event)
        return any(bound is not None for bound in bounds) or self.free_events > 0 or self.free_amount > 0

    @model_validator(mode="after")
    def _sound_limits(self) -> Self:
        low, high = self.minimum_per_event, self.maximum_per_event
        if low is not None and high is not None and low > high:
            raise BookError((("minimum_per_event",), f"found {low:f}, accepted at most maximum_per_event, {high:f}"))
        if self.free_events and self.free_amount:
            raise BookError((("free_events",), "found free_amount as well, accepted one of the two allowances"))
        return self


class GraduatedPercentageCharge(_Charge):
    """Each tier takes its percentage of the part of the summed amount that falls into it."""

    model: Literal["graduated_percentage"]
    tiers: Annotated[tuple[PercentTier, ...], Field(min_length=1)]
    included_units: Annotated[Quantity, Field(ge=0)] = Decimal(0)
    zero_usage_flat_fee: Literal["charge", "skip"] = "charge"

    @model_validator(mode="after")
    def _tiers_rise(self) -> Self:
        _require_rising([tier.up_to for tier in self.tiers])
        return self


class MatrixCharge(_Charge):
    """A price for each combination of dimension values; the default prices the rest, without one it is refused."""

    model: Literal["matrix"]
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]
    default_unit_price: UnitPrice | None = None

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the names of the dimensions that decide, in order."""
        return tuple(sorted(self.cells[0].match))

    @model_validator(mode="after")
    def _cells_are_apart(self) -> Self:
        seen: dict[tuple[tuple[str, str], ...], int] = {}
        problems: list[Problem] = []
        for place, cell in enumerate(self.cells):
            at = ("cells", place, "match")
            if tuple(sorted(cell.match)) != self.dimensions:
                found = ", ".join(sorted(cell.match))
                problems.append((at, f"found {found}, accepted {', '.join(self.dimensions)} as in the first cell"))
            first = seen.setdefault(tuple(sorted(cell.match.items())), place)
            if first != place:
                problems.append((at, f"found the values of cell #{first + 1}, accepted one cell for each combination"))
        if problems:
            raise BookError(*problems)
        return self


class DynamicCharge(_Charge):
    """The events carry their price: the quantity of the SKU *is* the amount, its unit the charge's currency."""

    model: Literal["dynamic"]


class FlatFeeCharge(_Charge):
    """An amount for each period, whatever is used; ``sku`` names the fee and no meter counts it.

    In ``arrears`` it is for the period of the invoice, in ``advance`` for the one after it. ``prorated`` by the days
    of the period on which the account was there.
    """

    model: Literal["flat_fee"]
    amount: FlatAmount
    timing: Literal["arrears", "advance"] = "arrears"
    prorated: bool = True

    @model_validator(mode="after")
    def _no_bounds(self) -> Self:
        if self.minimum_amount is not None or self.maximum_amount is not None:
            key = "minimum_amount" if self.minimum_amount is not None else "maximum_amount"
            raise BookError(((key,), f"found {getattr(self, key):f}, accepted none: a flat fee is its amount"))
        return self


UsageCharge = (
    PerUnitCharge
    | GraduatedCharge
    | VolumeCharge
    | StairstepCharge
    | PackageCharge
    | PercentageCharge
    | GraduatedPercentageCharge
    | MatrixCharge
    | DynamicCharge
)
AnyCharge = UsageCharge | FlatFeeCharge
Charge = Annotated[AnyCharge, Field(discriminator="model")]
CHARGE: TypeAdapter[AnyCharge] = TypeAdapter(Charge)


class Commitment(StrictModel):
    """What an account pays for a period at least; what it uses beyond costs ``overage_factor`` times as much."""

    currency: Annotated[str, BeforeValidator(_iso_currency)]
    amount: Annotated[FlatAmount, Field(gt=0)]
    description: Annotated[str, Field(min_length=1)] = "Minimum commitment"
    overage_factor: Annotated[Factor, Field(ge=1)] = Decimal(1)
    prorated: bool = True
    tax_category: Annotated[str, Field(min_length=1)] = "standard"


class PlanDiscount(Discount):
    """A discount on everything that a plan charges in one currency; ``currency`` absent takes a percentage of any."""

    currency: Annotated[str, BeforeValidator(_iso_currency)] | None = None

    @model_validator(mode="after")
    def _an_amount_has_a_currency(self) -> Self:
        if self.amount is not None and self.currency is None:
            raise BookError((("currency",), "found nothing, accepted the currency of the amount"))
        return self


def _one_sku_each(charges: Any) -> Any:
    """Write a charge of several ``skus`` as one charge for each of them, at the same price."""
    if not isinstance(charges, Sequence) or isinstance(charges, str):
        return charges
    apart: list[Any] = []
    for charge in charges:
        if not isinstance(charge, Mapping) or "skus" not in charge:
            apart.append(charge)
            continue
        skus = charge["skus"]
        if "sku" in charge or not isinstance(skus, list | tuple) or not skus:
            found = "both sku and skus" if "sku" in charge else "no list of SKUs"
            raise BookError(((len(apart), "skus"), f"found {found}, accepted sku, or skus = [...] with one or more"))
        apart += [{**{key: value for key, value in charge.items() if key != "skus"}, "sku": sku} for sku in skus]
    return apart


class Plan(StrictModel):
    """A named set of charges; one charge per SKU and currency."""

    description: str = ""
    charges: Annotated[tuple[Charge, ...], Field(min_length=1), BeforeValidator(_one_sku_each)]
    discounts: tuple[PlanDiscount, ...] = ()
    commitments: tuple[Commitment, ...] = ()

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        problems: list[Problem] = []
        charged: set[tuple[str, str]] = set()
        for place, charge in enumerate(self.charges):
            if (charge.sku, charge.currency) in charged:
                found = f"found {charge.sku!r} a second time in {charge.currency}"
                problems.append((("charges", place, "sku"), f"{found}, accepted one charge for a SKU and currency"))
            charged.add((charge.sku, charge.currency))
        committed: set[str] = set()
        for place, commitment in enumerate(self.commitments):
            if commitment.currency in committed:
                found = f"found a second commitment in {commitment.currency}, accepted one for each currency"
                problems.append((("commitments", place, "currency"), found))
            committed.add(commitment.currency)
        if problems:
            raise BookError(*problems)
        return self

    def charge(self, sku: str, currency: str) -> AnyCharge | None:
        """Return the charge that prices a SKU in a currency, if the plan has one."""
        return self._charges_by_sku.get((sku, currency))

    @cached_property
    def _charges_by_sku(self) -> dict[tuple[str, str], AnyCharge]:
        return {(charge.sku, charge.currency): charge for charge in reversed(self.charges)}


class Override(StrictModel):
    """A charge that one account has instead of its plan's, from a date on and until before another."""

    account_id: Annotated[str, Field(min_length=1)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    valid_from: Annotated[date, BeforeValidator(calendar_date)]
    valid_to: Annotated[date, BeforeValidator(calendar_date)] | None = None
    charge: Charge

    @model_validator(mode="after")
    def _half_open(self) -> Self:
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            found = (
                f"found {self.valid_to.isoformat()}, accepted a date after valid_from, {self.valid_from.isoformat()}"
            )
            raise BookError((("valid_to",), f"{found} (the day itself is outside)"))
        return self

    def holds_on(self, day: date) -> bool:
        """Tell whether the override is valid on a calendar day of the account."""
        return self.valid_from <= day and (self.valid_to is None or day < self.valid_to)


class PriceBook(StrictModel):
    """One dated set of prices."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    author: Annotated[str, Field(min_length=1)]
    effective_from: Annotated[date, BeforeValidator(calendar_date)]
    rounding: RoundingMode = RoundingMode.HALF_UP
    on_change: Change = Change.NEXT_PERIOD
    plans: Annotated[dict[str, Plan], Field(min_length=1)]
    overrides: tuple[Override, ...] = ()

    @model_validator(mode="after")
    def _open_ended(self) -> Self:
        problems: list[Problem] = []
        for at, charge in self.charges():
            tiers = getattr(charge, "tiers", None)
            if tiers and tiers[-1].up_to is not None:
                found = f"found {tiers[-1].up_to:f} in the last tier, accepted none: usage above it would have no price"
                problems.append(((*at, "tiers", len(tiers) - 1, "up_to"), found))
        if problems:
            raise BookError(*problems)
        return self

    def charges(self) -> Iterator[tuple[tuple[str | int, ...], AnyCharge]]:
        """Yield every charge of the book with where it stands, such as ``("plans", "standard", "charges", 0)``."""
        for name, plan in self.plans.items():
            for place, charge in enumerate(plan.charges):
                yield ("plans", name, "charges", place), charge
        for place, override in enumerate(self.overrides):
            yield ("overrides", place, "charge"), override.charge

    def charge(self, plan: str, account_id: str, sku: str, currency: str, day: date) -> AnyCharge | None:
        """Return the charge of an account's plan for a SKU on a day: the account's override, else the plan's own."""
        for override in self._overrides_of.get((account_id, sku, currency), ()):
            if override.holds_on(day):
                return override.charge
        return self.plans[plan].charge(sku, currency) if plan in self.plans else None

    @cached_property
    def _overrides_of(self) -> dict[tuple[str, str, str], list[Override]]:
        found: dict[tuple[str, str, str], list[Override]] = {}
        for override in self.overrides:
            found.setdefault((override.account_id, override.charge.sku, override.charge.currency), []).append(override)
        return found


def _require_rising(bounds: Sequence[Decimal | None]) -> None:
    """Refuse bounds that overlap or leave a gap: each tier begins where the one before ends."""
    lower = Decimal(0)
    problems: list[Problem] = []
    for place, bound in enumerate(bounds):
        at = ("tiers", place, "up_to")
        if bound is None:
            if place < len(bounds) - 1:
                problems.append((at, "found none, accepted a bound: only the last tier is open"))
        elif bound <= lower:
            problems.append((at, f"found {bound:f}, accepted more than {lower:f}, where the tier begins"))
        else:
            lower = bound
    if problems:
        raise BookError(*problems)
