"""The suites of ``expectations/``: each is well formed, and each expectation in it fails on a planted fault.

A check that cannot fail proves nothing. So the rows below, which stand on every boundary from inside, pass every
expectation, and each fault is one small change that the expectation named beside it has to find.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.checks import Suite, load_suite, run_suite, suite_files
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.check import CHECKED, RELATIONS_BESIDE, Severity
from pipeline.core.dataset import INVOICES, LINE_ITEMS, RAW_EVENTS, USAGE, USAGE_EVENTS, Dataset

WINDOW_START = datetime(2026, 1, 15, tzinfo=UTC)
WINDOW_END = datetime(2026, 1, 16, tzinfo=UTC)
CUTOFF_AT = WINDOW_END + timedelta(hours=6)
PERIOD_START, PERIOD_END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
IN_TOKYO = timedelta(hours=9)
TOLERANCE = timedelta(minutes=5)
INSTANT_BEFORE = timedelta(microseconds=1)

BANNED_SQL = r"\b(NOW|TODAY|HASH|RANDOM|UUID|AVG|READ_\w+)\s*\(|\bCURRENT_\w+|\b(BETWEEN|DOUBLE|FLOAT|REAL)\b|/"


def level(resource: str, owned_from: timedelta, value: Decimal) -> tuple[Any, ...]:
    instant = WINDOW_START + owned_from
    key = ("acct-1", "disk", "{}", resource, WINDOW_START, instant, "time_weighted_sum", "bytes")
    return (*key, instant, instant, value, Decimal(0), True)


REFERENCE_ROWS: dict[str, list[tuple[Any, ...]]] = {
    "run": [(WINDOW_START, WINDOW_END, CUTOFF_AT, timedelta(hours=1), TOLERANCE)],
    "accounts": [("acct-1", "USD", "standard"), ("acct-2", "JPY", "standard"), ("acct-3", "USD", "standard")],
    "account_validity": [("acct-1", WINDOW_START, WINDOW_END), ("acct-2", PERIOD_START, PERIOD_END)],
    "account_periods": [
        ("acct-1", "2026-01", PERIOD_START, PERIOD_END),
        ("acct-2", "2026-01", PERIOD_START - IN_TOKYO, PERIOD_END - IN_TOKYO),
    ],
    "usage_levels": [
        level("customer-1", timedelta(0), Decimal(5)),
        level("customer-1", timedelta(minutes=30), Decimal(7)),  # it came back
        level("customer-2", timedelta(0), Decimal(1)),
    ],
    "meters": [
        ("tokens", "request", "sum", "tokens", "tokens"),
        ("requests", "request", "count", "requests", "requests"),
        ("disk", "request", "time_weighted_sum", "bytes", "GiB-hours"),
    ],
    "currencies": [("USD", Decimal("0.01")), ("JPY", Decimal(1))],
    "price_books": [("standard@0123456789ab",)],
    # Each rate and the volume are exactly what is allowed.
    "slo": [
        ("duplicate_percent_max", Decimal(100)),
        ("late_percent_max", Decimal("33.333333334")),
        ("orphan_percent_max", Decimal("66.666666667")),
        ("quarantine_percent_max", Decimal("0.1")),
        ("volume_percent_min", Decimal(50)),
        ("volume_percent_max", Decimal(200)),
    ],
    "exclusions": [
        ("conflicting_duplicate", 1),
        ("exact_duplicate", 2),
        ("late", 1),
        ("orphaned_account", 1),
        ("unknown_sku", 1),
        ("voided", 9),
    ],
    "night": [(1000, 1)],
    "volume_history": [("2026-01-01", 1), ("2026-01-08", 2)],
    # Now 3 requests: ten times the mean of 0.3. The account without usage was not there in every window.
    "account_limits": [(Decimal(10), 3, 2)],
    "account_history": [
        ("acct-1", "requests", Decimal("0.6"), 9, 2),
        ("acct-1", "tokens", Decimal(0), 9, 2),  # of a few events only
        ("acct-2", "requests", Decimal(9), 9, 1),
        ("acct-3", "requests", Decimal(9), 5, 2),
    ],
    "held_accounts": [("acct-3", "asked by the customer")],
}


def event(**changed: Any) -> dict[str, Any]:
    good = {
        "source": "api",
        "id": "first",
        "key_hash": 81985529216486895,
        "account_id": "acct-1",
        "type": "request",
        "subject": "customer-1",
        "event_at": WINDOW_START,
        "received_at": CUTOFF_AT - INSTANT_BEFORE,
        "quantity": None,
        "data": '{"tokens":"5"}',
        "object_id": "usage/a.ndjson@0123456789ab",
        "line_number": 1,
        "has_fallback_account": False,
    }
    return {**good, **changed}


def raw_event(**changed: Any) -> dict[str, Any]:
    columns = {"payload_hash": 1311768467463790320, **event()}
    return {**{name: columns[name] for name in RAW_EVENTS.column_names}, **changed}


def invoice(**changed: Any) -> dict[str, Any]:
    good = {
        "account_id": "acct-1",
        "period_id": "2026-01",
        "currency": "USD",
        "issue_date": date(2026, 1, 1),
        "subtotal": Decimal("0.12"),
        "total": Decimal("0.12"),
    }
    return {**good, **changed}


def usage(**changed: Any) -> dict[str, Any]:
    good = {
        "account_id": "acct-1",
        "sku": "tokens",
        "dimensions": "{}",
        "grain_start": WINDOW_START,
        "aggregation": "sum",
        "quantity": Decimal("0.000000001"),
        "value_sum": Decimal("0.000000001"),
        "unit": "tokens",
        "event_count": 1,
        "event_set_hash": 81985529216486895,
    }
    return {**good, **changed}


def line(**changed: Any) -> dict[str, Any]:
    good = {
        "line_item_id": "acct-1/tokens/2026-01/per_unit/1",
        "account_id": "acct-1",
        "period_id": "2026-01",
        "segment": 1,
        "service_period_start": PERIOD_START,
        "service_period_end": PERIOD_END,
        "plan": "standard",
        "sku": "tokens",
        "description": "Tokens",
        "kind": "usage",
        "model": "per_unit",
        "tier": 1,
        "quantity": Decimal("2.5"),
        "unit": "tokens",
        "unit_price": Decimal("0.01"),
        "per_units": Decimal(1),
        "flat_fee": Decimal(0),
        "currency": "USD",
        "amount_exact": Decimal("0.025"),
        "amount": Decimal("0.03"),
        "residual": Decimal("-0.005"),  # half a cent: the most that rounding can give
        "tax_category": "standard",
        "price_book_version": "standard@0123456789ab",
    }
    return {**good, **changed}


GOOD_ROWS = {
    RAW_EVENTS: [raw_event(), raw_event(line_number=2), raw_event(object_id="usage/b.ndjson@0123456789ab")],
    INVOICES: [
        invoice(),
        invoice(
            account_id="acct-2", currency="JPY", issue_date=date(2025, 12, 31), subtotal=Decimal(7), total=Decimal(7)
        ),
    ],
    USAGE_EVENTS: [
        event(),
        event(
            id="last",
            event_at=WINDOW_END - INSTANT_BEFORE,
            received_at=WINDOW_END - INSTANT_BEFORE - TOLERANCE,
            quantity=Decimal(0),
            line_number=2,
        ),
        event(id="other", data='{"tokens":"6"}', line_number=3),
    ],
    USAGE: [
        usage(),
        usage(
            sku="requests",
            aggregation="count",
            unit="requests",
            quantity=Decimal(3),
            value_sum=Decimal(3),
            event_count=3,
        ),
        usage(
            sku="disk",
            aggregation="time_weighted_sum",
            unit="bytes",
            quantity=Decimal(8),
            event_count=3,
        ),
        usage(grain_start=WINDOW_END - timedelta(hours=1), quantity=Decimal(0)),
    ],
    LINE_ITEMS: [
        line(),
        line(line_item_id="acct-1/disk/2026-01/per_unit/1", sku="disk", unit="GiB-hours"),
        line(
            line_item_id="acct-2/requests/2026-01/graduated/2",
            account_id="acct-2",
            service_period_start=PERIOD_START - IN_TOKYO,
            service_period_end=PERIOD_END - IN_TOKYO,
            sku="requests",
            unit="requests",
            model="graduated",
            tier=2,
            unit_price=Decimal(0),
            quantity=Decimal(0),
            currency="JPY",
            amount_exact=Decimal("7.5"),
            amount=Decimal(7),
            residual=Decimal("0.5"),
        ),
        line(
            line_item_id="acct-1/tokens/2026-01.2/minimum",
            segment=2,
            service_period_start=PERIOD_START + timedelta(days=9),
            kind="minimum",
            tier=0,
            quantity=Decimal(0),
            unit="",
        ),
        line(
            line_item_id="acct-1/base/2026-02/flat_fee",
            service_period_start=PERIOD_END,
            service_period_end=PERIOD_END + timedelta(days=28),
            sku="base",
            kind="flat_fee",
            model="flat_fee",
            tier=0,
            quantity=Decimal(0),
            unit="",
        ),
    ],
}

BESIDE = {name: columns for relations in RELATIONS_BESIDE.values() for name, columns in relations.items()}

# (dataset, expectation, the fault as SQL that changes the good rows)
FAULTS = [
    (USAGE_EVENTS, "one_row_per_idempotency_key", "UPDATE usage_events SET id = 'first'"),
    (RAW_EVENTS, "one_event_per_raw_line", "UPDATE raw_events SET line_number = 1"),
    (RAW_EVENTS, "source_is_there", "UPDATE raw_events SET source = NULL WHERE id = 'first'"),
    (RAW_EVENTS, "id_is_there", "UPDATE raw_events SET id = NULL WHERE id = 'first'"),
    (USAGE_EVENTS, "account_is_there", "UPDATE usage_events SET account_id = NULL WHERE id = 'first'"),
    (RAW_EVENTS, "event_time_is_there", "UPDATE raw_events SET event_at = NULL WHERE id = 'first'"),
    (RAW_EVENTS, "receipt_time_is_there", "UPDATE raw_events SET received_at = NULL WHERE id = 'first'"),
    (USAGE_EVENTS, "event_time_in_window", "UPDATE usage_events SET event_at = TIMESTAMPTZ '2026-01-16 00:00:00Z'"),
    (
        USAGE_EVENTS,
        "event_time_in_window",
        "UPDATE usage_events SET event_at = TIMESTAMPTZ '2026-01-14 23:59:59.999999Z'",
    ),
    (
        USAGE_EVENTS,
        "received_before_the_cutoff",
        "UPDATE usage_events SET received_at = TIMESTAMPTZ '2026-01-16 06:00:00Z' WHERE id = 'first'",
    ),
    (
        USAGE_EVENTS,
        "not_from_the_future",
        "UPDATE usage_events SET received_at = received_at - INTERVAL 1 MICROSECOND WHERE id = 'last'",
    ),
    (USAGE_EVENTS, "account_valid_at_event_time", "UPDATE usage_events SET account_id = 'acct-9' WHERE id = 'first'"),
    (USAGE_EVENTS, "account_valid_at_event_time", "UPDATE account_validity SET valid_to = valid_from"),
    (USAGE_EVENTS, "account_valid_at_event_time", "UPDATE account_validity SET valid_from = valid_to"),
    (
        USAGE_EVENTS,
        "account_valid_at_event_time",
        "DELETE FROM usage_events WHERE id = 'last'; "
        "UPDATE account_validity SET valid_from = TIMESTAMPTZ '2026-01-01 00:00:00Z', "
        "valid_to = TIMESTAMPTZ '2026-01-15 00:00:00Z'",
    ),
    (USAGE_EVENTS, "type_has_a_meter", "UPDATE usage_events SET type = 'unknown' WHERE id = 'first'"),
    (USAGE_EVENTS, "type_has_a_meter", "UPDATE usage_events SET type = NULL WHERE id = 'first'"),
    (RAW_EVENTS, "raw_line_is_known", "UPDATE raw_events SET object_id = NULL WHERE id = 'first'"),
    (RAW_EVENTS, "raw_line_is_known", "UPDATE raw_events SET line_number = 0 WHERE id = 'first'"),
    (RAW_EVENTS, "data_is_a_json_object", "UPDATE raw_events SET data = '[1]' WHERE id = 'first'"),
    (RAW_EVENTS, "data_is_a_json_object", "UPDATE raw_events SET data = '{\"tokens\":' WHERE id = 'first'"),
    (RAW_EVENTS, "data_is_a_json_object", "UPDATE raw_events SET data = NULL WHERE id = 'first'"),
    (USAGE_EVENTS, "quantity_not_negative", "UPDATE usage_events SET quantity = -0.000000001 WHERE id = 'first'"),
    (
        USAGE_EVENTS,
        "no_event_under_two_keys",
        "UPDATE usage_events SET data = '{}'",
    ),
    (USAGE_EVENTS, "window_has_events", "DELETE FROM usage_events"),
    (RAW_EVENTS, "key_hash_is_there", "UPDATE raw_events SET key_hash = NULL WHERE line_number = 2"),
    (RAW_EVENTS, "payload_hash_is_there", "UPDATE raw_events SET payload_hash = NULL WHERE line_number = 2"),
    (RAW_EVENTS, "duplicates_within_objective", "UPDATE exclusions SET event_count = 2 WHERE reason LIKE '%duplicate'"),
    (RAW_EVENTS, "duplicates_within_objective", "UPDATE slo SET percent = 99.999999999 WHERE name LIKE 'dupl%'"),
    (RAW_EVENTS, "late_events_within_objective", "UPDATE slo SET percent = 33.333333333 WHERE name LIKE 'late%'"),
    (RAW_EVENTS, "orphans_within_objective", "UPDATE slo SET percent = 66.666666666 WHERE name LIKE 'orphan%'"),
    (RAW_EVENTS, "orphans_within_objective", "UPDATE exclusions SET event_count = 2 WHERE reason = 'unknown_sku'"),
    (RAW_EVENTS, "quarantine_within_objective", "UPDATE night SET quarantine_count = 2"),
    (RAW_EVENTS, "quarantine_within_objective", "UPDATE slo SET percent = 0.099999999 WHERE name LIKE 'quar%'"),
    (
        RAW_EVENTS,
        "volume_like_the_same_weekday",
        "UPDATE slo SET percent = 199.999999999 WHERE name LIKE '%_percent_max'",
    ),
    (
        RAW_EVENTS,
        "volume_like_the_same_weekday",
        "UPDATE slo SET percent = 200.000000001 WHERE name = 'volume_percent_min'",
    ),
    (RAW_EVENTS, "volume_like_the_same_weekday", "UPDATE volume_history SET event_count = 0"),
    (RAW_EVENTS, "window_has_raw_events", "DELETE FROM raw_events"),
    (USAGE, "no_account_spikes", "UPDATE account_history SET quantity = 0.599999999 WHERE sku = 'requests'"),
    (USAGE, "no_account_spikes", "UPDATE account_limits SET events_min = 1"),
    (USAGE, "no_account_silences", "UPDATE account_history SET event_count = 6 WHERE account_id = 'acct-3'"),
    (USAGE, "no_account_silences", "UPDATE account_history SET window_count = 2 WHERE account_id = 'acct-2'"),
    (INVOICES, "one_invoice_per_account", "UPDATE invoices SET account_id = 'acct-1'"),
    (INVOICES, "account_is_there", "UPDATE invoices SET account_id = NULL WHERE account_id = 'acct-1'"),
    (INVOICES, "currency_of_the_account", "UPDATE invoices SET currency = 'USD'"),
    (INVOICES, "currency_of_the_account", "UPDATE invoices SET currency = NULL"),
    (INVOICES, "period_of_the_account", "UPDATE invoices SET period_id = '2026-02'"),
    (INVOICES, "period_of_the_account", "UPDATE invoices SET issue_date = NULL"),
    (INVOICES, "period_of_the_account", "UPDATE invoices SET issue_date = DATE '2025-12-31'"),
    (INVOICES, "period_of_the_account", "UPDATE invoices SET issue_date = DATE '2025-12-30' WHERE currency = 'JPY'"),
    (INVOICES, "subtotal_is_the_sum_of_its_lines", "UPDATE invoices SET subtotal = 0.13 WHERE currency = 'USD'"),
    (INVOICES, "subtotal_is_the_sum_of_its_lines", "UPDATE invoices SET subtotal = NULL WHERE currency = 'USD'"),
    (INVOICES, "subtotal_is_the_sum_of_its_lines", "DELETE FROM line_items WHERE currency = 'JPY'"),
    (INVOICES, "every_account_is_invoiced_or_held", "DELETE FROM invoices WHERE currency = 'JPY'"),
    (INVOICES, "every_account_is_invoiced_or_held", "UPDATE line_items SET account_id = 'acct-4' WHERE tier = 0"),
    (INVOICES, "no_held_account_is_invoiced", "UPDATE held_accounts SET account_id = 'acct-1'"),
    (INVOICES, "total_in_whole_minor_units", "UPDATE invoices SET total = 0.1201 WHERE currency = 'USD'"),
    (INVOICES, "total_in_whole_minor_units", "UPDATE invoices SET total = 7.01 WHERE currency = 'JPY'"),
    (INVOICES, "total_in_whole_minor_units", "UPDATE invoices SET total = NULL"),
    (INVOICES, "total_in_whole_minor_units", "DELETE FROM currencies"),
    (INVOICES, "tax_is_added", "UPDATE invoices SET total = 0.11 WHERE currency = 'USD'"),
    (INVOICES, "total_not_negative", "UPDATE invoices SET total = -0.01"),
    (INVOICES, "period_has_invoices", "DELETE FROM invoices"),
    (USAGE, "one_row_per_grain", "INSERT INTO usage SELECT * FROM usage WHERE sku = 'requests'"),
    (USAGE, "one_row_per_level", "INSERT INTO usage_levels SELECT * FROM usage_levels WHERE resource = 'customer-2'"),
    (USAGE, "a_level_has_its_resource", "UPDATE usage_levels SET owned_from = NULL"),
    (USAGE, "a_level_has_its_resource", "UPDATE usage_levels SET owned_from = owned_from - INTERVAL 1 MICROSECOND"),
    (USAGE, "a_level_has_its_resource", "UPDATE usage_levels SET resource = NULL WHERE resource = 'customer-2'"),
    (USAGE, "account_is_there", "UPDATE usage SET account_id = NULL WHERE sku = 'requests'"),
    (USAGE, "sku_is_there", "UPDATE usage SET sku = NULL WHERE sku = 'requests'"),
    (USAGE, "dimensions_are_there", "UPDATE usage SET dimensions = NULL WHERE sku = 'requests'"),
    (USAGE, "grain_is_there", "UPDATE usage SET grain_start = NULL WHERE sku = 'requests'"),
    (USAGE, "quantity_is_there", "UPDATE usage SET quantity = NULL WHERE sku = 'requests'"),
    (USAGE, "grain_in_window", "UPDATE usage SET grain_start = TIMESTAMPTZ '2026-01-16 00:00:00Z'"),
    (USAGE, "grain_in_window", "UPDATE usage SET grain_start = TIMESTAMPTZ '2026-01-14 23:00:00Z'"),
    (USAGE, "grain_starts_on_a_grain", "UPDATE usage SET grain_start = grain_start + INTERVAL 1 MICROSECOND"),
    (USAGE, "account_is_known", "UPDATE usage SET account_id = 'acct-9' WHERE sku = 'requests'"),
    (USAGE, "value_sum_is_there", "UPDATE usage SET value_sum = NULL WHERE sku = 'requests'"),
    (USAGE, "sku_unit_and_aggregation_of_a_meter", "UPDATE usage SET sku = 'unknown' WHERE sku = 'requests'"),
    (USAGE, "sku_unit_and_aggregation_of_a_meter", "UPDATE usage SET unit = 'tokens' WHERE sku = 'requests'"),
    (USAGE, "sku_unit_and_aggregation_of_a_meter", "UPDATE usage SET aggregation = 'max' WHERE sku = 'requests'"),
    *(
        (USAGE, "a_level_has_its_instants", f"UPDATE usage_levels SET {name} = NULL WHERE resource = 'customer-2'")
        for name in ("latest_value", "latest_event_at", "first_event_at", "level_microseconds", "lasts")
    ),
    (USAGE, "a_level_has_its_instants", "UPDATE usage_levels SET owned_from = owned_from + INTERVAL 1 MICROSECOND"),
    (
        USAGE,
        "a_level_has_its_instants",
        "UPDATE usage_levels SET first_event_at = first_event_at + INTERVAL 1 MICROSECOND",
    ),
    (USAGE, "a_level_is_that_of_its_resources", "DELETE FROM usage_levels"),
    (USAGE, "a_level_is_that_of_its_resources", "DELETE FROM usage_levels WHERE resource = 'customer-2'"),
    (USAGE, "a_level_is_that_of_its_resources", "UPDATE usage SET quantity = quantity + 5 WHERE sku = 'disk'"),
    (USAGE, "a_level_is_that_of_its_resources", "UPDATE usage_levels SET sku = 'tokens'"),
    (USAGE, "a_level_has_its_usage", "DELETE FROM usage WHERE sku = 'disk'"),
    (USAGE, "a_level_has_its_usage", "UPDATE usage_levels SET unit = 'GB' WHERE resource = 'customer-2'"),
    (USAGE, "made_of_events", "UPDATE usage SET event_count = 0 WHERE sku = 'requests'"),
    (USAGE, "a_count_is_its_events", "UPDATE usage SET quantity = 3.000000001 WHERE sku = 'requests'"),
    (USAGE, "event_set_is_named", "UPDATE usage SET event_set_hash = NULL WHERE sku = 'requests'"),
    (USAGE, "quantity_not_negative", "UPDATE usage SET quantity = -0.000000001 WHERE sku = 'tokens'"),
    (USAGE, "window_has_usage", "DELETE FROM usage"),
    (LINE_ITEMS, "one_row_per_line_item", "INSERT INTO line_items SELECT * FROM line_items WHERE tier = 2"),
    (LINE_ITEMS, "id_is_there", "UPDATE line_items SET line_item_id = NULL WHERE tier = 2"),
    (LINE_ITEMS, "amount_is_there", "UPDATE line_items SET amount = NULL WHERE tier = 2"),
    (LINE_ITEMS, "quantity_is_there", "UPDATE line_items SET quantity = NULL WHERE tier = 2"),
    (LINE_ITEMS, "model_is_known", "UPDATE line_items SET model = 'guess' WHERE tier = 2"),
    (LINE_ITEMS, "kind_is_known", "UPDATE line_items SET kind = 'guess' WHERE tier = 2"),
    (LINE_ITEMS, "tier_counts_from_one", "UPDATE line_items SET tier = 1 WHERE kind = 'minimum'"),
    (LINE_ITEMS, "tier_counts_from_one", "UPDATE line_items SET kind = 'discount' WHERE kind = 'minimum'"),
    (LINE_ITEMS, "id_says_account_sku_and_period", "UPDATE line_items SET segment = 1 WHERE kind = 'minimum'"),
    (LINE_ITEMS, "id_says_account_sku_and_period", "UPDATE line_items SET sku = 'other' WHERE kind = 'flat_fee'"),
    (
        LINE_ITEMS,
        "service_period_of_the_account",
        "UPDATE line_items SET service_period_start = service_period_start + INTERVAL 1 DAY WHERE kind = 'flat_fee'",
    ),
    (LINE_ITEMS, "account_currency_and_plan", "UPDATE line_items SET account_id = 'acct-9' WHERE tier = 2"),
    (LINE_ITEMS, "account_currency_and_plan", "UPDATE line_items SET currency = 'USD' WHERE tier = 2"),
    (LINE_ITEMS, "account_currency_and_plan", "UPDATE line_items SET plan = 'other' WHERE tier = 2"),
    (LINE_ITEMS, "sku_and_unit_of_a_meter", "UPDATE line_items SET unit = 'tokens', quantity = 1 WHERE tier = 2"),
    (LINE_ITEMS, "sku_and_unit_of_a_meter", "UPDATE line_items SET unit = 'bytes' WHERE sku = 'disk'"),
    (LINE_ITEMS, "id_says_account_sku_and_period", "UPDATE line_items SET period_id = '2026-02' WHERE tier = 2"),
    (LINE_ITEMS, "id_says_account_sku_and_period", "UPDATE line_items SET account_id = 'acct-1' WHERE tier = 2"),
    (
        LINE_ITEMS,
        "service_period_of_the_account",
        "UPDATE line_items SET service_period_end = TIMESTAMPTZ '2026-02-01 00:00:00Z' WHERE tier = 2",
    ),
    (
        LINE_ITEMS,
        "service_period_of_the_account",
        "UPDATE line_items SET service_period_start = TIMESTAMPTZ '2025-12-31 14:59:59.999999Z' WHERE tier = 2",
    ),
    (
        LINE_ITEMS,
        "residual_is_what_rounding_took",
        "UPDATE line_items SET residual = residual + 0.000000000000000000001 WHERE tier = 2",
    ),
    (LINE_ITEMS, "residual_is_what_rounding_took", "UPDATE line_items SET residual = NULL WHERE tier = 2"),
    (
        LINE_ITEMS,
        "residual_within_half_a_minor_unit",
        "UPDATE line_items SET residual = 0.500000000000000000001 WHERE tier = 2",
    ),
    (
        LINE_ITEMS,
        "residual_within_half_a_minor_unit",
        "UPDATE line_items SET residual = -0.005000000000000000001 WHERE tier = 1",
    ),
    (LINE_ITEMS, "residual_within_half_a_minor_unit", "UPDATE line_items SET currency = 'EUR' WHERE tier = 2"),
    (LINE_ITEMS, "amount_in_whole_minor_units", "UPDATE line_items SET amount = 0.0301 WHERE tier = 1"),
    (LINE_ITEMS, "amount_in_whole_minor_units", "UPDATE line_items SET amount = 7.01 WHERE tier = 2"),
    (LINE_ITEMS, "tier_counts_from_one", "UPDATE line_items SET tier = 0 WHERE tier = 2"),
    (LINE_ITEMS, "tier_counts_from_one", "UPDATE line_items SET model = 'per_unit' WHERE tier = 2"),
    (LINE_ITEMS, "price_is_for_some_units", "UPDATE line_items SET per_units = 0 WHERE tier = 2"),
    (LINE_ITEMS, "price_book_is_known", "UPDATE line_items SET price_book_version = 'draft@000' WHERE tier = 2"),
    (LINE_ITEMS, "unit_price_not_negative", "UPDATE line_items SET unit_price = -0.000000000001 WHERE tier = 2"),
    (LINE_ITEMS, "quantity_not_negative", "UPDATE line_items SET quantity = -0.000000001 WHERE tier = 2"),
    (LINE_ITEMS, "period_has_line_items", "DELETE FROM line_items"),
]


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    with Warehouse(tmp_path) as session:
        for dataset, rows in GOOD_ROWS.items():
            session.table_rows(dataset.name, dataset.columns, [tuple(row.values()) for row in rows])
        for name, columns in BESIDE.items():
            if name not in (dataset.name for dataset in CHECKED):
                session.table_rows(name, columns, REFERENCE_ROWS[name])
        yield session


def only(suite: Suite, name: str) -> Suite:
    expectations = tuple(expectation for expectation in suite.expectations if expectation.meta.name == name)
    return Suite(suite.dataset, expectations, suite.contents)


def test_there_is_one_suite_for_each_dataset_that_is_checked() -> None:
    assert {path.stem for path in suite_files()} == {dataset.name for dataset in CHECKED}


@pytest.mark.parametrize("dataset", CHECKED, ids=lambda dataset: dataset.name)
def test_a_suite_has_both_severities_and_says_when_there_are_no_rows(dataset: Dataset) -> None:
    suite = load_suite(dataset)

    # Most expectations hold for an empty dataset, so one of them has to count its rows.
    assert {expectation.severity for expectation in suite.expectations} == set(Severity)
    assert "expect_table_row_count_to_be_between" in {expectation.type for expectation in suite.expectations}


@pytest.mark.parametrize("dataset", CHECKED, ids=lambda dataset: dataset.name)
def test_a_suite_is_written_the_way_json_tools_write_it(dataset: Dataset) -> None:
    content = load_suite(dataset).contents[dataset.name].decode()

    assert content == json.dumps(json.loads(content), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("dataset", CHECKED, ids=lambda dataset: dataset.name)
def test_the_sql_of_a_suite_has_no_clock_float_or_path(dataset: Dataset) -> None:
    queries = [query for e in load_suite(dataset).expectations if (query := e.wrong_rows(dataset))]
    assert queries

    findings = [
        found[0]
        for query, _ in queries
        if (found := re.search(BANNED_SQL, re.sub(r"'[^']*'", "''", query), re.IGNORECASE))
    ]

    assert findings == []


@pytest.mark.parametrize("dataset", CHECKED, ids=lambda dataset: dataset.name)
def test_rows_on_the_boundaries_pass_every_expectation(dataset: Dataset, warehouse: Warehouse) -> None:
    suite = load_suite(dataset)

    results = run_suite(suite, "window=2026-01-15", warehouse.connection)

    assert [result.expectation for result in results] == [expectation.meta.name for expectation in suite.expectations]
    assert [result for result in results if not result.success] == []


@pytest.mark.parametrize("dataset", CHECKED, ids=lambda dataset: dataset.name)
def test_every_expectation_has_a_fault_that_it_must_find(dataset: Dataset) -> None:
    planted = {name for planted_in, name, _ in FAULTS if planted_in == dataset}

    assert planted == {expectation.meta.name for expectation in load_suite(dataset).expectations}


@pytest.mark.parametrize(
    ("dataset", "name", "fault"), FAULTS, ids=[f"{d.name}-{name}-{i}" for i, (d, name, _) in enumerate(FAULTS)]
)
def test_an_expectation_finds_its_fault(dataset: Dataset, name: str, fault: str, warehouse: Warehouse) -> None:
    warehouse.connection.execute(fault)

    (result,) = run_suite(only(load_suite(dataset), name), "window=2026-01-15", warehouse.connection)

    assert not result.success
    assert result.expectation == name
    assert result.sample_keys or result.observed == "0 rows"
