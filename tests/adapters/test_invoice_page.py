"""The words of an invoice: what each line is, what it costs, and every figure of the document, on page and PDF."""

import io
import re
from datetime import date
from typing import Any

import pytest
from pypdf import PdfReader

from pipeline.adapters.documents import render_texts
from pipeline.adapters.invoice_page import CHART_HEIGHT, DailyUsage, Withdrawn, usage_chart
from pipeline.adapters.invoice_pdf import LetterWithoutFontError, invoice_pdf
from pipeline.adapters.text_formats import format_amount, format_quantity
from tests.adapters.invoice_documents import amounts_of, document, full_document, line, page_of


def words(html: str) -> str:
    """Return what a person reads of a page."""
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(text.replace("&nbsp;", " ").replace("&#x27;", "'").split())


def page_words(*lines: dict[str, Any], **changes: Any) -> str:
    return words(render_texts("invoice.html", page_of(document(*lines, **changes))))


def pdf_words(made: dict[str, Any]) -> str:
    pages = PdfReader(io.BytesIO(invoice_pdf(page_of(made)))).pages
    return " ".join(" ".join(page.extract_text().replace("\u200b", "") for page in pages).split())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "at 2.00 EUR each"),
        ({"per_units": "1000000", "unit_price": "2.5"}, "at 2.50 EUR per 1,000,000"),
        ({"unit_price": "0.0000025"}, "at 0.0000025 EUR each"),
        (
            {"model": "graduated", "unit_price": "0", "terms": {"above": "0", "first_unit": "1", "up_to": "1000000"}},
            "First 1,000,000 tokens free of charge",
        ),
        (
            {
                "model": "graduated",
                "unit_price": "2.5",
                "per_units": "1000000",
                "terms": {"above": "1000000", "first_unit": "1000001", "up_to": "10000000"},
            },
            "1,000,001 to 10,000,000 tokens at 2.50 EUR per 1,000,000",
        ),
        (
            {"model": "graduated", "flat_fee": "5", "terms": {"above": "20", "first_unit": "21"}},
            "21 tokens and above at 2.00 EUR each, plus a flat fee of 5.00 EUR",
        ),
        ({"model": "graduated", "terms": {"above": "20", "up_to": "30"}}, "More than 20, up to 30 tokens at 2.00 EUR"),
        ({"model": "graduated", "terms": {"above": "20.5"}}, "More than 20.5 tokens at 2.00 EUR each"),
        (
            {"model": "volume", "terms": {"above": "10", "first_unit": "11", "up_to": "50"}},
            "11 to 50 tokens in all, every unit at 2.00 EUR each",
        ),
        (
            {
                "model": "stairstep",
                "unit_price": "0",
                "flat_fee": "30",
                "terms": {"above": "0", "first_unit": "1", "up_to": "9"},
            },
            "First 9 tokens in all a flat fee of 30.00 EUR",
        ),
        (
            {
                "model": "package",
                "unit_price": "0",
                "per_units": "1000",
                "flat_fee": "15",
                "terms": {"package_size": "1000", "package_price": "5", "package_rounding": "up", "packages": "3"},
            },
            "3 packages of 1,000 tokens, rounded up at 5.00 EUR each",
        ),
        (
            {
                "model": "percentage",
                "unit_price": "0.029",
                "terms": {"percent": "2.9", "fixed_fee_per_event": "0.3", "minimum_per_event": "0.5"},
            },
            "2.9 % of the amount plus 0.30 EUR for each event, at least 0.50 EUR for each event",
        ),
        (
            {
                "model": "graduated_percentage",
                "unit_price": "0.01",
                "terms": {"above": "0", "first_unit": "1", "up_to": "500", "percent": "1"},
            },
            "First 500 tokens at 1 %",
        ),
        ({"model": "matrix", "terms": {"match": {"model": "h200", "region": "eu"}}}, "model h200, region eu at 2.00"),
        ({"model": "matrix", "tier": 0, "terms": {"match": {}}}, "All others at 2.00 EUR each"),
        ({"model": "dynamic", "unit_price": "1"}, "at the price that each event carries"),
        ({"kind": "included", "terms": {"included_units": "500"}}, "Included: the first 500 tokens free of charge"),
        ({"kind": "flat_fee", "terms": {"timing": "advance"}}, "Fee in advance"),
        ({"kind": "discount", "description": "Launch", "terms": {"percent": "10"}}, "Launch, 10 % off"),
        ({"kind": "discount", "description": "Launch", "terms": {"amount": "10"}}, "Launch, 10.00 EUR off"),
        (
            {"kind": "plan_discount", "description": "Partner", "terms": {"percent": "2.5"}},
            "Partner, 2.5 % off the plan this charge's share",
        ),
        ({"kind": "maximum", "terms": {"maximum_amount": "90"}}, "Reduced to the maximum of 90.00 EUR"),
        ({"kind": "minimum", "terms": {"minimum_amount": "90"}}, "Topped up to the minimum of 90.00 EUR"),
        (
            {"kind": "commitment", "sku": "plan:standard", "description": "Commitment", "terms": {"amount": "100"}},
            "Plan standard Commitment of 100.00 EUR for a whole period",
        ),
        (
            {
                "kind": "overage",
                "sku": "plan:standard",
                "description": "Commitment",
                "terms": {"amount": "100", "overage_factor": "1.5"},
            },
            "Commitment: usage beyond 100.00 EUR for a whole period costs 1.5 times its price",
        ),
    ],
)  # fmt: skip
def test_a_line_says_in_words_what_it_is(changes: dict[str, Any], expected: str) -> None:
    assert expected in page_words(line(**changes))


