"""A price book as people read it: the prices of a charge in words, and what changed between two books."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipeline.core.decimals import plain_text
from pipeline.core.price_book import (
    AnyCharge,
    Commitment,
    Discount,
    DynamicCharge,
    FlatFeeCharge,
    GraduatedPercentageCharge,
    MatrixCharge,
    PackageCharge,
    PercentageCharge,
    PerUnitCharge,
    PriceBook,
)

COMMON_KEYS = ("included_units", "minimum_amount", "maximum_amount", "zero_usage_flat_fee", "tax_category")


def price_rows(charge: AnyCharge) -> list[tuple[str, str]]:
    """Return what a charge costs, as (of what, price), a row for each tier or cell; then what bounds it.

    >>> from pipeline.core.price_book import CHARGE
    >>> price_rows(CHARGE.validate_python({"model": "graduated", "sku": "calls", "description": "Calls",
    ...     "currency": "USD", "per_units": 1000, "tiers": [{"up_to": 10, "unit_price": 2}, {"flat_fee": 5}]}))
    [('to 10', '2 per 1,000'), ('above 10', '5 flat')]
    """
    rows = list(_prices(charge))
    for key in COMMON_KEYS:
        value = getattr(charge, key, None)
        if value is not None and value != type(charge).model_fields[key].default:
            rows.append((key.replace("_", " "), number(value) if isinstance(value, Decimal) else str(value)))
    for discount in charge.discounts:
        rows.append(("discount", f"{_off(discount)} ({discount.description})"))
    return rows


def book_lines(book: PriceBook) -> list[list[list[str]]]:
    """Return a book as tables of texts: its policy, its plans, each plan's charges, the overrides."""
    tables = [
        [
            ["author", book.author],
            ["effective from", book.effective_from.isoformat()],
            ["rounding", book.rounding.value],
            ["on change", book.on_change.value],
            *([["description", book.description]] if book.description else []),
        ]
    ]
    for name, plan in book.plans.items():
        tables.append([["", ""], [f"plan {name}", plan.description]])
        tables.append([["SKU", "description", "model", "of what", "price", ""], *_charge_rows(plan.charges)])
        extra = [
            ["discount", _off(discount), discount.currency or "any currency", discount.description]
            for discount in plan.discounts
        ]
        extra += [
            ["commitment", number(commitment.amount), commitment.currency, _commitment(commitment)]
            for commitment in plan.commitments
        ]
        if extra:
            tables.append(extra)
    for override in book.overrides:
        end = "no end" if override.valid_to is None else f"before {override.valid_to.isoformat()}"
        span = f"from {override.valid_from.isoformat()}, {end}"
        tables.append([["", "", ""], [f"override of {override.account_id}", span, override.reason]])
        tables.append(_charge_rows([override.charge]))
    return tables


def _charge_rows(charges: Iterable[AnyCharge]) -> list[list[str]]:
    rows = []
    for charge in charges:
        first = [charge.sku, charge.description, charge.model]
        for of_what, price in price_rows(charge):
            rows.append([*first, of_what, price, charge.currency])
            first = ["", "", ""]
    return rows


def _off(discount: Discount) -> str:
    return f"{number(discount.percent)} %" if discount.percent is not None else number(discount.amount or Decimal(0))


def _commitment(commitment: Commitment) -> str:
    beyond = f", beyond it times {number(commitment.overage_factor)}" if commitment.overage_factor != 1 else ""
    return f"{commitment.description}{beyond}{', prorated' if commitment.prorated else ''}"


def number(value: Decimal) -> str:
    """Return a decimal with its thousands apart.

    >>> number(Decimal("1234567.50"))
    '1,234,567.5'
    """
    whole, point, decimals = plain_text(value).partition(".")
    return f"{int(whole):,}{point}{decimals}" if whole not in ("-0", "0") else plain_text(value)


