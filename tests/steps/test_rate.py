"""Rating as a step: which windows are in a draft, and when a draft changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.warehouse import sql_text
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import NotReadyError, PricingError, PublicationError
from pipeline.core.manifest import Receipt, sha256_hex
from pipeline.core.reconciliation import Equation
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.aggregate import aggregate
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.publish import dataset_files, read_manifest
from pipeline.steps.rate import pinned_agreement, rate, rate_period
from pipeline.steps.reconcile import published_controls, reconcile
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import BILLING, PRICE_BOOK, put_events, usage_event, write_project

AT = datetime.fromisoformat("2026-02-03T00:00:00Z")
LAST_NIGHTS = BILLING.replace("first_window = 2026-01-01", "first_window = 2026-01-30")


@pytest.fixture
def january(tmp_path: Path, raw_bucket: ObjectStore) -> Workspace:
    """A project whose first window is 30 January: its January ends within three windows."""
    return open_workspace(write_project(tmp_path / "project", raw_bucket, {"billing.toml": LAST_NIGHTS}))


def receive(workspace: Workspace, *events: dict[str, Any], received_at: str = "") -> None:
    """Put each event into the bucket, received when it happened unless told otherwise, and collect."""
    for event in events:
        at = received_at or event["time"]
        put_events(workspace.raw, f"usage/{event['id']}.ndjson", [event], datetime.fromisoformat(at))
    collect(workspace, AT, lambda _: None)


def count_window(workspace: Workspace, window_id: str, *, include_late: bool = False) -> WindowRevision:
    revision = deduplicate(workspace, parse_window(window_id, ONE_DAY), AT, include_late=include_late)
    aggregate(workspace, window_id, revision.revision, AT)
    return revision


def bill(workspace: Workspace, window_id: str, *, include_late: bool = False) -> list[Receipt]:
    """Rate a window and accept it, as a night without a finding does."""
    revision = count_window(workspace, window_id, include_late=include_late)
    receipts = rate(workspace, window_id, revision.revision, AT)
    workspace.control_plane.decide_revision(window_id, revision.revision, RevisionState.ACCEPTED, AT, "test")
    return receipts


def tokens(quantity: int, time: str, subject: str = "customer-1") -> dict[str, Any]:
    return usage_event(id=f"{subject}-{time}-{quantity}", time=time, subject=subject, data={"input_tokens": quantity})


def draft(workspace: Workspace, period_id: str = "2026-01") -> list[dict[str, Any]]:
    [path] = dataset_files(workspace, LINE_ITEMS, f"period={period_id}")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def quantities(rows: Sequence[dict[str, Any]], sku: str = "tokens-input") -> dict[str, Decimal]:
    return {row["account_id"]: row["quantity"] for row in rows if row["sku"] == sku}


def test_a_draft_holds_the_accepted_nights_of_the_period_and_the_night_at_hand(january: Workspace) -> None:
    receive(january, tokens(1_000_000, "2026-01-30T10:00:00Z"), tokens(500_000, "2026-01-31T10:00:00Z"))

    bill(january, "2026-01-30")
    assert quantities(draft(january)) == {"acct-1": Decimal(1_000_000)}
    revision = count_window(january, "2026-01-31")
    [receipt] = rate(january, "2026-01-31", revision.revision, AT)

    assert quantities(draft(january)) == {"acct-1": Decimal(1_500_000)}
    [line] = [row for row in draft(january) if row["sku"] == "tokens-input"]
    assert (line["amount"], line["line_item_id"]) == (Decimal("4.50"), "acct-1/tokens-input/2026-01/per_unit/1")
    assert (receipt.scope, receipt.revision) == ("period=2026-01", 2)


def test_a_night_that_was_not_accepted_is_not_in_the_draft_of_another_night(january: Workspace) -> None:
    receive(january, tokens(7, "2026-01-30T10:00:00Z"), tokens(5, "2026-01-31T10:00:00Z"))
    count_window(january, "2026-01-30")

    bill(january, "2026-01-31")

    assert quantities(draft(january)) == {"acct-1": Decimal(5)}


def test_the_newest_accepted_revision_of_a_night_takes_the_place_of_the_older_one(january: Workspace) -> None:
    receive(january, tokens(7, "2026-01-30T10:00:00Z"))
    bill(january, "2026-01-30")
    receive(january, tokens(4, "2026-01-30T11:00:00Z"), received_at="2026-01-31T12:00:00Z")

    bill(january, "2026-01-30", include_late=True)
    bill(january, "2026-01-31")

    assert quantities(draft(january)) == {"acct-1": Decimal(11)}


def test_a_night_counts_for_the_month_that_the_account_is_in(january: Workspace) -> None:
    at_midnight_utc = "2026-01-31T23:30:00Z"
    events = [tokens(100, at_midnight_utc, subject) for subject in ("customer-1", "customer-2", "customer-3")]
    receive(january, *events)

    receipts = bill(january, "2026-01-31")

    assert [receipt.scope for receipt in receipts] == ["period=2026-01", "period=2026-02"]
    assert set(quantities(draft(january, "2026-01"))) == {"acct-1", "acct-2"}
    assert set(quantities(draft(january, "2026-02"))) == {"acct-3"}, "Berlin is one hour ahead"


def test_rating_the_same_night_twice_publishes_nothing_new(january: Workspace) -> None:
    receive(january, tokens(7, "2026-01-30T10:00:00Z"))
    revision = count_window(january, "2026-01-30")

    first = rate(january, "2026-01-30", revision.revision, AT)
    audit_log = january.control_plane.audit_log()
    again = rate(january, "2026-01-30", revision.revision, AT + ONE_DAY)

    assert again == first
    assert january.control_plane.audit_log() == audit_log


def test_a_draft_pins_its_usage_its_prices_its_accounts_and_its_query(january: Workspace) -> None:
    receive(january, tokens(7, "2026-01-30T10:00:00Z"))

    [receipt] = bill(january, "2026-01-30")

    pins = read_manifest(january, receipt.manifest_hash).pins
    usage = january.control_plane.publication("usage", "window=2026-01-30", 1)
    assert usage is not None
    assert pins["usage"] == {"2026-01-30": usage.manifest_hash}
    assert pins["price_books"] == {january.project.price_books[0].version: sha256_hex(PRICE_BOOK.encode())}
    assert january.lake.get_bytes(f"pins/{sha256_hex(PRICE_BOOK.encode())}") == PRICE_BOOK.encode()
    assert pins["accounts.csv"] == sha256_hex(january.project.files["accounts.csv"])
    assert set(pins) == {
        *("accounts.csv", "agreement", "period_id", "price_books", "seller", "sql", "taxes.toml"),
        *("usage", "usage_values", "usage_levels", "earlier_levels"),
        *("billed_meters", "levels_until", "meter_changes", "time_zones"),
    }


def test_a_night_without_usage_makes_no_draft(january: Workspace) -> None:
    collect(january, AT, lambda _: None)

    assert bill(january, "2026-01-30") == []


def test_a_draft_gives_way_when_a_new_revision_takes_all_usage_back(january: Workspace) -> None:
    receive(january, tokens(7, "2026-01-30T10:00:00Z"))
    bill(january, "2026-01-30")
    meters = january.project.folder / "meters.toml"
    nothing = 'filter = { kind = "none" }\naggregation'
    meters.write_text(meters.read_text().replace("aggregation", nothing))

    reopened = open_workspace(january.project.folder)
    [receipt] = bill(reopened, "2026-01-30")

    assert (receipt.revision, receipt.row_count) == (2, 0)


def test_a_final_period_is_never_rated_again(january: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    receive(january, tokens(7, "2026-01-30T10:00:00Z"))
    bill(january, "2026-01-30")
    january.control_plane.finalise_period("2026-01", "TEST", [], lambda _draft, _number: "", AT)
    receive(january, tokens(4, "2026-01-30T11:00:00Z"), received_at="2026-01-31T13:00:00Z")
    before = draft(january)

    with caplog.at_level(logging.INFO):
        receipts = bill(january, "2026-01-30", include_late=True)

    assert receipts == []
    assert draft(january) == before
    assert "period 2026-01 is final" in caplog.text
    with pytest.raises(PublicationError, match=r"rate\.period_is_final"):
        rate_period(january, "2026-01", AT, None)


def test_usage_without_a_price_stops_the_night_and_publishes_no_draft(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    no_euro = PRICE_BOOK.replace('currency = "EUR"', 'currency = "CHF"', 1)
    folder = write_project(
        tmp_path / "project", raw_bucket, {"billing.toml": LAST_NIGHTS, "price_books/2025-01-01.toml": no_euro}
    )
    workspace = open_workspace(folder)
    receive(workspace, tokens(7, "2026-01-30T10:00:00Z", "customer-3"))

    with pytest.raises(PricingError) as refusal:
        bill(workspace, "2026-01-30")

    assert len(refusal.value.details) == 2, "the SKU without a price in euro is named, and what to do"
    assert "SKU tokens-input" in refusal.value.details[0]
    assert workspace.control_plane.publication("line_items", "period=2026-01") is None


def test_a_night_that_is_not_counted_yet_cannot_be_rated(january: Workspace) -> None:
    receive(january, tokens(7, "2026-01-30T10:00:00Z"))
    deduplicate(january, parse_window("2026-01-30", ONE_DAY), AT)

    with pytest.raises(NotReadyError, match=r"rate\.usage_missing"):
        rate(january, "2026-01-30", 1, AT)


def test_accounts_on_which_the_raters_differ_are_held_and_the_others_go_on(
    january: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutated = sql_text("usage_lines").replace("ROUND(amount_exact, 2)", "ROUND(amount_exact, 1)")
    monkeypatch.setattr(
        "pipeline.steps.rate.sql_text", lambda query: mutated if query == "usage_lines" else sql_text(query)
    )
    receive(january, *(tokens(1, f"2026-01-30T10:00:{second:02}Z") for second in range(11)))
    receive(january, tokens(7, "2026-01-30T11:00:00Z", "customer-2"))
    revision = count_window(january, "2026-01-30")

    [receipt] = rate(january, "2026-01-30", revision.revision, AT)
    reconciliation = reconcile(january, "2026-01-30", revision.revision, AT)

    assert set(january.control_plane.held_accounts("2026-01")) == {"acct-1"}
    agreement = pinned_agreement(january, read_manifest(january, receipt.manifest_hash).pins)
    assert agreement.account_count == agreement.compared_account_count == 3
    controls = [one for one in published_controls(january, reconciliation) if one.control is Equation.RATED_TWICE]
    assert [one.scope for one in controls] == ["2026-01", "2026-01/acct-1"]
    assert controls[0].delta == -1
    assert "acct-1/requests/2026-01/graduated/2: SQL rater quantity 1, exact amount 0.01, amount 0;" in (
        controls[1].tolerance_reason
    )


def test_a_period_that_agrees_says_how_many_accounts_were_rated_twice(january: Workspace) -> None:
    settings = LAST_NIGHTS.replace("[rating]", "[rating]\nreference_lines_max = 0")
    sampled = open_workspace(write_project(january.project.folder, january.raw, {"billing.toml": settings}))
    receive(sampled, tokens(7, "2026-01-30T10:00:00Z"))
    sampled.control_plane.hold_account("2026-01", "acct-2", "disputed", AT, "ana")

    [receipt] = bill(sampled, "2026-01-30")

    agreement = pinned_agreement(sampled, read_manifest(sampled, receipt.manifest_hash).pins)
    assert (agreement.account_count, agreement.compared_account_count, agreement.disagreements) == (3, 1, ())
