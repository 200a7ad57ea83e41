"""Rating: usage times the price book, exact until the line item, rounded once there (P6)."""

import json
import tomllib
from dataclasses import fields
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.account import Account
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import PricingError
from pipeline.core.line_item import LineItem
from pipeline.core.price_book import PriceBook, Tier
from pipeline.core.project import PricedBook
from pipeline.core.rating import PeriodUsage, rate_usage, split_into_tiers

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "rating-cases.jsonl"
SUPPORTED_CHARGE_KEYS = {"model", "unit_price", "per_units", "tiers"}
SUPPORTED_TIER_KEYS = {"up_to", "unit_price", "flat_fee"}


def account(account_id: str = "acct-7", **changes: str) -> Account:
    facts = {"name": "Seven", "currency": "USD", "time_zone": "UTC", "plan": "standard", **changes}
    return Account(account_id, **facts)


def usage(quantity: str, sku: str = "api-calls", account_id: str = "acct-7", unit: str = "calls") -> PeriodUsage:
    return PeriodUsage(account_id, sku, unit, Decimal(quantity))


def per_unit(unit_price: str = "0.01", sku: str = "api-calls", **changes: Any) -> dict[str, Any]:
    description = {"description": "API calls", "currency": "USD"}
    return {"model": "per_unit", "sku": sku, "unit_price": unit_price, **description, **changes}


def graduated(*tiers: dict[str, str], **changes: Any) -> dict[str, Any]:
    description = {"sku": "api-calls", "description": "API calls", "currency": "USD"}
    return {"model": "graduated", "tiers": list(tiers), **description, **changes}


THREE_TIERS = graduated(
    {"up_to": "10", "unit_price": "3"}, {"up_to": "20", "unit_price": "2", "flat_fee": "5"}, {"unit_price": "1"}
)


def book(*charges: dict[str, Any], **changes: Any) -> PricedBook:
    content = {
        "name": "prices",
        "author": "ana",
        "effective_from": "2026-01-01",
        "plans": {"standard": {"charges": list(charges)}},
        **changes,
    }
    return PricedBook(PriceBook.model_validate(content), "prices@0123456789ab")


def rate(
    *rows: PeriodUsage,
    priced: PricedBook | None = None,
    accounts: tuple[Account, ...] = (account(),),
    period_id: str = "2026-01",
) -> list[LineItem]:
    directory = {one.account_id: one for one in accounts}
    return rate_usage(rows, period_id, directory, lambda _day: priced)


def quantities_and_amounts(items: list[LineItem]) -> list[tuple[int, str, str]]:
    return [(item.tier, f"{item.quantity:f}", f"{item.amount:f}") for item in items]


def test_a_line_item_has_the_columns_of_the_dataset_in_their_order() -> None:
    assert tuple(field.name for field in fields(LineItem)) == LINE_ITEMS.column_names


def test_every_unit_costs_the_unit_price() -> None:
    [item] = rate(usage("1234"), priced=book(per_unit("0.01")))

    assert (item.amount, item.currency) == (Decimal("12.34"), "USD")


def test_a_price_per_million_units_is_exact_for_one_unit() -> None:
    [item] = rate(usage("1"), priced=book(per_unit("2.5", per_units="1000000")))

    assert item.amount_exact == Decimal("0.0000025")
    assert (item.unit_price, item.per_units) == (Decimal("2.5"), Decimal(1000000))


def test_the_residual_is_what_rounding_took_or_gave() -> None:
    [item] = rate(usage("3"), priced=book(per_unit("0.0049")))

    assert (item.amount_exact, item.amount, item.residual) == (Decimal("0.0147"), Decimal("0.01"), Decimal("0.0047"))


def test_half_a_cent_is_rounded_as_the_price_book_says() -> None:
    [up] = rate(usage("1"), priced=book(per_unit("2.685")))
    [even] = rate(usage("1"), priced=book(per_unit("2.685"), rounding="half_even"))

    assert (up.amount, even.amount) == (Decimal("2.69"), Decimal("2.68"))


def test_a_quantity_with_all_its_decimals_loses_none_of_them() -> None:
    [item] = rate(usage("123456789.123456789"), priced=book(per_unit("0.000000000001")))

    assert item.amount_exact == Decimal("0.000123456789123456789")
    assert item.amount == 0
    assert item.residual == item.amount_exact


def test_an_amount_of_more_digits_than_python_keeps_by_default_stays_exact() -> None:
    [item] = rate(usage("9999999999999.123456789"), priced=book(per_unit("1234.123456789012")))

    assert item.amount_exact == Decimal("12341234567889038.237462415739672002468")
    assert item.residual == Decimal("-0.002537584260327997532")


def test_each_tier_that_usage_enters_is_one_line_item() -> None:
    items = rate(usage("25"), priced=book(THREE_TIERS))

    assert quantities_and_amounts(items) == [(1, "10", "30.00"), (2, "10", "25.00"), (3, "5", "5.00")]


