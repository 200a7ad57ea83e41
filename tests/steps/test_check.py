"""The first gate: what a window revision computed is checked, the report is stored, then the gate decides."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.check import CHECK_RESULTS, CheckReport, Severity
from pipeline.core.errors import CheckFailed, NotReadyError, PublicationError
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, BillingWindow
from pipeline.steps.aggregate import aggregate
from pipeline.steps.check import check, check_report
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.publish import read_manifest
from pipeline.steps.rate import rate
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, BILLING, put_events, usage_event, write_project
from tests.steps.night import AT, WINDOW, compute, computed_night

SCOPE = "window=2026-01-15/revision=1"
LATER = AT + timedelta(hours=1)


def with_accounts(workspace: Workspace, accounts: str) -> Workspace:
    folder = workspace.project.folder
    (folder / "accounts.csv").write_text(accounts, encoding="utf-8")
    return open_workspace(folder)


def test_a_good_night_passes_and_every_dataset_was_checked(workspace: Workspace) -> None:
    computed_night(workspace)

    report = check(workspace, "2026-01-15", 1, AT)

    assert report.failed(Severity.CRITICAL) == ()
    assert list(dict.fromkeys((result.dataset, result.scope) for result in report.results)) == [
        ("raw_events", "window=2026-01-15"),
        ("usage_events", "window=2026-01-15"),
        ("usage", "window=2026-01-15"),
        ("line_items", "period=2026-01"),
    ]
    assert check_report(workspace, "2026-01-15", 1) == report


def test_checking_again_stores_the_same_bytes_once(workspace: Workspace) -> None:
    computed_night(workspace)

    check(workspace, "2026-01-15", 1, AT)
    first = workspace.control_plane.publication(CHECK_RESULTS, SCOPE)
    check(workspace, "2026-01-15", 1, LATER)

    assert first is not None
    assert workspace.control_plane.publication(CHECK_RESULTS, SCOPE) == first


def test_the_report_pins_what_was_checked_and_the_suites(workspace: Workspace) -> None:
    computed_night(workspace)
    check(workspace, "2026-01-15", 1, AT)

    receipt = workspace.control_plane.publication(CHECK_RESULTS, SCOPE)

    assert receipt is not None
    pins = read_manifest(workspace, receipt.manifest_hash).pins
    usage = workspace.control_plane.publication("usage", "window=2026-01-15", 1)
    assert usage is not None
    assert ["usage", "window=2026-01-15", usage.manifest_hash] in pins["checked"]
    suite = workspace.lake.get_bytes(f"pins/{pins['expectations']['usage']}")
    assert suite == (Path(__file__).parents[2] / "expectations" / "usage.json").read_bytes()


def test_a_failed_critical_expectation_stops_after_its_report_is_stored(workspace: Workspace) -> None:
    computed_night(workspace)
    changed = with_accounts(workspace, ACCOUNTS.replace("acct-3,", "acct-4,"))

    with pytest.raises(CheckFailed) as refused:
        check(changed, "2026-01-15", 1, AT)

    assert refused.value.code == "check.critical_failed"
    report = check_report(changed, "2026-01-15", 1)
    assert report is not None
    failed = [(result.dataset, result.expectation) for result in report.failed(Severity.CRITICAL)]
    assert failed == [
        ("usage_events", "account_valid_at_event_time"),
        ("usage", "account_is_known"),
        ("line_items", "account_currency_and_plan"),
        ("line_items", "service_period_of_the_account"),
    ]


def test_the_refusal_says_what_was_expected_what_was_found_and_why_it_matters(workspace: Workspace) -> None:
    computed_night(workspace)
    changed = with_accounts(workspace, ACCOUNTS.replace("acct-3,", "acct-4,"))

    with pytest.raises(CheckFailed) as refused:
        check(changed, "2026-01-15", 1, AT)

    lines = list(refused.value.details)
    place = lines.index("usage window=2026-01-15, account_is_known")
    assert lines[place + 1] == "  expected an account of the directory, got 2 wrong rows"
    assert lines[place + 2].startswith(
        "  for example account_id=acct-3 sku=requests grain_start=2026-01-15 12:00:00+00"
    )
    assert lines[place + 3] == "  Usage of an unknown account has no plan, no currency and nobody who pays."


def test_a_mended_night_gets_the_next_report_and_passes(workspace: Workspace) -> None:
    computed_night(workspace)
    changed = with_accounts(workspace, ACCOUNTS.replace("acct-3,", "acct-4,"))
    with pytest.raises(CheckFailed):
        check(changed, "2026-01-15", 1, AT)

    mended = with_accounts(workspace, ACCOUNTS)
    report = check(mended, "2026-01-15", 1, LATER)

    assert report.failed(Severity.CRITICAL) == ()
    receipt = workspace.control_plane.publication(CHECK_RESULTS, SCOPE)
    assert receipt is not None
    assert receipt.revision == 2


def test_a_warning_is_reported_and_does_not_stop(workspace: Workspace) -> None:
    put_events(workspace.raw, "usage/back.ndjson", [usage_event(data={"input_tokens": -5})], WINDOW.end)
    collect(workspace, AT, lambda _: None)
    compute(workspace)

    report = check(workspace, "2026-01-15", 1, AT)

    warnings = [(result.dataset, result.expectation) for result in report.failed(Severity.WARNING)]
    assert warnings == [("usage", "quantity_not_negative"), ("line_items", "quantity_not_negative")]


def test_a_window_without_events_passes_with_warnings(workspace: Workspace) -> None:
    collect(workspace, AT, lambda _: None)
    compute(workspace)

    report = check(workspace, "2026-01-15", 1, AT)

    assert report.failed(Severity.CRITICAL) == ()
    assert [result.expectation for result in report.failed(Severity.WARNING)] == [
        "window_has_raw_events",
        "window_has_events",
        "window_has_usage",
    ]


def test_a_window_on_a_month_end_checks_the_line_items_of_both_periods(workspace: Workspace) -> None:
    window = BillingWindow(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC) + ONE_DAY)
    at = window.end + timedelta(hours=7)
    in_new_york_still_january = usage_event(id="ny", subject="customer-2", time="2026-02-01T04:59:59Z")
    in_utc_february = usage_event(id="utc", time="2026-02-01T00:00:00Z")
    put_events(workspace.raw, "usage/feb.ndjson", [in_new_york_still_january, in_utc_february], window.end)
    collect(workspace, at, lambda _: None)
    deduplicate(workspace, window, at)
    aggregate(workspace, window.window_id, 1, at)
    rate(workspace, window.window_id, 1, at)

    report = check(workspace, window.window_id, 1, at)

    scopes = [result.scope for result in report.results if result.dataset == "line_items"]
    assert set(scopes) == {"period=2026-01", "period=2026-02"}
    assert [result for result in report.results if not result.success] == []


def test_the_line_items_of_a_final_period_are_not_checked_again(workspace: Workspace) -> None:
    computed_night(workspace)
    workspace.control_plane.finalise_period("2026-01", "TEST", [], lambda draft, number: "", LATER)

    report = check(workspace, "2026-01-15", 1, LATER)

    assert {result.dataset for result in report.results} == {"raw_events", "usage_events", "usage"}


def test_line_items_of_a_meter_that_was_dropped_since_still_pass(workspace: Workspace) -> None:
    computed_night(workspace)
    path = workspace.project.folder / "meters.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('unit = "requests"', 'unit = "calls"'), encoding="utf-8")

    report = check(open_workspace(workspace.project.folder), "2026-01-15", 1, AT)

    assert report.failed(Severity.CRITICAL) == ()


def test_a_revision_whose_usage_is_not_computed_is_not_ready(workspace: Workspace) -> None:
    collect(workspace, AT, lambda _: None)
    deduplicate(workspace, WINDOW, AT)

    with pytest.raises(NotReadyError, match="usage of window 2026-01-15 revision 1 is not published"):
        check(workspace, "2026-01-15", 1, AT)


def test_a_revision_that_was_never_opened_is_refused(workspace: Workspace) -> None:
    with pytest.raises(PublicationError, match="has no revision 7"):
        check(workspace, "2026-01-15", 7, AT)

    assert check_report(workspace, "2026-01-15", 7) is None


def test_rates_beyond_the_objectives_are_warnings_with_their_figures(workspace: Workspace) -> None:
    computed_night(workspace)

    report = check(workspace, "2026-01-15", 1, AT)

    found = {result.expectation: result for result in report.failed(Severity.WARNING)}
    assert list(found) == [
        "duplicates_within_objective",
        "late_events_within_objective",
        "orphans_within_objective",
        "quarantine_within_objective",
    ]
    assert found["duplicates_within_objective"].sample_keys == (
        "duplicate_count=2 event_count=8 percent_max=5.000000000",
    )
    assert found["quarantine_within_objective"].sample_keys == (
        "quarantine_count=2 line_count=10 event_count=8 percent_max=0.100000000",
    )


def test_a_first_window_says_that_there_is_nothing_to_compare_it_with(workspace: Workspace) -> None:
    computed_night(workspace)

    report = check(workspace, "2026-01-15", 1, AT)

    skipped = [result for result in report.results if not result.is_checked]
    assert [result.expectation for result in skipped] == [
        "volume_like_the_same_weekday",
        "no_account_spikes",
        "no_account_silences",
    ]
    assert {result.observed for result in skipped} == {
        "not checked: not enough history: 0 of at least 2 earlier windows of the weekday are accepted"
    }
    assert CheckReport.from_json(report.to_json()) == report


def test_a_window_is_compared_with_those_of_its_weekday(raw_bucket: ObjectStore, tmp_path: Path) -> None:
    slo = "\n[slo]\naccount_events_min = 1\n"
    workspace = open_workspace(write_project(tmp_path, raw_bucket, {"billing.toml": BILLING + slo}))
    week = timedelta(days=7)
    for number in range(3):
        start = WINDOW.start + (number - 2) * week
        window, at = BillingWindow(start, start + ONE_DAY), AT + (number - 2) * week
        day = start.date().isoformat()
        events = [usage_event(id=f"{day}-1", time=f"{day}T12:00:00Z", data={"input_tokens": 1 if number < 2 else 11})]
        if number < 2:
            events += [
                usage_event(id=f"{day}-{n}", time=f"{day}T12:00:00Z", subject=name)
                for n, name in enumerate(("customer-2", "customer-3"), start=2)
            ]
        put_events(workspace.raw, f"usage/{day}.ndjson", events, window.end)
        collect(workspace, at, lambda _: None)
        deduplicate(workspace, window, at)
        aggregate(workspace, window.window_id, 1, at)
        rate(workspace, window.window_id, 1, at)
        if number < 2:
            workspace.control_plane.decide_revision(window.window_id, 1, RevisionState.ACCEPTED, at, "a test")

    report = check(workspace, WINDOW.window_id, 1, AT)

    found = {result.expectation: result.sample_keys for result in report.failed(Severity.WARNING)}
    assert list(found) == ["volume_like_the_same_weekday", "no_account_spikes", "no_account_silences"]
    assert found["volume_like_the_same_weekday"][0].startswith(
        "event_count=1 earlier_event_count=6 earlier_window_count=2 "
    )
    assert [key.split()[:2] for key in found["no_account_spikes"]] == [["account_id=acct-1", "sku=tokens-input"]]
    assert [key.split()[0] for key in found["no_account_silences"]] == ["account_id=acct-2", "account_id=acct-3"]


def test_a_suite_of_the_project_adds_to_those_of_the_pipeline_and_may_stop_the_night(workspace: Workspace) -> None:
    computed_night(workspace)
    folder = workspace.project.folder / "expectations"
    folder.mkdir()
    own = {
        "type": "unexpected_rows_expectation",
        "description": "no account uses more than 1,000,000 tokens a grain",
        "severity": "critical",
        "kwargs": {"unexpected_rows_query": "SELECT account_id FROM {batch} WHERE quantity > 1000000"},
        "meta": {"name": "tokens_of_a_grain", "why": "Our contracts allow no more than that."},
    }
    content = json.dumps({"name": "usage", "expectations": [own]})
    (folder / "usage.json").write_text(content, encoding="utf-8")

    with pytest.raises(CheckFailed, match=r"(?s)tokens_of_a_grain.*account_id=acct-3"):
        check(open_workspace(workspace.project.folder), "2026-01-15", 1, AT)

    receipt = workspace.control_plane.publication(CHECK_RESULTS, SCOPE)
    assert receipt is not None
    pins = read_manifest(workspace, receipt.manifest_hash).pins["expectations"]
    assert workspace.lake.get_bytes(f"pins/{pins['project/usage']}") == content.encode()
