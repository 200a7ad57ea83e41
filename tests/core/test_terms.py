"""Terms: which prices hold in which part of a period, and on how many days an account was there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.account import AccountDirectory, AccountRow
from pipeline.core.price_book import Change, PriceBook
from pipeline.core.project import PricedBook
from pipeline.core.terms import AccountTerms, PeriodTerms, Segment, period_terms, priced_dimensions
from pipeline.core.window import billing_period

COUNTING_ON = "split_counting_on"
STARTING_AGAIN = "split_starting_again"
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu")


def row(valid_from: str, valid_to: str | None = None, plan: str = "small", **changed: Any) -> AccountRow:
    fields = {
        "account_id": "acct-1",
        "name": "First",
        "currency": "USD",
        "time_zone": "UTC",
        "plan": plan,
        "valid_from": valid_from,
        "external_references": ("customer-1",),
    }
    return AccountRow.model_validate({**fields, **({"valid_to": valid_to} if valid_to else {}), **changed})


def calls(unit_price: str = "1", **changed: Any) -> dict[str, Any]:
    charge = {"model": "per_unit", "sku": "calls", "description": "Calls", "currency": "USD", "unit_price": unit_price}
    return {**charge, **changed}


def fee(timing: str = "advance", **changed: Any) -> dict[str, Any]:
    charge = {"model": "flat_fee", "sku": "base-fee", "description": "Base fee", "currency": "USD", "amount": "10"}
    return {**charge, "timing": timing, **changed}


def book(effective_from: str, on_change: str = "next_period", **changed: Any) -> PricedBook:
    fields = {
        "name": "prices",
        "author": "ana",
        "effective_from": effective_from,
        "on_change": on_change,
        "plans": {name: {"charges": [calls(), fee("arrears")]} for name in ("small", "large")},
    }
    return PricedBook(PriceBook.model_validate({**fields, **changed}), f"prices@{effective_from}")


def override(valid_from: str, valid_to: str | None = None, unit_price: str = "0.5", **changed: Any) -> dict[str, Any]:
    fields = {"account_id": "acct-1", "reason": "contract", "valid_from": valid_from, "charge": calls(unit_price)}
    return {**fields, **({"valid_to": valid_to} if valid_to else {}), **changed}


def made(rows: Sequence[AccountRow], books: Sequence[PricedBook], period_id: str = "2026-01") -> PeriodTerms:
    return period_terms(AccountDirectory(tuple(rows)), books, period_id)


def terms_of(rows: Sequence[AccountRow], books: Sequence[PricedBook], period_id: str = "2026-01") -> AccountTerms:
    terms = made(rows, books, period_id)
    assert terms.problems == {}
    return terms.accounts["acct-1"]


def price(segment: Segment) -> str:
    """Return what a call costs."""
    return f"{segment.charges['calls'].unit_price:f}"  # type: ignore[union-attr]


def parts(terms: AccountTerms) -> list[tuple[str, str, int]]:
    """Return the day in the account's zone on which each segment begins, its plan, and its active days."""
    zone = billing_period(terms.period.period_id, terms.account.time_zone).time_zone
    begins = [local(segment.start, zone) for segment in terms.segments]
    return [
        (begin, segment.plan_name, segment.active_days) for begin, segment in zip(begins, terms.segments, strict=True)
    ]


def local(instant: datetime, zone: str) -> str:
    return instant.astimezone(ZoneInfo(zone)).strftime("%d %H:%M")


A_TO_B = (row("2025-06-01T00:00:00Z", "2026-01-11T00:00:00Z"), row("2026-01-11T00:00:00Z", plan="large"))


def test_the_plan_and_the_book_of_the_first_day_price_the_whole_period_until_the_next() -> None:
    books = [book("2025-01-01"), book("2026-01-10")]

    january, february = (terms_of(A_TO_B, books, period_id) for period_id in ("2026-01", "2026-02"))

    assert parts(january) == [("01 00:00", "small", 31)]
    assert january.segments[0].priced.version == "prices@2025-01-01"
    assert parts(february) == [("01 00:00", "large", 28)]
    assert february.segments[0].priced.version == "prices@2026-01-10"


