"""Documents: what one account owes for one billing period (an invoice), or what changes that (credit note, adjustment).

A *draft* is data and has no number. A *final* document has one, names the hash of its JSON bytes, and never changes;
a wrong one is voided, which keeps its number, or corrected by another document. The JSON is the document; a page is a
rendering of it. It holds finished values only (every decimal a string, every choice made here), so that a template
formats and never decides, and no clock, so that the same inputs make the same bytes (P1).

A document is made in two parts. ``prepare_document`` makes all of it that needs no transaction; ``finish_document``
adds, inside the transaction that takes the number, the number and the credits that are drawn.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from pipeline.core.account import Account
from pipeline.core.credit import CreditDraw
from pipeline.core.decimals import plain_text
from pipeline.core.errors import PricingError
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.manifest import canonical_json
from pipeline.core.money import exact, minor_unit_digits
from pipeline.core.price_book import PLAN_SKU
from pipeline.core.printed_terms import printed_terms
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.tax import TaxTable, taxes_of
from pipeline.core.window import BillingPeriod, require_utc

DOCUMENT_VERSION = 2
_KIND_ORDER = {kind: number for number, kind in enumerate(LineKind)}


class DocumentKind(StrEnum):
    """What a document is; the others say which document they correct, if it is one."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"
    ADJUSTMENT = "adjustment"


class DocumentState(StrEnum):
    """A final document is what is owed; a void one keeps its number and is owed no more."""

    FINAL = "final"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class InvoiceDraft:
    """What the lines of an account add up to in a period: net, and before it has a number."""

    account_id: str
    currency: str
    subtotal: Decimal


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """A document as far as it is known before its number: ``members`` are its JSON members, each already encoded."""

    kind: DocumentKind
    account_id: str
    currency: str
    subtotal: Decimal
    total: Decimal
    issue_date: date
    last_date: date  # of the period: what credits are measured by
    line_items_manifest: str
    corrects: str | None
    members: Mapping[str, bytes]


class Bundle(NamedTuple):
    """Where the lake keeps a document: the SHA-256 of a file of documents, and its bytes ``[start, start + count)``."""

    sha256: str
    start: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class IssuedDocument:
    """A numbered document. ``document_sha256`` names its bytes, which ``bundle`` holds.

    ``line_items_manifest`` names the rating of the period that it rests on. ``total`` is with taxes, ``amount_due``
    after the credits that were drawn. ``corrects`` is the number of the document that a credit note or an adjustment
    is about. The last three say that it is void.
    """

    number: str
    kind: DocumentKind
    account_id: str
    period_id: str
    currency: str
    subtotal: Decimal
    total: Decimal
    amount_due: Decimal
    line_items_manifest: str
    document_sha256: str
    bundle: Bundle
    issued_at: datetime
    corrects: str | None = None
    voided_at: datetime | None = None
    voided_by: str | None = None
    void_reason: str | None = None

    @property
    def state(self) -> DocumentState:
        """Tell whether the document is owed."""
        return DocumentState.FINAL if self.voided_at is None else DocumentState.VOID


@dataclass(frozen=True, slots=True)
class InvoiceEvidence:
    """What a document can be checked against, by hash: rated lines, the usage they were rated from, the tax table."""

    line_items_manifest: str
    usage_manifests_sha256: str
    tax_table_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class AdjustmentCause:
    """A window that is counted otherwise than when it was billed: its revisions, and the events of the account.

    ``events`` are the first of ``event_count`` that only one of the two revisions bills to the account.
    """

    window_id: str
    revision_from: int | None
    revision_to: int
    event_count: int
    events: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return the cause as a document has it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"events": [dict(one) for one in self.events]}


def draft_invoices(lines: Iterable[LineItem]) -> list[InvoiceDraft]:
    """Return one draft per account that has lines, in order of account; a total of zero or below is kept as it is.

    A total has the decimals of its currency; amounts with more are refused.

    >>> draft_invoices([])
    []
    """
    totals: dict[str, Decimal] = {}
    currencies: dict[str, str] = {}
    with exact():
        for line in lines:
            currency = currencies.setdefault(line.account_id, line.currency)
            if currency != line.currency:
                raise ValueError(f"cannot combine {currency} and {line.currency}")
            totals[line.account_id] = totals.get(line.account_id, Decimal(0)) + line.amount
        return [
            InvoiceDraft(account_id, currencies[account_id], total.quantize(_minor_unit(currencies[account_id])))
            for account_id, total in sorted(totals.items())
        ]


@cache
def _minor_unit(currency: str) -> Decimal:
    return Decimal(1).scaleb(-minor_unit_digits(currency))


