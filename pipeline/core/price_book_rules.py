"""What a price book may say of this project: its SKUs are metered, its currencies charged, its overrides reachable.

The book by itself is checked by its model (price_book). Here it meets meters and accounts, and the periods that are
final. Every rule returns all that breaks it; nothing is a warning, because each would end in a wrong amount or in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

from pipeline.core.account import VALID_FOR_EVER, AccountRow
from pipeline.core.decimals import fits
from pipeline.core.meter import Meter
from pipeline.core.money import minor_unit_digits
from pipeline.core.price_book import (
    AnyCharge,
    DynamicCharge,
    FlatFeeCharge,
    GraduatedPercentageCharge,
    MatrixCharge,
    Override,
    PackageCharge,
    PercentageCharge,
    PerUnitCharge,
    PriceBook,
    Problem,
)
from pipeline.core.project import PricedBook
from pipeline.core.tax import TaxTable
from pipeline.core.window import billing_period

At = tuple[str | int, ...]


def book_problems(
    book: PriceBook, meters: Iterable[Meter], rows: Iterable[AccountRow], taxes: TaxTable | None = None
) -> list[Problem]:
    """Return what is wrong with a book in a project with these meters, accounts and taxes, in the order of the book."""
    by_sku = {meter.sku: meter for meter in meters}
    rows_of: dict[str, list[AccountRow]] = {}
    for row in rows:
        rows_of.setdefault(row.account_id, []).append(row)
    problems = [problem for at, charge in book.charges() for problem in _charge_problems(at, charge, by_sku)]
    problems += [problem for at, charge in book.charges() for problem in _amount_problems(at, charge)]
    problems += _plan_problems(book)
    problems += [] if taxes is None else _tax_problems(book, taxes)
    problems += _override_problems(book, rows_of)
    return problems


def account_problems(
    book: PriceBook, rows: Sequence[AccountRow], start: datetime | None = None, before: date | None = None
) -> list[tuple[int, str]]:
    """Return each row of an account that the book leaves without a plan, or without a price in its currency.

    Rows are named by their place. A row counts if it is valid on a day from ``effective_from`` on (after ``start``, the
    first instant that is billed) and ``before`` the book after this one is effective.
    """
    currencies = {name: {charge.currency for charge in plan.charges} for name, plan in book.plans.items()}
    problems = []
    for place, row in enumerate(rows):
        first, end = _instant(book.effective_from, row), _end(before, row)
        if row.valid_to <= max(first, start or first) or row.valid_from >= end:
            continue
        if row.plan not in currencies:
            found = f"plan of account {row.account_id}: found {row.plan!r}, accepted {', '.join(sorted(currencies))}"
            problems.append((place, found))
        elif row.currency not in currencies[row.plan]:
            accepted = f"{', '.join(sorted(currencies[row.plan]))} (charges of plan {row.plan!r})"
            problems.append((place, f"currency of account {row.account_id}: found {row.currency}, accepted {accepted}"))
    return problems


def final_period_problems(book: PriceBook, final_periods: Iterable[str], live: Sequence[PricedBook]) -> list[Problem]:
    """Return what a book would change in periods whose invoices are issued.

    A period is a calendar month in every zone, and so is the date that a book begins with. An override that reaches
    back into a final period is fine if the books of that period have it with the same prices: it was billed so.
    """
    final = sorted(final_periods)
    bounds = {name: _bounds(name) for name in final}
    problems: list[Problem] = []
    changed = [name for name in final if book.effective_from < bounds[name][1]]
    if changed:
        accepted = bounds[changed[-1]][1].isoformat()
        found = f"found {book.effective_from.isoformat()}, accepted {accepted} or later"
        problems.append((("effective_from",), f"{found}: final and never rated again: {', '.join(changed)}"))
    for place, override in enumerate(book.overrides):
        back = [name for name in final if _reaches_back(override, bounds[name], live)]
        if back:
            accepted = bounds[back[-1]][1].isoformat()
            found = f"found {override.valid_from.isoformat()}, accepted {accepted} or later"
            problems.append(
                (
                    ("overrides", place, "valid_from"),
                    f"{found}: {override.account_id} was billed without it in final {', '.join(back)}",
                )
            )
    return problems


# ---- charges ----


def _charge_problems(at: At, charge: AnyCharge, meters: Mapping[str, Meter]) -> Iterator[Problem]:
    meter = meters.get(charge.sku)
    if isinstance(charge, FlatFeeCharge):
        if meter is not None:
            found = f'found {charge.sku!r}, which meters.toml counts; accepted a name of its own for model = "flat_fee"'
            yield (*at, "sku"), found
        return
    if meter is None:
        yield (*at, "sku"), f"found {charge.sku!r}, accepted {', '.join(sorted(meters))} (meters.toml)"
        return
    if isinstance(charge, MatrixCharge):
        unknown = sorted(set(charge.dimensions) - set(meter.dimensions))
        if unknown:
            accepted = ", ".join(sorted(meter.dimensions)) or "none: the meter has no dimensions"
            yield (
                (*at, "cells", 0, "match"),
                f"found {', '.join(unknown)}, accepted {accepted} (dimensions of {charge.sku} in meters.toml)",
            )
    prices_an_amount = isinstance(charge, DynamicCharge | PercentageCharge | GraduatedPercentageCharge)
    if prices_an_amount and meter.billed_unit != charge.currency:
        found = f"found {charge.currency}, accepted {meter.billed_unit}, the unit of {charge.sku} in meters.toml"
        yield (*at, "currency"), found
    if isinstance(charge, PercentageCharge) and charge.needs_values and not meter.keep_values:
        key = next(key for key in _NEEDS_VALUES if key in charge.model_fields_set and getattr(charge, key) is not None)
        yield (
            (*at, key),
            f"found {getattr(charge, key)}, accepted none: {charge.sku} needs keep_values = true in meters.toml for it",
        )


_NEEDS_VALUES = ("minimum_per_event", "maximum_per_event", "free_events", "free_amount")


def _amount_problems(at: At, charge: AnyCharge) -> Iterator[Problem]:
    """Yield prices below zero, and amounts that no bill can come to: finer than the minor unit."""
    prices: list[tuple[At, Decimal]] = []
    match charge:
        case PerUnitCharge():
            prices = [(("unit_price",), charge.unit_price)]
        case PackageCharge():
            prices = [(("package_price",), charge.package_price)]
        case FlatFeeCharge():
            prices = [(("amount",), charge.amount)]
        case MatrixCharge():
            prices = [(("cells", place, "unit_price"), cell.unit_price) for place, cell in enumerate(charge.cells)]
            prices += (
                [] if charge.default_unit_price is None else [(("default_unit_price",), charge.default_unit_price)]
            )
    for key, price in prices:
        if price < 0:
            accepted = "accepted 0 or more; what an account gets back is a discount, a credit or usage below zero"
            yield (*at, *key), f"found {price:f}, {accepted}"
    amounts: list[tuple[At, Decimal | None]] = [
        (("minimum_amount",), charge.minimum_amount),
        (("maximum_amount",), charge.maximum_amount),
        *((("discounts", place, "amount"), discount.amount) for place, discount in enumerate(charge.discounts)),
    ]
    for key, amount in amounts:
        yield from _finer_than_minor_unit((*at, *key), amount, charge.currency)


def _finer_than_minor_unit(at: At, amount: Decimal | None, currency: str) -> Iterator[Problem]:
    digits = minor_unit_digits(currency)
    if amount is not None and not fits(amount, 26, digits):
        yield at, f"found {amount:f}, accepted whole minor units: {currency} has {digits} decimals"


def _tax_problems(book: PriceBook, taxes: TaxTable) -> Iterator[Problem]:
    """Yield each tax category that has no rate in any region."""
    known = sorted({rate.category for rate in taxes.rates})
    categories: list[tuple[At, str]] = [((*at, "tax_category"), charge.tax_category) for at, charge in book.charges()]
    categories += [
        (("plans", name, "commitments", place, "tax_category"), commitment.tax_category)
        for name, plan in book.plans.items()
        for place, commitment in enumerate(plan.commitments)
    ]
    for at, category in categories:
        if category not in known:
            yield at, f"found {category!r}, accepted {', '.join(known)} (categories of taxes.toml)"


def _plan_problems(book: PriceBook) -> Iterator[Problem]:
    for name, plan in book.plans.items():
        charged = {charge.currency for charge in plan.charges}
        accepted = f"accepted {', '.join(sorted(charged))} (charges of plan {name!r})"
        written: list[tuple[str, int, str | None]] = [
            *(("discounts", place, discount.currency) for place, discount in enumerate(plan.discounts)),
            *(("commitments", place, commitment.currency) for place, commitment in enumerate(plan.commitments)),
        ]
        for place, commitment in enumerate(plan.commitments):
            at = ("plans", name, "commitments", place, "amount")
            yield from _finer_than_minor_unit(at, commitment.amount, commitment.currency)
        for place, discount in enumerate(plan.discounts):
            if discount.currency is not None:
                at = ("plans", name, "discounts", place, "amount")
                yield from _finer_than_minor_unit(at, discount.amount, discount.currency)
        for key, place, currency in written:
            if currency is not None and currency not in charged:
                yield ("plans", name, key, place, "currency"), f"found {currency}, {accepted}"


# ---- overrides ----


def _override_problems(book: PriceBook, rows_of: Mapping[str, Sequence[AccountRow]]) -> Iterator[Problem]:
    before: dict[tuple[str, str, str], list[tuple[int, Override]]] = {}
    for place, override in enumerate(book.overrides):
        at: At = ("overrides", place)
        key = (override.account_id, override.charge.sku, override.charge.currency)
        for earlier, other in before.setdefault(key, []):
            if override.valid_from < (other.valid_to or date.max) and other.valid_from < (
                override.valid_to or date.max
            ):
                found = f"found {_span(override)}, which override #{earlier + 1} ({_span(other)}) covers or overlaps"
                accepted = f"accepted one override of {override.account_id} for {override.charge.sku} on a day"
                yield (*at, "valid_from"), f"{found}; {accepted}"
        before[key].append((place, override))
        rows = rows_of.get(override.account_id)
        if rows is None:
            yield (*at, "account_id"), f"found {override.account_id!r}, accepted an account of accounts.csv"
            continue
        yield from _unreachable(book, at, override, rows)


def _unreachable(book: PriceBook, at: At, override: Override, rows: Sequence[AccountRow]) -> Iterator[Problem]:
    sku, currency = override.charge.sku, override.charge.currency
    currencies = sorted({row.currency for row in rows})
    if currency not in currencies:
        yield (
            (*at, "charge", "currency"),
            f"found {currency}, accepted {', '.join(currencies)}, the currency of account {override.account_id}",
        )
        return
    priced = [row for row in rows if row.plan in book.plans and book.plans[row.plan].charge(sku, currency)]
    if not priced:
        plans = ", ".join(sorted({row.plan for row in rows}))
        accepted = f"accepted a SKU that a plan of account {override.account_id} ({plans}) charges in {currency}"
        yield (*at, "charge", "sku"), f"found {sku!r}, {accepted}"
        return
    if override.valid_to is not None and override.valid_to <= book.effective_from:
        found = f"found {override.valid_to.isoformat()}, accepted a date after {book.effective_from.isoformat()}"
        yield (*at, "valid_to"), f"{found}, when the book begins"
        return
    if not any(
        row.valid_from < _end(override.valid_to, row)
        and _instant(max(override.valid_from, book.effective_from), row) < row.valid_to
        for row in priced
    ):
        spans = ", ".join(f"{row.valid_from.isoformat()} to {_shown_end(row)}" for row in priced)
        accepted = f"accepted a day on which account {override.account_id} is there with such a plan ({spans})"
        yield (*at, "valid_from"), f"found {_span(override)}, {accepted}"


def _span(override: Override) -> str:
    return f"{override.valid_from.isoformat()} to {override.valid_to.isoformat() if override.valid_to else 'no end'}"


def _shown_end(row: AccountRow) -> str:
    return "no end" if row.valid_to >= VALID_FOR_EVER else row.valid_to.isoformat()


def _instant(day: date, row: AccountRow) -> datetime:
    """Return the instant at which a calendar day begins where the account is."""
    return datetime.combine(day, time.min, ZoneInfo(row.time_zone)).astimezone(UTC)


def _end(day: date | None, row: AccountRow) -> datetime:
    return VALID_FOR_EVER if day is None else _instant(day, row)


# ---- final periods ----


def _bounds(period_id: str) -> tuple[date, date]:
    """Return the first day of a month and of the next one."""
    period = billing_period(period_id, "UTC")
    return period.start.date(), period.end.date()


def _reaches_back(override: Override, bounds: tuple[date, date], live: Sequence[PricedBook]) -> bool:
    """Tell whether an override holds on a day of a period on which the book of that day has no such override."""
    first, end = bounds
    begins = sorted(priced.book.effective_from for priced in live)
    cuts = sorted({first, end, *(day for day in begins if first < day < end)})
    return any(
        _clipped(override, from_day, to_day) not in _overrides_of(live, from_day, to_day)
        for from_day, to_day in pairwise(cuts)
        if _clipped(override, from_day, to_day) is not None
    )


Clipped = tuple[str, AnyCharge, date, date]


def _overrides_of(live: Sequence[PricedBook], from_day: date, to_day: date) -> list[Clipped | None]:
    books = [priced.book for priced in live if priced.book.effective_from <= from_day]
    if not books:
        return []
    book = max(books, key=lambda one: one.effective_from)
    return [_clipped(override, from_day, to_day) for override in book.overrides]


def _clipped(override: Override, from_day: date, to_day: date) -> Clipped | None:
    first, end = max(override.valid_from, from_day), min(override.valid_to or to_day, to_day)
    return (override.account_id, override.charge, first, end) if first < end else None
