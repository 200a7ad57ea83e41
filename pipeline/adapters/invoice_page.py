"""The words of an invoice: what its document says, as the texts that the page and the PDF both print.

Every figure is formatted here, once, so that the two can only differ in their looks. Nothing is added up or rounded:
an amount that is not in the document is not on the page. Texts that many invoices share are kept, because a hundred
thousand invoices have a few dozen different prices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, lru_cache
from math import ceil, floor
from operator import getitem
from typing import Any, NamedTuple

import msgspec

from pipeline.adapters.text_formats import (
    format_amount,
    format_date,
    format_date_range,
    format_instant,
    format_quantity,
    format_unit_price,
)

Texts = Mapping[str, Any]

TITLES = {"invoice": "Invoice", "credit_note": "Credit note", "adjustment": "Adjustment"}
_CORRECTS = {
    "credit_note": "This credit note lowers invoice {}.",
    "adjustment": "This document adjusts invoice {}: it says what is owed beside it, not instead of it.",
}
_OF_USAGE = ("usage", "included")
_ROUNDING = {
    "half_up": "a half is rounded away from zero",
    "half_even": "a half is rounded to the even digit",
}
_CHANGES = {"added": "added", "taken": "taken back"}
CAUSE_EVENTS_MAX = 10  # that are printed; the document names more
_REASONS = {"reverse_charge": "reverse charge", "exempt": "exempt"}
_SHARED_TEXTS = 20_000  # kept at once

BAR_STEP, BAR_WIDTH, CHART_HEIGHT = 6, 4, 28
_FULL_HEIGHT = 27.999999  # heights are rounded up, and a product of floats may be a trifle too large


Row = tuple[str, str, str, str, str]  # service period where it is not the whole one, what, price, quantity, amount


class Chart(NamedTuple):
    """Usage by day as the path of an SVG; ``label`` says in words what it shows."""

    path: str
    width: int
    baseline: int
    caption: str
    label: str


class Group(NamedTuple):
    """The lines of one SKU, or of the plan."""

    heading: str
    sku: str
    rows: list[Row]
    chart: Chart | None


class Line(msgspec.Struct, gc=False, frozen=True):
    """What is printed of a line; ``terms`` are still JSON, because few of them are different."""

    sku: str
    description: str
    kind: str
    model: str
    service_first_date: str
    service_last_date: str
    terms: msgspec.Raw
    quantity: str
    unit: str
    unit_price: str
    per_units: str
    flat_fee: str
    amount: str
    corrects_line_item_id: str | None


class DailyUsage(msgspec.Struct, gc=False, frozen=True):
    """An entry of ``usage_by_day``."""

    sku: str
    unit: str
    first_date: str
    quantities: list[str]


class CauseEvent(msgspec.Struct, gc=False, frozen=True):
    """An event behind an adjustment; ``what`` says whether it was added or taken."""

    source: str
    id: str
    event_at: str
    what: str


class Cause(msgspec.Struct, gc=False, frozen=True):
    """A window that is counted otherwise than when it was billed."""

    window_id: str
    event_count: int
    events: list[CauseEvent]


class Document(msgspec.Struct, frozen=True):
    """A document of version 2, as far as it is printed."""

    document: str
    number: str | None
    corrects: str | None
    issue_date: str
    seller: dict[str, str]
    customer: dict[str, str | None]
    period: dict[str, str]
    currency: str
    lines: list[Line]
    subtotal: str
    taxes: list[dict[str, Any]]
    total: str
    credits: list[dict[str, str]]
    amount_due: str
    usage_by_day: list[DailyUsage]
    causes: list[Cause]
    evidence: dict[str, Any]


read_document = msgspec.json.Decoder(Document).decode  # twice as fast as all of its members


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """That a document is void: since when (a calendar date) and why."""

    on: date
    reason: str


def invoice_page(document: Document, void: Withdrawn | None = None) -> dict[str, Any]:
    """Return the texts of a document by the names that the templates use; an amount with a digit too many raises."""
    currency, period, kind = document.currency, document.period, document.document
    seller, customer, evidence = document.seller, document.customer, document.evidence
    due = document.amount_due
    dates = period["first_date"], period["last_date"]
    return {
        "title": TITLES[kind],
        "number": document.number,
        "void": f"Void since {format_date(void.on)}: {void.reason}. Nothing is owed on it." if void else "",
        "corrects": _CORRECTS[kind].format(document.corrects) if document.corrects and kind in _CORRECTS else "",
        "seller_name": seller["legal_entity"],
        "seller_address": seller["address"],
        "seller_tax_id": seller["tax_id"],
        "customer_name": customer["name"],
        "customer_address": customer["address"],
        "customer_tax_id": customer["tax_id"],
        "account_id": customer["account_id"],
        "plan": customer["plan"],
        "period": format_date_range(*dates),
        "time_zone": period["time_zone"],
        "issue_date": format_date(document.issue_date),
        "issued_on": document.issue_date,
        "due_label": "Balance in your favour" if due.startswith("-") else "Amount due",
        "due": f"{format_amount(due, currency)} {currency}",
        "currency": currency,
        "groups": _groups(document.lines, dates, currency, document.usage_by_day),
        "totals": _totals(document, currency),
        "causes": [_cause(cause) for cause in document.causes],
        "notes": list(dict.fromkeys(tax["note"] for tax in document.taxes if tax.get("note"))),
        "closing": (
            f"The period runs from {format_instant(period['start'])} up to, and not including, "
            f"{format_instant(period['end'])}. Every line is priced exactly and then rounded once"
            f" ({_ROUNDING[evidence['rounding']]})."
        ),
        "evidence": _evidence(evidence),
    }


def _groups(
    lines: Iterable[Line],
    dates: tuple[str, str],
    currency: str,
    usage_by_day: Iterable[DailyUsage],
) -> list[Group]:
    usage = {daily.sku: daily for daily in usage_by_day}
    groups: dict[str, Group] = {}
    for line in lines:
        sku = line.sku
        group = groups.get(sku)
        if group is None:
            chart = usage_chart(usage[sku]) if sku in usage else None
            plan = sku.removeprefix("plan:")
            heading, shown = (line.description, sku) if plan == sku else (f"Plan {plan}", "")
            groups[sku] = group = Group(heading, shown, [], chart)
        kind, served = line.kind, (line.service_first_date, line.service_last_date)
        what, price = _words(line, kind, currency)
        if line.corrects_line_item_id:
            what = f"{what} (corrects {line.corrects_line_item_id})"
        group.rows.append(
            (
                "" if served == dates else format_date_range(*served),
                what,
                price,
                f"{format_quantity(line.quantity)} {line.unit}" if kind in _OF_USAGE else "",
                format_amount(line.amount, currency),
            )
        )
    return list(groups.values())


def _words(line: Line, kind: str, currency: str) -> tuple[str, str]:
    """Return what a line is and what one unit costs; ``what`` is empty where the heading says it all."""
    return _shared_words(
        kind,
        line.model,
        line.description,
        line.unit,
        line.unit_price,
        line.per_units,
        line.flat_fee if kind == "usage" else "0",
        currency,
        bytes(line.terms),
    )


@lru_cache(_SHARED_TEXTS)
def _shared_words(
    kind: str,
    model: str,
    description: str,
    unit: str,
    unit_price: str,
    per_units: str,
    flat_fee: str,
    currency: str,
    terms_json: bytes,
) -> tuple[str, str]:
    terms = msgspec.json.decode(terms_json)

    def money(amount: str) -> str:
        return f"{format_unit_price(amount, currency)} {currency}"

    def off() -> str:
        return f"{format_quantity(terms['percent'])} %" if "percent" in terms else money(terms["amount"])

    match kind:
        case "included":
            return f"Included: the first {format_quantity(terms['included_units'])} {unit}", "free of charge"
        case "flat_fee":
            return "Fee", {"advance": "in advance", "arrears": ""}[terms.get("timing", "arrears")]
        case "discount":
            return f"{description}, {off()} off", ""
        case "plan_discount":
            return f"{description}, {off()} off the plan", "this charge's share"
        case "maximum":
            return f"Reduced to the maximum of {money(terms['maximum_amount'])} for a whole period", ""
        case "minimum":
            return f"Topped up to the minimum of {money(terms['minimum_amount'])} for a whole period", ""
        case "commitment":
            return f"{description} of {money(terms['amount'])} for a whole period", "what is missing to it"
        case "overage":
            factor = format_quantity(terms["overage_factor"])
            return (
                f"{description}: usage beyond {money(terms['amount'])} for a whole period",
                f"costs {factor} times its price",
            )
    bounds = _bounds(terms, unit)
    fee = f"a flat fee of {money(flat_fee)}" if flat_fee != "0" else ""
    match model:
        case "package":
            size, count = format_quantity(terms["package_size"]), terms.get("packages")
            sold = f"packages of {size} {unit}, rounded {terms['package_rounding']}"
            packages = f"{format_quantity(count)} {sold}" if count is not None else sold.capitalize()
            return packages, f"at {money(terms['package_price'])} each"
        case "percentage":
            return f"{format_quantity(terms['percent'])} % of the amount", _per_event(terms, money)
        case "graduated_percentage":
            price = f"{format_quantity(terms['percent'])} %"
            return bounds or "All of the amount", _and("at " + price, fee)
        case "dynamic":
            return "", "at the price that each event carries"
        case "stairstep":
            return bounds and f"{bounds} in all", fee or "free of charge"
    if "match" in terms:
        cell = ", ".join(f"{name} {value}" for name, value in terms["match"].items())
        bounds = cell or "All others"
    if unit_price == "0":
        return bounds, fee or "free of charge"
    each = "each" if per_units == "1" else f"per {format_quantity(per_units)}"
    price = f"at {money(unit_price)} {each}"
    return (f"{bounds} in all, every unit" if model == "volume" and bounds else bounds), _and(price, fee)


def _and(price: str, fee: str) -> str:
    return f"{price}, plus {fee}" if fee else price


def _bounds(terms: Mapping[str, str], unit: str) -> str:
    """Return a tier in words, its bounds inclusive where units are whole."""
    if "above" not in terms:
        return ""
    above, up_to = terms["above"], terms.get("up_to")
    if above == "0":
        return f"First {format_quantity(up_to)} {unit}" if up_to else f"All {unit}"
    if "first_unit" not in terms:
        limit = f", up to {format_quantity(up_to)}" if up_to else ""
        return f"More than {format_quantity(above)}{limit} {unit}"
    first = format_quantity(terms["first_unit"])
    return f"{first} to {format_quantity(up_to)} {unit}" if up_to else f"{first} {unit} and above"


def _per_event(terms: Mapping[str, str], money: Any) -> str:
    said = []
    if "fixed_fee_per_event" in terms:
        said.append(f"plus {money(terms['fixed_fee_per_event'])} for each event")
    if "minimum_per_event" in terms:
        said.append(f"at least {money(terms['minimum_per_event'])} for each event")
    if "maximum_per_event" in terms:
        said.append(f"at most {money(terms['maximum_per_event'])} for each event")
    if "free_events" in terms:
        said.append(f"the first {format_quantity(terms['free_events'])} events are free")
    if "free_amount" in terms:
        said.append(f"the first {money(terms['free_amount'])} are free")
    return ", ".join(said)


def _totals(document: Document, currency: str) -> list[tuple[str, str]]:
    """Return subtotal, taxes, total and credits, as far as there are any; what is due comes after them."""
    rows = []
    if document.taxes:
        rows.append(("Subtotal", format_amount(document.subtotal, currency)))
    for tax in document.taxes:
        reason = f", {_REASONS[tax['reason']]}" if tax["reason"] else ""
        label = f"{tax['name']} {format_quantity(tax['percent'])} % on {format_amount(tax['net'], currency)}{reason}"
        rows.append((label, format_amount(tax["tax"], currency)))
    rows.append(("Total", format_amount(document.total, currency)))
    for credit in document.credits:
        label = f"{credit['description'] or 'Credit'} ({credit['kind']} credit)"
        rows.append((label, format_amount(f"-{credit['amount']}", currency)))
    return rows


def _cause(cause: Cause) -> tuple[str, list[tuple[str, str, str]], str]:
    """Return the window in words, the first of its events, and how many more there are."""
    count = cause.event_count
    counted = f"{format_quantity(count)} event{'s'[: count != 1]}"
    shown = [
        (_CHANGES[event.what], f"{event.source} {event.id}", format_instant(event.event_at))
        for event in cause.events[:CAUSE_EVENTS_MAX]
    ]
    more = count - len(shown)
    heading = f"Usage of {_window_words(cause.window_id)} (UTC): {counted} counted otherwise than when it was billed"
    return heading, shown, f"and {format_quantity(more)} more" if more else ""


def _window_words(window_id: str) -> str:
    return format_date(window_id) if len(window_id) == len("2026-01-15") else window_id


def _evidence(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    books = evidence["price_book_versions"]
    shown = [("Price book" if len(books) == 1 else "Price books", ", ".join(books))]
    names = {"line_items_manifest": "Line items", "usage_manifests_sha256": "Usage", "tax_table_sha256": "Taxes"}
    return shown + [(label, evidence[name]) for name, label in names.items() if evidence[name]]


@lru_cache(_SHARED_TEXTS)
def _day(first_date: str, offset: int) -> str:
    day = format_date(date.fromisoformat(first_date) + timedelta(days=offset))
    return day.rpartition(" ")[0]  # the year is in the heading of the page


@cache
def _bars_of_day(offset: int, baseline: int) -> tuple[str, ...]:
    """Return the bar of a day by its height; heights below zero are counted from the end."""
    x = offset * BAR_STEP + BAR_WIDTH // 2
    up = [f"M{x} {baseline}V{baseline - height}" if height else "" for height in range(CHART_HEIGHT + 1)]
    down = [f"M{x} {baseline}V{baseline + height}" for height in range(CHART_HEIGHT, 0, -1)]
    return (*up, *down)


@cache
def _bars(day_count: int, baseline: int) -> list[tuple[str, ...]]:
    return [_bars_of_day(offset, baseline) for offset in range(day_count)]


def usage_chart(daily: DailyUsage) -> Chart | None:
    """Return the bars of a SKU's usage by day, the path to be stroked; null if there was no usage.

    Heights are drawn, not billed: they are the only place where a quantity is a float. A day with little usage is one
    unit high, so that it differs from a day without.
    """
    texts: Sequence[str] = daily.quantities
    sizes: list[int] | list[float]
    try:
        sizes = list(map(int, texts))  # three times as fast
    except ValueError:
        sizes = list(map(float, texts))
    if not sizes:
        return None
    day_count = len(sizes)
    highest, lowest = max(sizes), min(sizes)
    if lowest >= 0:
        if not highest:
            return None
        scale = _FULL_HEIGHT / highest
        baseline = CHART_HEIGHT
        heights = [ceil(size * scale) for size in sizes]
    else:
        scale = (CHART_HEIGHT - 2) / (max(highest, 0) - lowest)  # a bar rounded up on either side of the line
        baseline = CHART_HEIGHT - 1 - int(-lowest * scale)
        heights = [ceil(size * scale) if size > 0 else floor(size * scale) for size in sizes]
    path = "".join(map(getitem, _bars(day_count, baseline), heights))
    peak = sizes.index(highest)  # type: ignore[arg-type]
    first_date = daily.first_date
    most = f"{format_quantity(texts[peak])} {daily.unit} on {_day(first_date, peak)}"
    return Chart(
        path,
        day_count * BAR_STEP - (BAR_STEP - BAR_WIDTH),
        baseline,
        f"By day, most {most}",
        f"Usage by day from {_day(first_date, 0)} to {_day(first_date, day_count - 1)}: "
        f"{day_count - sizes.count(0)} of {day_count} days with usage, most {most}",
    )
