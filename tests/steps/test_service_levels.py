"""What a night says about how well billing works: measured once, from what was published, with its history."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.core.errors import ReconciliationError
from pipeline.core.sli import Burn, Indicator
from pipeline.steps.close import close
from pipeline.steps.collect import collect
from pipeline.steps.documents import void_document
from pipeline.steps.estimate import estimate
from pipeline.steps.finish import finish_night
from pipeline.steps.holds import hold_account
from pipeline.steps.reconcile import reconcile
from pipeline.steps.run import run_window
from pipeline.steps.service_levels import (
    PublishedServiceLevels,
    measured_windows,
    newest_service_levels,
    publish_service_levels,
    published_service_levels,
)
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import BILLING, put_events, usage_event, write_project
from tests.steps.night import AT, CUTOFF, START, WINDOW, forged_revision, revision_of
from tests.steps.test_rate import AT as CLOSED_AT
from tests.steps.test_rate import LAST_NIGHTS, bill, receive, tokens


def counts(levels: PublishedServiceLevels) -> dict[str, tuple[int, int]]:
    return {
        level.indicator.value: (level.measurement.good_count, level.measurement.total_count) for level in levels.levels
    }


def accepted(ws: Workspace) -> PublishedServiceLevels:
    run_window(ws, WINDOW, AT, lambda _: None)
    levels = published_service_levels(ws, WINDOW.window_id, 1)
    assert levels is not None
    return levels


def test_a_night_measures_what_became_of_its_events(night: Workspace) -> None:
    levels = accepted(night)

    found = counts(levels)
    assert found["events_per_window"] == (1, 1)
    # Used at 12:00: five were received at 13:00, two at the end of the grace period, one at the cutoff.
    assert found["ingestion_latency"] == (5, 8)
    assert found["duplicate_rate"] == (6, 8)
    assert found["late_rate"] == (7, 8)
    assert found["account_mapping"] == (7, 8)
    assert found["missing_event_rate"] == (0, 0)
    assert found["pipeline_availability"] == (1, 1)
    reconciliation = levels.level(Indicator.RECONCILIATION)
    assert reconciliation is not None and reconciliation.is_met
    assert reconciliation.measurement.figures["unexplained_events"] == 0
    latency = levels.level(Indicator.INGESTION_LATENCY)
    assert latency is not None
    assert latency.measurement.figures["p95_seconds"] == Decimal(18 * 3600).quantize(Decimal("0.01"))


def test_usage_is_counted_again_in_python_and_agrees(night: Workspace) -> None:
    levels = accepted(night)

    accuracy = levels.level(Indicator.AGGREGATION_ACCURACY)
    assert accuracy is not None
    assert accuracy.measurement.good_count == accuracy.measurement.total_count == 6  # three accounts, two meters
    assert accuracy.measurement.figures == {"accounts": 3, "events": 3}


def test_usage_that_no_event_explains_is_found_by_counting_again(night: Workspace) -> None:
    query = (
        "SELECT * REPLACE (CASE account_id WHEN 'acct-3' THEN value_sum + 1 ELSE value_sum END AS value_sum) FROM usage"
    )
    forged = forged_revision(night, revision_of(night), {"usage": query})

    levels = publish_service_levels(night, forged.window_id, forged.revision, AT)

    accuracy = levels.level(Indicator.AGGREGATION_ACCURACY)
    assert accuracy is not None
    assert (accuracy.measurement.good_count, accuracy.measurement.total_count) == (4, 6)
    assert "acct-3/requests 12:00 (count): value_sum expected 1, got 2" in accuracy.measurement.note
    assert accuracy.burn is Burn.FAST


def test_what_was_measured_stays_as_it_is(night: Workspace) -> None:
    levels = accepted(night)

    again = publish_service_levels(night, WINDOW.window_id, 1, AT + timedelta(days=99))

    assert again == levels == newest_service_levels(night)


def test_a_night_that_does_not_reconcile_says_so(night: Workspace) -> None:
    forged = forged_revision(night, revision_of(night), {"usage": "SELECT * FROM usage WHERE sku <> 'requests'"})
    with pytest.raises(ReconciliationError):
        reconcile(night, forged.window_id, forged.revision, AT)

    finish_night(night, forged.window_id, forged.revision, AT, lambda _: None)

    levels = published_service_levels(night, WINDOW.window_id, forged.revision)
    assert levels is not None
    reconciliation = levels.level(Indicator.RECONCILIATION)
    assert reconciliation is not None
    assert reconciliation.is_met is False
    assert reconciliation.measurement.figures["failed_controls"] > 0
    assert counts(levels)["aggregation_accuracy"] == (3, 6)


@pytest.mark.parametrize(("late", "good"), [(timedelta(0), 1), (timedelta(microseconds=1), 0)])
def test_a_window_is_available_up_to_its_deadline(night: Workspace, late: timedelta, good: int) -> None:
    run_window(night, WINDOW, CUTOFF + timedelta(hours=6) + late, lambda _: None)

    levels = published_service_levels(night, WINDOW.window_id, 1)

    assert levels is not None
    assert counts(levels)["pipeline_availability"] == (good, 1)


def tamper(ws: Workspace, statement: str) -> None:
    with sqlite3.connect(ws.project.folder / "control_plane.db") as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        database.execute(statement)


def test_the_audit_trail_lacks_what_has_no_entry(night: Workspace) -> None:
    audited, total = night.control_plane.audited_counts()
    assert audited == total > 5

    tamper(night, "UPDATE publications SET scope = 'window=2026-01-14' WHERE dataset = 'usage'")

    assert night.control_plane.audited_counts() == (total - 1, total)


def test_a_chain_that_was_broken_proves_nothing(night: Workspace) -> None:
    total = night.control_plane.audited_counts()[1]

    tamper(night, "UPDATE audit_log SET details = '{}' WHERE entry_number = 2")

    assert night.control_plane.audited_counts() == (0, total)


def test_windows_before_it_are_the_history_of_a_window(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    billing = BILLING.replace("2026-01-01", "2026-01-14") + "\n[sli.late_rate]\ntarget_percent = 90\n"
    ws = open_workspace(write_project(tmp_path / "project", raw_bucket, {"billing.toml": billing}))
    for number, day in enumerate((14, 15)):
        noon = datetime(2026, 1, day, 12, tzinfo=UTC)
        events = [usage_event(id=f"{day}-{n}", time=noon.isoformat()) for n in range(4)]
        put_events(raw_bucket, f"usage/{day}.ndjson", events[number:], noon + timedelta(minutes=1))
        if number:
            put_events(raw_bucket, f"usage/{day}-late.ndjson", events[:number], noon + timedelta(days=2))
    collect(ws, START + timedelta(days=9), lambda _: None)
    first = run_window(ws, type(WINDOW)(WINDOW.start - timedelta(days=1), WINDOW.start), AT, lambda _: None)

    run_window(ws, WINDOW, AT, lambda _: None)

    levels = published_service_levels(ws, WINDOW.window_id, 1)
    assert levels is not None
    late = levels.level(Indicator.LATE_RATE)
    assert late is not None
    # One of four this night, one of eight in both: 25 and 12.5 percent where 10 are allowed.
    assert late.burn_rates == {1: Decimal("2.5"), 3: Decimal("1.25"), 7: Decimal("1.25"), 30: Decimal("1.25")}
    assert late.budget_left_percent == Decimal(-25)
    assert [one.window_end for one in measured_windows(ws, revision_of(ws), 30)] == [WINDOW.start]
    assert first.revision == 1


# ---- of periods ----


@pytest.fixture(scope="module")
def closed_folder(s3_server: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose January is final since 3 February: three accounts were charged, and one of them is held."""
    raw = ObjectStore("service-levels", s3_server.url)
    raw.create_bucket()
    billing = LAST_NIGHTS.replace("estimates = false", "estimates = true")
    folder = write_project(tmp_path_factory.mktemp("closed") / "project", raw, {"billing.toml": billing})
    ws = open_workspace(folder)
    receive(
        ws,
        tokens(1_000_000, "2026-01-30T10:00:00Z"),
        tokens(1_000_000, "2026-01-31T10:00:00Z"),
        tokens(1_000_000, "2026-01-30T11:00:00Z", "customer-2"),
        tokens(1_000_000, "2026-01-30T11:00:00Z", "customer-3"),
    )
    for night in ("2026-01-30", "2026-01-31", "2026-02-01"):
        bill(ws, night)
        estimate(ws, night, 1, CLOSED_AT)
    hold_account(ws, "2026-01", "acct-3", "disputed", CLOSED_AT, "ana")
    close(ws, "2026-01", CLOSED_AT)
    return folder


