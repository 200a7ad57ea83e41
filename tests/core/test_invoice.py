"""Invoices: what the document says follows from the lines, and from nothing else (P1)."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pipeline.core.account import Account
from pipeline.core.invoice import InvoiceDraft, InvoiceEvidence, draft_invoices, invoice_document, issue_date
from pipeline.core.manifest import canonical_json
from pipeline.core.price_book import PriceBook
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.rate_usage import LineItem, PeriodUsage, rate_usage
from pipeline.core.window import billing_period

BERLIN = billing_period("2026-01", "Europe/Berlin")
SELLER = SellerSettings(legal_entity="Northwind Inference Ltd", address="Dublin", number_series="LLM")
LAST_CUTOFF = datetime(2026, 2, 1, 6, tzinfo=UTC)
CHARGE = {"sku": "tokens", "description": "Tokens", "currency": "EUR", "model": "graduated"}


def account(account_id: str = "acct-7") -> Account:
    return Account(account_id, "Seven GmbH", "EUR", "Europe/Berlin", "standard")


def book(*tiers: dict[str, str]) -> PricedBook:
    fields = {"name": "prices", "author": "ana", "effective_from": "2025-01-01"}
    plan = {"charges": [{**CHARGE, "tiers": list(tiers)}]}
    return PricedBook(PriceBook.model_validate({**fields, "plans": {"standard": plan}}), "prices@0123456789ab")


TWELVE_TIERS = book(*({"up_to": str(number), "unit_price": "1"} for number in range(1, 12)), {"unit_price": "1"})
THREE_TIERS = book(
    {"up_to": "10", "unit_price": "0.333"}, {"up_to": "20", "unit_price": "2", "flat_fee": "5"}, {"unit_price": "1"}
)


def lines_of(quantity: str, priced: PricedBook = THREE_TIERS, account_id: str = "acct-7") -> list[LineItem]:
    usage = PeriodUsage(account_id, "tokens", "tokens", Decimal(quantity))
    return rate_usage([usage], "2026-01", {account_id: account(account_id)}, lambda _instant: priced)


def document(lines: list[LineItem], priced: PricedBook = THREE_TIERS, **changes: Any) -> dict[str, Any]:
    draft = changes.pop("draft", None) or draft_invoices(lines)[0]
    evidence = InvoiceEvidence("f" * 64, {"2026-01-01": "a" * 64})
    return invoice_document("LLM-000001", draft, lines, account(), SELLER, BERLIN, priced, [LAST_CUTOFF], evidence)


def test_an_account_with_lines_gets_one_draft_with_the_sum_of_its_rounded_amounts() -> None:
    lines = [*lines_of("25", account_id="acct-8"), *lines_of("1"), *lines_of("25")[1:]]

    assert draft_invoices(lines) == [
        InvoiceDraft("acct-7", "EUR", Decimal("30.33")),
        InvoiceDraft("acct-8", "EUR", Decimal("33.33")),
    ]


def test_a_total_below_zero_stays_below_zero() -> None:
    [draft] = draft_invoices(lines_of("-9"))

    assert draft.total == Decimal("-3.00")
    assert document(lines_of("-9"))["total"] == "-3"


def test_lines_in_two_currencies_never_make_one_total() -> None:
    lines = lines_of("25")

    with pytest.raises(ValueError, match="cannot combine EUR and USD"):
        draft_invoices([lines[0], replace(lines[1], currency="USD")])


def test_the_document_says_the_bounds_price_and_fee_of_each_tier() -> None:
    lines = document(lines_of("25"))["lines"]

    assert [(line["tier_above"], line["tier_first_unit"], line["tier_up_to"]) for line in lines] == [
        ("0", "1", "10"),
        ("10", "11", "20"),
        ("20", "21", None),
    ]
    assert [(line["quantity"], line["unit_price"], line["flat_fee"], line["amount"]) for line in lines] == [
        ("10", "0.333", "0", "3.33"),
        ("10", "2", "5", "25"),
        ("5", "1", "0", "5"),
    ]


def test_a_tier_with_a_part_of_a_unit_has_no_first_unit() -> None:
    assert [line["tier_first_unit"] for line in document(lines_of("20.5"))["lines"]] == ["1", "11", None]


def test_tiers_are_in_order_of_number_on_the_document() -> None:
    lines = lines_of("12", TWELVE_TIERS)
    assert [line.tier for line in lines][:3] == [1, 10, 11], "the order of ids is the order of text"

    assert [line["tier"] for line in document(lines, TWELVE_TIERS)["lines"]] == list(range(1, 13))


def test_the_period_is_printed_as_dates_of_the_account_and_as_instants() -> None:
    period = document(lines_of("1"))["period"]

    assert (period["first_date"], period["last_date"]) == ("2026-01-01", "2026-01-31")
    assert (period["start"], period["end"]) == ("2025-12-31T23:00:00+00:00", "2026-01-31T23:00:00+00:00")


def test_the_issue_date_is_the_day_of_the_last_cutoff_where_the_customer_is() -> None:
    cutoffs = [LAST_CUTOFF, datetime(2026, 1, 2, 6, tzinfo=UTC)]

    assert issue_date(cutoffs, "Europe/Berlin").isoformat() == "2026-02-01"
    assert issue_date(cutoffs, "America/Los_Angeles").isoformat() == "2026-01-31"


def test_the_document_is_the_same_bytes_whatever_the_order_of_the_lines() -> None:
    lines = lines_of("25")

    assert canonical_json(document(lines)) == canonical_json(document(lines[::-1]))


def test_a_draft_that_is_not_the_sum_of_the_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="do not add up to"):
        document(lines_of("25"), draft=InvoiceDraft("acct-7", "EUR", Decimal("33.34")))


@pytest.mark.parametrize(
    "foreign", [{"account_id": "acct-8"}, {"period_id": "2026-02"}, {"price_book_version": "prices@ffffffffffff"}]
)
def test_a_line_of_another_account_period_or_price_book_is_refused(foreign: dict[str, str]) -> None:
    lines = lines_of("25")

    with pytest.raises(ValueError, match="does not belong to this invoice"):
        document([*lines[:2], replace(lines[2], **foreign)])
