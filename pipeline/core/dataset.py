"""The datasets of the lake: name, columns in order, and the total order their rows are written in.

Types are SQL type names. A dataset has one writer (docs/architecture.md) and its rows have one total
order, so that the same rows always make the same file (P1).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset: ``columns`` as (name, SQL type), ``key`` as the columns that name and order a row."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)


QUANTITY = "DECIMAL(38,9)"
UNIT_PRICE = "DECIMAL(18,12)"
AMOUNT = "DECIMAL(28,4)"
SUMMED_AMOUNT = "DECIMAL(38,4)"
AMOUNT_EXACT = "DECIMAL(38,21)"
INSTANT = "TIMESTAMP WITH TIME ZONE"

RAW_EVENTS = Dataset(
    "raw_events",
    (
        ("object_id", "VARCHAR"),  # key of the object in the bucket, "@", version: see object_ledger
        ("line_number", "BIGINT"),  # 1 is the first physical line of the object
        ("source", "VARCHAR"),
        ("id", "VARCHAR"),
        ("type", "VARCHAR"),
        ("subject", "VARCHAR"),
        ("event_at", INSTANT),
        ("received_at", INSTANT),
        ("quantity", QUANTITY),  # null when the contract maps none
        ("data", "VARCHAR"),  # JSON object, keys sorted, every number a string of its exact digits
        ("key_hash", "UBIGINT"),  # of source and id: what is compared first; see adapters/event_hash.py
        ("payload_hash", "UBIGINT"),  # of quantity and data: tells copies from conflicts without reading them
    ),
    ("object_id", "line_number"),
)

QUARANTINE = Dataset(
    "quarantine",
    (
        ("object_id", "VARCHAR"),
        ("line_number", "BIGINT"),  # 0 is the whole object
        ("byte_offset", "BIGINT"),  # of the line in the decompressed object
        ("contract", "VARCHAR"),
        ("received_at", INSTANT),
        ("reason", "VARCHAR"),  # a QuarantineReason
        ("message", "VARCHAR"),
        ("raw", "BLOB"),  # the first bytes, up to the contract's limit
        ("raw_bytes", "BIGINT"),  # length of the whole line or object
        ("raw_sha256", "VARCHAR"),  # of the whole line or object
    ),
    ("object_id", "line_number"),
)

EXCLUDED_EVENTS = Dataset(
    "excluded_events",
    (
        ("object_id", "VARCHAR"),
        ("line_number", "BIGINT"),
        ("source", "VARCHAR"),
        ("id", "VARCHAR"),
        ("type", "VARCHAR"),
        ("subject", "VARCHAR"),
        ("event_at", INSTANT),
        ("received_at", INSTANT),
        ("reason", "VARCHAR"),  # an ExclusionReason
        ("winner_object_id", "VARCHAR"),  # the copy that stands, or the event that withdraws this one
        ("winner_line_number", "BIGINT"),
    ),
    ("object_id", "line_number"),
)

# Not stored: the raw events of the window without the excluded ones, as sql/usage_events.sql says.
USAGE_EVENTS = Dataset(
    "usage_events",
    (
        ("source", "VARCHAR"),
        ("id", "VARCHAR"),
        ("key_hash", "UBIGINT"),
        ("account_id", "VARCHAR"),
        ("type", "VARCHAR"),
        ("subject", "VARCHAR"),
        ("event_at", INSTANT),
        ("received_at", INSTANT),
        ("quantity", QUANTITY),
        ("data", "VARCHAR"),
        ("object_id", "VARCHAR"),
        ("line_number", "BIGINT"),
        ("has_fallback_account", "BOOLEAN"),  # nobody owned the subject; the project names who is billed
    ),
    ("source", "id"),
)

USAGE = Dataset(
    "usage",
    (
        ("account_id", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("dimensions", "VARCHAR"),  # JSON object of the meter's dimensions, keys in the meter's order
        ("grain_start", INSTANT),
        ("aggregation", "VARCHAR"),  # an Aggregation
        ("quantity", QUANTITY),  # what the grain alone comes to; see sql/usage.sql
        ("value_sum", QUANTITY),  # of the events' values: the control total, whatever the aggregation
        ("unit", "VARCHAR"),  # of the values; the billed unit is the period's
        ("event_count", "BIGINT"),
        ("event_set_hash", "UBIGINT"),  # of the set of (source, id), whatever the order
    ),
    ("account_id", "sku", "dimensions", "grain_start"),
)

USAGE_VALUES = Dataset(
    "usage_values",
    (
        ("account_id", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("dimensions", "VARCHAR"),
        ("grain_start", INSTANT),
        ("value_text", "VARCHAR"),  # the text that a unique count counts, or a sample of a percentile
        ("event_count", "BIGINT"),
    ),
    ("account_id", "sku", "dimensions", "grain_start", "value_text"),
)

USAGE_LEVELS = Dataset(
    "usage_levels",
    (
        ("account_id", "VARCHAR"),  # null: nobody's, so it is no usage, but the next owner goes on with it
        ("sku", "VARCHAR"),
        ("dimensions", "VARCHAR"),
        ("resource", "VARCHAR"),  # the subject of the events
        ("grain_start", INSTANT),
        ("owned_from", INSTANT),  # since when in the grain the resource had this owner, or none
        ("aggregation", "VARCHAR"),  # latest or time_weighted_sum
        ("unit", "VARCHAR"),
        ("first_event_at", INSTANT),
        ("latest_event_at", INSTANT),
        ("latest_value", QUANTITY),
        ("level_microseconds", QUANTITY),  # the level times the microseconds from the first to the latest event
        ("lasts", "BOOLEAN"),  # no event of another account follows while the owner is the same one, or none
    ),
    ("account_id", "sku", "dimensions", "grain_start", "resource", "owned_from"),
)

LINE_ITEMS = Dataset(
    "line_items",
    (
        ("line_item_id", "VARCHAR"),  # account/sku/period/..., see core/line_item.py
        ("account_id", "VARCHAR"),
        ("period_id", "VARCHAR"),
        ("segment", "INTEGER"),
        ("service_period_start", INSTANT),
        ("service_period_end", INSTANT),
        ("plan", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("description", "VARCHAR"),
        ("kind", "VARCHAR"),  # a LineKind
        ("model", "VARCHAR"),  # empty for a line of the plan
        ("tier", "INTEGER"),
        ("quantity", QUANTITY),
        ("unit", "VARCHAR"),
        ("unit_price", UNIT_PRICE),  # for `per_units` units
        ("per_units", QUANTITY),
        ("flat_fee", AMOUNT_EXACT),  # the part of amount_exact that does not depend on the quantity
        ("currency", "VARCHAR"),
        ("amount_exact", AMOUNT_EXACT),
        ("amount", AMOUNT),
        ("residual", AMOUNT_EXACT),  # amount_exact - amount
        ("tax_category", "VARCHAR"),
        ("price_book_version", "VARCHAR"),
    ),
    ("account_id", "sku", "segment", "kind", "tier", "service_period_start"),
)

ESTIMATES = Dataset(
    "estimates",
    (
        ("account_id", "VARCHAR"),
        ("period_id", "VARCHAR"),
        ("currency", "VARCHAR"),
        ("as_of", INSTANT),  # usage up to here is known
        ("days_known", "INTEGER"),  # whole days of the account's period whose usage is known
        ("days", "INTEGER"),
        ("amount_to_date", SUMMED_AMOUNT),  # the lines of the draft
        ("forecast_amount", SUMMED_AMOUNT),  # of the whole period; null, as the two below, where `problem` says why
        ("low_amount", SUMMED_AMOUNT),
        ("high_amount", SUMMED_AMOUNT),
        ("problem", "VARCHAR"),
    ),
    ("account_id", "period_id", "currency"),
)

PRICE_CHANGES = Dataset(
    "price_changes",
    (
        ("period_id", "VARCHAR"),
        ("account_id", "VARCHAR"),
        ("currency", "VARCHAR"),
        ("plan", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("amount_now", SUMMED_AMOUNT),
        ("amount_then", SUMMED_AMOUNT),
        ("amount_change", SUMMED_AMOUNT),  # amount_then - amount_now
    ),
    ("period_id", "account_id", "currency", "plan", "sku"),
)

# Not stored: the documents of a period before they have numbers, as they are checked (steps/check.py).
INVOICES = Dataset(
    "invoices",
    (
        ("account_id", "VARCHAR"),
        ("period_id", "VARCHAR"),
        ("currency", "VARCHAR"),
        ("issue_date", "DATE"),
        ("subtotal", SUMMED_AMOUNT),  # of the line items
        ("total", SUMMED_AMOUNT),  # with tax
    ),
    ("account_id",),
)

RECONCILIATION = Dataset(
    "reconciliation",
    (
        ("control", "VARCHAR"),  # name of the equation
        ("scope", "VARCHAR"),  # what it is about: an object, a SKU, a currency, "total"
        ("unit", "VARCHAR"),  # lines, events, a SKU's unit, a currency
        ("expected", AMOUNT_EXACT),
        ("actual", AMOUNT_EXACT),
        ("delta", AMOUNT_EXACT),  # actual - expected
        ("tolerance", AMOUNT_EXACT),
        ("tolerance_reason", "VARCHAR"),
        ("verdict", "VARCHAR"),  # pass or fail
        ("effect", "VARCHAR"),  # of a failure: stop, hold (the account) or report
        ("account_id", "VARCHAR"),  # the one that it is about; empty for a total
        ("break_class", "VARCHAR"),  # of what kind the difference is; empty where there is none
    ),
    ("control", "scope", "unit"),
)

DATASETS = {
    dataset.name: dataset
    for dataset in (
        *(RAW_EVENTS, QUARANTINE, EXCLUDED_EVENTS, USAGE_EVENTS),
        *(USAGE, USAGE_VALUES, USAGE_LEVELS, LINE_ITEMS, ESTIMATES, RECONCILIATION),
    )
}
