"""Line items: the amounts that an invoice is made of, each with an id that says what it is.

An id is readable and the same on every run: ``acct-7/api-calls/2026-01/graduated/2`` is tier 2 of the graduated price
of SKU api-calls in January. The second part of a split period is ``2026-01.2``. What is not a price of usage ends with
its kind: ``acct-7/api-calls/2026-01/discount/1``.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple


class LineKind(StrEnum):
    """What a line is; also the order in which lines of a charge come about."""

    USAGE = "usage"
    INCLUDED = "included"  # units that cost nothing, before any tier
    FLAT_FEE = "flat_fee"
    DISCOUNT = "discount"  # of a charge
    MAXIMUM = "maximum"  # what the charge's maximum takes off
    MINIMUM = "minimum"  # what the charge's minimum adds
    PLAN_DISCOUNT = "plan_discount"  # the charge's share of a discount of the plan
    COMMITMENT = "commitment"  # what is missing to the plan's commitment
    OVERAGE = "overage"  # what usage beyond the commitment costs on top


class LineItem(NamedTuple):  # nothing changes it, and millions are made: a frozen dataclass takes six times as long
    """One amount on an invoice; the fields are the columns of ``line_items``, in order.

    ``quantity`` is in ``unit`` and ties to usage in lines of usage and included units; in the others it is zero.
    ``amount_exact`` is before the one rounding, ``residual`` what rounding took (exact - rounded).
    """

    line_item_id: str
    account_id: str
    period_id: str
    segment: int
    service_period_start: datetime
    service_period_end: datetime
    plan: str
    sku: str  # "plan:<name>" for a commitment
    description: str
    kind: LineKind
    model: str  # of the charge; empty for a line of the plan
    tier: int  # number of the tier, cell, or discount; 0 where there is none
    quantity: Decimal
    unit: str
    unit_price: Decimal  # for `per_units` units; a percentage is a price of one unit of currency
    per_units: Decimal
    flat_fee: Decimal  # the part of amount_exact that does not depend on the quantity
    currency: str
    amount_exact: Decimal
    amount: Decimal
    residual: Decimal
    tax_category: str
    price_book_version: str


def line_item_id(account_id: str, sku: str, period_id: str, segment: int, *what: object) -> str:
    """Return the id of a line.

    >>> line_item_id("acct-7", "api-calls", "2026-01", 1, "graduated", 2)
    'acct-7/api-calls/2026-01/graduated/2'
    >>> line_item_id("acct-7", "api-calls", "2026-01", 2, "minimum")
    'acct-7/api-calls/2026-01.2/minimum'
    """
    part = period_id if segment == 1 else f"{period_id}.{segment}"
    return "/".join((account_id, sku, part, *(str(word) for word in what)))
