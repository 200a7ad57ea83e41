"""The demo is the first thing a newcomer runs: three nights in the real DAGs, and the truth about them.

Both raters are broken on its project, too: what one of them gets wrong the other one catches (P7).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.warehouse import sql_text
from pipeline.core import rating
from pipeline.core.agreement import Agreement
from pipeline.core.reason import ExclusionReason, QuarantineReason
from pipeline.steps.documents import document_bytes
from pipeline.steps.publish import read_manifest
from pipeline.steps.rate import pinned_agreement, rate_period
from pipeline.steps.workspace import open_workspace
from tests.test_cli import billing

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
    return {**json.loads(run.stdout), "progress": run.stderr, "project": str(folder / "project")}


def document_of(demo: dict[str, Any], account_id: str, number: str | None = None) -> dict[str, Any]:
    """Return a document as it was issued: the account's invoice, unless it is another number."""
    workspace = open_workspace(Path(demo["project"]))
    documents = workspace.control_plane.documents("2026-01", account_id)
    [document] = [one for one in documents if one.number == number or (number is None and one.kind == "invoice")]
    content: dict[str, Any] = json.loads(document_bytes(workspace, document))
    return content


def test_every_equation_of_every_night_and_of_the_period_is_zero(demo: dict[str, Any]) -> None:
    assert demo["controls_not_zero"] == []
    assert demo["control_count"] > 100


def test_every_line_that_was_broken_on_purpose_is_in_quarantine_under_its_reason(demo: dict[str, Any]) -> None:
    assert demo["quarantined"] == {reason.value: count for reason, count in PLANTED_IN_QUARANTINE.items()}


def test_every_event_that_must_not_be_billed_is_excluded_under_its_reason(demo: dict[str, Any]) -> None:
    excluded = dict(demo["excluded"])
    duplicates = excluded.pop(ExclusionReason.EXACT_DUPLICATE.value)
    assert excluded.pop(ExclusionReason.VOIDED.value) > 0

    assert excluded == {reason.value: count for reason, count in PLANTED_IN_EXCLUDED.items()}
    assert duplicates > 0


def test_every_event_collected_is_billed_or_counted_under_a_reason(demo: dict[str, Any]) -> None:
    assert demo["of_no_window"] == {
        "before_the_first_window": 1,
        "window_has_not_run": demo["excluded"][ExclusionReason.VOIDED.value],  # the withdrawals themselves
    }
    assert demo["raw_event_count"] == (
        demo["billed_event_count"] + sum(demo["excluded"].values()) + sum(demo["of_no_window"].values())
    )
    assert demo["unexplained_event_count"] == 0
    assert demo["billed_event_count"] > 1000


def test_windows_that_late_files_reached_are_billed_again_before_and_after_the_close(demo: dict[str, Any]) -> None:
    assert demo["revisions"] == {"2026-01-30": 2, "2026-01-31": 3, "2026-02-01": 1}


def test_january_is_invoiced_in_three_currencies_to_everybody_but_the_account_that_is_held(
    demo: dict[str, Any],
) -> None:
    totals = {currency: Decimal(total) for currency, total in demo["totals"].items()}

    assert set(totals) == {"EUR", "JPY", "USD"}
    assert all(total > 0 for total in totals.values())
    assert totals["JPY"] == totals["JPY"].to_integral_value()
    assert demo["invoice_count"] > 100
    assert list(demo["held"]) == ["acct-0056"]
    assert "came with two quantities" in demo["held"]["acct-0056"]


def test_the_demo_shows_the_price_models_that_customers_meet(demo: dict[str, Any]) -> None:
    models = {"per_unit", "graduated", "volume", "package", "matrix", "dynamic", "percentage", "flat_fee"}

    assert models <= demo["models"].keys()
    assert {"commitment", "overage"} & demo["models"].keys()