@pytest.mark.parametrize("on_change", [COUNTING_ON, STARTING_AGAIN])
def test_a_split_period_has_a_part_for_each_plan(on_change: str) -> None:
    terms = terms_of(A_TO_B, [book("2025-01-01", on_change)])

    assert parts(terms) == [("01 00:00", "small", 10), ("11 00:00", "large", 21)]
    assert [segment.number for segment in terms.segments] == [1, 2]
    assert (terms.on_change, terms.days, terms.active_days) == (Change(on_change), 31, 31)


@pytest.mark.parametrize("zone", ZONES)
def test_a_new_book_cuts_at_midnight_of_the_accounts_own_zone(zone: str) -> None:
    books = [book("2025-01-01", COUNTING_ON), book("2026-01-10", COUNTING_ON)]

    terms = terms_of([row("2025-01-01T00:00:00Z", time_zone=zone)], books)

    assert parts(terms) == [("01 00:00", "small", 9), ("10 00:00", "small", 22)]
    assert [segment.priced.version for segment in terms.segments] == ["prices@2025-01-01", "prices@2026-01-10"]


def test_what_a_change_does_is_said_by_the_book_of_the_first_day() -> None:
    books = [book("2025-01-01"), book("2026-01-10", COUNTING_ON)]

    terms = terms_of(A_TO_B, books)

    assert terms.on_change is Change.NEXT_PERIOD
    assert len(terms.segments) == 1


@pytest.mark.parametrize(
    ("effective_from", "segments"), [("2026-01-01", 1), ("2026-01-02", 2), ("2026-01-31", 2), ("2026-02-01", 1)]
)
def test_a_book_from_the_first_day_or_of_the_next_period_cuts_nothing(effective_from: str, segments: int) -> None:
    books = [book("2025-01-01", COUNTING_ON), book(effective_from, COUNTING_ON)]

    assert len(terms_of([row("2025-01-01T00:00:00Z")], books).segments) == segments


def test_a_plan_that_is_left_and_taken_again_is_three_parts() -> None:
    rows = [
        row("2025-06-01T00:00:00Z", "2026-01-11T00:00:00Z"),
        row("2026-01-11T00:00:00Z", "2026-01-21T00:00:00Z", "large"),
        row("2026-01-21T00:00:00Z"),
    ]

    terms = terms_of(rows, [book("2025-01-01", COUNTING_ON)])

    assert parts(terms) == [("01 00:00", "small", 10), ("11 00:00", "large", 10), ("21 00:00", "small", 11)]


def test_rows_of_one_plan_that_touch_or_overlap_are_one_part() -> None:
    rows = [
        row("2026-01-11T00:00:00Z", external_references=("customer-2",)),
        row("2025-06-01T00:00:00Z", "2026-01-11T00:00:00Z"),
        row("2026-01-05T00:00:00Z", "2026-01-20T00:00:00Z", external_references=("customer-3",)),
    ]

    assert parts(terms_of(rows, [book("2025-01-01", COUNTING_ON)])) == [("01 00:00", "small", 31)]


def test_a_day_belongs_to_the_part_in_which_it_begins() -> None:
    rows = [row("2025-06-01T00:00:00Z", "2026-01-11T12:00:00Z"), row("2026-01-11T12:00:00Z", plan="large")]

    terms = terms_of(rows, [book("2025-01-01", COUNTING_ON)])

    assert parts(terms) == [("01 00:00", "small", 11), ("11 12:00", "large", 20)]


def test_two_changes_on_one_day_make_a_part_without_a_day() -> None:
    rows = [
        row("2025-06-01T00:00:00Z", "2026-01-11T10:00:00Z"),
        row("2026-01-11T10:00:00Z", "2026-01-11T12:00:00Z", "large"),
        row("2026-01-11T12:00:00Z"),
    ]

    terms = terms_of(rows, [book("2025-01-01", COUNTING_ON)])

    assert [active_days for _, _, active_days in parts(terms)] == [11, 0, 20]


