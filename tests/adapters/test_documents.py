"""Documents: templates format finished values; they lose no digit, run no markup and show no hole."""

import re
from decimal import Decimal
from typing import Any

import pytest
from jinja2 import UndefinedError

from pipeline.adapters.documents import (
    TEMPLATES,
    format_amount,
    format_instant,
    format_quantity,
    format_unit_price,
    render,
)
from tests.core.test_invoice import THREE_TIERS, book, document, lines_of


def page(**changes: Any) -> str:
    return render("invoice.html", {**document(lines_of("25")), **changes})


def words(html: str) -> str:
    """Return what a person reads of a page."""
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(text.replace("&nbsp;", " ").split())


@pytest.mark.parametrize(
    ("number", "text"),
    [("0", "0"), ("1000", "1,000"), ("-1234567.5000", "-1,234,567.5"), ("1E+3", "1,000"), ("1E-9", "0.000000001")],
)
def test_a_quantity_shows_all_its_digits_without_exponent(number: str, text: str) -> None:
    assert format_quantity(number) == format_quantity(Decimal(number)) == text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [("5", "USD", "5.00"), ("-0.0000", "USD", "0.00"), ("1234567", "JPY", "1,234,567"), ("0.5", "KWD", "0.500")],
)
def test_an_amount_shows_the_minor_unit_of_its_currency(amount: str, currency: str, text: str) -> None:
    assert format_amount(amount, currency) == text


def test_an_amount_with_a_digit_too_many_is_refused_instead_of_rounded() -> None:
    with pytest.raises(ValueError, match="round before formatting"):
        format_amount("2.685", "USD")


def test_a_unit_price_shows_every_digit_it_has() -> None:
    assert format_unit_price("0.0000025", "USD") == "0.0000025"
    assert format_unit_price("2.5", "USD") == "2.50"


@pytest.mark.parametrize("number", [1.5, True, None])
def test_a_number_that_is_not_exact_is_refused(number: Any) -> None:
    with pytest.raises(TypeError, match="expected an exact decimal"):
        format_quantity(number)


def test_an_instant_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        format_instant("2026-02-01T00:00:00")


def test_a_missing_name_stops_the_page() -> None:
    model = document(lines_of("25"))
    del model["number"]

    with pytest.raises(UndefinedError, match="'number' is undefined"):
        render("invoice.html", model)


def test_a_name_with_markup_is_text_on_the_page() -> None:
    html = page(customer={"account_id": "acct-7", "name": "<script>alert(1)</script> & Co.", "plan": "standard"})

    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; Co." in html


def test_the_invoice_spells_out_its_tiers() -> None:
    text = words(page())

    assert "First 10 tokens at 0.333 EUR each 10 tokens 3.33" in text
    assert "11 – 20 tokens at 2.00 EUR each, plus a flat fee of 5.00 EUR 10 tokens 25.00" in text
    assert "21 tokens and above at 1.00 EUR each 5 tokens 5.00" in text
    assert "Total 33.33 EUR" in text


def test_a_price_per_million_is_printed_per_million() -> None:
    line = {**document(lines_of("1"))["lines"][0], "per_units": "1000000", "unit_price": "2.5"}

    assert "at 2.50 EUR per 1,000,000" in words(page(lines=[line]))


def test_a_tier_with_a_part_of_a_unit_is_printed_by_its_bounds() -> None:
    assert "More than 20 tokens at 1.00 EUR each 0.5 tokens" in words(
        render("invoice.html", document(lines_of("20.5")))
    )


def test_a_charge_without_tiers_is_printed_with_its_price_alone() -> None:
    single = book({"unit_price": "2"})

    assert "Tokens At 2.00 EUR each 3 tokens 6.00" in words(
        render("invoice.html", document(lines_of("3", single), single))
    )


def test_the_invoice_names_seller_customer_number_and_period_with_its_zone() -> None:
    text = words(page())

    for part in (
        "Invoice LLM-000001",
        "Northwind Inference Ltd",
        "Seven GmbH Account acct-7, plan standard",
        "1 January 2026 – 31 January 2026 Time zone Europe/Berlin",
        "Issue date 1 February 2026",
        f"Price book {THREE_TIERS.version}",
    ):
        assert part in text


def test_the_same_document_makes_the_same_page() -> None:
    assert page() == page()


def test_no_template_asks_another_host_for_anything() -> None:
    templates = sorted(TEMPLATES.glob("*.html"))
    assert templates

    for template in templates:
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#|\{)|@import|url\(|<script""", text), template.name


def test_the_invoice_page_forbids_every_request() -> None:
    assert "default-src 'none'" in page()