def test_prices_are_approved_by_somebody_else_than_their_publisher(demo: dict[str, Any]) -> None:
    assert "access.denied: priya.pricing@nimbus.example may not approve book" in demo["progress"]
    assert "approved by omar.finance@nimbus.example" in demo["progress"]


def test_a_plan_that_changes_inside_the_month_splits_it(demo: dict[str, Any]) -> None:
    lines = document_of(demo, "acct-0013")["lines"]

    assert {(line["segment"], line["plan"]) for line in lines if line["kind"] == "usage"} == {
        (1, "pay_as_you_go"),
        (2, "scale"),
    }


def test_a_new_account_pays_the_fee_in_advance_for_its_first_days_and_for_the_next_month(demo: dict[str, Any]) -> None:
    fees = [line for line in document_of(demo, "acct-0083")["lines"] if line["sku"] == "platform-fee"]

    assert [(line["line_item_id"], line["amount"]) for line in fees] == [
        ("acct-0083/platform-fee/2026-01/flat_fee", "3"),  # 31 dollars a month, 3 of 31 days
        ("acct-0083/platform-fee/2026-02/flat_fee", "31"),
    ]


def test_taxes_credits_overrides_and_reverse_charge_are_on_the_invoices(demo: dict[str, Any]) -> None:
    taxed, reverse = document_of(demo, "acct-0083"), document_of(demo, "acct-0115")
    [override] = [line for line in document_of(demo, "acct-0029")["lines"] if line["sku"] == "large-output-tokens"]

    assert [(tax["name"], tax["percent"]) for tax in taxed["taxes"]] == [
        ("City sales tax", "4.5"),
        ("State sales tax", "4"),
    ]
    assert [credit["amount"] for credit in taxed["credits"]] == ["25"]
    assert Decimal(taxed["amount_due"]) == Decimal(taxed["total"]) - 25
    assert [(tax["category"], tax["tax"], tax["reason"]) for tax in reverse["taxes"]] == [("AE", "0", "reverse_charge")]
    assert (override["unit_price"], override["description"]) == ("12", "nimbus-large output tokens, contract price")


def test_what_is_known_after_the_close_is_settled_by_an_adjustment_and_a_credit_note(demo: dict[str, Any]) -> None:
    credit_note, adjustment = sorted(demo["settled"], key=lambda one: Decimal(one["total"]))

    assert [(one["kind"], one["account_id"], one["number"]) for one in (adjustment, credit_note)] == [
        ("adjustment", "acct-0083", f"NLM-{demo['invoice_count'] + 1:06}"),
        ("credit_note", "acct-0115", "NLM-C-000001"),
    ]
    assert Decimal(credit_note["total"]) < 0 < Decimal(adjustment["total"])
    assert adjustment["corrects"] == document_of(demo, "acct-0083")["number"]
    assert adjustment["event_count"] == 40  # requests that were lost
    assert credit_note["event_count"] == demo["excluded"][ExclusionReason.VOIDED.value]
    tiers = {
        line["line_item_id"]
        for line in document_of(demo, "acct-0083", adjustment["number"])["lines"]
        if line["sku"] == "large-output-tokens"
    }
    assert "acct-0083/large-output-tokens/2026-01/graduated/2/adjustment/2" in tiers


def test_what_is_settled_owes_the_taxes_of_its_account(demo: dict[str, Any]) -> None:
    [adjustment] = [one for one in demo["settled"] if one["kind"] == "adjustment"]
    content = document_of(demo, "acct-0083", adjustment["number"])

    assert [(tax["name"], tax["net"]) for tax in content["taxes"]] == [
        ("City sales tax", content["subtotal"]),
        ("State sales tax", content["subtotal"]),
    ]
    assert content["period"]["period_id"] == "2026-01"
    assert content["issue_date"] >= document_of(demo, "acct-0083")["issue_date"]


