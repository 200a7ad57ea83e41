"""The SQL rater: the usage and the terms of a period become line items, a set at a time.

In the warehouse are ``period_usage`` and ``event_values``; the terms become tables beside them. Each query makes the
relation of its name, in the order of ``LINE_QUERIES``: usage, fees, then what is taken off and topped up.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import LINE_ITEMS, QUANTITY
from pipeline.core.pricing_tables import COLUMNS, ENCODED, pricing_tables
from pipeline.core.terms import AccountTerms

PERIOD_USAGE = (
    ("account_id", "VARCHAR"),
    ("sku", "VARCHAR"),
    ("segment", "INTEGER"),
    ("dimensions", "VARCHAR"),
    ("aggregation", "VARCHAR"),
    ("unit", "VARCHAR"),
    ("quantity", QUANTITY),
    ("event_count", "BIGINT"),
)
EVENT_VALUES = (
    ("account_id", "VARCHAR"),
    ("sku", "VARCHAR"),
    ("segment", "INTEGER"),
    ("grain_start", "TIMESTAMP WITH TIME ZONE"),
    ("value", QUANTITY),
    ("event_count", "BIGINT"),
)
_ADDED_QUERIES = {  # and the tables that they have nothing to add without
    "fee_lines": ("charge_fees",),
    "adjustment_lines": ("charge_discounts", "charge_bounds"),
    "plan_discount_lines": ("plan_discounts",),
    "commitment_lines": ("commitments",),
}
SQL_RATER_QUERIES = (
    *("charge_usage", "event_amounts", "usage_lines", *_ADDED_QUERIES),
    *("rated_lines", "line_items", "unpriced_usage"),
)
_LINE_ORDER = ("account_id", "sku", "segment", "kind", "tier")


def table_terms(warehouse: Warehouse, terms: Iterable[AccountTerms]) -> None:
    """Make the tables of terms, and let all texts that rating joins by share one dictionary."""
    for name, rows in pricing_tables(terms).items():
        warehouse.table_rows(name, COLUMNS[name], rows)
    usage = [("period_usage", column) for column in ("account_id", "sku", "unit")]
    values = [("event_values", column) for column in ("account_id", "sku")]
    warehouse.encode("pricing_texts", [*usage, *values, *ENCODED])


def rate_in_sql(warehouse: Warehouse) -> None:
    """Make ``rated_lines``, in the order of the line items, from ``period_usage``, ``event_values`` and the terms.

    The warehouse has one thread: with more, joins would not keep the order of the rows they read. A number that does
    not fit raises ``PricingError``.
    """
    for query in ("charge_usage", "event_amounts"):
        warehouse.build(query, {})
    warehouse.build("usage_lines", {}, keeps_order=True)
    for query, prices in _ADDED_QUERIES.items():
        warehouse.build(query, {}, rows_max=0 if all(warehouse.is_empty(table) for table in prices) else None)
    is_usage_alone = all(warehouse.is_empty(query) for query in _ADDED_QUERIES)
    if is_usage_alone and warehouse.is_ordered("usage_lines", _LINE_ORDER):
        warehouse.view("rated_lines", {})
    else:
        warehouse.build("rated_lines", {})


def write_line_items(warehouse: Warehouse, to: Path) -> Path:
    """Write what ``rate_in_sql`` made as a file of ``line_items``, in order."""
    return warehouse.write("line_items", {}, to, LINE_ITEMS, keeps_order=True)