def test_only_usage_and_included_units_show_a_quantity() -> None:
    text = page_words(line(kind="discount", quantity="0", unit="", terms={"percent": "10"}), line(quantity="1234.5"))

    assert "1,234.5 tokens 6.00" in text
    assert "10 % off 6.00" in text


def test_a_line_of_a_part_of_the_period_says_which() -> None:
    text = page_words(line(service_last_date="2026-01-14"), line(service_first_date="2026-01-15"))

    assert "1 – 14 January 2026 at 2.00 EUR each" in text
    assert "15 – 31 January 2026 at 2.00 EUR each" in text
    assert "1 – 31 January 2026 at" not in text


def test_lines_of_a_sku_stand_together_in_the_order_of_the_document() -> None:
    page = page_of(document(line(), line(sku="seats", description="Seats"), line(amount="7")))

    assert [(group.heading, [row[-1] for row in group.rows]) for group in page["groups"]] == [
        ("Tokens", ["6.00", "7.00"]),
        ("Seats", ["6.00"]),
    ]


def test_the_page_names_seller_customer_number_and_period_with_its_zone() -> None:
    text = page_words()

    for part in (
        "Invoice LLM-000001",
        "Northwind Inference Ltd 1 Harbour Street Dublin",
        "Amount due 6.00 EUR",
        "Seven GmbH Account acct-7, plan standard",
        "1 – 31 January 2026 Time zone Europe/Berlin",
        "Issue date 1 February 2026",
        "from 2025-12-31 23:00:00 UTC up to, and not including, 2026-01-31 23:00:00 UTC",
        "Price book prices@0123456789ab",
    ):
        assert part in text


def test_taxes_and_credits_are_named_with_their_reason() -> None:
    text = words(render_texts("invoice.html", page_of(full_document())))

    for part in (
        "Subtotal 3,000.00",
        "VAT 23 % on 2,800.00 644.00",
        "VAT 0 % on 200.00, reverse charge 0.00",
        "Total 3,644.00",
        "Welcome credit (promotional credit) -100.00",
        "Credit (prepaid credit) -1,544.50",
        "Amount due 1,999.50 EUR",
        "VAT on services is owed by the customer (reverse charge).",
    ):
        assert part in text


def test_page_and_pdf_name_the_tax_ids_of_both_and_the_address_of_the_customer() -> None:
    made = document()
    made["seller"]["tax_id"] = "IE3668997OH"
    made["customer"] |= {"address": "Ring 7\n10115 Berlin", "tax_id": "DE136695976"}

    html, pdf = words(render_texts("invoice.html", page_of(made))), pdf_words(made)

    for text in (html, pdf):
        assert "Dublin Tax id IE3668997OH" in text
        assert "Seven GmbH Ring 7 10115 Berlin Tax id DE136695976 Account acct-7, plan standard" in text


