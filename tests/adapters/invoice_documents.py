"""Documents of invoices, as finance's own system stores them: builders that show only what matters to a test."""

from __future__ import annotations

from typing import Any

from pipeline.adapters.invoice_page import Withdrawn, invoice_page, read_document
from pipeline.core.manifest import canonical_json

JANUARY = ("2026-01-01", "2026-01-31")


def page_of(document: dict[str, Any], void: Withdrawn | None = None) -> dict[str, Any]:
    """Return the texts of a document that is stored and read."""
    return invoice_page(read_document(canonical_json(document)), void)


def line(**changes: Any) -> dict[str, Any]:
    """Return a line: 3 tokens at 2.00 each, unless said otherwise."""
    sku = changes.get("sku", "tokens")
    return {
        "line_item_id": f"acct-7/{sku}/2026-01/per_unit/1",
        "sku": sku,
        "description": "Tokens",
        "kind": "usage",
        "model": "per_unit",
        "tier": 1,
        "segment": 1,
        "quantity": "3",
        "unit": "tokens",
        "unit_price": "2",
        "per_units": "1",
        "flat_fee": "0",
        "amount_exact": "6",
        "amount": "6",
        "residual": "0",
        "tax_category": "standard",
        "service_first_date": JANUARY[0],
        "service_last_date": JANUARY[1],
        "corrects_line_item_id": None,
        "terms": {},
        **changes,
    }


