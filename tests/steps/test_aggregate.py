from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.account import VALID_FOR_EVER
from pipeline.core.dataset import RAW_EVENTS, USAGE
from pipeline.core.duration import parse_duration
from pipeline.core.errors import PublicationError
from pipeline.core.meter import Meter
from pipeline.steps.aggregate import aggregate
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.inputs import (
    ACCOUNT_FALLBACK_COLUMNS,
    ACCOUNT_REFERENCE_COLUMNS,
    table_meters,
    table_repeated_hashes,
    view_event_quantities,
)
from pipeline.steps.links import NEIGHBOUR_COLUMNS, WITHDRAWAL_TYPE_COLUMNS, WITHDRAWN_EVENT_COLUMNS
from pipeline.steps.workspace import Workspace, open_workspace
from tests.steps.raw_events import (
    CUTOFF_AT,
    WINDOW,
    commit_raw_events,
    hashed,
    instant,
    numbered,
    published_bytes,
    published_rows,
    raw_event,
)

NOW = instant("2026-01-16T08:00:00Z")


def test_usage_is_summed_per_account_sku_and_grain(workspace: Workspace) -> None:
    events = numbered(
        [
            raw_event(data='{"input_tokens":"1000"}'),
            raw_event(data='{"input_tokens":"0.000000001"}'),
            raw_event(event_at=instant("2026-01-15T13:00:00Z"), received_at=instant("2026-01-15T13:00:00Z")),
            raw_event(subject="customer-2b", data='{"input_tokens":"7"}'),
            raw_event(subject="nobody", data='{"input_tokens":"99"}'),
        ]
    )
    commit_raw_events(workspace, events)
    deduplicate(workspace, WINDOW, NOW)

    receipt = aggregate(workspace, WINDOW.window_id, 1, NOW)

    rows = published_rows(workspace, USAGE, 1)
    assert receipt.row_count == len(rows) == 6
    assert [(row["account_id"], row["sku"], row["grain_start"].hour, row["quantity"], row["unit"]) for row in rows] == [
        ("acct-1", "requests", 12, Decimal(2), "requests"),
        ("acct-1", "requests", 13, Decimal(1), "requests"),
        ("acct-1", "tokens-input", 12, Decimal("1000.000000001"), "tokens"),
        ("acct-1", "tokens-input", 13, Decimal(1000), "tokens"),
        ("acct-2", "requests", 12, Decimal(1), "requests"),
        ("acct-2", "tokens-input", 12, Decimal(7), "tokens"),
    ]


def test_a_window_without_any_event_publishes_empty_usage(workspace: Workspace) -> None:
    commit_raw_events(workspace, [])
    deduplicate(workspace, WINDOW, NOW)

    assert aggregate(workspace, WINDOW.window_id, 1, NOW).row_count == 0


def test_aggregating_twice_publishes_the_same_bytes(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event() for _ in range(50)]))
    deduplicate(workspace, WINDOW, NOW)
    first = aggregate(workspace, WINDOW.window_id, 1, NOW)
    content = published_bytes(workspace, USAGE, 1)

    second = aggregate(workspace, WINDOW.window_id, 1, NOW + timedelta(days=1))

    assert second == first
    assert published_bytes(workspace, USAGE, 1) == content


def test_an_old_revision_is_computed_with_the_meters_and_grain_it_pins(project_folder: Path) -> None:
    workspace = open_workspace(project_folder)
    half_past = instant("2026-01-15T12:30:00Z")
    commit_raw_events(workspace, [raw_event(event_at=half_past, received_at=half_past)])
    deduplicate(workspace, WINDOW, NOW)
    first = aggregate(workspace, WINDOW.window_id, 1, NOW)
    for name, old, new in (
        ("meters.toml", 'unit = "tokens"', 'unit = "kilotokens"'),
        ("billing.toml", 'grain = "1h"', 'grain = "30m"'),
    ):
        text = (project_folder / name).read_text(encoding="utf-8")
        (project_folder / name).write_text(text.replace(old, new), encoding="utf-8")
    changed = open_workspace(project_folder)

    again = aggregate(changed, WINDOW.window_id, 1, NOW)
    second = deduplicate(changed, WINDOW, NOW)
    aggregate(changed, WINDOW.window_id, 2, NOW)

    assert again == first
    assert second.revision == 2
    rows = [published_rows(changed, USAGE, revision) for revision in (1, 2)]
    assert [(row["unit"], row["grain_start"].minute) for row in rows[0]] == [("requests", 0), ("tokens", 0)]
    assert [(row["unit"], row["grain_start"].minute) for row in rows[1]] == [("requests", 30), ("kilotokens", 30)]


def test_equal_event_sets_have_equal_hashes_across_revisions(workspace: Workspace) -> None:
    late = raw_event(id="late", subject="customer-2", received_at=CUTOFF_AT)
    commit_raw_events(workspace, numbered([raw_event(), late, {**late, "id": "billed", "received_at": NOW}]))
    commit_raw_events(workspace, [raw_event(object_id="usage/b@1", id="z", subject="customer-2")], NOW)
    deduplicate(workspace, WINDOW, NOW)
    deduplicate(workspace, WINDOW, NOW, include_late=True)
    for revision in (1, 2):
        aggregate(workspace, WINDOW.window_id, revision, NOW)

    hashes = [
        {row["account_id"]: row["event_set_hash"] for row in published_rows(workspace, USAGE, revision)}
        for revision in (1, 2)
    ]

    assert hashes[0]["acct-1"] == hashes[1]["acct-1"]
    assert hashes[0]["acct-2"] != hashes[1]["acct-2"]