def test_an_invoice_without_taxes_has_no_subtotal() -> None:
    assert "Subtotal" not in page_words()


@pytest.mark.parametrize(("due", "text"), [("0", "Amount due 0.00 EUR"), ("-4.5", "Balance in your favour -4.50 EUR")])
def test_a_total_of_zero_or_below_is_said_as_it_is(due: str, text: str) -> None:
    assert text in page_words(amount_due=due, total=due)


@pytest.mark.parametrize(
    ("kind", "title", "sentence"),
    [
        ("credit_note", "Credit note LLM-000001", "This credit note lowers invoice LLM-000000."),
        ("adjustment", "Adjustment LLM-000001", "This document adjusts invoice LLM-000000"),
    ],
)
def test_a_document_that_corrects_another_says_which(kind: str, title: str, sentence: str) -> None:
    correcting = line(corrects_line_item_id="acct-7/tokens/2025-12/per_unit/1")

    text = page_words(correcting, document=kind, corrects="LLM-000000")

    assert title in text
    assert sentence in text
    assert "(corrects acct-7/tokens/2025-12/per_unit/1)" in text


def test_a_void_document_says_so_first() -> None:
    page = page_of(document(), Withdrawn(date(2026, 2, 3), "wrong address"))

    text = words(render_texts("invoice.html", page))

    assert "Void since 3 February 2026: wrong address. Nothing is owed on it." in text
    assert text.index("Void since") < text.index("Amount due")
    assert "Void since" not in page_words()


def daily(*quantities: str) -> DailyUsage:
    return DailyUsage("tokens", "tokens", "2026-01-30", list(quantities))


def heights(*quantities: str) -> list[tuple[str, str]]:
    """Return from where to where each bar goes."""
    chart = usage_chart(daily(*quantities))
    assert chart is not None
    return re.findall(r"M\d+ (-?\d+)V(-?\d+)", chart.path)


def test_the_chart_says_in_words_what_it_shows() -> None:
    chart = usage_chart(daily("0", "1200", "7.5"))

    assert chart is not None
    assert (
        chart.label
        == "Usage by day from 30 January to 1 February: 2 of 3 days with usage, most 1,200 tokens on 31 January"
    )
    assert chart.caption == "By day, most 1,200 tokens on 31 January"


def test_the_highest_day_has_the_full_height_and_the_smallest_one_unit() -> None:
    assert heights("50", "100", "0", "0.000000001") == [("28", "14"), ("28", "0"), ("28", "27")]


def test_days_below_zero_hang_from_the_line() -> None:
    [above, below] = heights("10", "-10")

    assert above[0] == below[0]
    assert int(above[1]) < int(above[0]) < int(below[1])
    assert min(int(above[1]), 0) == 0
    assert int(below[1]) <= CHART_HEIGHT


@pytest.mark.parametrize("quantities", [(), ("0", "0")])
def test_no_usage_is_no_chart(quantities: tuple[str, ...]) -> None:
    assert usage_chart(daily(*quantities)) is None


def test_the_chart_stands_with_its_sku() -> None:
    html = render_texts("invoice.html", page_of(full_document()))

    assert html.count('<svg role="img" aria-label="Usage by day from 1 January to 31 January') == 3


def test_page_and_pdf_show_every_amount_and_quantity_of_the_document() -> None:
    made = full_document()
    html, pdf = words(render_texts("invoice.html", page_of(made))), pdf_words(made)
    figures = [format_amount(amount, made["currency"]) for amount in amounts_of(made)]
    used = [one for one in made["lines"] if one["kind"] in ("usage", "included")]
    figures += [f"{format_quantity(one['quantity'])} {one['unit']}" for one in used]
    assert len(figures) > 30

    for figure in figures:
        as_a_word = re.compile(rf"(?<![\d.,-]){re.escape(figure)}(?!\d|[.,]\d)")
        assert len(as_a_word.findall(html)) >= figures.count(figure), figure
        assert len(as_a_word.findall(pdf)) == len(as_a_word.findall(html)), figure


def test_a_pdf_has_the_same_bytes_each_time_and_the_issue_date_as_its_only_clock() -> None:
    page = page_of(full_document())

    first = invoice_pdf(page)

    assert invoice_pdf(page) == first
    metadata = PdfReader(io.BytesIO(first)).metadata
    assert metadata is not None
    assert metadata.creation_date is not None
    assert metadata.creation_date.date() == date(2026, 2, 1)


