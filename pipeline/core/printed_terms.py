"""Printed terms: what a customer needs beside a line to understand its price, out of the charge it was made from.

A line has its own quantity, price and flat fee. What it has not is between which bounds its tier lies, how large a
package is, which cell of a matrix it is: that stands here, as finished texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pipeline.core.decimals import plain_text
from pipeline.core.line_item import LineKind
from pipeline.core.money import exact
from pipeline.core.price_book import (
    Discount,
    FlatFeeCharge,
    GraduatedCharge,
    GraduatedPercentageCharge,
    MatrixCharge,
    PackageCharge,
    PercentageCharge,
    StairstepCharge,
    VolumeCharge,
)

if TYPE_CHECKING:
    from pipeline.core.line_item import LineItem
    from pipeline.core.price_book import AnyCharge, Plan

PrintedTerms = Mapping[str, str | Mapping[str, str]]
_Tiered = GraduatedCharge | VolumeCharge | StairstepCharge | GraduatedPercentageCharge
_PER_EVENT = ("fixed_fee_per_event", "minimum_per_event", "maximum_per_event", "free_amount")


def printed_terms(line: LineItem, charge: AnyCharge | None, plan: Plan) -> PrintedTerms:
    """Return the terms of a line: from the charge that it is of, or from its plan (then ``charge`` is None).

    Texts by name; what is not there does not apply. ``above`` (exclusive), ``first_unit`` (absent where units are
    split), ``up_to`` (inclusive, absent in the last tier); ``percent`` or ``amount``; ``overage_factor``; ``timing``;
    ``included_units``; ``maximum_amount``; ``minimum_amount``; ``packages``, ``package_size``, ``package_price`` and
    ``package_rounding``; what a percentage has per event; ``match``, the dimensions of a cell, empty for the default.
    """
    if line.kind is LineKind.PLAN_DISCOUNT:
        return _discount(plan.discounts[line.tier - 1])
    if line.kind in (LineKind.COMMITMENT, LineKind.OVERAGE):
        commitment = next(one for one in plan.commitments if one.currency == line.currency)
        factor = {"overage_factor": plain_text(commitment.overage_factor)} if line.kind is LineKind.OVERAGE else {}
        return {"amount": plain_text(commitment.amount), **factor}
    if charge is None:
        raise ValueError(f"line item {line.line_item_id} is of a charge, and none was given")
    if line.kind is LineKind.DISCOUNT:
        return _discount(charge.discounts[line.tier - 1])
    if line.kind is LineKind.FLAT_FEE:
        return {"timing": charge.timing} if isinstance(charge, FlatFeeCharge) else {}
    name = {
        LineKind.INCLUDED: "included_units",
        LineKind.MAXIMUM: "maximum_amount",
        LineKind.MINIMUM: "minimum_amount",
    }.get(line.kind)
    if name is not None:
        return {name: plain_text(getattr(charge, name))}
    return _terms_of_usage(line, charge)


def _terms_of_usage(line: LineItem, charge: AnyCharge) -> PrintedTerms:
    if isinstance(charge, _Tiered):
        percent = charge.tiers[line.tier - 1].percent if isinstance(charge, GraduatedPercentageCharge) else None
        return {**_bounds(line, charge), **({} if percent is None else {"percent": plain_text(percent)})}
    if isinstance(charge, MatrixCharge):
        return {"match": dict(sorted(charge.cells[line.tier - 1].match.items())) if line.tier else {}}
    if isinstance(charge, PackageCharge):
        with exact():
            packages = line.amount_exact / charge.package_price if charge.package_price else None
        return {
            "package_size": plain_text(charge.package_size),
            "package_price": plain_text(charge.package_price),
            "package_rounding": charge.package_rounding,
            **({} if packages is None else {"packages": plain_text(packages)}),
        }
    if isinstance(charge, PercentageCharge):
        found: dict[str, Any] = {name: getattr(charge, name) for name in _PER_EVENT if getattr(charge, name)}
        if charge.free_events:
            found["free_events"] = Decimal(charge.free_events)
        return {"percent": plain_text(charge.percent), **{name: plain_text(value) for name, value in found.items()}}
    return {}


def _bounds(line: LineItem, charge: _Tiered) -> dict[str, str]:
    """Return the bounds of a tier; a charge of one tier has none to print."""
    if len(charge.tiers) == 1:
        return {}
    above = charge.tiers[line.tier - 2].up_to or Decimal(0) if line.tier > 1 else Decimal(0)
    up_to = charge.tiers[line.tier - 1].up_to
    found = {"above": plain_text(above)}
    if line.quantity == line.quantity.to_integral_value() and above == above.to_integral_value():
        with exact():
            found["first_unit"] = plain_text(above + 1)
    if up_to is not None:
        found["up_to"] = plain_text(up_to)
    return found


def _discount(discount: Discount) -> dict[str, str]:
    if discount.percent is not None:
        return {"percent": plain_text(discount.percent)}
    return {"amount": plain_text(discount.amount or Decimal(0))}