def test_a_revision_that_was_never_opened_is_refused(workspace: Workspace) -> None:
    with pytest.raises(PublicationError) as refused:
        aggregate(workspace, WINDOW.window_id, 1, NOW)

    assert refused.value.code == "revision.unknown"


# ---- order and duplication of the input do not matter ----

METERS = (
    Meter(sku="tokens", event_type="used", aggregation="sum", value="data.n", unit="token", dimensions=("model",)),
    Meter(sku="requests", event_type="used", aggregation="count", unit="request"),
)
OWNERS = [
    (f"customer-{number}", f"acct-{number}", instant("2025-01-01T00:00:00Z"), VALID_FOR_EVER) for number in (1, 2)
]

EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["a", "b", "c", "d", "ü|:"]),
            "type": st.sampled_from(["used", "used", "opened"]),
            "subject": st.sampled_from(["customer-1", "customer-2", "nobody"]),
            "minute": st.integers(-1, 24 * 60),
            "received_minute": st.integers(0, 31 * 60),
            "n": st.sampled_from(["1", "0.000000001", "123456789.5", "-2", "NaN"]),
            "model": st.sampled_from(["m", "x"]),
        }
    ),
    max_size=12,
)


# No fallback account, no copy in another window and no withdrawal.
NO_LINKS = {
    "account_fallbacks": ACCOUNT_FALLBACK_COLUMNS,
    "neighbours": NEIGHBOUR_COLUMNS,
    "withdrawn_events": WITHDRAWN_EVENT_COLUMNS,
    "withdrawal_types": WITHDRAWAL_TYPE_COLUMNS,
}


def count_usage(warehouse: Warehouse, meters: Sequence[Meter], grain: timedelta) -> list[dict[str, Any]]:
    """Return the usage of ``usage_events``, as the step counts it."""
    warehouse.connection.execute("CREATE OR REPLACE TEMP VIEW metered_events AS FROM usage_events")
    table_meters(warehouse, meters)
    warehouse.view("event_quantities", {})
    warehouse.build("usage_values", {"grain": grain})
    warehouse.build("usage_levels", {"grain": grain})
    return warehouse.select("usage", {"grain": grain})


def usage_of(folder: Path, events: list[dict[str, Any]], threads: int) -> tuple[list[dict[str, Any]], int, int]:
    """Return the usage of raw events, and how many of them were billed and how many excluded."""
    bounds = {"window_start": WINDOW.start, "window_end": WINDOW.end}
    with Warehouse(folder, threads=threads) as warehouse:
        rows = [tuple(hashed(event)[column] for column in RAW_EVENTS.column_names) for event in events]
        warehouse.table_rows("raw_events", RAW_EVENTS.columns, rows)
        warehouse.table_rows("account_references", ACCOUNT_REFERENCE_COLUMNS, OWNERS)
        for name, columns in NO_LINKS.items():
            warehouse.table_rows(name, columns, [])
        view_event_quantities(warehouse, METERS, WINDOW)
        table_repeated_hashes(warehouse, WINDOW)
        warehouse.build("excluded_events", {**bounds, "cutoff_at": CUTOFF_AT, "future_tolerance": parse_duration("5m")})
        warehouse.build("usage_events", bounds)
        billed, excluded = (
            warehouse.connection.table(name).aggregate("COUNT(*)").fetchall()[0][0]
            for name in ("usage_events", "excluded_events")
        )
        return count_usage(warehouse, METERS, parse_duration("1h")), billed, excluded


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=EVENTS, seed=st.integers(0, 1_000))
def test_shuffling_and_duplicating_the_input_never_changes_usage_and_loses_no_event(
    tmp_path: Path, drawn: list[dict[str, Any]], seed: int
) -> None:
    events = [
        raw_event(
            object_id=f"usage/{number % 3}@1",
            line_number=number,
            id=event["id"],
            type=event["type"],
            subject=event["subject"],
            event_at=WINDOW.start + timedelta(minutes=event["minute"]),
            received_at=WINDOW.start + timedelta(minutes=event["received_minute"]),
            data=f'{{"model":"{event["model"]}","n":"{event["n"]}"}}',
        )
        for number, event in enumerate(drawn, start=1)
    ]
    copies = [
        {**event, "object_id": "usage/retry@1", "received_at": event["received_at"] + timedelta(minutes=seed % 7)}
        for event in events
    ]
    shuffled = [*events, *copies]
    random.Random(seed).shuffle(shuffled)
    in_window = [event for event in shuffled if WINDOW.start <= event["event_at"] < WINDOW.end]

    usage, _, _ = usage_of(tmp_path, events, threads=1)
    usage_of_shuffled, billed, excluded = usage_of(tmp_path, shuffled, threads=2)

    assert usage_of_shuffled == usage
    assert billed + excluded == len(in_window)
