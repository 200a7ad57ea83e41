"""Documents: what they say follows from the lines, and from nothing else (P1)."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.account import Account
from pipeline.core.credit import CreditDraw, CreditKind
from pipeline.core.errors import PricingError
from pipeline.core.invoice import (
    DocumentKind,
    InvoiceDraft,
    InvoiceEvidence,
    PreparedDocument,
    draft_invoices,
    finish_document,
    issue_date,
    lines_of_document,
    prepare_document,
)
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.manifest import canonical_json
from pipeline.core.price_book import PriceBook
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.tax import TaxTable
from pipeline.core.window import billing_period

BERLIN = billing_period("2026-01", "Europe/Berlin")
SELLER = SellerSettings(legal_entity="Northwind Inference Ltd", address="Dublin", tax_id="IE9", number_series="LLM")
EVIDENCE = InvoiceEvidence("f" * 64, "a" * 64, None)
VERSION = "prices@0123456789ab"
TAXES = TaxTable.model_validate({"rates": [{"region": "DE", "category": "standard", "name": "VAT", "percent": "19"}]})


def account(account_id: str = "acct-7", **changes: str) -> Account:
    facts = {"name": "Seven GmbH", "currency": "EUR", "time_zone": "Europe/Berlin", "plan": "standard", **changes}
    return Account(account_id, **facts)


def book(*tiers: dict[str, str], **changes: Any) -> PricedBook:
    charge = {"sku": "tokens", "description": "Tokens", "currency": "EUR", "model": "graduated", "tiers": list(tiers)}
    facts = {"name": "prices", "author": "ana", "effective_from": "2025-01-01", **changes}
    plan = {"charges": [charge], "commitments": [{"currency": "EUR", "amount": "100"}]}
    return PricedBook(PriceBook.model_validate({**facts, "plans": {"standard": plan}}), VERSION)


THREE_TIERS = book(
    {"up_to": "10", "unit_price": "0.333"}, {"up_to": "20", "unit_price": "2", "flat_fee": "5"}, {"unit_price": "1"}
)


def line(tier: int = 1, amount: str = "3.33", **changes: Any) -> LineItem:
    """Return a line of SKU tokens that is exactly its rounded amount, unless said otherwise."""
    exact = Decimal(changes.pop("amount_exact", amount))
    facts: dict[str, Any] = {
        "line_item_id": f"acct-7/tokens/2026-01/graduated/{tier}",
        "account_id": "acct-7",
        "period_id": "2026-01",
        "segment": 1,
        "service_period_start": BERLIN.start,
        "service_period_end": BERLIN.end,
        "plan": "standard",
        "sku": "tokens",
        "description": "Tokens",
        "kind": LineKind.USAGE,
        "model": "graduated",
        "tier": tier,
        "quantity": Decimal(10),
        "unit": "tokens",
        "unit_price": Decimal("0.333"),
        "per_units": Decimal(1),
        "flat_fee": Decimal(0),
        "currency": "EUR",
        "amount_exact": exact,
        "amount": Decimal(amount),
        "residual": exact - Decimal(amount),
        "tax_category": "standard",
        "price_book_version": VERSION,
    }
    return LineItem(**{**facts, **changes})


LINES = [line(), line(2, "25", flat_fee=Decimal(5), unit_price=Decimal(2)), line(3, "5", quantity=Decimal("5.5"))]
COMMITMENT = line(
    0, "66.67", sku="plan:standard", kind=LineKind.COMMITMENT, model="", line_item_id="acct-7/plan:standard/2026-01/c"
)


def prepared(lines: list[LineItem], who: Account | None = None, **changes: Any) -> PreparedDocument:
    facts: dict[str, Any] = {"books": {VERSION: THREE_TIERS}, "issued_on": date(2026, 2, 1), "evidence": EVIDENCE}
    return prepare_document(lines, who or account(), SELLER, BERLIN, **{**facts, **changes})


def document(lines: list[LineItem], who: Account | None = None, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(finish_document(prepared(lines, who, **changes), "LLM-000001")[0])
    return found


def test_an_account_with_lines_gets_one_draft_with_the_sum_of_its_rounded_amounts() -> None:
    lines = [line(account_id="acct-8", amount="33.33"), *LINES[:2], LINES[2]._replace(amount=Decimal("2"))]

    assert draft_invoices(lines) == [
        InvoiceDraft("acct-7", "EUR", Decimal("30.33")),
        InvoiceDraft("acct-8", "EUR", Decimal("33.33")),
    ]


def test_a_total_below_zero_stays_below_zero() -> None:
    made = document([line(amount="-3.00")], account(tax_region="DE"), taxes=TAXES)

    assert (made["subtotal"], made["total"], made["amount_due"]) == ("-3", "-3.57", "-3.57")


def test_lines_in_two_currencies_never_make_one_total() -> None:
    with pytest.raises(ValueError, match="cannot combine EUR and USD"):
        draft_invoices([LINES[0], LINES[1]._replace(currency="USD")])


def test_each_line_says_what_its_price_was_made_from() -> None:
    lines = document(LINES)["lines"]

    assert [one["terms"] for one in lines] == [
        {"above": "0", "first_unit": "1", "up_to": "10"},
        {"above": "10", "first_unit": "11", "up_to": "20"},
        {"above": "20"},  # a part of a unit has no first one
    ]
    assert [(one["quantity"], one["unit_price"], one["flat_fee"], one["amount"]) for one in lines] == [
        ("10", "0.333", "0", "3.33"),
        ("10", "2", "5", "25"),
        ("5.5", "0.333", "0", "5"),
    ]
    assert document([COMMITMENT])["lines"][0]["terms"] == {"amount": "100"}


def test_lines_are_in_order_of_sku_part_kind_and_tier_and_those_of_the_plan_come_last() -> None:
    second_part = line(11)._replace(segment=2, line_item_id="acct-7/tokens/2026-01.2/graduated/1", tier=1)
    zeta = line()._replace(sku="zeta", line_item_id="acct-7/zeta/2026-01/minimum", kind=LineKind.FLAT_FEE)
    included = line()._replace(kind=LineKind.INCLUDED, line_item_id="acct-7/tokens/2026-01/included")
    books = {VERSION: _with_zeta()}

    lines = document([COMMITMENT, zeta, second_part, included, line(3), line(2), line(1)], books=books)["lines"]

    assert [one["line_item_id"].removeprefix("acct-7/") for one in lines] == [
        "tokens/2026-01/graduated/1",
        "tokens/2026-01/graduated/2",
        "tokens/2026-01/graduated/3",
        "tokens/2026-01/included",
        "tokens/2026-01.2/graduated/1",
        "zeta/2026-01/minimum",
        "plan:standard/2026-01/c",
    ]


def _with_zeta() -> PricedBook:
    facts = THREE_TIERS.book.model_dump()
    zeta = {"sku": "zeta", "description": "Z", "currency": "EUR", "model": "flat_fee", "amount": Decimal(1)}
    facts["plans"]["standard"]["charges"] = [*facts["plans"]["standard"]["charges"], zeta]
    facts["plans"]["standard"]["charges"][0]["included_units"] = Decimal(5)
    return PricedBook(PriceBook.model_validate(facts), VERSION)


def test_the_period_and_the_service_are_printed_as_dates_of_the_account_and_as_instants() -> None:
    half = datetime(2026, 1, 14, 23, tzinfo=UTC)
    made = document([line()._replace(service_period_end=half)])

    period, served = made["period"], made["lines"][0]
    assert (period["first_date"], period["last_date"]) == ("2026-01-01", "2026-01-31")
    assert (period["start"], period["end"]) == ("2025-12-31T23:00:00+00:00", "2026-01-31T23:00:00+00:00")
    assert (served["service_first_date"], served["service_last_date"]) == ("2026-01-01", "2026-01-14")


def test_the_issue_date_is_the_day_of_the_issue_where_the_seller_is() -> None:
    at, in_california = datetime(2026, 2, 1, 6, tzinfo=UTC), {"time_zone": "America/Los_Angeles"}

    assert issue_date(at, SELLER).isoformat() == "2026-02-01"
    assert issue_date(at, SELLER.model_copy(update=in_california)).isoformat() == "2026-01-31"


def test_a_document_is_the_same_canonical_bytes_whatever_the_order_of_the_lines() -> None:
    made, _ = finish_document(prepared(LINES), "LLM-000001")

    assert finish_document(prepared(LINES[::-1]), "LLM-000001")[0] == made
    assert canonical_json(json.loads(made)) == made


def test_taxes_are_on_the_sum_of_a_category_and_the_newest_book_rounds_them() -> None:
    lines = [line(amount="0.05"), line(2, "0.20")]
    ten = TaxTable.model_validate({"rates": [{**TAXES.rates[0].model_dump(), "percent": "10"}]})
    older = PricedBook(book({"unit_price": "1"}, effective_from="2024-01-01").book, "prices@older")
    newer = PricedBook(book({"unit_price": "1"}, rounding="half_even").book, VERSION)
    of_two_books = [lines[0]._replace(price_book_version="prices@older"), lines[1]._replace(tier=1)]

    one_book = document(lines, account(tax_region="DE"), taxes=ten)
    two_books = document(
        of_two_books, account(tax_region="DE"), taxes=ten, books={VERSION: newer, "prices@older": older}
    )

    assert (one_book["subtotal"], one_book["total"]) == ("0.25", "0.28")
    assert two_books["total"] == "0.27"
    assert two_books["evidence"]["price_book_versions"] == [VERSION, "prices@older"]
    assert [(tax["net"], tax["tax"]) for tax in one_book["taxes"]] == [("0.25", "0.03")]


def test_without_a_tax_table_there_is_no_tax() -> None:
    made = document(LINES)

    assert (made["taxes"], made["total"]) == ([], made["subtotal"])


@pytest.mark.parametrize(
    ("region", "category", "said"),
    [("DE", "books", "region 'DE': no rate for category 'books'"), ("", "standard", "accounts.csv has no tax_region")],
)
def test_a_charge_without_a_tax_rate_is_refused_by_name(region: str, category: str, said: str) -> None:
    with pytest.raises(PricingError, match=f"account acct-7, .*{said}"):
        prepared([line(tax_category=category)], account(tax_region=region), taxes=TAXES)


def test_reverse_charge_names_the_tax_ids_of_both_or_is_refused() -> None:
    note = "VAT is owed by the customer (reverse charge)."
    rate = {"region": "EU", "name": "VAT", "percent": Decimal(0), "reason": "reverse_charge", "note": note}
    taxes = TaxTable.model_validate({"rates": [rate]})

    made = document(LINES, account(tax_region="EU", tax_id="DE1", billing_address="Ring 7\nBerlin"), taxes=taxes)

    assert (made["customer"]["tax_id"], made["customer"]["address"]) == ("DE1", "Ring 7\nBerlin")
    assert made["seller"]["tax_id"] == "IE9"
    with pytest.raises(PricingError, match=r"account acct-7, region 'EU': accounts\.csv has no tax_id") as refused:
        prepared(LINES, account(tax_region="EU"), taxes=taxes)
    assert refused.value.code == "tax.no_tax_id"


def test_credits_are_drawn_after_everything_and_listed() -> None:
    draws = [CreditDraw("credit-1", "Welcome", CreditKind.PROMOTIONAL, Decimal("3.33"))]
    made = prepared(LINES, account(tax_region="DE"), taxes=TAXES)

    content, amount_due = finish_document(made, "LLM-000001", draws)

    assert made.total == Decimal("39.66")
    assert amount_due == Decimal("36.33")
    document = json.loads(content)
    assert (document["total"], document["amount_due"]) == ("39.66", "36.33")
    assert document["credits"] == [
        {"grant_id": "credit-1", "description": "Welcome", "kind": "promotional", "amount": "3.33"}
    ]
    with pytest.raises(ValueError, match="more credit than"):
        finish_document(made, "LLM-000001", [replace(draws[0], amount=Decimal("39.67"))])


def test_a_correcting_document_names_the_document_and_the_lines_it_corrects() -> None:
    lines = [line(amount="-1")]
    made = prepared(
        lines,
        kind=DocumentKind.CREDIT_NOTE,
        corrects="LLM-000001",
        corrected_line_ids={lines[0].line_item_id: "acct-7/tokens/2025-12/graduated/1"},
    )

    document = json.loads(finish_document(made, "CN-000001")[0])

    assert (document["document"], document["corrects"]) == ("credit_note", "LLM-000001")
    assert document["lines"][0]["corrects_line_item_id"] == "acct-7/tokens/2025-12/graduated/1"


@pytest.mark.parametrize("foreign", [{"account_id": "acct-8"}, {"period_id": "2026-02"}])
def test_a_line_of_another_account_or_period_is_refused(foreign: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="does not belong to this document"):
        prepared([*LINES[:2], LINES[2]._replace(**foreign)])


def test_a_line_of_an_unknown_book_and_a_document_without_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown book"):
        prepared([line(price_book_version="prices@ffffffffffff")])
    with pytest.raises(ValueError, match="needs a line"):
        prepared([])


@settings(max_examples=40)
@given(
    st.lists(
        st.builds(
            line,
            st.integers(1, 3),
            st.decimals("-1000", "1000", places=2).map(str),
            amount_exact=st.decimals("-1000", "1000", places=21).map(str),
            quantity=st.decimals("-1000", "1000", places=9),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_lines_that_were_billed_are_read_back_as_they_were_rated(lines: list[LineItem]) -> None:
    content, _ = finish_document(prepared(lines), "LLM-000001")

    read = lines_of_document(content)

    assert sorted(read, key=_by_values) == sorted(lines, key=_by_values)


def _by_values(one: LineItem) -> tuple[Any, ...]:
    return one.line_item_id, one.tier, one.quantity, one.amount, one.amount_exact