def test_the_bound_of_a_tier_belongs_to_it() -> None:
    at_the_bound = rate(usage("10"), priced=book(THREE_TIERS))
    just_above = rate(usage("10.000000001"), priced=book(THREE_TIERS))

    assert quantities_and_amounts(at_the_bound) == [(1, "10", "30.00")]
    assert quantities_and_amounts(just_above) == [(1, "10", "30.00"), (2, "0.000000001", "5.00")]


def test_the_flat_fee_of_a_tier_is_due_once_when_usage_enters_it() -> None:
    [_, second] = rate(usage("11"), priced=book(THREE_TIERS))

    assert second.amount_exact == Decimal(2 + 5)


def test_the_id_of_a_line_item_says_what_it_prices() -> None:
    graduated_items = rate(usage("11"), priced=book(THREE_TIERS))
    [per_unit_item] = rate(usage("11"), priced=book(per_unit()))

    assert graduated_items[1].line_item_id == "acct-7/api-calls/2026-01/graduated/2"
    assert per_unit_item.line_item_id == "acct-7/api-calls/2026-01/per_unit/1"


def test_usage_below_zero_gives_a_line_below_zero_in_the_first_tier() -> None:
    first_tier_has_a_fee = graduated({"up_to": "10", "unit_price": "3", "flat_fee": "7"}, {"unit_price": "1"})

    [item] = rate(usage("-25"), priced=book(first_tier_has_a_fee))

    assert (item.tier, item.quantity, item.amount) == (1, Decimal(-25), Decimal(-75))


def test_usage_of_zero_makes_no_line_and_needs_no_price() -> None:
    assert rate(usage("0"), priced=book(THREE_TIERS)) == []
    assert rate(usage("0"), priced=None) == []


def test_a_free_tier_still_makes_a_line_so_that_quantities_tie() -> None:
    items = rate(usage("7"), priced=book(graduated({"up_to": "5", "unit_price": "0"}, {"unit_price": "2"})))

    assert quantities_and_amounts(items) == [(1, "5", "0.00"), (2, "2", "4.00")]


def test_line_items_are_in_order_of_id_whatever_the_order_of_usage() -> None:
    accounts = (account("acct-1"), account("acct-2"))
    rows = [usage("1", account_id="acct-2"), usage("25", account_id="acct-1"), usage("9", "gb", account_id="acct-1")]
    priced = book(THREE_TIERS, per_unit(sku="gb"))

    items = rate(*rows, priced=priced, accounts=accounts)

    assert items == rate(*rows[::-1], priced=priced, accounts=accounts)
    assert [item.line_item_id for item in items] == sorted(item.line_item_id for item in items)


def test_an_account_is_priced_in_its_own_currency() -> None:
    priced = book(per_unit("0.01"), per_unit("1.5", currency="JPY"))

    [item] = rate(usage("333"), priced=priced, accounts=(account(currency="JPY"),))

    assert (item.amount, item.currency) == (Decimal(500), "JPY")


def test_the_service_period_is_the_month_in_the_time_zone_of_the_account() -> None:
    [item] = rate(usage("1"), priced=book(per_unit()), accounts=(account(time_zone="America/New_York"),))

    assert item.service_period_start == datetime(2026, 1, 1, 5, tzinfo=UTC)
    assert item.service_period_end == datetime(2026, 2, 1, 5, tzinfo=UTC)


def test_a_price_book_begins_with_the_day_in_the_time_zone_of_each_account() -> None:
    old, new = book(per_unit("1")), book(per_unit("2"))
    accounts = {
        "east": account("east", time_zone="Asia/Tokyo"),  # its January starts on 31 December, 15:00 UTC
        "west": account("west", time_zone="America/New_York"),  # and its on 1 January, 05:00 UTC
    }

    def priced(first_day: date) -> list[Decimal]:
        items = rate_usage(
            [usage("1", account_id="east"), usage("1", account_id="west")],
            "2026-01",
            accounts,
            lambda day: new if day >= first_day else old,
        )
        return [item.amount for item in items]

    assert priced(date(2026, 1, 1)) == [Decimal(2), Decimal(2)]
    assert priced(date(2026, 1, 2)) == [Decimal(1), Decimal(1)]


def test_everything_without_a_price_is_named_in_one_refusal() -> None:
    accounts = (account("acct-1"), account("acct-2", currency="EUR"), account("acct-3", plan="gold"))

    with pytest.raises(PricingError) as refusal:
        rate(
            usage("1", account_id="acct-1"),
            usage("2", account_id="acct-1", sku="storage"),
            usage("3", account_id="acct-2"),
            usage("4", account_id="acct-3"),
            priced=book(per_unit()),
            accounts=accounts,
        )

    assert refusal.value.code == "pricing.unpriced_usage"
    book_name = "price book prices@0123456789ab"
    assert refusal.value.details[:-1] == (
        f"account acct-1, SKU storage, 2 calls: plan 'standard' of {book_name} has no charge in USD",
        f"account acct-2, SKU api-calls, 3 calls: plan 'standard' of {book_name} has no charge in EUR",
        f"account acct-3, SKU api-calls, 4 calls: {book_name} has no plan 'gold'",
    )


