"""What a line prints of its charge: bounds, packages, cells, discounts, and whose commitment it is."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.price_book import CHARGE, Plan
from pipeline.core.printed_terms import printed_terms

TIERS = [{"up_to": 10, "unit_price": 1}, {"up_to": "20.5", "unit_price": 2}, {"unit_price": 3}]
BASE = {"sku": "tokens", "description": "Tokens", "currency": "EUR"}
PLAN = Plan.model_validate(
    {
        "charges": [{**BASE, "model": "per_unit", "unit_price": 1}],
        "discounts": [{"percent": 5}, {"amount": 7, "currency": "EUR"}],
        "commitments": [
            {"currency": "USD", "amount": 1},
            {"currency": "EUR", "amount": 100, "overage_factor": "1.5"},
        ],
    }
)


def line(**changes: Any) -> LineItem:
    start, end, none = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), Decimal(0)
    facts: dict[str, Any] = {
        "line_item_id": "acct-7/tokens/2026-01/x/1",
        "account_id": "acct-7",
        "period_id": "2026-01",
        "segment": 1,
        "service_period_start": start,
        "service_period_end": end,
        "plan": "standard",
        "sku": "tokens",
        "description": "Tokens",
        "kind": LineKind.USAGE,
        "model": "",
        "tier": 1,
        "quantity": Decimal(5),
        "unit": "tokens",
        "unit_price": none,
        "per_units": Decimal(1),
        "flat_fee": none,
        "currency": "EUR",
        "amount_exact": none,
        "amount": none,
        "residual": none,
        "tax_category": "standard",
        "price_book_version": "standard@0",
    }
    return LineItem(**{**facts, **changes})


@pytest.mark.parametrize(
    ("charge", "changes", "expected"),
    [
        ({"model": "per_unit", "unit_price": 1}, {}, {}),
        ({"model": "graduated", "tiers": [{"unit_price": 1}]}, {}, {}),
        ({"model": "graduated", "tiers": TIERS}, {}, {"above": "0", "first_unit": "1", "up_to": "10"}),
        ({"model": "graduated", "tiers": TIERS}, {"tier": 2}, {"above": "10", "first_unit": "11", "up_to": "20.5"}),
        ({"model": "graduated", "tiers": TIERS}, {"tier": 3}, {"above": "20.5"}),
        ({"model": "volume", "tiers": TIERS}, {"quantity": Decimal("5.5")}, {"above": "0", "up_to": "10"}),
        (
            {"model": "graduated_percentage", "tiers": [{"up_to": 9, "percent": 1}, {"percent": "0.5"}]},
            {"tier": 2},
            {"above": "9", "first_unit": "10", "percent": "0.5"},
        ),
        (
            {"model": "package", "package_size": 1000, "package_price": "0.1"},
            {"amount_exact": Decimal("0.3")},
            {"package_size": "1000", "package_price": "0.1", "package_rounding": "up", "packages": "3"},
        ),
        (
            {"model": "package", "package_size": 1000, "package_price": 0, "package_rounding": "down"},
            {},
            {"package_size": "1000", "package_price": "0", "package_rounding": "down"},
        ),
        (
            {"model": "percentage", "percent": "2.9", "fixed_fee_per_event": "0.3", "free_events": 5},
            {},
            {"percent": "2.9", "fixed_fee_per_event": "0.3", "free_events": "5"},
        ),
        (
            {"model": "matrix", "cells": [{"match": {"b": "2", "a": "1"}, "unit_price": 1}], "default_unit_price": 2},
            {},
            {"match": {"a": "1", "b": "2"}},
        ),
        (
            {"model": "matrix", "cells": [{"match": {"a": "1"}, "unit_price": 1}], "default_unit_price": 2},
            {"tier": 0},
            {"match": {}},
        ),
        (
            {"model": "per_unit", "unit_price": 1, "discounts": [{"percent": 10}, {"amount": "2.50"}]},
            {"kind": LineKind.DISCOUNT, "tier": 2},
            {"amount": "2.5"},
        ),
        (
            {"model": "per_unit", "unit_price": 1, "maximum_amount": 9},
            {"kind": LineKind.MAXIMUM},
            {"maximum_amount": "9"},
        ),
        (
            {"model": "per_unit", "unit_price": 1, "minimum_amount": 9},
            {"kind": LineKind.MINIMUM},
            {"minimum_amount": "9"},
        ),
        (
            {"model": "per_unit", "unit_price": 1, "included_units": 9},
            {"kind": LineKind.INCLUDED},
            {"included_units": "9"},
        ),
        ({"model": "flat_fee", "amount": 9, "timing": "advance"}, {"kind": LineKind.FLAT_FEE}, {"timing": "advance"}),
    ],
)
def test_a_line_prints_what_its_charge_says_of_it(
    charge: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert printed_terms(line(**changes), CHARGE.validate_python({**BASE, **charge}), PLAN) == expected


@pytest.mark.parametrize(
    ("kind", "tier", "expected"),
    [
        (LineKind.PLAN_DISCOUNT, 1, {"percent": "5"}),
        (LineKind.PLAN_DISCOUNT, 2, {"amount": "7"}),
        (LineKind.COMMITMENT, 0, {"amount": "100"}),
        (LineKind.OVERAGE, 0, {"amount": "100", "overage_factor": "1.5"}),
    ],
)
def test_a_line_of_the_plan_prints_what_the_plan_says_in_its_currency(
    kind: LineKind, tier: int, expected: dict[str, str]
) -> None:
    assert printed_terms(line(kind=kind, tier=tier), None, PLAN) == expected


def test_a_line_of_a_charge_needs_the_charge() -> None:
    with pytest.raises(ValueError, match="is of a charge, and none was given"):
        printed_terms(line(), None, PLAN)
