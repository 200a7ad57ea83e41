"""Terms as relations: what the SQL rater joins usage with.

A *price list* is what one plan of one book charges in one currency; a *charge* is priced once, however many accounts
have it, and an override is a charge of a price list of its own. Every row that makes a line item carries the kind and
the description of that line. Nothing is priced here; prices are of one unit, exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pipeline.core.dataset import INSTANT, QUANTITY, UNIT_PRICE
from pipeline.core.line_item import LineKind
from pipeline.core.money import RoundingMode, exact, minor_unit_digits
from pipeline.core.price_book import (
    PLAN_SKU,
    AnyCharge,
    Change,
    Discount,
    DynamicCharge,
    FlatFeeCharge,
    GraduatedCharge,
    GraduatedPercentageCharge,
    MatrixCharge,
    PackageCharge,
    PercentageCharge,
    PerUnitCharge,
    Plan,
    StairstepCharge,
    VolumeCharge,
)
from pipeline.core.project import PricedBook
from pipeline.core.terms import AccountTerms, AdvanceFees, Segment

FLAT_AMOUNT = "DECIMAL(26,12)"
MINOR_UNIT = "DECIMAL(5,4)"
Columns = tuple[tuple[str, str], ...]
Row = tuple[Any, ...]

PRICED_SEGMENTS: Columns = (
    ("priced_segment", "INTEGER"),  # counts the rows
    ("account_id", "VARCHAR"),
    ("segment", "INTEGER"),
    ("timing", "VARCHAR"),  # of the fees: arrears for a segment, advance for a service period that is paid before it
    ("price_list", "INTEGER"),
    ("period_id", "VARCHAR"),
    ("id_part", "VARCHAR"),  # what the ids of its lines say of the period: 2026-01, or 2026-01.2
    ("service_period_start", INSTANT),
    ("service_period_end", INSTANT),
    ("active_days", "INTEGER"),
    ("days", "INTEGER"),
    ("segment_count", "INTEGER"),
    ("counts_on", "BOOLEAN"),  # from the segments before
    ("is_last", "BOOLEAN"),  # of those in which the account was there on some day
)
PRICE_LISTS: Columns = (
    ("price_list", "INTEGER"),
    ("plan", "VARCHAR"),
    ("currency", "VARCHAR"),
    ("minor_unit", MINOR_UNIT),
    ("rounds_half_even", "BOOLEAN"),
    ("price_book_version", "VARCHAR"),
    ("no_text", "VARCHAR"),  # empty: the unit and the model of a line that has none
)
PRICE_LIST_CHARGES: Columns = (
    ("price_list", "INTEGER"),
    ("sku", "VARCHAR"),
    ("charge", "INTEGER"),
    ("has_cells", "BOOLEAN"),  # usage is priced by its dimensions
)
CHARGES: Columns = (
    ("charge", "INTEGER"),
    ("sku", "VARCHAR"),
    ("description", "VARCHAR"),
    ("model", "VARCHAR"),
    ("tax_category", "VARCHAR"),
    ("minor_unit", MINOR_UNIT),
    ("rounds_half_even", "BOOLEAN"),
    ("per_units", QUANTITY),
    ("included_units", QUANTITY),
    ("tier_fees", "VARCHAR"),  # graduated: of each tier entered; volume: of the tier that all falls into; else null
    ("charges_zero_usage", "BOOLEAN"),  # the flat fee of tier 1 is due on a usage of zero
    ("zero_usage_costs", "BOOLEAN"),  # rated also without any usage
    ("package_size", QUANTITY),  # this and what follows: null unless the model has it
    ("package_price", FLAT_AMOUNT),
    ("rounds_packages_up", "BOOLEAN"),
    ("fee_per_event", FLAT_AMOUNT),
    ("needs_values", "BOOLEAN"),
    ("minimum_per_event", FLAT_AMOUNT),
    ("maximum_per_event", FLAT_AMOUNT),
    ("free_events", "BIGINT"),
    ("free_amount", QUANTITY),
    ("required_unit", "VARCHAR"),  # the quantity is an amount of this currency
    ("highest_unit", QUANTITY),  # a last tier that is not open ends here
)
CHARGE_BANDS: Columns = (
    ("charge", "INTEGER"),
    ("kind", "VARCHAR"),
    ("id_suffix", "VARCHAR"),
    ("is_included", "BOOLEAN"),  # of all units; other bands are of those that are left
    ("tier", "INTEGER"),
    ("above", QUANTITY),  # null is without bound
    ("up_to", QUANTITY),
    ("takes_all", "BOOLEAN"),  # the whole quantity is priced by the band that it falls into
    ("unit_price", UNIT_PRICE),  # as the book says it: of `per_units` units
    ("price_of_one", UNIT_PRICE),
    ("flat_fee", FLAT_AMOUNT),
)
CHARGE_CELLS: Columns = (
    ("charge", "INTEGER"),
    ("tier", "INTEGER"),
    ("dimension_values", "VARCHAR[]"),  # in the order of `charge_dimensions`; null is the default
)
CHARGE_DIMENSIONS: Columns = (("charge", "INTEGER"), ("position", "INTEGER"), ("json_path", "VARCHAR"))
CHARGE_FEES: Columns = (
    ("charge", "INTEGER"),
    ("kind", "VARCHAR"),
    ("id_suffix", "VARCHAR"),
    ("timing", "VARCHAR"),
    ("amount", FLAT_AMOUNT),
    ("is_prorated", "BOOLEAN"),
)
DISCOUNT: Columns = (
    ("position", "INTEGER"),  # in which order they are taken off
    ("tier", "INTEGER"),  # the number that the line says
    ("kind", "VARCHAR"),
    ("id_suffix", "VARCHAR"),
    ("description", "VARCHAR"),
    ("factor", UNIT_PRICE),  # the percentage of 1; null for an amount
    ("amount", FLAT_AMOUNT),
)
CHARGE_DISCOUNTS: Columns = (("charge", "INTEGER"), *DISCOUNT)
CHARGE_BOUNDS: Columns = (
    ("charge", "INTEGER"),
    ("kind", "VARCHAR"),
    ("id_suffix", "VARCHAR"),
    ("amount", FLAT_AMOUNT),
)
PLAN_DISCOUNTS: Columns = (("price_list", "INTEGER"), *DISCOUNT)
COMMITMENTS: Columns = (
    ("price_list", "INTEGER"),
    ("sku", "VARCHAR"),
    ("description", "VARCHAR"),
    ("tax_category", "VARCHAR"),
    ("amount", FLAT_AMOUNT),
    ("is_prorated", "BOOLEAN"),
    ("overage_factor", "DECIMAL(8,4)"),
    ("commitment_kind", "VARCHAR"),
    ("overage_kind", "VARCHAR"),
)
COLUMNS: Mapping[str, Columns] = {
    "priced_segments": PRICED_SEGMENTS,
    "price_lists": PRICE_LISTS,
    "price_list_charges": PRICE_LIST_CHARGES,
    "charges": CHARGES,
    "charge_bands": CHARGE_BANDS,
    "charge_cells": CHARGE_CELLS,
    "charge_dimensions": CHARGE_DIMENSIONS,
    "charge_fees": CHARGE_FEES,
    "charge_discounts": CHARGE_DISCOUNTS,
    "charge_bounds": CHARGE_BOUNDS,
    "plan_discounts": PLAN_DISCOUNTS,
    "commitments": COMMITMENTS,
}

# Columns that hold few texts, or one for each account, over and over: what a warehouse may encode.
ENCODED: tuple[tuple[str, str], ...] = tuple(
    (table, column)
    for table, columns in COLUMNS.items()
    for column, sql_type in columns
    if sql_type == "VARCHAR" and column not in {"json_path", "required_unit", "tier_fees"}
)


@dataclass(slots=True)
class _Writer:
    """Rows by table; a charge and a price list are written when they are first met."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    charges: dict[int, int] = field(default_factory=dict)
    mappings: dict[tuple[int, int, int, str], int] = field(default_factory=dict)
    price_lists: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def charge(self, charge: AnyCharge, priced: PricedBook) -> int:
        """Return the number of a charge of a book."""
        found = self.charges.get(id(charge))
        if found is None:
            found = self.charges[id(charge)] = len(self.charges) + 1
            _write_charge(self.rows, found, charge, priced)
        return found

    def price_list(self, terms: Segment | AdvanceFees, currency: str) -> int:
        """Return the number of the price list of some terms; equal charges are one price list."""
        shortcut = (id(terms.plan), id(terms.priced), id(terms.charges), currency)
        found = self.mappings.get(shortcut)
        if found is None:
            charges = tuple(sorted((sku, self.charge(charge, terms.priced)) for sku, charge in terms.charges.items()))
            key = (terms.plan_name, id(terms.plan), terms.priced.version, currency, charges)
            found = self.price_lists.get(key)
            if found is None:
                found = self.price_lists[key] = len(self.price_lists) + 1
                self.rows["price_list_charges"] += [
                    (found, sku, charge, isinstance(terms.charges[sku], MatrixCharge)) for sku, charge in charges
                ]
                _write_price_list(self.rows, found, terms.plan_name, terms.plan, terms.priced, currency)
            self.mappings[shortcut] = found
        return found