def issue_date(issued_at: datetime, seller: SellerSettings) -> date:
    """Return the date that a document shows: the day on which it is issued, where the seller is.

    One zone for all documents, so that dates follow numbers: no document is dated before one of a smaller number.

    >>> from datetime import UTC
    >>> seller = SellerSettings(legal_entity="Acme", number_series="A", time_zone="America/Los_Angeles")
    >>> issue_date(datetime(2026, 2, 1, 6, tzinfo=UTC), seller)
    datetime.date(2026, 1, 31)
    """
    return require_utc(issued_at, "issued_at").astimezone(ZoneInfo(seller.time_zone)).date()


def prepare_document(
    lines: Sequence[LineItem],
    account: Account,
    seller: SellerSettings,
    period: BillingPeriod,
    books: Mapping[str, PricedBook],
    issued_on: date,
    evidence: InvoiceEvidence,
    taxes: TaxTable | None = None,
    usage_by_day: bytes = b"[]",
    kind: DocumentKind = DocumentKind.INVOICE,
    corrects: str | None = None,
    corrected_line_ids: Mapping[str, str] | None = None,
    causes: Sequence[AdjustmentCause] = (),
) -> PreparedDocument:
    """Return the document of an account's lines, all but its number and credits.

    ``books`` are by version; the newest of those that priced the lines says how a tax is rounded. ``usage_by_day``
    is canonical JSON already. ``corrected_line_ids`` names, by line item id, the line that an adjusting line
    corrects; ``causes`` say why it does. A category of charges that has no rate in the account's tax region, and
    reverse charge of a customer without a tax id, raise ``PricingError``. Lines of another account or period, or of
    no known book, raise ``ValueError``: they would make a document that contradicts itself.
    """
    if not lines:
        raise ValueError(f"a document of account {account.account_id} needs a line")
    for line in lines:
        if (line.account_id, line.period_id) != (account.account_id, period.period_id):
            raise ValueError(f"line item {line.line_item_id} does not belong to this document")
        if line.price_book_version not in books:
            raise ValueError(f"line item {line.line_item_id} was priced by the unknown book {line.price_book_version}")
    [draft] = draft_invoices(lines)
    versions = sorted({line.price_book_version for line in lines})
    newest = max((books[version] for version in versions), key=lambda book: (book.book.effective_from, book.version))
    owed = () if taxes is None else _taxes(lines, account, taxes, newest)
    with exact():
        total = draft.subtotal + sum((tax.amount for tax in owed), Decimal(0))
    first_date, last_date = _dates(period.start, period.end, period.time_zone)
    content = {
        "document": kind.value,
        "document_version": DOCUMENT_VERSION,
        "corrects": corrects,
        "issue_date": issued_on.isoformat(),
        "seller": {"legal_entity": seller.legal_entity, "address": seller.address, "tax_id": seller.tax_id},
        "customer": {
            "account_id": account.account_id,
            "name": account.name,
            "address": account.billing_address,
            "tax_id": account.tax_id,
            "plan": account.plan,
            "tax_region": account.tax_region,
        },
        "period": {
            "period_id": period.period_id,
            "time_zone": period.time_zone,
            "start": period.start.isoformat(),
            "end": period.end.isoformat(),
            "first_date": first_date,
            "last_date": last_date,
        },
        "currency": draft.currency,
        "lines": [
            _line_of_document(line, books[line.price_book_version], period.time_zone, corrected_line_ids or {})
            for line in sorted(lines, key=_line_order)
        ],
        "subtotal": plain_text(draft.subtotal),
        "taxes": [tax.to_json() for tax in owed],
        "total": plain_text(total),
        "causes": [cause.to_json() for cause in causes],
        "evidence": {
            "price_book_versions": versions,
            "rounding": newest.book.rounding.value,
            "line_items_manifest": evidence.line_items_manifest,
            "usage_manifests_sha256": evidence.usage_manifests_sha256,
            "tax_table_sha256": evidence.tax_table_sha256,
        },
    }
    members = {"usage_by_day": usage_by_day, **{name: canonical_json(value) for name, value in content.items()}}
    return PreparedDocument(
        *(kind, account.account_id, draft.currency, draft.subtotal, total),
        *(issued_on, date.fromisoformat(last_date), evidence.line_items_manifest, corrects, members),
    )


def finish_document(
    prepared: PreparedDocument, number: str | None, draws: Sequence[CreditDraw] = ()
) -> tuple[bytes, Decimal]:
    """Return the bytes of a document with its number and the credits it draws, and what is due after them.

    The bytes are canonical JSON. A draft has no number.
    """
    with exact():
        amount_due = prepared.total - sum((draw.amount for draw in draws), Decimal(0))
    if draws and amount_due < 0:
        raise ValueError(f"document {number} would draw more credit than the {prepared.total:f} it comes to")
    members = {
        **prepared.members,
        "number": canonical_json(number),
        "credits": canonical_json([draw.to_json() for draw in draws]),
        "amount_due": canonical_json(plain_text(amount_due)),
    }
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), members[name]) for name in sorted(members)) + b"}", amount_due