def _prices(charge: AnyCharge) -> Iterator[tuple[str, str]]:
    match charge:
        case PerUnitCharge():
            yield "each unit", _per(charge.unit_price, charge.per_units)
        case PackageCharge():
            yield f"each {number(charge.package_size)} ({charge.package_rounding})", number(charge.package_price)
        case PercentageCharge():
            yield "the amount", f"{number(charge.percent)} %"
            for key in ("fixed_fee_per_event", "minimum_per_event", "maximum_per_event", "free_events", "free_amount"):
                value = getattr(charge, key)
                if value:
                    yield key.replace("_", " "), number(Decimal(value))
        case MatrixCharge():
            for cell in charge.cells:
                of_what = ", ".join(f"{name} = {value}" for name, value in sorted(cell.match.items()))
                yield of_what, number(cell.unit_price)
            default = charge.default_unit_price
            yield "any other", "refused" if default is None else number(default)
        case DynamicCharge():
            yield "each event", "its own price"
        case FlatFeeCharge():
            prorated = "prorated" if charge.prorated else "whole"
            yield f"each period, in {charge.timing}, {prorated}", number(charge.amount)
        case _:
            lower = Decimal(0)
            for tier in charge.tiers:
                span = f"above {number(lower)}" if lower else ""
                if tier.up_to is not None:
                    span = f"{span} to {number(tier.up_to)}".strip()
                if isinstance(charge, GraduatedPercentageCharge):
                    price = f"{number(tier.percent)} %"  # type: ignore[union-attr]
                else:
                    price = _per(tier.unit_price, charge.per_units) if "unit_price" in tier.model_fields_set else ""  # type: ignore[union-attr]
                flat = f"{number(tier.flat_fee)} flat" if tier.flat_fee else ""
                yield span or "each unit", " + ".join(part for part in (price, flat) if part) or "0"
                lower = tier.up_to or lower


def _per(price: Decimal, per_units: Decimal) -> str:
    return number(price) if per_units == 1 else f"{number(price)} per {number(per_units)}"


# ---- what changed ----


@dataclass(frozen=True, slots=True)
class BookChange:
    """One key of one part of a book that another book has otherwise; ``old`` or ``new`` is None where it is not."""

    subject: str
    key: str
    old: str | None
    new: str | None


def book_changes(before: PriceBook, after: PriceBook) -> list[BookChange]:
    """Return every difference in prices and policy: the book's own keys, plans, charges by SKU and currency, overrides.

    The order of plans and charges is no difference; that of discounts and tiers is.
    """
    parts = [_parts(before), _parts(after)]
    changes = []
    for subject in sorted(parts[0].keys() | parts[1].keys(), key=lambda name: (_RANK[name.partition(" ")[0]], name)):
        old, new = (part.get(subject) for part in parts)
        if old is None or new is None:
            text = "; ".join(f"{key} {value}" for key, value in (old or new or {}).items() if value)
            added = old is None
            changes.append(
                BookChange(subject, "added" if added else "removed", None if added else text, text if added else None)
            )
            continue
        keys = list(dict.fromkeys([*old, *new]))
        changes += [
            BookChange(subject, key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)
        ]
    return changes


_RANK = {"book": 0, "plan": 1, "override": 2}


def _parts(book: PriceBook) -> dict[str, dict[str, str]]:
    """Return each part of a book that may change, as keys and texts."""
    own = ("name", "description", "author", "effective_from", "rounding", "on_change")
    parts = {"book": {key: str(getattr(book, key)) for key in own}}
    for name, plan in book.plans.items():
        parts[f"plan {name}"] = {
            "description": plan.description,
            **_texts("discounts", plan.discounts),
            **_texts("commitments", plan.commitments),
        }
        for charge in plan.charges:
            parts[f"plan {name}, SKU {charge.sku}, {charge.currency}"] = _charge_texts(charge)
    for override in book.overrides:
        charge = override.charge
        where = f"{override.account_id}, SKU {charge.sku}, {charge.currency}, from {override.valid_from.isoformat()}"
        until = "" if override.valid_to is None else override.valid_to.isoformat()
        parts[f"override {where}"] = {"valid_to": until, "reason": override.reason, **_charge_texts(charge)}
    return parts


def _charge_texts(charge: AnyCharge) -> dict[str, str]:
    return {key: text for key, text in _flat("", charge.model_dump()) if key not in ("sku", "currency")}


def _texts(name: str, entries: Iterable[Any]) -> dict[str, str]:
    return dict(_flat(name, [entry.model_dump() for entry in entries]))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the values of tables and lists under the key that people write: ``tiers.#2.unit_price``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else key, item)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value, start=1):
            yield from _flat(f"{name}.#{place}", item)
    elif value is not None:
        yield name, number(value) if isinstance(value, Decimal) else str(value)