def pricing_tables(terms: Iterable[AccountTerms]) -> dict[str, list[Row]]:
    """Return the rows of each table of ``COLUMNS`` for the terms of accounts, in order of account."""
    writer = _Writer()
    segments = writer.rows["priced_segments"]
    for account in terms:
        account_id, currency = account.account.account_id, account.account.currency
        period_id, count = account.period.period_id, len(account.segments)
        counts_on = count > 1 and account.on_change is Change.SPLIT_COUNTING_ON
        last = max((segment.number for segment in account.segments if segment.active_days), default=0)
        for segment in account.segments:
            number = segment.number
            segments.append(
                (
                    len(segments) + 1,
                    account_id,
                    number,
                    "arrears",
                    writer.price_list(segment, currency),
                    period_id,
                    period_id if number == 1 else f"{period_id}.{number}",
                    segment.start,
                    segment.end,
                    segment.active_days,
                    account.days,
                    count,
                    counts_on,
                    number == last,
                )
            )
        for fees in account.advance_fees:
            segments.append(
                (
                    len(segments) + 1,
                    account_id,
                    1,
                    "advance",
                    writer.price_list(fees, currency),
                    period_id,
                    fees.period.period_id,
                    fees.start,
                    fees.period.end,
                    fees.active_days,
                    fees.days,
                    1,
                    False,
                    True,
                )
            )
    return writer.rows