@pytest.fixture
def closed(closed_folder: Path, tmp_path: Path) -> Workspace:
    return open_workspace(Path(shutil.copytree(closed_folder, tmp_path / "project")))


def measured(ws: Workspace, at: datetime) -> dict[str, tuple[int, int]]:
    return counts(publish_service_levels(ws, "2026-02-01", 1, at))


@pytest.mark.parametrize(("after", "total"), [(timedelta(microseconds=-1), 2), (timedelta(0), 3)])
def test_invoices_that_are_owed_are_late_from_the_deadline_on(closed: Workspace, after: timedelta, total: int) -> None:
    deadline_at = datetime(2026, 2, 6, tzinfo=UTC)

    assert measured(closed, deadline_at + after)["invoices_on_time"] == (2, total)


def test_a_period_that_is_not_final_when_it_is_due_has_no_invoice_on_time(closed: Workspace) -> None:
    with_february = timedelta(days=28)

    found = measured(closed, datetime(2026, 2, 6, tzinfo=UTC) + with_february)

    assert found["invoices_on_time"] == (0, 0)  # nothing was charged in February


def test_files_of_documents_that_are_gone_are_missed(closed: Workspace) -> None:
    gone = sorted((closed.out / "invoices" / "2026-01").rglob("*.html"))[0]
    gone.unlink()

    assert measured(closed, CLOSED_AT)["export_success"] == (1, 2)


def test_an_invoice_that_was_voided_is_disputed(closed: Workspace) -> None:
    number = closed.control_plane.documents("2026-01")[0].number
    void_document(closed, number, "wrong address", CLOSED_AT, "ana")

    assert measured(closed, CLOSED_AT)["dispute_rate"] == (1, 2)


def test_estimates_are_compared_with_what_the_period_came_to(closed: Workspace) -> None:
    # In the middle night January had ended in UTC and in Berlin. In New York its last day was not known, and was
    # expected to be like the day before; nothing was used on it.
    assert measured(closed, CLOSED_AT)["estimate_accuracy"] == (2, 3)


def test_a_project_without_a_final_period_measures_none(night: Workspace) -> None:
    found = counts(accepted(night))

    periods = ("export_success", "invoices_on_time", "dispute_rate", "estimate_accuracy")
    assert [found[name] for name in periods] == [(0, 0)] * 4
