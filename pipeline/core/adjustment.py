"""Adjustments: what a final period comes to by now, minus what was billed for it, line by line (P5).

Usage that is known late changes a period that was invoiced. The whole period is rated again at the prices it was
invoiced at, so tiers, minimums and discounts are right as a whole, and each line differs from what was billed by a
signed amount. Nothing that was issued changes: the differences are lines of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.line_item import LineItem
from pipeline.core.money import exact


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One signed line, and the id of the line item that it corrects; that one may never have been billed."""

    line: LineItem
    corrects_line_item_id: str


def adjustments(billed: Iterable[LineItem], rated: Iterable[LineItem], number: int) -> list[Adjustment]:
    """Return ``rated - billed`` of one account and period, in order of line; lines without a difference are left out.

    ``billed`` are the line items of its invoice and, under the ids they correct, those of its earlier adjustments: of
    an id that occurs again the sums count. ``number`` tells the adjustments of a period apart: an id ends with it.

    A line that is not rated any more is taken back whole; what a line is called comes from the newest that is known.
    """
    before, after = _totals(billed), _totals(rated)
    differences = []
    for line_item_id in sorted({*before, *after}):
        old, new = before.get(line_item_id), after.get(line_item_id)
        known = new or old
        if known is None:
            continue
        zero = _combined(known, known, sign=-1)
        difference = _combined(new or zero, old or zero, sign=-1)
        if difference.quantity or difference.amount or difference.amount_exact:
            line = difference._replace(line_item_id=f"{line_item_id}/adjustment/{number}")
            differences.append(Adjustment(line, line_item_id))
    return differences


def _totals(lines: Iterable[LineItem]) -> dict[str, LineItem]:
    totals: dict[str, LineItem] = {}
    for line in lines:
        earlier = totals.get(line.line_item_id)
        totals[line.line_item_id] = line if earlier is None else _combined(line, earlier, sign=1)
    return totals


def _combined(line: LineItem, other: LineItem, sign: int) -> LineItem:
    """Return the line with every number ``+ sign * other``; two currencies under one id are a contradiction."""
    if line.currency != other.currency:
        raise ValueError(f"line item {line.line_item_id} is in {line.currency} and was billed in {other.currency}")
    with exact():
        return line._replace(
            quantity=line.quantity + sign * other.quantity,
            flat_fee=line.flat_fee + sign * other.flat_fee,
            amount_exact=line.amount_exact + sign * other.amount_exact,
            amount=line.amount + sign * other.amount,
            residual=line.residual + sign * other.residual,
        )