def document(*lines: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an invoice of January for acct-7; what its figures add up to is for the test to say."""
    customer = {"account_id": "acct-7", "name": "Seven GmbH", "address": "", "tax_id": "", "plan": "standard"}
    return {
        "document": "invoice",
        "document_version": 2,
        "number": "LLM-000001",
        "corrects": None,
        "issue_date": "2026-02-01",
        "seller": {"legal_entity": "Northwind Inference Ltd", "address": "1 Harbour Street\nDublin", "tax_id": ""},
        "customer": {**customer, **changes.pop("customer", {})},
        "period": {
            "period_id": "2026-01",
            "time_zone": "Europe/Berlin",
            "start": "2025-12-31T23:00:00+00:00",
            "end": "2026-01-31T23:00:00+00:00",
            "first_date": JANUARY[0],
            "last_date": JANUARY[1],
        },
        "currency": "EUR",
        "lines": list(lines) or [line()],
        "subtotal": "6",
        "taxes": [],
        "total": "6",
        "credits": [],
        "amount_due": "6",
        "usage_by_day": [],
        "causes": [],
        "evidence": {
            "price_book_versions": ["prices@0123456789ab"],
            "rounding": "half_up",
            "line_items_manifest": "a" * 64,
            "usage_manifests_sha256": "b" * 64,
            "tax_table_sha256": None,
        },
        **changes,
    }


def _of_tokens(**changes: Any) -> dict[str, Any]:
    return line(**{"description": "Input tokens", "sku": "input-tokens", "model": "graduated", **changes})


def full_document(**changes: Any) -> dict[str, Any]:
    """Return an invoice with every kind of line, a chart, two taxes and two credits; its figures add up."""
    per_million = {"per_units": "1000000", "unit": "tokens"}
    first_half, second_half = ("2026-01-01", "2026-01-14"), ("2026-01-15", "2026-01-31")
    lines = [
        _of_tokens(kind="included", quantity="500000", unit_price="0", amount="0", terms={"included_units": "500000"}),
        _of_tokens(
            **per_million,
            quantity="1000000",
            unit_price="0",
            amount="0",
            terms={"above": "0", "first_unit": "1", "up_to": "1000000"},
        ),
        _of_tokens(
            **per_million,
            quantity="9000000",
            unit_price="2.5",
            amount="22.5",
            tier=2,
            terms={"above": "1000000", "first_unit": "1000001", "up_to": "10000000"},
        ),
        _of_tokens(
            **per_million,
            quantity="1234567890.5",
            unit_price="1.75",
            flat_fee="10",
            amount="2170.49",
            tier=3,
            terms={"above": "10000000"},
        ),
        _of_tokens(kind="discount", amount="-219.3", terms={"percent": "10"}, description="Launch discount"),
        _of_tokens(kind="maximum", amount="-473.69", terms={"maximum_amount": "1500"}),
        line(sku="seats", description="Seats", unit="seats", model="volume", quantity="12", unit_price="19.9",
             amount="107.84", terms={"above": "10", "first_unit": "11", "up_to": "50"},
             service_first_date=first_half[0], service_last_date=first_half[1]),
        line(sku="seats", description="Seats", unit="seats", model="volume", quantity="12", unit_price="24.9",
             amount="163.86", terms={"above": "10", "first_unit": "11", "up_to": "50"}, segment=2,
             service_first_date=second_half[0], service_last_date=second_half[1]),
        line(sku="storage", description="Storage", unit="GB", model="stairstep", quantity="87.25", unit_price="0",
             flat_fee="30", amount="30", terms={"above": "50", "up_to": "100"}),
        line(sku="emails", description="E-mails", unit="e-mails", model="package", quantity="2301", unit_price="0",
             per_units="1000", flat_fee="15", amount="15",
             terms={"package_size": "1000", "package_price": "5", "package_rounding": "up", "packages": "3"}),
        line(sku="payments", description="Card payments", unit="EUR", model="percentage", quantity="18250.4",
             unit_price="0.029", flat_fee="31.2", amount="560.46",
             terms={"percent": "2.9", "fixed_fee_per_event": "0.3", "maximum_per_event": "12"}),
        line(sku="gpu", description="GPU hours", unit="hours", model="matrix", quantity="40.5", unit_price="3.2",
             amount="129.6", terms={"match": {"model": "h200", "region": "eu-west"}}),
        line(sku="gpu", description="GPU hours", unit="hours", model="matrix", quantity="2", unit_price="4",
             amount="8", tier=0, terms={"match": {}}),
        line(sku="gpu", description="GPU hours", kind="minimum", quantity="0", unit="", unit_price="0", amount="12.4",
             terms={"minimum_amount": "150"}),
        line(sku="support", description="Priority support", kind="flat_fee", model="flat_fee", quantity="0", unit="",
             unit_price="0", flat_fee="200", amount="200", terms={"timing": "advance"},
             service_first_date="2026-02-01", service_last_date="2026-02-28", tax_category="services"),
        line(sku="plan:standard", description="Minimum commitment", kind="commitment", model="", quantity="0", unit="",
             unit_price="0", amount="272.84", terms={"amount": "3000"}),
    ]  # fmt: skip
    quantities = [str(number) for number in (0, 0, *(40_000_000 + 311_111 * (day * 7 % 13) for day in range(29)))]
    made = document(
        *lines,
        subtotal="3000",
        taxes=[
            {"category": "S", "name": "VAT", "percent": "23", "net": "2800", "tax": "644", "reason": "", "note": ""},
            {"category": "AE", "name": "VAT", "percent": "0", "net": "200", "tax": "0", "reason": "reverse_charge",
             "note": "VAT on services is owed by the customer (reverse charge)."},
        ],
        total="3644",
        credits=[
            {"grant_id": "1", "description": "Welcome credit", "kind": "promotional", "amount": "100"},
            {"grant_id": "2", "description": "", "kind": "prepaid", "amount": "1544.5"},
        ],
        amount_due="1999.5",
        usage_by_day=[
            {"sku": "input-tokens", "unit": "tokens", "first_date": "2026-01-01", "quantities": quantities},
            {"sku": "emails", "unit": "e-mails", "first_date": "2026-01-01",
             "quantities": [str((day * 37) % 160) if day % 7 < 5 else "0" for day in range(31)]},
            {"sku": "gpu", "unit": "hours", "first_date": "2026-01-01",
             "quantities": ["0"] * 10 + ["40.5"] + ["0"] * 10 + ["2"] + ["0"] * 9},
        ],
    )  # fmt: skip
    return {**made, **changes, "customer": {**made["customer"], **changes.get("customer", {})}}


def amounts_of(made: dict[str, Any]) -> list[str]:
    """Return every amount that the document has, as it is written there."""
    found = [one["amount"] for one in made["lines"]]
    found += [tax[key] for tax in made["taxes"] for key in ("net", "tax")]
    found += [f"-{credit['amount']}" for credit in made["credits"]]
    return [*found, made["total"], made["amount_due"], *([made["subtotal"]] if made["taxes"] else [])]
