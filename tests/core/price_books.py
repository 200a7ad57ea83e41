"""Price books, terms and usage for tests of rating: builders of small ones, and hypothesis strategies of random ones.

Random terms are what ``period_terms`` makes of random books and a random account, so that nothing is rated here that
could not be in a project. Numbers are drawn from a few that meet: bounds of tiers, their neighbours, zero, halves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

from pipeline.core.account import AccountDirectory, AccountRow
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.price_book import (
    AnyCharge,
    Change,
    DynamicCharge,
    MatrixCharge,
    PercentageCharge,
    PriceBook,
)
from pipeline.core.project import PricedBook
from pipeline.core.terms import AccountTerms, Segment, period_terms

ACCOUNT = "acct-7"
PERIOD = "2026-01"
SKUS = ("calls", "seats", "storage", "tokens")
FEES = ("base-fee", "support")


class RatingInputs(NamedTuple):
    """What either engine rates of one account."""

    terms: AccountTerms
    usage: list[PeriodUsage]
    values: list[EventValue]


def charge(model: str = "per_unit", sku: str = "calls", **keys: Any) -> dict[str, Any]:
    """Return a charge as a price book has it; a price per unit is 1 when nothing else is said."""
    price = {"unit_price": "1"} if model == "per_unit" and "unit_price" not in keys else {}
    return {"model": model, "sku": sku, "description": sku.capitalize(), "currency": "USD", **price, **keys}


def priced_book(*charges: dict[str, Any], plan: dict[str, Any] | None = None, **keys: Any) -> PricedBook:
    """Return a book whose plan ``standard`` has the charges and the other keys of ``plan``."""
    content = {
        "name": "prices",
        "author": "ana",
        "effective_from": "2025-01-01",
        "plans": {"standard": {"charges": list(charges), **(plan or {})}},
        **keys,
    }
    book = PriceBook.model_validate(content)
    return PricedBook(book, f"{book.name}@{book.effective_from:%Y%m%d}abcd")


def account_row(**changes: Any) -> AccountRow:
    """Return a row of the directory: an account in US dollars and UTC that was always there."""
    facts = {"name": "Seven", "currency": "USD", "time_zone": "UTC", "plan": "standard"}
    times = {"valid_from": "2020-01-01T00:00:00Z", "external_references": ["seven"]}
    return AccountRow.model_validate({"account_id": ACCOUNT, **facts, **times, **changes})


def terms_of(*books: PricedBook, rows: Sequence[AccountRow] = (), period_id: str = PERIOD) -> AccountTerms:
    """Return the terms of the account under books, for rows of the directory that are not the usual one."""
    made = period_terms(AccountDirectory(tuple(rows) or (account_row(),)), books, period_id)
    assert not made.problems
    return made.accounts[ACCOUNT]


def used(
    quantity: str,
    sku: str = "calls",
    segment: int = 1,
    dimensions: dict[str, Any] | None = None,
    aggregation: str = "sum",
    unit: str = "units",
    event_count: int = 1,
) -> PeriodUsage:
    """Return a row of usage of the account."""
    text = "" if dimensions is None else json.dumps(dimensions)
    return PeriodUsage(ACCOUNT, sku, segment, text, aggregation, unit, Decimal(quantity), event_count)


BOUNDS = ["0.5", "1", "10", "10.000000001", "20", "99.999999999", "100", "1000"]
QUANTITIES = [*BOUNDS, "0", "0.000000001", "-1", "-7.25", "-100", "9.999999999", "10.5", "15", "101", "12345.678901234"]
HUGE_QUANTITIES = ["123456789012345", "99999999999999999", "1e17", "9.9e28"]
UNIT_PRICES = ["0", "0.000001", "0.005", "0.01", "0.333", "1", "2.5", "12.345678", "-0.5"]
AMOUNTS = ["0.001", "0.005", "0.125", "1", "7.5", "10", "33.333333333333", "250"]
PERCENTS = ["0", "0.5", "2.9", "10", "33.3333333333", "100"]
POSITIVE_PERCENTS = PERCENTS[1:]
DIMENSIONS: list[dict[str, Any]] = [
    {},
    {"region": "eu"},
    {"region": "us"},
    {"region": None},
    {"region": "eu", "model": "large"},
    {"region": "eu", "model": 1},
    {"region": True, "model": "large"},
]


def _keys(draw: st.DrawFn, **strategies: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Draw some of the keys."""
    return {key: draw(strategy) for key, strategy in strategies.items() if draw(st.booleans())}


