"""What examples/monitoring names exists: rules are tested by Prometheus' own tool, metrics are ones that we expose."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.sli import FAST_BURN, SLOW_BURN, Indicator
from pipeline.steps.metrics import METRICS
from tests.monitoring import tool

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "examples" / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
LABELS_OF_PROMETHEUS = {"alertname", "alertstate", "instance"}


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = [panel for path in DASHBOARDS for panel in json.loads(path.read_text("utf-8"))["panels"]]
    return [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_rules_pass_their_own_tests() -> None:
    assert "SUCCESS" in run(tool("promtool"), "check", "rules", "alerts.yml")
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", "alerts_test.yml")


def test_every_rule_is_tested_firing_and_silent() -> None:
    cases = yaml.safe_load((MONITORING / "alerts_test.yml").read_text("utf-8"))["tests"]
    tried = [(one["alertname"], bool(one.get("exp_alerts"))) for case in cases for one in case["alert_rule_test"]]

    assert {(rule["alert"], fires) for rule in rules() for fires in (True, False)} <= set(tried)


def test_alertmanager_accepts_its_file_and_knows_every_severity() -> None:
    assert "SUCCESS" in run(tool("amtool"), "check-config", "alertmanager.yml")

    def receivers(*labels: str) -> str:
        return run(tool("amtool"), "config", "routes", "test", "--config.file=alertmanager.yml", *labels).strip()

    assert receivers("severity=page", "alertname=BillingNightOverdue") == "on-call"
    assert receivers("severity=ticket", "alertname=BillingAccountHeld") == "tickets"
    assert {rule["labels"]["severity"] for rule in rules()} == {"page", "ticket"}


def test_what_is_about_one_account_never_pages() -> None:
    of_accounts = [rule for rule in rules() if "account" in rule["expr"]]

    assert of_accounts
    assert {rule["labels"]["severity"] for rule in of_accounts} == {"ticket"}


@pytest.mark.parametrize("expression", expressions())
def test_metrics_and_labels_that_are_named_are_exposed(expression: str) -> None:
    names = set(re.findall(r"\bbilling_[a-z_]+", expression))
    labels = set(re.findall(r"([a-z_]+)=~?\"", expression))

    assert names or "ALERTS" in expression
    assert names <= set(METRICS)
    assert labels - LABELS_OF_PROMETHEUS <= {label for name in names for label in METRICS[name][1]}
    for indicators in re.findall(r'indicator=~?"([a-z_|]+)"', expression):
        assert set(indicators.split("|")) <= {indicator.value for indicator in Indicator}


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    named = {name for expression in expressions() for name in re.findall(r"\bbilling_[a-z_]+", expression)}

    assert named == set(METRICS)


def test_the_rules_burn_as_the_service_levels_do() -> None:
    by_name = {rule["alert"]: rule["expr"] for rule in rules()}

    for name, (rate, spans) in (
        ("BillingErrorBudgetBurnsFast", FAST_BURN),
        ("BillingErrorBudgetBurnsSlowly", SLOW_BURN),
    ):
        found = re.findall(r'days="(\d+)"} >= (\d+)', by_name[name])
        assert {(str(days), str(rate)) for days in spans} <= set(found)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_can_show(path: Path) -> None:
    board = json.loads(path.read_text("utf-8"))

    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(board)
    assert {panel["type"] for panel in board["panels"]} <= {"stat", "bargauge", "table", "timeseries"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells


def test_every_alert_has_a_section_in_the_runbook() -> None:
    runbook = (ROOT / "docs/runbook.md").read_text("utf-8")
    sections = set(re.findall(r"^## Alert (\w+)$", runbook, re.MULTILINE))

    assert sections == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#alert-{rule['alert'].lower()}"