@pytest.mark.parametrize(
    ("valid_from", "valid_to", "active_days"),
    [
        ("2025-06-01T00:00:00Z", "2026-01-10T00:00:00Z", 9),  # gone with the first instant of the 10th
        ("2025-06-01T00:00:00Z", "2026-01-10T01:00:00Z", 10),
        ("2026-01-10T00:00:00Z", None, 22),
        ("2026-01-10T23:00:00Z", None, 22),  # an instant of a day is a day
        ("2026-01-31T23:00:00Z", None, 1),
        ("2026-02-01T00:00:00Z", None, 0),
        ("2025-06-01T00:00:00Z", "2026-01-01T00:00:00Z", 0),
        ("2025-06-01T00:00:00Z", "2026-01-01T01:00:00Z", 1),
        ("2026-01-10T05:00:00Z", "2026-01-10T06:00:00Z", 1),
    ],
)
@pytest.mark.parametrize("on_change", ["next_period", COUNTING_ON])
def test_an_account_is_there_on_the_days_of_which_it_has_an_instant(
    valid_from: str, valid_to: str | None, active_days: int, on_change: str
) -> None:
    terms = terms_of([row(valid_from, valid_to)], [book("2025-01-01", on_change)])

    assert parts(terms) == [("01 00:00", "small", active_days)]
    assert terms.share(terms.active_days) * 31 == active_days


def test_a_gap_is_no_active_day_and_belongs_to_the_plan_before_it() -> None:
    rows = [row("2025-06-01T00:00:00Z", "2026-01-11T00:00:00Z"), row("2026-01-21T00:00:00Z", plan="large")]

    terms = terms_of(rows, [book("2025-01-01", COUNTING_ON)])

    assert parts(terms) == [("01 00:00", "small", 10), ("21 00:00", "large", 11)]


def test_an_account_that_begins_inside_the_period_has_the_book_of_its_first_day() -> None:
    books = [book("2025-01-01", STARTING_AGAIN), book("2026-01-10"), book("2026-01-20")]

    terms = terms_of([row("2026-01-15T06:00:00Z")], books)

    assert terms.on_change is Change.NEXT_PERIOD
    assert parts(terms) == [("01 00:00", "small", 17)]
    assert terms.segments[0].priced.version == "prices@2026-01-10"


def test_nothing_is_cut_before_an_account_is_there_nor_after_it_left() -> None:
    books = [book(day, COUNTING_ON) for day in ("2025-01-01", "2026-01-05", "2026-01-15", "2026-01-25")]

    terms = terms_of([row("2026-01-10T00:00:00Z", "2026-01-20T00:00:00Z")], books)

    assert parts(terms) == [("01 00:00", "small", 5), ("15 00:00", "small", 5)]
    assert [segment.priced.version for segment in terms.segments] == ["prices@2026-01-05", "prices@2026-01-15"]


def test_an_override_splits_at_its_own_days_and_for_its_account_only() -> None:
    other = row("2025-01-01T00:00:00Z", account_id="acct-2", external_references=("customer-2",))
    priced = book("2025-01-01", COUNTING_ON, overrides=[override("2026-01-10", "2026-01-20")])

    terms = made([row("2025-01-01T00:00:00Z"), other], [priced]).accounts

    assert [(start, days) for start, _, days in parts(terms["acct-1"])] == [
        ("01 00:00", 9),
        ("10 00:00", 10),
        ("20 00:00", 12),
    ]
    assert [price(segment) for segment in terms["acct-1"].segments] == ["1", "0.5", "1"]
    assert len(terms["acct-2"].segments) == 1
    assert price(terms["acct-2"].segments[0]) == "1"


@pytest.mark.parametrize(("valid_from", "unit_price"), [("2026-01-01", "0.5"), ("2026-01-02", "1")])
def test_without_a_split_the_overrides_of_the_first_day_hold(valid_from: str, unit_price: str) -> None:
    priced = book("2025-01-01", overrides=[override(valid_from)])

    (segment,) = terms_of([row("2025-01-01T00:00:00Z")], [priced]).segments

    assert price(segment) == unit_price