@st.composite
def _tiers(draw: st.DrawFn, price: dict[str, list[str]]) -> list[dict[str, Any]]:
    bounds = sorted(draw(st.sets(st.sampled_from(BOUNDS), max_size=3)), key=Decimal)
    tiers = []
    for bound in [*bounds, None]:
        tier = {key: draw(st.sampled_from(prices)) for key, prices in price.items()}
        if draw(st.booleans()) or not price:
            tier["flat_fee"] = draw(st.sampled_from(["0", *AMOUNTS]))
        tiers.append(tier if bound is None else {"up_to": bound, **tier})
    return tiers


@st.composite
def discounts(draw: st.DrawFn, max_size: int = 2, **keys: Any) -> list[dict[str, Any]]:
    """Discounts of a charge, or of a plan when ``keys`` say so."""
    percent = st.builds(lambda value: {"percent": value}, st.sampled_from(POSITIVE_PERCENTS))
    amount = st.builds(lambda value: {"amount": value, **keys}, st.sampled_from(AMOUNTS))
    return draw(st.lists(st.one_of(percent, amount), max_size=max_size))


@st.composite
def charges(draw: st.DrawFn, sku: str, currency: str) -> dict[str, Any]:
    """A charge of usage of any model."""
    models = ["per_unit", "graduated", "volume", "stairstep", "package", "percentage", "graduated_percentage"]
    model = draw(st.sampled_from([*models, "matrix", "dynamic"]))
    made: dict[str, Any] = charge(model, sku, currency=currency)
    not_negative = [price for price in UNIT_PRICES if Decimal(price) >= 0]
    per_units = st.sampled_from(["1", "10", "1000000"])
    zero = st.sampled_from(["charge", "skip"])
    if model == "per_unit":
        made |= {"unit_price": draw(st.sampled_from(UNIT_PRICES)), **_keys(draw, per_units=per_units)}
    elif model in ("graduated", "volume"):
        made |= {"tiers": draw(_tiers({"unit_price": not_negative}))}
        made |= _keys(draw, per_units=per_units, zero_usage_flat_fee=zero)
    elif model == "stairstep":
        made |= {"tiers": draw(_tiers({})), **_keys(draw, zero_usage_flat_fee=zero)}
    elif model == "graduated_percentage":
        made |= {"tiers": draw(_tiers({"percent": PERCENTS})), **_keys(draw, zero_usage_flat_fee=zero)}
    elif model == "package":
        made |= {"package_size": draw(st.sampled_from(BOUNDS)), "package_price": draw(st.sampled_from(AMOUNTS))}
        made |= _keys(draw, package_rounding=st.sampled_from(["up", "down"]))
    elif model == "percentage":
        made |= {"percent": draw(st.sampled_from(PERCENTS))}
        made |= _keys(draw, fixed_fee_per_event=st.sampled_from(["0.3", "1"]))
        made |= _keys(draw, minimum_per_event=st.just("0.25"), maximum_per_event=st.sampled_from(["0.25", "4"]))
        made |= draw(st.sampled_from([{}, {"free_events": 2}, {"free_amount": "25"}]))
    elif model == "matrix":
        names = draw(st.sampled_from([("region",), ("model", "region")]))
        texts = {"region": ["eu", "us", "", "true"], "model": ["large", "1", ""]}
        cell = st.fixed_dictionaries({name: st.sampled_from(texts[name]) for name in names})
        matches = draw(st.lists(cell, min_size=1, max_size=3, unique_by=lambda match: tuple(sorted(match.items()))))
        made |= {"cells": [{"match": one, "unit_price": draw(st.sampled_from(UNIT_PRICES))} for one in matches]}
        made |= {"default_unit_price": draw(st.sampled_from(UNIT_PRICES))}
    if model in ("per_unit", "graduated", "volume", "stairstep", "package", "graduated_percentage"):
        made |= _keys(draw, included_units=st.sampled_from(BOUNDS))
    made["discounts"] = draw(st.one_of(st.just([]), discounts()))
    bounds = _keys(draw, minimum_amount=st.sampled_from(AMOUNTS), maximum_amount=st.sampled_from(AMOUNTS))
    if len(bounds) == 2 and Decimal(bounds["minimum_amount"]) > Decimal(bounds["maximum_amount"]):
        bounds["minimum_amount"] = bounds["maximum_amount"]
    return made | (bounds if draw(st.booleans()) else {})


