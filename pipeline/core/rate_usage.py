"""Rating of whole periods in two models: what steps/rate.py calls until it calls `rate_account` of core/rating.py.

Usage is rated once, on the sum of the period: rounding every event or every window gives another bill.
Each tier that usage enters becomes one line item. An amount stays exact up to its line, which is rounded once
to the minor unit of its currency; what rounding took or gave stays on the line as its residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from pipeline.core.account import Account
from pipeline.core.decimals import fits, plain_text
from pipeline.core.errors import PricingError
from pipeline.core.money import AMOUNT_EXACT_SCALE, Money, RoundingMode, exact
from pipeline.core.price_book import AnyCharge, GraduatedCharge, PerUnitCharge, Tier
from pipeline.core.project import PricedBook
from pipeline.core.window import BillingPeriod, billing_period


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """What an account used of one SKU in one billing period, in the unit that is priced."""

    account_id: str
    sku: str
    unit: str
    quantity: Decimal
    aggregation: str = "sum"


@dataclass(frozen=True, slots=True)
class LineItem:
    """One amount on an invoice; the fields are the columns of ``line_items``, in order."""

    line_item_id: str
    account_id: str
    period_id: str
    service_period_start: datetime
    service_period_end: datetime
    plan: str
    sku: str
    description: str
    model: str
    tier: int
    quantity: Decimal
    unit: str
    unit_price: Decimal
    per_units: Decimal
    currency: str
    amount_exact: Decimal
    amount: Decimal
    residual: Decimal
    price_book_version: str


@dataclass(frozen=True, slots=True)
class TierQuantity:
    """The part of a quantity that one tier prices: units above ``above``, up to and including ``tier.up_to``."""

    number: int
    above: Decimal
    quantity: Decimal
    tier: Tier


def tiers_of(charge: AnyCharge) -> tuple[Tier, ...]:
    """Return the tiers of a charge; a price per unit is one tier without an end.

    >>> tiers_of(PerUnitCharge(model="per_unit", sku="calls", description="Calls", currency="USD", unit_price="2"))
    (Tier(up_to=None, unit_price=Decimal('2'), flat_fee=Decimal('0')),)
    """
    if isinstance(charge, PerUnitCharge):
        return (Tier(unit_price=charge.unit_price),)
    if isinstance(charge, GraduatedCharge):
        return charge.tiers
    raise ValueError(f"a charge of model {charge.model} has no tiers of units")


def split_into_tiers(quantity: Decimal, tiers: Iterable[Tier]) -> Iterator[TierQuantity]:
    """Yield the tiers that a quantity enters; the parts add up to the quantity exactly.

    A tier is entered when the quantity exceeds the bound before it. Usage below zero (more was taken back
    than was used) stays in the first tier. Zero enters no tier.

    >>> tiers = [Tier(up_to="10", unit_price="3"), Tier(up_to="20", unit_price="2"), Tier(unit_price="1")]
    >>> [str(part.quantity) for part in split_into_tiers(Decimal("20.5"), tiers)]
    ['10', '10', '0.5']
    >>> [str(part.quantity) for part in split_into_tiers(Decimal("-4"), tiers)]
    ['-4']
    """
    above = Decimal(0)
    for number, tier in enumerate(tiers, start=1):
        if quantity < 0:
            yield TierQuantity(number, above, quantity, tier)
            return
        if quantity <= above:
            return
        with exact():
            part = quantity - above if tier.up_to is None else min(quantity, tier.up_to) - above
        yield TierQuantity(number, above, part, tier)
        if tier.up_to is None:
            return
        above = tier.up_to


def amount_of(part: TierQuantity, per_units: Decimal) -> Decimal:
    """Return the exact amount of one tier: its units at its price, and its flat fee once when usage enters it.

    >>> amount_of(TierQuantity(1, Decimal(0), Decimal(1500), Tier(unit_price="0.4", flat_fee="5")), Decimal(1000))
    Decimal('5.6000')
    """
    with exact():
        metered = part.quantity * (part.tier.unit_price / per_units)
        return metered + part.tier.flat_fee if part.quantity > 0 else metered


def line_items_of(
    usage: PeriodUsage,
    charge: PerUnitCharge | GraduatedCharge,
    account: Account,
    period: BillingPeriod,
    rounding: RoundingMode,
    price_book_version: str,
) -> list[LineItem]:
    """Return one line item per tier that the usage enters; no usage makes no line."""
    items = []
    for part in split_into_tiers(usage.quantity, tiers_of(charge)):
        amount_exact = amount_of(part, charge.per_units)
        rounded = Money(amount_exact, account.currency).round_to_minor_unit(rounding).amount
        with exact():
            residual = amount_exact - rounded
        items.append(
            LineItem(
                line_item_id=f"{account.account_id}/{usage.sku}/{period.period_id}/{charge.model}/{part.number}",
                account_id=account.account_id,
                period_id=period.period_id,
                service_period_start=period.start,
                service_period_end=period.end,
                plan=account.plan,
                sku=usage.sku,
                description=charge.description,
                model=charge.model,
                tier=part.number,
                quantity=part.quantity,
                unit=usage.unit,
                unit_price=part.tier.unit_price,
                per_units=charge.per_units,
                currency=account.currency,
                amount_exact=amount_exact,
                amount=rounded,
                residual=residual,
                price_book_version=price_book_version,
            )
        )
    return items


def rate_usage(
    usage: Iterable[PeriodUsage],
    period_id: str,
    accounts: Mapping[str, Account],
    price_book_on: Callable[[date], PricedBook | None],
) -> list[LineItem]:
    """Return the line items of a billing period in order of id; all or nothing.

    Each account is priced by the book effective on the first day of its own period. Usage that has no price (no
    effective book, plan, or charge in the account's currency), whose account is gone, that is counted in two
    units or two ways, or whose amount does not fit is collected, and one ``PricingError`` names all of it. Usage of
    zero needs no price.
    """
    items: list[LineItem] = []
    problems: list[str] = []
    first_of: dict[tuple[str, str], PeriodUsage] = {}
    for row in usage:
        where = f"account {row.account_id}, SKU {row.sku}, {plain_text(row.quantity)} {row.unit}"
        account = accounts.get(row.account_id)
        if account is None:
            problems.append(f"{where}: the account is not in accounts.csv any more; its usage would vanish")
            continue
        first = first_of.setdefault((row.account_id, row.sku), row)
        if first.aggregation != row.aggregation:
            problems.append(
                f"{where}: the SKU is aggregated as {row.aggregation} in some windows and as {first.aggregation} in "
                "others; a period has one aggregation of a SKU: count all its windows with the new meter "
                "(billing backfill), or put the meter back"
            )
            continue
        if first.unit != row.unit:
            problems.append(
                f"{where}: the SKU is counted in {first.unit} as well; one SKU has one unit within a period: count all "
                "its windows with the new meter (billing backfill), or put the meter back"
            )
            continue
        if row.quantity == 0:
            continue
        period = billing_period(period_id, account.time_zone)
        first_day = period.start.astimezone(ZoneInfo(account.time_zone)).date()
        priced = price_book_on(first_day)
        if priced is None:
            problems.append(f"{where}: no price book is effective on {first_day.isoformat()}")
            continue
        plan = priced.book.plans.get(account.plan)
        if plan is None:
            problems.append(f"{where}: price book {priced.version} has no plan {account.plan!r}")
            continue
        charge = plan.charge(row.sku, account.currency)
        if not isinstance(charge, PerUnitCharge | GraduatedCharge):
            problems.append(
                f"{where}: plan {account.plan!r} of price book {priced.version} has no charge in {account.currency}"
            )
            continue
        lines = line_items_of(row, charge, account, period, priced.book.rounding, priced.version)
        if not all(fits(line.amount_exact, 38, AMOUNT_EXACT_SCALE) and fits(line.amount, 28, 4) for line in lines):
            problems.append(f"{where}: the amount has more than 17 digits before the point")
        items += lines
    if problems:
        raise PricingError(
            "pricing.unpriced_usage",
            f"usage of period {period_id} cannot be priced ({len(problems)} in all)",
            [*sorted(problems), "nothing was rated; mend the price book, the account or the meter, then rate again"],
        )
    return sorted(items, key=lambda item: item.line_item_id)