def _write_price_list(
    rows: dict[str, list[Row]], number: int, plan_name: str, plan: Plan, priced: PricedBook, currency: str
) -> None:
    minor_unit = Decimal(1).scaleb(-minor_unit_digits(currency))
    half_even = priced.book.rounding is RoundingMode.HALF_EVEN
    rows["price_lists"].append((number, plan_name, currency, minor_unit, half_even, priced.version, ""))
    in_currency = [
        (tier, discount)
        for tier, discount in enumerate(plan.discounts, start=1)
        if discount.currency in (None, currency)
    ]
    rows["plan_discounts"] += [
        (number, position, tier, *_discount(LineKind.PLAN_DISCOUNT, tier, one))
        for position, (tier, one) in enumerate(in_currency, start=1)
    ]
    rows["commitments"] += [
        (
            number,
            f"{PLAN_SKU}{plan_name}",
            one.description,
            one.tax_category,
            one.amount,
            one.prorated,
            one.overage_factor,
            LineKind.COMMITMENT.value,
            LineKind.OVERAGE.value,
        )
        for one in plan.commitments
        if one.currency == currency
    ]


def _write_charge(rows: dict[str, list[Row]], number: int, charge: AnyCharge, priced: PricedBook) -> None:
    included = getattr(charge, "included_units", Decimal(0))
    tiers: Sequence[Any] = getattr(charge, "tiers", ())
    charges_zero = getattr(charge, "zero_usage_flat_fee", "skip") == "charge"
    package = charge if isinstance(charge, PackageCharge) else None
    percentage = charge if isinstance(charge, PercentageCharge) else None
    rows["charges"].append(
        (
            number,
            charge.sku,
            charge.description,
            charge.model,
            charge.tax_category,
            Decimal(1).scaleb(-minor_unit_digits(charge.currency)),
            priced.book.rounding is RoundingMode.HALF_EVEN,
            package.package_size if package else getattr(charge, "per_units", Decimal(1)),
            included,
            _tier_fees(charge),
            charges_zero,
            charge.minimum_amount is not None or (bool(tiers) and charges_zero and tiers[0].flat_fee > 0),
            package and package.package_size,
            package and package.package_price,
            package and package.package_rounding == "up",
            percentage and percentage.fixed_fee_per_event,
            percentage and percentage.needs_values,
            percentage and percentage.minimum_per_event,
            percentage and percentage.maximum_per_event,
            percentage and percentage.free_events,
            percentage and percentage.free_amount,
            charge.currency if isinstance(charge, DynamicCharge) else None,
            tiers[-1].up_to if tiers else None,
        )
    )
    nothing = Decimal(0)
    if included:
        kind = LineKind.INCLUDED.value
        rows["charge_bands"].append((number, kind, kind, True, 0, nothing, included, False, nothing, nothing, nothing))
    rows["charge_bands"] += [
        (number, LineKind.USAGE.value, f"{charge.model}/{tier or 'default'}", False, tier, *band)
        for tier, *band in _bands(charge)
    ]
    if isinstance(charge, MatrixCharge):
        rows["charge_dimensions"] += [
            (number, position, f"$.{json.dumps(name, ensure_ascii=False)}")
            for position, name in enumerate(charge.dimensions, start=1)
        ]
        rows["charge_cells"] += [
            (number, tier, [cell.match[name] for name in charge.dimensions])
            for tier, cell in enumerate(charge.cells, start=1)
        ]
        if charge.default_unit_price is not None:
            rows["charge_cells"].append((number, 0, None))
    if isinstance(charge, FlatFeeCharge):
        kind = LineKind.FLAT_FEE.value
        rows["charge_fees"].append((number, kind, kind, charge.timing, charge.amount, charge.prorated))
    rows["charge_discounts"] += [
        (number, tier, tier, *_discount(LineKind.DISCOUNT, tier, one))
        for tier, one in enumerate(charge.discounts, start=1)
    ]
    for bound, amount in ((LineKind.MAXIMUM, charge.maximum_amount), (LineKind.MINIMUM, charge.minimum_amount)):
        if amount is not None:
            rows["charge_bounds"].append((number, bound.value, bound.value, amount))


