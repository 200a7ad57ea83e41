"""The usage of a period by segment, through the real steps and the reference rater: a plan changes in mid month."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.rating import rate_account
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.aggregate import aggregate
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.period_usage import PeriodInputs, period_inputs, pinned_terms, view_period
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, usage_event, write_project
from tests.steps.test_rate import AT, LAST_NIGHTS, receive

TWO_PLANS = (
    ACCOUNTS.splitlines()[0]
    + """
acct-1,First Customer,USD,UTC,small,2026-01-01T00:00:00Z,2026-01-31T12:00:00Z,customer-1
acct-1,First Customer,USD,UTC,large,2026-01-31T12:00:00Z,,customer-1
"""
)

METERS = """
[[meters]]
sku = "tokens"
event_type = "request.completed"
aggregation = "sum"
value = "data.input_tokens"
unit = "tokens"
dimensions = ["region"]

[[meters]]
sku = "payments"
event_type = "request.completed"
aggregation = "sum"
value = "data.cents"
unit = "cents"
billing_unit = { name = "USD", size = 100 }
keep_values = true
"""

TIERS = """
[[plans.{plan}.charges]]
sku = "tokens"
description = "Tokens"
model = "graduated"
currency = "USD"
tiers = [{{ up_to = 100, unit_price = {first} }}, {{ unit_price = {second} }}]

[[plans.{plan}.charges]]
sku = "payments"
description = "Payments"
model = "percentage"
currency = "USD"
percent = 10
minimum_per_event = 0.5
"""

MATRIX = """
[[plans.large.charges]]
sku = "tokens"
description = "Tokens"
model = "matrix"
currency = "USD"
cells = [{ match = { region = "eu" }, unit_price = 3 }]
default_unit_price = 4
"""


def priced(on_change: str, large: str | None = None) -> str:
    head = f'name = "p"\nauthor = "ana"\neffective_from = 2025-01-01\non_change = "{on_change}"\n'
    return (
        head
        + TIERS.format(plan="small", first=1, second=0.5)
        + (large or TIERS.format(plan="large", first=2, second=1))
    )


def counted(tmp_path: Path, raw_bucket: ObjectStore, price_book: str) -> tuple[Workspace, PeriodInputs]:
    """Collect and count two nights: 80 tokens before the plan changes, the last in the microsecond before, 80 after."""
    files = {
        "billing.toml": LAST_NIGHTS,
        "meters.toml": METERS,
        "accounts.csv": TWO_PLANS,
        "price_books/2025-01-01.toml": price_book,
    }
    workspace = open_workspace(write_project(tmp_path / "project", raw_bucket, files))
    used = [
        ("2026-01-30T10:00:00Z", 79, 1000, "eu"),
        ("2026-01-31T11:59:59.999999Z", 1, 300, "us"),
        ("2026-01-31T12:00:00Z", 50, 1000, "eu"),
        ("2026-01-31T23:59:59.999999Z", 30, 499, "us"),
    ]
    receive(
        workspace,
        *(
            usage_event(id=time, time=time, data={"input_tokens": tokens, "cents": cents, "region": region})
            for time, tokens, cents, region in used
        ),
    )
    for window_id in ("2026-01-30", "2026-01-31"):
        revision = deduplicate(workspace, parse_window(window_id, ONE_DAY), AT)
        aggregate(workspace, window_id, revision.revision, AT)
        workspace.control_plane.decide_revision(window_id, revision.revision, RevisionState.ACCEPTED, AT, "test")
    return workspace, period_inputs(workspace, "2026-01", None)


def rated(workspace: Workspace, inputs: PeriodInputs) -> dict[tuple[str, int, int], Decimal]:
    """Return what is paid, by SKU, segment and tier."""
    with Warehouse(workspace.scratch) as warehouse:
        view_period(warehouse, workspace, inputs.pins, inputs.terms)
        usage, values = (
            warehouse.connection.table(name).to_arrow_table().to_pylist() for name in ("period_usage", "event_values")
        )
    assert [list(row) for row in usage[:1]] == [[field.name for field in fields(PeriodUsage)]]
    assert [list(row) for row in values[:1]] == [[field.name for field in fields(EventValue)]]
    result = rate_account(
        inputs.terms.accounts["acct-1"],
        [PeriodUsage(**row) for row in usage],
        [EventValue(**row) for row in values],
    )
    assert list(result.problems) == []
    return {(line.sku, line.segment, line.tier): line.amount for line in result.lines}


@pytest.mark.parametrize(
    ("on_change", "tokens"),
    [
        # 160 tokens on the plan of the first day: 100 x 1 and 60 x 0.50.
        ("next_period", {(1, 1): "100", (1, 2): "30"}),
        # 80 x 1 on the one plan; the other goes on at 81: 20 x 2 and 60 x 1.
        ("split_counting_on", {(1, 1): "80", (2, 1): "40", (2, 2): "60"}),
        # 80 x 1, and 80 x 2 from the first tier on.
        ("split_starting_again", {(1, 1): "80", (2, 1): "160"}),
    ],
)
def test_a_plan_that_changes_in_mid_month_is_priced_as_the_book_says(
    tmp_path: Path, raw_bucket: ObjectStore, on_change: str, tokens: dict[tuple[int, int], str]
) -> None:
    workspace, inputs = counted(tmp_path, raw_bucket, priced(on_change))

    lines = rated(workspace, inputs)

    paid = {(segment, tier): amount for (sku, segment, tier), amount in lines.items() if sku == "tokens"}
    assert paid == {key: Decimal(amount) for key, amount in tokens.items()}
    # 10 % of 10.00, 3.00, 10.00 and 4.99 USD, of each at least 0.50: 1.50 before the change and 1.50 after it.
    payments = sum(amount for (sku, _, _), amount in lines.items() if sku == "payments")
    assert payments == Decimal(3)
    assert pinned_terms(workspace, inputs.pins, "2026-01") == inputs.terms


def test_usage_has_its_dimensions_in_the_segment_that_prices_them(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    percentage = TIERS.format(plan="large", first=2, second=1).split("\n\n")[1]
    workspace, inputs = counted(tmp_path, raw_bucket, priced("split_counting_on", f"{MATRIX}\n{percentage}"))

    lines = rated(workspace, inputs)

    paid = {(segment, tier): amount for (sku, segment, tier), amount in lines.items() if sku == "tokens"}
    assert paid == {(1, 1): Decimal(80), (2, 0): Decimal(120), (2, 1): Decimal(150)}
