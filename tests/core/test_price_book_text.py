"""A price book in words, and what changed between two."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.core.price_book import CHARGE, PriceBook
from pipeline.core.price_book_text import BookChange, book_changes, book_lines, price_rows

COMMON = {"sku": "calls", "description": "Calls", "currency": "USD"}
PER_UNIT = {**COMMON, "model": "per_unit", "unit_price": "1"}
OVERRIDE = {"account_id": "acct-1", "reason": "deal", "valid_from": "2026-02-01", "charge": PER_UNIT}


def book(*charges: dict[str, Any], plan: dict[str, Any] | None = None, **changes: Any) -> PriceBook:
    plans = {"standard": {"charges": list(charges) or [PER_UNIT], **(plan or {})}}
    values = {"name": "prices", "author": "ana", "effective_from": "2026-01-01", "plans": plans}
    return PriceBook.model_validate({**values, **changes})


@pytest.mark.parametrize(
    ("charge", "rows"),
    [
        ({"model": "per_unit", "unit_price": "2.50", "per_units": 1000}, [("each unit", "2.5 per 1,000")]),
        (
            {
                "model": "volume",
                "tiers": [
                    {"up_to": 1000, "unit_price": 0},
                    {"up_to": 5000, "unit_price": 2, "flat_fee": 7},
                    {"flat_fee": 9},
                ],
            },
            [("to 1,000", "0"), ("above 1,000 to 5,000", "2 + 7 flat"), ("above 5,000", "9 flat")],
        ),
        ({"model": "package", "package_size": 100, "package_price": "5"}, [("each 100 (up)", "5")]),
        (
            {"model": "percentage", "percent": "2.9", "fixed_fee_per_event": "0.30", "free_events": 3},
            [("the amount", "2.9 %"), ("fixed fee per event", "0.3"), ("free events", "3")],
        ),
        (
            {"model": "graduated_percentage", "tiers": [{"up_to": 1000, "percent": 3}, {"percent": "1.5"}]},
            [("to 1,000", "3 %"), ("above 1,000", "1.5 %")],
        ),
        (
            {"model": "matrix", "cells": [{"match": {"region": "eu", "gpu": "a"}, "unit_price": "1"}]},
            [("gpu = a, region = eu", "1"), ("any other", "refused")],
        ),
        ({"model": "dynamic"}, [("each event", "its own price")]),
        (
            {"model": "flat_fee", "amount": "49", "timing": "advance", "prorated": False},
            [("each period, in advance, whole", "49")],
        ),
        (
            {
                "model": "per_unit",
                "unit_price": "1",
                "included_units": 1000,
                "maximum_amount": "50",
                "discounts": [{"percent": 10}, {"amount": 5, "description": "Welcome"}],
            },
            [
                ("each unit", "1"),
                ("included units", "1,000"),
                ("maximum amount", "50"),
                ("discount", "10 % (Discount)"),
                ("discount", "5 (Welcome)"),
            ],
        ),
    ],
)
def test_a_charge_says_what_each_part_of_it_costs(charge: dict[str, Any], rows: list[tuple[str, str]]) -> None:
    assert price_rows(CHARGE.validate_python({**COMMON, **charge})) == rows


def test_a_book_shows_policy_plans_charges_commitments_and_overrides() -> None:
    shown = book_lines(
        book(
            plan={
                "commitments": [{"currency": "USD", "amount": 1000, "overage_factor": "1.2"}],
                "discounts": [{"percent": 5}],
            },
            overrides=[OVERRIDE],
        )
    )

    rows = [row for table in shown for row in table]
    assert ["rounding", "half_up"] in rows
    assert ["calls", "Calls", "per_unit", "each unit", "1", "USD"] in rows
    assert ["commitment", "1,000", "USD", "Minimum commitment, beyond it times 1.2, prorated"] in rows
    assert ["discount", "5 %", "any currency", "Discount"] in rows
    assert ["override of acct-1", "from 2026-02-01, no end", "deal"] in rows


def test_a_book_is_no_change_of_itself_in_another_order() -> None:
    other = {**PER_UNIT, "sku": "tokens"}

    assert book_changes(book(PER_UNIT, other), book(other, PER_UNIT)) == []


def test_every_changed_price_is_named_with_old_and_new() -> None:
    tiers = {**COMMON, "sku": "tokens", "model": "graduated"}
    before = book(PER_UNIT, {**tiers, "tiers": [{"up_to": 10, "unit_price": 2}, {"unit_price": 1}]})
    after = book(
        {**PER_UNIT, "unit_price": "1.25", "minimum_amount": 5},
        {**tiers, "tiers": [{"up_to": 1000, "unit_price": 2}, {"up_to": 2000, "unit_price": 1}, {"unit_price": "0.5"}]},
        rounding="half_even",
    )

    calls, tokens = "plan standard, SKU calls, USD", "plan standard, SKU tokens, USD"
    assert book_changes(before, after) == [
        BookChange("book", "rounding", "half_up", "half_even"),
        BookChange(calls, "unit_price", "1", "1.25"),
        BookChange(calls, "minimum_amount", None, "5"),
        BookChange(tokens, "tiers.#1.up_to", "10", "1,000"),
        BookChange(tokens, "tiers.#2.up_to", None, "2,000"),
        BookChange(tokens, "tiers.#3.unit_price", None, "0.5"),
        BookChange(tokens, "tiers.#3.flat_fee", None, "0"),
    ]


def test_what_is_added_and_removed_is_named_whole() -> None:
    before = book(PER_UNIT, {**PER_UNIT, "currency": "EUR"})
    after = book(PER_UNIT, {**PER_UNIT, "sku": "tokens"}, overrides=[OVERRIDE])

    changes = {(change.subject, change.key): change for change in book_changes(before, after)}

    removed = changes["plan standard, SKU calls, EUR", "removed"]
    added = changes["plan standard, SKU tokens, USD", "added"]
    override = changes["override acct-1, SKU calls, USD, from 2026-02-01", "added"]
    assert len(changes) == 3
    assert (removed.new, added.old, override.old) == (None, None, None)
    assert "unit_price 1" in (removed.old or "")
    assert "model per_unit" in (added.new or "")
    assert "reason deal" in (override.new or "")


def test_a_commitment_and_a_discount_of_a_plan_are_part_of_it() -> None:
    before = book(plan={"commitments": [{"currency": "USD", "amount": 1000}]})
    after = book(plan={"commitments": [{"currency": "USD", "amount": 2000}], "discounts": [{"percent": 5}]})

    assert [(change.subject, change.key, change.old, change.new) for change in book_changes(before, after)] == [
        ("plan standard", "commitments.#1.amount", "1,000", "2,000"),
        ("plan standard", "discounts.#1.description", None, "Discount"),
        ("plan standard", "discounts.#1.percent", None, "5"),
    ]