def test_a_document_is_rendered_from_a_shell_and_what_is_there_stays_as_it_is(demo: dict[str, Any]) -> None:
    [credit_note] = [one for one in demo["settled"] if one["kind"] == "credit_note"]
    pdf = Path(credit_note["page"]).with_suffix(".pdf")
    of_january = ("invoice", "render", "--period", "2026-01", "--project", demo["project"])
    of_one = (*of_january, "--number", credit_note["number"], "--pdf")

    first, second = billing(*of_one), billing(*of_one, "--json")
    unknown = billing(*of_january, "--number", "NLM-999999")

    assert first.stdout == f"1 files written, 1 were there: {pdf.parents[1]}\n", first.stderr
    assert pdf.read_bytes().startswith(b"%PDF")
    assert json.loads(second.stdout)["rendered"] == {"written": 0, "current": 2, "problems": []}
    assert (unknown.returncode, unknown.stderr.split(":")[0]) == (2, "render.no_document")


def test_the_pages_that_the_demo_names_are_there_to_read(demo: dict[str, Any]) -> None:
    settled = [one["page"] for one in demo["settled"]]

    assert len(demo["pages"]) == 5
    for path in [*demo["reports"].values(), *demo["pages"].values(), *settled]:
        assert "<html" in Path(path).read_text(encoding="utf-8")


def test_each_task_says_one_line_while_it_works(demo: dict[str, Any]) -> None:
    assert "bill_window.accept: done" in demo["progress"]
    assert "collect_usage.bill_late_windows[0]: done" in demo["progress"]
    assert "close_period.close: done" in demo["progress"]
    assert "[info" not in demo["progress"]  # what Airflow says is in its log


def rate_february(demo: dict[str, Any], folder: Path) -> tuple[Agreement, set[str]]:
    """Rate the open month of a copy of the demo's project; return how the raters agree, and who is held."""
    workspace = open_workspace(Path(shutil.copytree(demo["project"], folder / "project")))
    receipt = rate_period(workspace, "2026-02", datetime(2026, 2, 7, tzinfo=UTC), candidate=None)
    agreement = pinned_agreement(workspace, read_manifest(workspace, receipt.manifest_hash).pins)
    return agreement, set(workspace.control_plane.held_accounts("2026-02"))


def test_both_raters_agree_on_every_line(demo: dict[str, Any], tmp_path: Path) -> None:
    agreement, held = rate_february(demo, tmp_path)

    assert agreement.compared_line_count == agreement.line_count > 100
    assert (agreement.disagreements, held) == ((), set())


@pytest.mark.parametrize(
    ("query", "rule", "mutation", "lines"),
    [
        ("usage_lines", "ROUND(amount_exact, 2)", "ROUND(amount_exact, 1)", "/2026-02/per_unit/1"),
        ("commitment_lines", "committed - amount_rated", "committed", "/2026-02/commitment"),
    ],
)
def test_a_changed_rule_of_the_sql_rater_is_caught_by_the_reference_rater(
    demo: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    rule: str,
    mutation: str,
    lines: str,
) -> None:
    assert rule in sql_text(query)
    monkeypatch.setattr(
        "pipeline.steps.rate.sql_text",
        lambda name: sql_text(name).replace(rule, mutation) if name == query else sql_text(name),
    )

    agreement, held = rate_february(demo, tmp_path)

    assert any(line.line_item_id.endswith(lines) for line in agreement.disagreements)
    assert held == set(agreement.accounts)


@pytest.mark.parametrize(
    ("rule", "mutation", "lines"),
    [
        ("_discount_of", lambda discount, base: base * (discount.percent or 0), "/plan_discount/1"),
        ("_cell", lambda charge, row: 0, "/matrix/default"),
    ],
)
def test_a_changed_rule_of_the_reference_rater_is_caught_by_the_sql_rater(
    demo: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    mutation: Callable[..., Any],
    lines: str,
) -> None:
    monkeypatch.setattr(rating, rule, mutation)

    agreement, held = rate_february(demo, tmp_path)

    assert any(line.line_item_id.endswith(lines) for line in agreement.disagreements)
    assert held == set(agreement.accounts)


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
