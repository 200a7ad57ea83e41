"""What a night tells machines: metrics, lineage, and alerts of thresholds that accounts reach."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from openlineage.client import event_v2
from openlineage.client.generated import (
    data_quality_assertions_dataset,
    dataset_version_dataset,
    error_message_run,
    nominal_time_run,
    output_statistics_output_dataset,
    parent_run,
)
from openlineage.client.serde import Serde
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.process_cost import CpuClock
from pipeline.core.errors import ReconciliationError
from pipeline.core.lineage import PRODUCER
from pipeline.core.window import ONE_DAY, BillingWindow
from pipeline.steps.alerts import reached_thresholds
from pipeline.steps.collect import collect
from pipeline.steps.finish import finish_night
from pipeline.steps.metrics import METRICS, metrics_text, write_metrics
from pipeline.steps.reconcile import reconcile
from pipeline.steps.run import run_window
from pipeline.steps.run_costs import cost_level, record_cost
from pipeline.steps.schedule import settle
from pipeline.steps.workspace import Workspace, open_workspace
from tests.adapters.test_alert_delivery import http_server
from tests.fixtures_project import BILLING, put_events, usage_event, write_project
from tests.monitoring import tool
from tests.steps.night import AT, CUTOFF, START, WINDOW, forged_revision, revision_of


def samples(text: str) -> dict[str, dict[tuple[str, ...], Any]]:
    return {
        family.name: {tuple(value for _, value in sorted(one.labels.items())): one.value for one in family.samples}
        for family in text_string_to_metric_families(text)
    }


def lineage(ws: Workspace) -> list[dict[str, Any]]:
    text = (ws.project.folder / "out" / "openlineage.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


# ---- metrics ----


def test_a_night_writes_its_metrics(night: Workspace) -> None:
    night.control_plane.hold_account("2026-01", "acct-2", "disputed", AT, "ana")

    run_window(night, WINDOW, AT, lambda _: None)

    text = (night.project.folder / "out" / "metrics.prom").read_text("utf-8")
    assert text == metrics_text(night)
    found = samples(text)
    end = WINDOW.end.timestamp()
    assert found["billing_window_end_timestamp_seconds"] == {(): end}
    assert found["billing_windows"] == {("candidate",): 0, ("accepted",): 1, ("rejected",): 0}
    # The first window of the project was never run, so nothing is accepted without a gap.
    first = night.project.settings.window.first_window_start
    assert found["billing_accepted_until_timestamp_seconds"] == {(): first.timestamp()}
    due = first + ONE_DAY + timedelta(hours=12)
    assert found["billing_next_deadline_timestamp_seconds"] == {(): due.timestamp()}
    assert found["billing_unexplained_events"] == found["billing_failed_controls"] == {(): 0}
    assert found["billing_accepted_after_cutoff_seconds"] == {(): 60}
    assert found["billing_sli_good_ratio"][("late_rate",)] == 0.875
    assert found["billing_sli_target_ratio"][("late_rate",)] == 0.99
    assert found["billing_sli_burn_rate"][("1", "late_rate")] == 12.5
    assert found["billing_sli_figure"][("p95_seconds", "ingestion_latency")] == 64800
    assert found["billing_account_held"] == {("acct-2", "2026-01"): 1}
    assert set(found) <= set(METRICS)
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_project_without_a_night_has_metrics(workspace: Workspace, tmp_path: Path) -> None:
    written = write_metrics(workspace, tmp_path / "billing.prom")

    assert written is not None
    found = samples(written.read_text("utf-8"))
    assert "billing_sli_good_ratio" not in found
    assert found["billing_windows"] == {("candidate",): 0, ("accepted",): 0, ("rejected",): 0}


def test_a_project_may_want_no_files(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    billing = BILLING + '\n[operations]\nmetrics_file = ""\nlineage_file = ""\n'
    ws = open_workspace(write_project(tmp_path / "project", raw_bucket, {"billing.toml": billing}))
    put_events(raw_bucket, "usage/a.ndjson", [usage_event()], START + timedelta(hours=13))
    collect(ws, AT, lambda _: None)

    run_window(ws, WINDOW, AT, lambda _: None)

    assert sorted(path.name for path in ws.out.iterdir()) == ["reports"]


@pytest.mark.parametrize(("events", "good", "total"), [(99_999, 0, 0), (100_000, 1, 1)])
def test_small_collections_tell_nothing_about_cost(workspace: Workspace, events: int, good: int, total: int) -> None:
    put_events(workspace.raw, "usage/a.ndjson", [usage_event()], START)
    clock = CpuClock()
    collected = collect(workspace, AT, lambda _: None)
    large = type(collected)(1, events, 0, 5 * events, {}, (), {})

    record_cost(workspace, large, clock.seconds(), AT)

    level = cost_level(workspace)
    assert level is not None
    measured = level.measurement
    assert (measured.good_count, measured.total_count) == (good, total)
    assert measured.figures["bytes_per_million_events"] == 5_000_000
    assert 0 < measured.figures["cpu_seconds"] < 60
    assert samples(metrics_text(workspace))["billing_sli_figure"][("events", "cost_to_collect")] == events


# ---- lineage ----

FACETS = {
    "nominalTime": nominal_time_run.NominalTimeRunFacet,
    "version": dataset_version_dataset.DatasetVersionDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
}


def made_by_the_client(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event as the client of OpenLineage makes it from the same facts; it checks types and names."""
    event_v2.set_producer(PRODUCER)

    def facets(given: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, facet in given.items():
            content = {key: value for key, value in facet.items() if not key.startswith("_")}
            if name == "parent":
                run, job = parent_run.Run(**content["run"]), parent_run.Job(**content["job"])
                made[name] = parent_run.ParentRunFacet(run=run, job=job)
            elif name == "dataQualityAssertions":
                assertions = [data_quality_assertions_dataset.Assertion(**one) for one in content["assertions"]]
                made[name] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions)
            elif name in FACETS:
                made[name] = FACETS[name](**content)
        return made

    datasets = {
        kind: [
            shape(
                one["namespace"],
                one["name"],
                facets=facets(one["facets"]),
                **{own: facets(one[own])},
            )
            for one in event[kind]
        ]
        for kind, shape, own in (
            ("inputs", event_v2.InputDataset, "inputFacets"),
            ("outputs", event_v2.OutputDataset, "outputFacets"),
        )
    }
    made = event_v2.RunEvent(
        eventTime=event["eventTime"],
        eventType=event_v2.RunState(event["eventType"]),
        run=event_v2.Run(event["run"]["runId"], facets=facets(event["run"]["facets"])),
        job=event_v2.Job(event["job"]["namespace"], event["job"]["name"]),
        producer=PRODUCER,
        **datasets,
    )
    plain: dict[str, Any] = json.loads(Serde.to_json(made))
    return plain