def _tier_fees(charge: AnyCharge) -> str | None:
    if isinstance(charge, GraduatedCharge | GraduatedPercentageCharge):
        return "graduated"
    return "volume" if isinstance(charge, VolumeCharge | StairstepCharge) else None


def _bands(charge: AnyCharge) -> list[Row]:
    """Return the rows of ``charge_bands`` from ``tier`` on: tiers, cells, or one for everything."""
    nothing = Decimal(0)
    prices: list[tuple[Decimal | None, bool, Decimal, Decimal, Decimal]]
    match charge:
        case GraduatedCharge() | VolumeCharge() | StairstepCharge():
            takes_all = not isinstance(charge, GraduatedCharge)
            prices = [
                (tier.up_to, takes_all, tier.unit_price, _of_one(tier.unit_price, charge.per_units), tier.flat_fee)
                for tier in charge.tiers
            ]
        case GraduatedPercentageCharge():
            prices = [
                (tier.up_to, False, _of_hundred(tier.percent), _of_hundred(tier.percent), tier.flat_fee)
                for tier in charge.tiers
            ]
        case MatrixCharge():
            cells = [(tier, cell.unit_price) for tier, cell in enumerate(charge.cells, start=1)]
            if charge.default_unit_price is not None:
                cells.insert(0, (0, charge.default_unit_price))
            return [(tier, None, None, False, price, price, nothing) for tier, price in cells]
        case FlatFeeCharge():
            return []
        case PerUnitCharge():
            prices = [(None, False, charge.unit_price, _of_one(charge.unit_price, charge.per_units), nothing)]
        case PackageCharge():
            prices = [(None, False, nothing, nothing, nothing)]
        case PercentageCharge():
            prices = [(None, False, _of_hundred(charge.percent), _of_hundred(charge.percent), nothing)]
        case DynamicCharge():
            prices = [(None, False, Decimal(1), Decimal(1), nothing)]
    bounds = [None, *(up_to for up_to, *_ in prices)]
    return [(tier, bounds[tier - 1], *price) for tier, price in enumerate(prices, start=1)]


def _discount(kind: LineKind, tier: int, discount: Discount) -> Row:
    """Return the columns of ``DISCOUNT`` from ``kind`` on."""
    factor = None if discount.percent is None else _of_hundred(discount.percent)
    return kind.value, f"{kind.value}/{tier}", discount.description, factor, discount.amount


def _of_one(unit_price: Decimal, per_units: Decimal) -> Decimal:
    with exact():
        return unit_price / per_units


def _of_hundred(percent: Decimal) -> Decimal:
    return percent.scaleb(-2)