def test_a_pdf_is_tagged_for_screen_readers_and_carries_its_fonts() -> None:
    reader = PdfReader(io.BytesIO(invoice_pdf(page_of(full_document()))))

    root = reader.trailer["/Root"].get_object()
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    xmp = root["/Metadata"].get_object().get_data().decode()
    assert "pdfaid:part>2<" in xmp
    assert "pdfuaid:part>1<" in xmp
    fonts = {str(font.get_object()["/BaseFont"]) for font in reader.pages[0]["/Resources"]["/Font"].values()}
    assert fonts
    assert all("Libertinus" in font or "DejaVu" in font for font in fonts)


def test_names_of_many_scripts_are_in_the_pdf() -> None:
    customer = {"account_id": "acct-7", "name": "Łódź Ελλάδα Привет", "plan": "standard"}

    assert "Łódź Ελλάδα Привет" in pdf_words(document(customer=customer))


def test_a_letter_that_no_font_has_is_refused_by_name() -> None:
    customer = {"account_id": "acct-7", "name": "東京 Inc", "plan": "standard"}

    with pytest.raises(LetterWithoutFontError, match="no font has 京 東; put one that has into the folder fonts/"):
        invoice_pdf(page_of(document(customer=customer)))


def test_markup_of_typst_in_a_name_is_text() -> None:
    customer = {"account_id": "acct-7", "name": '#panic("x") *bold* $1+1$ _a_ @b', "plan": "standard"}

    assert '#panic("x") *bold* $1+1$ _a_ @b' in pdf_words(document(customer=customer))


def test_very_long_words_and_hundreds_of_lines_stay_on_the_paper() -> None:
    long_name, many = "x" * 150, [line(sku=f"sku-{number}", amount=str(number)) for number in range(120)]
    made = document(*many, customer={"account_id": "a" * 120, "name": long_name, "plan": "standard"})

    content = invoice_pdf(page_of(made))

    pages = PdfReader(io.BytesIO(content)).pages
    assert len(pages) > 3
    places: list[float] = []
    pages[0].extract_text(visitor_text=lambda text, _, matrix, *__: places.append(matrix[4]) if text.strip() else None)
    assert places
    assert max(places) < float(pages[0].mediabox.width)
    text = "".join(page.extract_text() for page in pages).replace("\u200b", "").replace("\n", "")
    assert long_name in text


def cause(event_count: int, *changes: str) -> dict[str, Any]:
    """Return a cause of an adjustment, with one named event for each change."""
    events = [
        {
            "object_id": "usage/a.ndjson",
            "line_number": number,
            "source": "api",
            "id": f"event-{number:02}",
            "event_at": "2026-01-15T12:00:00+00:00",
            "what": what,
        }
        for number, what in enumerate(changes, start=1)
    ]
    return {
        "window_id": "2026-01-15",
        "revision_from": 1,
        "revision_to": 2,
        "event_count": event_count,
        "events": events,
    }


def test_an_adjustment_says_which_usage_is_behind_it() -> None:
    made = document(document="adjustment", corrects="LLM-000000", causes=[cause(2, "added", "taken")])

    text = words(render_texts("invoice.html", page_of(made)))

    assert "Why this document was made Usage of 15 January 2026 (UTC): 2 events counted otherwise" in text
    assert "api event-01 2026-01-15 12:00:00 UTC added" in text
    assert "api event-02 2026-01-15 12:00:00 UTC taken back" in text
    assert "more" not in text.partition("Why this document")[2].partition("The period runs")[0]
    on_paper = pdf_words(made)
    assert "2 events counted otherwise than when it was billed" in on_paper
    assert "api event-02 2026-01-15 12:00:00 UTC taken back" in on_paper


def test_an_adjustment_prints_the_first_ten_events_and_how_many_more() -> None:
    text = page_words(document="adjustment", causes=[cause(120, *["added"] * 11)])

    assert "api event-10" in text
    assert "api event-11" not in text
    assert "and 110 more" in text


def test_an_invoice_has_no_causes() -> None:
    assert "Why this document" not in page_words()