def test_usage_without_an_effective_price_book_is_refused() -> None:
    with pytest.raises(PricingError, match="no price book is effective on 2026-01-01"):
        rate(usage("1"), priced=None)


def test_a_sku_counted_in_two_units_within_a_period_is_refused() -> None:
    with pytest.raises(PricingError, match="counted in calls as well"):
        rate(usage("1", unit="calls"), usage("1", unit="bytes"), priced=book(per_unit()))


def test_an_amount_that_does_not_fit_its_column_is_refused() -> None:
    fits = rate(usage("9" * 17), priced=book(per_unit("1")))
    assert fits[0].amount == Decimal("9" * 17)

    with pytest.raises(PricingError, match="more than 17 digits before the point"):
        rate(usage("1" + "0" * 17), priced=book(per_unit("1")))


@given(
    st.decimals(-1000, 1000, allow_nan=False, places=9),
    st.lists(st.decimals("0.000000001", 100, allow_nan=False, places=9), min_size=0, max_size=4),
)
def test_the_parts_of_a_quantity_add_up_to_it(quantity: Decimal, widths: list[Decimal]) -> None:
    bounds = [sum(widths[: count + 1], Decimal(0)) for count in range(len(widths))]
    tiers = [*(Tier(up_to=bound, unit_price=Decimal(1)) for bound in bounds), Tier(unit_price=Decimal(1))]

    assert sum((part.quantity for part in split_into_tiers(quantity, tiers)), Decimal(0)) == quantity


def _oracle_cases() -> list[dict[str, Any]]:
    if not ORACLES.is_file():
        return []
    cases = [json.loads(line) for line in ORACLES.read_text().splitlines()]
    return [case for case in cases if case["charge"]["model"] in ("per_unit", "graduated")]


def _unsupported(case: dict[str, Any]) -> str:
    """Name what the case needs and a charge cannot say yet."""
    charge = dict(case["charge"])
    if Decimal(case["usage"]["quantity"]) != 0 or charge.get("zero_usage_flat_fee") == "skip":
        charge.pop("zero_usage_flat_fee", None)  # decides about zero usage only, and `skip` is what is done
    elif not any(tier.get("flat_fee") for tier in charge.get("tiers", [])[:1]):
        charge.pop("zero_usage_flat_fee", None)
    unknown = set(charge) - SUPPORTED_CHARGE_KEYS
    for tier in charge.get("tiers", []):
        unknown |= {f"tiers.{key}" for key in set(tier) - SUPPORTED_TIER_KEYS}
    return ", ".join(sorted(unknown))


@pytest.mark.parametrize("case", [*_oracle_cases()] or [None], ids=lambda case: case["id"] if case else "absent")
def test_published_examples_of_other_systems_give_their_printed_amounts(case: dict[str, Any] | None) -> None:
    if case is None:
        assert not ORACLES.is_file(), "the file is there and holds no case of these models"
        pytest.skip(f"the rating cases of other systems are not here: {ORACLES.name} in ../shared/oracles")
    if missing := _unsupported(case):
        pytest.skip(f"a charge has no {missing} yet")
    given = case["charge"]
    charge = {"sku": "api-calls", "description": "API calls", "currency": case["currency"], **given}
    charge.pop("zero_usage_flat_fee", None)
    accounts = (account(currency=case["currency"]),)

    items = rate(usage(case["usage"]["quantity"]), priced=book(charge), accounts=accounts)

    if "amount_exact" in case["expected"]:
        assert sum(item.amount_exact for item in items) == Decimal(case["expected"]["amount_exact"])
    if "amount" in case["expected"]:
        assert sum(item.amount for item in items) == Decimal(case["expected"]["amount"])


PRICING_PAGE = Path(__file__).parents[2] / "docs" / "pricing.md"


def test_the_worked_numbers_of_the_pricing_page_are_what_rating_gives() -> None:
    text = PRICING_PAGE.read_text(encoding="utf-8")
    toml = text.split("```toml\n")[1].split("```")[0]
    priced = PricedBook(PriceBook.model_validate(tomllib.loads(toml, parse_float=Decimal)), "list-prices@0123456789ab")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| images", "| tokens"))]
    assert len(rows) == 9
    printed: dict[tuple[str, str], list[tuple[Decimal, ...]]] = {}
    for sku, used, *numbers in rows:
        printed.setdefault((sku, used), []).append(tuple(Decimal(number) for number in numbers))

    for (sku, used), expected in printed.items():
        items = rate(usage(used, sku=sku), priced=priced)

        assert [
            (item.tier, item.quantity, item.amount_exact, item.amount, item.residual) for item in items
        ] == expected, f"{used} {sku}"
