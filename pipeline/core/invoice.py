"""Invoices: what one account owes for one billing period, and the document that says so.

A *draft* has no number. An *issued* invoice has one, names the hash of its JSON document, and never changes.
The JSON document is the invoice; the page is a rendering of it. The document holds finished values only
(every decimal a string, every choice made here), so that a template formats and never decides, and no
clock, so that the same inputs make the same bytes (P1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.core.account import Account
from pipeline.core.decimals import plain_text
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.money import Money, exact
from pipeline.core.price_book import GraduatedCharge
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.rate_usage import LineItem, tiers_of
from pipeline.core.window import BillingPeriod, require_utc

DOCUMENT_VERSION = 1


@dataclass(frozen=True, slots=True)
class InvoiceDraft:
    """What an account owes for a period, before it has a number."""

    account_id: str
    currency: str
    total: Decimal


@dataclass(frozen=True, slots=True)
class IssuedInvoice:
    """A numbered, final invoice. ``document_sha256`` names its JSON document in the lake."""

    number: str
    account_id: str
    period_id: str
    currency: str
    total: Decimal
    document_sha256: str


@dataclass(frozen=True, slots=True)
class InvoiceEvidence:
    """What an invoice can be checked against: the rated lines and the usage they were rated from, by hash."""

    line_items_manifest: str
    usage_manifests: Mapping[str, str]  # window id -> manifest hash


def draft_invoices(lines: Iterable[LineItem]) -> list[InvoiceDraft]:
    """Return one draft per account that has lines, in order of account; a total of zero or below is kept as it is.

    >>> draft_invoices([])
    []
    """
    totals: dict[str, Money] = {}
    for line in lines:
        amount = Money(line.amount, line.currency)
        totals[line.account_id] = totals[line.account_id] + amount if line.account_id in totals else amount
    return [InvoiceDraft(account_id, total.currency, total.amount) for account_id, total in sorted(totals.items())]


def issue_date(cutoffs: Iterable[datetime], time_zone: str) -> date:
    """Return the date that an invoice shows: the account's calendar day on which its last window was cut off.

    It comes from the data, so that closing again, whenever that is, prints the same date.

    >>> from datetime import UTC
    >>> issue_date([datetime(2026, 2, 1, 6, tzinfo=UTC), datetime(2026, 1, 31, 6, tzinfo=UTC)], "America/Los_Angeles")
    datetime.date(2026, 1, 31)
    """
    return require_utc(max(cutoffs), "cutoff").astimezone(ZoneInfo(time_zone)).date()


def _line_of_document(line: LineItem, book: PricedBook) -> dict[str, Any]:
    """Return one line as the customer reads it; the bounds and the flat fee of its tier come from its price book."""
    charge = book.book.plans[line.plan].charge(line.sku, line.currency)
    if charge is None:
        raise ValueError(f"price book {book.version} has no charge for line item {line.line_item_id}")
    tiers = tiers_of(charge)
    tier = tiers[line.tier - 1]
    above = tiers[line.tier - 2].up_to or Decimal(0) if line.tier > 1 else Decimal(0)
    whole_units = line.quantity == line.quantity.to_integral_value() and above == above.to_integral_value()
    with exact():
        first_unit = above + 1 if whole_units else None
    return {
        "line_item_id": line.line_item_id,
        "sku": line.sku,
        "description": line.description,
        "model": line.model,
        "tier": line.tier,
        "is_tiered": isinstance(charge, GraduatedCharge) and len(tiers) > 1,
        "tier_above": plain_text(above),
        "tier_first_unit": None if first_unit is None else plain_text(first_unit),  # null where units are split
        "tier_up_to": None if tier.up_to is None else plain_text(tier.up_to),
        "quantity": plain_text(line.quantity),
        "unit": line.unit,
        "unit_price": plain_text(line.unit_price),
        "per_units": plain_text(line.per_units),
        "flat_fee": plain_text(tier.flat_fee if line.quantity > 0 else Decimal(0)),
        "amount_exact": plain_text(line.amount_exact),
        "amount": plain_text(line.amount),
        "residual": plain_text(line.residual),
    }


def invoice_document(
    number: str,
    draft: InvoiceDraft,
    lines: Sequence[LineItem],
    account: Account,
    seller: SellerSettings,
    period: BillingPeriod,
    book: PricedBook,
    cutoffs: Sequence[datetime],
    evidence: InvoiceEvidence,
) -> dict[str, Any]:
    """Return the document of one invoice: values that ``canonical_json`` takes, and nothing else.

    Lines of another account, period or price book, or lines that do not add up to the draft, raise
    ``ValueError``: they would make a document that contradicts itself.
    """
    for line in lines:
        if (line.account_id, line.period_id, line.price_book_version) != (
            account.account_id,
            period.period_id,
            book.version,
        ):
            raise ValueError(f"line item {line.line_item_id} does not belong to this invoice")
    if draft_invoices(lines) != [draft]:
        raise ValueError(f"the lines of {account.account_id} do not add up to {draft.total:f} {draft.currency}")
    zone = ZoneInfo(period.time_zone)
    return {
        "document": "invoice",
        "document_version": DOCUMENT_VERSION,
        "number": number,
        "issue_date": issue_date(cutoffs, period.time_zone).isoformat(),
        "seller": {"legal_entity": seller.legal_entity, "address": seller.address},
        "customer": {"account_id": account.account_id, "name": account.name, "plan": account.plan},
        "period": {
            "period_id": period.period_id,
            "time_zone": period.time_zone,
            "start": period.start.isoformat(),
            "end": period.end.isoformat(),
            "first_date": period.start.astimezone(zone).date().isoformat(),
            "last_date": (period.end - timedelta(microseconds=1)).astimezone(zone).date().isoformat(),
        },
        "currency": draft.currency,
        "lines": [_line_of_document(line, book) for line in sorted(lines, key=lambda line: (line.sku, line.tier))],
        "total": plain_text(draft.total),
        "evidence": {
            "price_book_version": book.version,
            "rounding": book.book.rounding.value,
            "line_items_manifest": evidence.line_items_manifest,
            "usage_manifests_sha256": sha256_hex(canonical_json(dict(evidence.usage_manifests))),
        },
    }