def test_an_override_in_another_currency_changes_nothing() -> None:
    in_euro = override("2026-01-10", charge=calls("0.5", currency="EUR"))

    terms = terms_of([row("2025-01-01T00:00:00Z")], [book("2025-01-01", COUNTING_ON, overrides=[in_euro])])

    assert len(terms.segments) == 1


def test_of_two_overrides_the_one_written_first_holds_as_the_book_says() -> None:
    priced = book("2025-01-01", overrides=[override("2025-01-01", unit_price="3"), override("2025-01-01")])

    (segment,) = terms_of([row("2025-01-01T00:00:00Z")], [priced]).segments

    day = datetime(2026, 1, 1, tzinfo=UTC).date()
    assert segment.charges["calls"] == priced.book.charge("small", "acct-1", "calls", "USD", day)
    assert price(segment) == "3"


def test_only_charges_in_the_accounts_currency_are_its_own() -> None:
    plans = {"small": {"charges": [calls(), calls("7", currency="EUR")]}}

    (segment,) = terms_of([row("2025-01-01T00:00:00Z", currency="EUR")], [book("2025-01-01", plans=plans)]).segments

    assert price(segment) == "7"


@pytest.mark.parametrize(
    ("zone", "period_id", "hours", "days"),
    [
        ("America/New_York", "2026-03", 743, 31),
        ("America/New_York", "2026-11", 721, 30),
        ("Europe/Berlin", "2026-03", 743, 31),
        ("Asia/Kathmandu", "2026-03", 744, 31),
        ("Africa/Cairo", "2026-04", 719, 30),  # clocks skip midnight of the 24th
        ("Pacific/Apia", "2011-12", 720, 30),  # there was no 30th
    ],
)
def test_a_period_has_its_calendar_days_whatever_the_clocks_do(
    zone: str, period_id: str, hours: int, days: int
) -> None:
    terms = terms_of([row("2010-01-01T00:00:00Z", time_zone=zone)], [book("2010-01-01", COUNTING_ON)], period_id)

    (segment,) = terms.segments
    assert (segment.end - segment.start).total_seconds() == hours * 3600
    assert (terms.days, segment.active_days) == (days, days)


def test_days_are_cut_at_midnights_on_both_sides_of_a_change_of_the_clocks() -> None:
    books = [book("2025-01-01", COUNTING_ON), book("2026-03-08", COUNTING_ON), book("2026-03-09", COUNTING_ON)]

    terms = terms_of([row("2025-01-01T00:00:00Z", time_zone="America/New_York")], books, "2026-03")

    starts = [segment.start for segment in terms.segments[1:]]
    assert starts == [datetime(2026, 3, 8, 5, tzinfo=UTC), datetime(2026, 3, 9, 4, tzinfo=UTC)]
    assert [segment.active_days for segment in terms.segments] == [7, 1, 23]


# ---- fees in advance ----


def advance(
    rows: Sequence[AccountRow], *books: PricedBook, period_id: str = "2026-01"
) -> list[tuple[str, str, int, int, str]]:
    priced = books or (book("2025-01-01", plans={name: {"charges": [fee()]} for name in ("small", "large")}),)
    return [
        (fees.period.period_id, fees.start.isoformat()[:16], fees.active_days, fees.days, fees.plan_name)
        for fees in terms_of(rows, priced, period_id).advance_fees
    ]


NEXT = ("2026-02", "2026-02-01T00:00", 28, 28, "small")


def test_a_fee_in_advance_is_for_the_next_period() -> None:
    assert advance([row("2025-06-01T00:00:00Z")]) == [NEXT]


@pytest.mark.parametrize(
    ("valid_from", "expected"),
    [
        ("2026-01-01T00:00:00Z", [NEXT]),  # there at the first instant: the invoice before had this period's fee
        ("2026-01-01T01:00:00Z", [("2026-01", "2026-01-01T01:00", 31, 31, "small"), NEXT]),
        ("2026-01-10T05:00:00Z", [("2026-01", "2026-01-10T05:00", 22, 31, "small"), NEXT]),
        ("2026-02-01T00:00:00Z", [NEXT]),
        ("2026-02-01T01:00:00Z", []),  # begins inside February, whose own invoice has it
    ],
)
def test_an_account_pays_in_advance_for_the_period_it_begins_in(valid_from: str, expected: list[Any]) -> None:
    assert advance([row(valid_from)]) == expected