def without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: without_empty(item) for key, item in value.items() if key != "usageBilling_controlTotals"}
        return {key: item for key, item in kept.items() if item not in ({}, [], None)}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


def test_a_night_tells_its_lineage_as_the_client_of_open_lineage_would(night: Workspace) -> None:
    run_window(night, WINDOW, AT, lambda _: None)

    events = lineage(night)

    steps = [event["job"]["name"].removeprefix("bill_window").removeprefix(".") for event in events]
    assert steps == ["deduplicate", "aggregate", "rate", "check", "reconcile", ""]
    assert {event["eventType"] for event in events} == {"COMPLETE"}
    assert [without_empty(event) for event in events] == [without_empty(made_by_the_client(event)) for event in events]


def test_lineage_has_row_counts_and_what_the_checks_found(night: Workspace) -> None:
    run_window(night, WINDOW, AT, lambda _: None)

    deduplicate, _, rate, check, reconcile, _ = lineage(night)
    (excluded,) = deduplicate["outputs"]
    assert excluded["outputFacets"]["outputStatistics"]["rowCount"] == 5
    published = night.control_plane.publication("excluded_events", "window=2026-01-15", 1)
    assert published is not None
    assert excluded["facets"]["version"]["datasetVersion"] == published.manifest_hash
    assert [one["name"] for one in rate["outputs"]] == ["line_items/period=2026-01"]
    found = {one["name"]: one["inputFacets"]["dataQualityAssertions"]["assertions"] for one in check["inputs"]}
    assert set(found) == {"excluded_events/window=2026-01-15", "usage/window=2026-01-15", "line_items/period=2026-01"}
    assert all(one["success"] for of_dataset in found.values() for one in of_dataset if one["severity"] == "error")
    assert reconcile["run"]["facets"]["usageBilling_controlTotals"]["failed"] == 0


