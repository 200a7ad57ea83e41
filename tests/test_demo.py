"""The demo is the first thing a newcomer runs: three nights in the real DAGs, and the truth about them."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.reason import ExclusionReason, QuarantineReason

DEMO = Path(__file__).parents[1] / "examples" / "llm_api" / "demo.py"
SAMPLE_USAGE = DEMO.with_name("sample_usage.py")
SECONDS_MAX = 600

PLANTED_IN_QUARANTINE = {
    QuarantineReason.EMPTY_OBJECT: 1,
    QuarantineReason.UNREADABLE_OBJECT: 1,
    QuarantineReason.TRUNCATED_OBJECT: 1,
    QuarantineReason.INVALID_ENCODING: 1,
    QuarantineReason.MALFORMED_LINE: 1,
    QuarantineReason.MISSING_FIELD: 1,
    QuarantineReason.UNKNOWN_FIELD: 1,
    QuarantineReason.WRONG_TYPE: 1,
    QuarantineReason.INVALID_TIME: 1,
    QuarantineReason.INVALID_QUANTITY: 1,
    QuarantineReason.NOT_A_NUMBER: 1,
    QuarantineReason.UNKNOWN_EVENT_TYPE: 1,
}
PLANTED_IN_EXCLUDED = {
    ExclusionReason.CONFLICTING_DUPLICATE: 1,
    ExclusionReason.IN_THE_FUTURE: 1,
    ExclusionReason.ORPHANED_ACCOUNT: 5,
    ExclusionReason.UNKNOWN_SKU: 4,
    ExclusionReason.UNREADABLE_QUANTITY: 1,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of the demo with a small sample, as a newcomer runs it: in a process of its own."""
    folder = tmp_path_factory.mktemp("demo") / "made"
    command = [sys.executable, str(DEMO), "--small", "--json", "--folder", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, cwd=folder.parent)
    assert run.returncode == 0, run.stderr
    return {**json.loads(run.stdout), "progress": run.stderr}


def test_every_equation_of_every_night_and_of_the_period_is_zero(demo: dict[str, Any]) -> None:
    assert demo["controls_not_zero"] == []
    assert demo["control_count"] > 100


def test_every_line_that_was_broken_on_purpose_is_in_quarantine_under_its_reason(demo: dict[str, Any]) -> None:
    assert demo["quarantined"] == {reason.value: count for reason, count in PLANTED_IN_QUARANTINE.items()}


def test_every_event_that_must_not_be_billed_is_excluded_under_its_reason(demo: dict[str, Any]) -> None:
    excluded = dict(demo["excluded"])
    duplicates = excluded.pop(ExclusionReason.EXACT_DUPLICATE.value)

    assert excluded == {reason.value: count for reason, count in PLANTED_IN_EXCLUDED.items()}
    assert duplicates > 0


def test_every_event_collected_is_billed_or_counted_under_a_reason(demo: dict[str, Any]) -> None:
    assert demo["of_no_window"] == {"before_the_first_window": 1}
    assert demo["raw_event_count"] == (
        demo["billed_event_count"] + sum(demo["excluded"].values()) + sum(demo["of_no_window"].values())
    )
    assert demo["unexplained_event_count"] == 0
    assert demo["billed_event_count"] > 1000


def test_windows_that_late_files_reached_are_billed_again_before_the_month_is_closed(demo: dict[str, Any]) -> None:
    assert demo["revisions"] == {"2026-01-30": 2, "2026-01-31": 2, "2026-02-01": 1}


def test_january_is_invoiced_in_three_currencies(demo: dict[str, Any]) -> None:
    totals = {currency: Decimal(total) for currency, total in demo["totals"].items()}

    assert set(totals) == {"EUR", "JPY", "USD"}
    assert all(total > 0 for total in totals.values())
    assert totals["JPY"] == totals["JPY"].to_integral_value()
    assert demo["invoice_count"] > 100


def test_the_report_of_each_night_and_an_invoice_are_there_to_read(demo: dict[str, Any]) -> None:
    for path in [*demo["reports"].values(), demo["invoice"]]:
        assert "<html" in Path(path).read_text(encoding="utf-8")


def test_each_task_says_one_line_while_it_works(demo: dict[str, Any]) -> None:
    assert "bill_window.accept: done" in demo["progress"]
    assert "collect_usage.bill_late_windows[0]: done" in demo["progress"]
    assert "close_period.close: done" in demo["progress"]
    assert "[info" not in demo["progress"]  # what Airflow says is in its log


def test_the_sample_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        command = [sys.executable, str(SAMPLE_USAGE), str(tmp_path / name), "--events-per-hour", "5"]
        subprocess.run(command, check=True)

    written = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("first", "second")
    ]
    assert len(written[0]) > 100
    assert written[0] == written[1]


def test_a_folder_that_the_demo_did_not_make_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")

    run = subprocess.run(
        [sys.executable, str(DEMO), "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert run.returncode == 1
    assert "was not made by the demo" in run.stderr
    assert (tmp_path / "precious.txt").read_text() == "mine"