@st.composite
def flat_fees(draw: st.DrawFn, sku: str, currency: str) -> dict[str, Any]:
    """A fee of a period."""
    made = charge("flat_fee", sku, currency=currency, amount=draw(st.sampled_from(["-5", "0", *AMOUNTS])))
    made |= _keys(draw, timing=st.sampled_from(["arrears", "advance"]), prorated=st.booleans())
    return {**made, "discounts": draw(st.one_of(st.just([]), discounts(1)))}


@st.composite
def plans(draw: st.DrawFn, currency: str) -> dict[str, Any]:
    """A plan with one to six charges."""
    made = [draw(charges(sku, currency)) for sku in sorted(draw(st.sets(st.sampled_from(SKUS), min_size=1)))]
    made += [draw(flat_fees(sku, currency)) for sku in sorted(draw(st.sets(st.sampled_from(FEES))))]
    plan: dict[str, Any] = {"charges": made}
    if draw(st.booleans()):
        plan["discounts"] = draw(discounts(currency=currency))
    if draw(st.booleans()):
        commitment = {"currency": currency, "amount": draw(st.sampled_from(["0.5", "50", "100.005", "1000"]))}
        commitment |= _keys(draw, overage_factor=st.sampled_from(["1", "1.25", "2"]), prorated=st.booleans())
        plan["commitments"] = [commitment]
    return plan


@st.composite
def price_books(draw: st.DrawFn, currency: str, name: str, effective_from: str, on_change: Change) -> PricedBook:
    """A book with the plans ``standard`` and ``pro``, and perhaps an override of the account."""
    content: dict[str, Any] = {"name": name, "author": "ana", "effective_from": effective_from, "on_change": on_change}
    content["rounding"] = draw(st.sampled_from(["half_up", "half_even"]))
    content["plans"] = {plan: draw(plans(currency)) for plan in ("standard", "pro")}
    if draw(st.booleans()):
        first = draw(st.sampled_from(["2025-12-01", "2026-01-11"]))
        override = {"account_id": ACCOUNT, "reason": "agreed", "valid_from": first}
        override |= _keys(draw, valid_to=st.sampled_from(["2026-01-21", "2026-02-01"]))
        content["overrides"] = [{**override, "charge": draw(charges(draw(st.sampled_from(SKUS)), currency))}]
    return PricedBook(PriceBook.model_validate(content), f"{name}@{effective_from.replace('-', '')}abcd")