def test_a_rejected_night_failed_and_says_so(night: Workspace) -> None:
    forged = forged_revision(night, revision_of(night), {"usage": "SELECT * FROM usage WHERE sku <> 'requests'"})
    with pytest.raises(ReconciliationError):
        reconcile(night, forged.window_id, forged.revision, AT)
    settle(night, forged.window_id, forged.revision, AT, "reconcile refused")

    finish_night(night, forged.window_id, forged.revision, AT, lambda _: None)

    states = {event["job"]["name"]: event["eventType"] for event in lineage(night)}
    assert states["bill_window"] == states["bill_window.reconcile"] == "FAIL"
    assert states["bill_window.aggregate"] == "COMPLETE"
    assert samples(metrics_text(night))["billing_windows"][("rejected",)] == 1


# ---- thresholds of spend ----

THRESHOLDS = """
[[thresholds]]
account_id = "acct-1"
currency = "USD"
amount = 1

[[thresholds]]
currency = "USD"
amount = 3
"""


def test_a_threshold_fires_once_in_a_period_and_account(
    tmp_path: Path, raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing = BILLING.replace("estimates = false", "estimates = true").replace("2026-01-01", "2026-01-15")
    files = {"billing.toml": billing, "spend_thresholds.toml": THRESHOLDS}
    ws = open_workspace(write_project(tmp_path / "project", raw_bucket, files))
    for number in range(2):  # acct-1 comes to 1.50 USD, then to 3 USD
        event = usage_event(
            id=f"e{number}", time=(START + ONE_DAY * number).isoformat(), data={"input_tokens": 500_000}
        )
        put_events(raw_bucket, f"usage/{number}.ndjson", [event], START + ONE_DAY * number + timedelta(hours=1))
    collect(ws, CUTOFF + ONE_DAY, lambda _: None)
    said: list[str] = []

    with http_server() as (url, received):
        monkeypatch.setenv("BILLING_WEBHOOK_URL", url)
        run_window(ws, WINDOW, AT, said.append)
        first = list(received)
        run_window(ws, BillingWindow(WINDOW.end, WINDOW.end + ONE_DAY), AT + ONE_DAY, said.append)

    assert [one["body"]["key"] for one in first] == ["2026-01/acct-1/acct-1: 1 USD to date"]
    assert [one["body"]["key"] for one in received[1:]] == ["2026-01/acct-1/any account: 3 USD to date"]
    assert received[1]["body"]["severity"] == "ticket"
    assert any("window 2026-01-15: 1.5 USD" in sentence for sentence in said)
    reached = reached_thresholds(ws, "2026-01")
    assert [(one.threshold, one.amount, one.window_id) for one in reached] == [
        ("acct-1: 1 USD to date", "1.5", "2026-01-15"),
        ("any account: 3 USD to date", "3", "2026-01-16"),
    ]
    assert samples(metrics_text(ws))["billing_spend_thresholds_reached"] == {("2026-01",): 2}