@pytest.mark.parametrize(
    ("valid_to", "active_days"),
    [("2026-02-01T00:00:00Z", None), ("2026-02-01T01:00:00Z", 1), ("2026-02-11T00:00:00Z", 10)],
)
def test_no_fee_in_advance_is_for_a_time_after_the_end(valid_to: str, active_days: int | None) -> None:
    expected = [] if active_days is None else [("2026-02", "2026-02-01T00:00", active_days, 28, "small")]

    assert advance([row("2025-06-01T00:00:00Z", valid_to)]) == expected


def test_the_fee_of_the_next_period_is_that_of_the_plan_and_book_then() -> None:
    plans = {"large": {"charges": [fee(amount="99")]}, "small": {"charges": [calls()]}}
    books = (book("2025-01-01"), book("2026-02-01", plans=plans))
    rows = [row("2025-06-01T00:00:00Z", "2026-02-01T00:00:00Z"), row("2026-02-01T00:00:00Z", plan="large")]

    (fees,) = terms_of(rows, books).advance_fees

    assert (fees.plan_name, fees.priced.version) == ("large", "prices@2026-02-01")
    assert list(fees.charges) == ["base-fee"]


def test_a_plan_without_fees_in_advance_has_none() -> None:
    assert advance([row("2025-06-01T00:00:00Z")], book("2025-01-01")) == []


def test_a_plan_that_begins_with_the_account_need_not_be_in_the_book_before() -> None:
    old = book("2025-01-01", plans={"small": {"charges": [calls()]}})
    new = book("2026-02-01", plans={"new": {"charges": [fee()]}})

    assert advance([row("2026-02-01T00:00:00Z", plan="new")], old, new) == [(*NEXT[:4], "new")]


# ---- problems ----


def test_an_account_without_a_book_or_a_plan_is_a_problem_and_no_other_account_is() -> None:
    rows = [
        row("2025-01-01T00:00:00Z"),
        row("2025-01-01T00:00:00Z", account_id="acct-2", plan="gone", external_references=("customer-2",)),
    ]

    terms = made(rows, [book("2025-01-01")])
    unpriced = made(rows[:1], [book("2026-01-02", COUNTING_ON)])

    assert terms.problems == {"acct-2": "price book prices@2025-01-01 has no plan 'gone'"}
    assert set(terms.accounts) == {"acct-1"}
    assert set(terms.periods) == {"acct-1", "acct-2"}
    assert unpriced.problems == {"acct-1": "no price book is effective on 2026-01-01"}


def test_a_plan_that_a_later_part_lacks_is_a_problem() -> None:
    later = book("2026-01-10", plans={"large": {"charges": [calls()]}})

    terms = made([row("2025-01-01T00:00:00Z")], [book("2025-01-01", COUNTING_ON), later])

    assert terms.problems == {"acct-1": "price book prices@2026-01-10 has no plan 'small'"}


# ---- properties ----

HOURS = st.integers(0, 24 * 60)
DAYS = st.integers(1, 28)


@st.composite
def directories(draw: st.DrawFn) -> list[AccountRow]:
    """Rows of one account in January to February 2026, in order or not, with gaps, on two plans."""
    marks = sorted(draw(st.sets(HOURS, min_size=2, max_size=6)))
    zone = draw(st.sampled_from((*ZONES, "Africa/Cairo")))
    rows = [
        row(at(start), at(end), draw(st.sampled_from(("small", "large"))), time_zone=zone)
        for start, end in pairwise(marks)
        if draw(st.booleans()) or start == marks[0]
    ]
    return draw(st.permutations(rows))