@st.composite
def account_terms(draw: st.DrawFn, on_change: Change | None = None) -> AccountTerms:
    """The terms of an account in January 2026: one segment, or several in the two ways that split a period."""
    currency = draw(st.sampled_from(["USD", "USD", "JPY", "KWD"]))
    change = draw(st.sampled_from(Change)) if on_change is None else on_change
    books = [draw(price_books(currency, "first", "2025-06-01", change))]
    if draw(st.booleans()):
        books.append(draw(price_books(currency, "second", "2026-01-16", change)))
    begins = draw(st.sampled_from(["2020-01-01T05:00", "2026-01-06T05:00"]))
    ends, on_last_day = draw(
        st.sampled_from([("2027-01-01T05:00", "2026-01-31T18:00"), ("2026-01-26T05:00", "2026-01-26T02:00")])
    )
    plans_at: list[list[str]] = [[], ["2026-01-13T05:00"], ["2026-01-13T06:00", "2026-01-13T18:00"], [on_last_day]]
    times = [begins, *draw(st.sampled_from(plans_at)), ends]  # in the last two, a part has no day
    spans = list(zip(("standard", "pro", "standard"), times, times[1:], strict=False))
    zone = draw(st.sampled_from(["UTC", "UTC", "America/New_York"]))
    rows = [
        account_row(
            currency=currency,
            time_zone=zone,
            plan=plan,
            valid_from=f"{start}:00Z",
            valid_to=f"{end}:00Z",
        )
        for plan, start, end in spans
    ]
    return terms_of(*books, rows=rows)


def _charge_of(segments: Sequence[Segment], sku: str) -> AnyCharge | None:
    return next((segment.charges[sku] for segment in segments if sku in segment.charges), None)


@st.composite
def usage_of(draw: st.DrawFn, terms: AccountTerms, unpriced: bool = False) -> RatingInputs:
    """Usage of an account under its terms; with ``unpriced`` also some that has no price, or is too large."""
    usage: list[PeriodUsage] = []
    values: list[EventValue] = []
    quantities = st.sampled_from([*QUANTITIES, *HUGE_QUANTITIES] if unpriced else QUANTITIES)
    for sku in SKUS:
        models = [segment.charges.get(sku) for segment in terms.segments]
        by_event = any(isinstance(one, PercentageCharge) and one.needs_values for one in models)
        dynamic = any(isinstance(one, DynamicCharge) for one in models)
        unit = terms.account.currency if dynamic and not unpriced else "units"
        aggregation = "sum" if by_event else draw(st.sampled_from(["sum", "sum", "count", "max", "unique_count"]))
        for segment, priced_by in zip(terms.segments, models, strict=True):
            if draw(st.integers(0, 3)) == 0:
                continue
            if priced_by is None and not unpriced:
                continue
            if by_event:
                of_events = draw(_event_values(sku, segment))
                values += of_events
                quantity = sum((event.value * event.event_count for event in of_events), Decimal(0))
                count = sum(event.event_count for event in of_events)
                usage.append(PeriodUsage(ACCOUNT, sku, segment.number, "", aggregation, unit, quantity, count))
                continue
            is_matrix = any(isinstance(one, MatrixCharge) for one in models)
            texts = st.lists(st.sampled_from(DIMENSIONS), min_size=1, max_size=4, unique_by=json.dumps)
            for dimensions in draw(texts) if is_matrix else [{}]:
                text = json.dumps(dimensions, separators=(",", ":")) if is_matrix else ""
                count = draw(st.integers(0, 5))
                usage.append(
                    PeriodUsage(ACCOUNT, sku, segment.number, text, aggregation, unit, Decimal(draw(quantities)), count)
                )
    return RatingInputs(terms, usage, values)


@st.composite
def _event_values(draw: st.DrawFn, sku: str, segment: Segment) -> list[EventValue]:
    amounts = ["0.01", "5", "5", "12.5", "25", "100", "0", "-5"]
    drawn = draw(
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from(amounts), st.integers(1, 4)), min_size=1, max_size=6)
    )
    of_events: dict[tuple[int, Decimal], int] = {}
    for hour, amount, count in drawn:
        key = (hour, Decimal(amount))
        of_events[key] = of_events.get(key, 0) + count
    return [
        EventValue(ACCOUNT, sku, segment.number, segment.start + timedelta(hours=hour), value, count)
        for (hour, value), count in sorted(of_events.items())
    ]


@st.composite
def rating_inputs(draw: st.DrawFn, on_change: Change | None = None, unpriced: bool = False) -> RatingInputs:
    """Random books, terms and usage of one account; everything has a price unless ``unpriced``."""
    return draw(usage_of(draw(account_terms(on_change)), unpriced))