def lines_of_document(content: bytes) -> list[LineItem]:
    """Return the lines that a document billed, as they were rated; in the document's order.

    A line that adjusts another one has the id of the one that it corrects.

    >>> lines_of_document(b'{"lines":[]}')
    []
    """
    document = json.loads(content)
    return [
        LineItem(
            line_item_id=line["corrects_line_item_id"] or line["line_item_id"],
            account_id=document["customer"]["account_id"],
            period_id=document["period"]["period_id"],
            segment=line["segment"],
            service_period_start=datetime.fromisoformat(line["service_period_start"]),
            service_period_end=datetime.fromisoformat(line["service_period_end"]),
            plan=line["plan"],
            sku=line["sku"],
            description=line["description"],
            kind=LineKind(line["kind"]),
            model=line["model"],
            tier=line["tier"],
            quantity=Decimal(line["quantity"]),
            unit=line["unit"],
            unit_price=Decimal(line["unit_price"]),
            per_units=Decimal(line["per_units"]),
            flat_fee=Decimal(line["flat_fee"]),
            currency=document["currency"],
            amount_exact=Decimal(line["amount_exact"]),
            amount=Decimal(line["amount"]),
            residual=Decimal(line["residual"]),
            tax_category=line["tax_category"],
            price_book_version=line["price_book_version"],
        )
        for line in document["lines"]
    ]


def _taxes(lines: Iterable[LineItem], account: Account, table: TaxTable, book: PricedBook) -> tuple[Any, ...]:
    nets: defaultdict[str, Decimal] = defaultdict(Decimal)
    with exact():
        for line in lines:
            nets[line.tax_category] += line.amount
    missing = table.missing(account.tax_region, nets)
    if missing:
        region = repr(account.tax_region) if account.tax_region else "'' (accounts.csv has no tax_region for it)"
        raise PricingError(
            "tax.no_rate",
            "taxes.toml has no rate for what is to be invoiced",
            [f"account {account.account_id}, region {region}: no rate for category {name!r}" for name in missing],
        )
    owed = taxes_of(nets, account.tax_region, account.currency, table, book.book.rounding)
    if not account.tax_id and any(tax.reason == "reverse_charge" for tax in owed):
        raise PricingError(
            "tax.no_tax_id",
            "a document with reverse charge names the tax id of its customer",
            [f"account {account.account_id}, region {account.tax_region!r}: accounts.csv has no tax_id for it"],
        )
    return owed


def _line_order(line: LineItem) -> tuple[bool, str, int, int, int, str]:
    """Return what lines are in order of: by SKU, what is of the plan at the end, and then as they came about."""
    is_of_plan = line.sku.startswith(PLAN_SKU)
    return is_of_plan, line.sku, line.segment, _KIND_ORDER[line.kind], line.tier, line.line_item_id


@lru_cache(4096)
def _instant(instant: datetime) -> str:
    return require_utc(instant, "an instant of a document").isoformat()


@lru_cache(4096)
def _dates(start: datetime, end: datetime, time_zone: str) -> tuple[str, str]:
    """Return the first and the last calendar day that an interval has in a zone."""
    zone = ZoneInfo(time_zone)
    last = end - timedelta(microseconds=1)
    return start.astimezone(zone).date().isoformat(), last.astimezone(zone).date().isoformat()


def _line_of_document(
    line: LineItem, priced: PricedBook, time_zone: str, corrected_line_ids: Mapping[str, str]
) -> dict[str, Any]:
    first_date, last_date = _dates(line.service_period_start, line.service_period_end, time_zone)
    book = priced.book
    charge = book.charge(line.plan, line.account_id, line.sku, line.currency, date.fromisoformat(first_date))
    return {
        "line_item_id": line.line_item_id,
        "kind": line.kind.value,
        "segment": line.segment,
        "service_period_start": _instant(line.service_period_start),
        "service_period_end": _instant(line.service_period_end),
        "service_first_date": first_date,
        "service_last_date": last_date,
        "plan": line.plan,
        "sku": line.sku,
        "description": line.description,
        "model": line.model,
        "tier": line.tier,
        "terms": printed_terms(line, charge, book.plans[line.plan]),
        "quantity": plain_text(line.quantity),
        "unit": line.unit,
        "unit_price": plain_text(line.unit_price),
        "per_units": plain_text(line.per_units),
        "flat_fee": plain_text(line.flat_fee),
        "amount_exact": plain_text(line.amount_exact),
        "amount": plain_text(line.amount),
        "residual": plain_text(line.residual),
        "tax_category": line.tax_category,
        "price_book_version": line.price_book_version,
        "corrects_line_item_id": corrected_line_ids.get(line.line_item_id),
    }