def at(hour: int) -> str:
    return datetime.fromtimestamp(1_767_000_000 // 3600 * 3600 + hour * 3600, UTC).isoformat()


@st.composite
def books(draw: st.DrawFn) -> list[PricedBook]:
    dates = sorted(draw(st.sets(st.sampled_from([f"2026-01-{day:02}" for day in range(1, 29)]), max_size=3)))
    made_books = []
    for date in ["2025-01-01", *dates]:
        overrides = [
            override(f"2026-01-{start:02}", f"2026-02-{end:02}")
            for start, end in draw(st.lists(st.tuples(DAYS, DAYS), max_size=2))
        ]
        on_change = draw(st.sampled_from([change.value for change in Change]))
        made_books.append(book(date, on_change, overrides=overrides))
    return made_books


@given(directories(), books())
@settings(max_examples=150, deadline=None)
def test_segments_cover_the_period_and_their_days_add_up(rows: list[AccountRow], priced: list[PricedBook]) -> None:
    terms = terms_of(rows, priced)
    period = terms.period

    bounds = [(segment.start, segment.end) for segment in terms.segments]
    assert bounds[0][0] == period.start
    assert bounds[-1][1] == period.end
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert all(start < end for start, end in bounds)
    whole = terms_of(rows, [book("2025-01-01")])
    assert terms.active_days == whole.active_days
    assert terms.days == 31


@given(directories(), books())
@settings(max_examples=100, deadline=None)
def test_terms_of_the_books_that_were_looked_at_are_the_same(rows: list[AccountRow], priced: list[PricedBook]) -> None:
    terms = made(rows, priced)

    again = made(rows, terms.price_books)

    assert again.accounts == terms.accounts
    assert {one.version for one in again.price_books} == {one.version for one in terms.price_books}


@given(directories(), books())
@settings(max_examples=100, deadline=None)
def test_each_instant_has_the_plan_and_the_book_of_then(rows: list[AccountRow], priced: list[PricedBook]) -> None:
    """Said again, instant by instant: in a split period, while the account is there."""
    terms = terms_of(rows, priced)
    zone = terms.account.time_zone
    for hour in range(0, 24 * 60, 7):
        instant = datetime.fromisoformat(at(hour))
        holding = [row for row in rows if row.valid_from <= instant < row.valid_to]
        if not holding or not terms.period.start <= instant < terms.period.end:
            continue
        (segment,) = [one for one in terms.segments if one.start <= instant < one.end]
        if terms.on_change is Change.NEXT_PERIOD:
            assert segment == terms.segments[0]
            continue
        day = f"2026-01-{int(local(instant, zone)[:2]):02}"
        in_force = max(
            (one for one in priced if one.book.effective_from.isoformat() <= day), key=lambda one: one.version
        )
        assert (segment.plan_name, segment.priced) == (holding[0].plan, in_force)
        assert segment.charges["calls"] == in_force.book.charge(
            holding[0].plan, "acct-1", "calls", "USD", datetime.fromisoformat(day).date()
        )


def test_a_hundred_thousand_accounts_share_what_is_equal() -> None:
    rows = [
        row(
            "2025-01-01T00:00:00Z",
            account_id=f"acct-{n}",
            time_zone=ZONES[n % 3],
            external_references=(f"customer-{n}",),
        )
        for n in range(300)
    ]

    accounts = made(rows, [book("2025-01-01")]).accounts

    assert len(accounts) == 300
    assert len({id(terms.segments) for terms in accounts.values()}) == 3
    assert len({id(segment.charges) for terms in accounts.values() for segment in terms.segments}) == 1


def test_skus_priced_by_dimensions_are_those_with_a_matrix() -> None:
    matrix = {
        "model": "matrix",
        "sku": "gpu",
        "description": "GPU",
        "currency": "USD",
        "cells": [{"match": {"region": "eu"}, "unit_price": "1"}],
    }
    plans = {"small": {"charges": [calls(), matrix]}}

    (segment,) = terms_of([row("2025-01-01T00:00:00Z")], [book("2025-01-01", plans=plans)]).segments

    assert priced_dimensions(segment.charges) == ["gpu"]
