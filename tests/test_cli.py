"""The console script as people and schedulers meet it: exit codes, sentences, one JSON document."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.cli import _say_window
from pipeline.steps.run import WindowResult
from tests.fixtures_project import BILLING, PROJECT_FILES, put_events, usage_event, write_project

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def billing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def json_of(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


@pytest.mark.slow
def test_one_night_from_a_shell_collects_runs_reports_and_a_second_run_changes_nothing(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(), usage_event(id="b", time="yesterday")], NOON)

    collected = billing("collect", "--project", folder, "--json")
    assert collected.returncode == 0, collected.stderr
    assert json_of(collected)["raw_events"] == 1
    assert json_of(collected)["by_reason"] == {"invalid_time": 1}

    first = billing("run", "--window", "2026-01-15", "--project", folder, "--json")
    assert first.returncode == 0, first.stderr
    assert json_of(first)["is_new"] is True
    assert Path(json_of(first)["report"]).is_file()
    before = {path: path.read_bytes() for path in (folder / "lake").rglob("*") if path.is_file()}

    second = billing("run", "--window", "2026-01-15", "--project", folder)
    assert second.returncode == 0, second.stderr
    assert "revision 1 is current" in second.stdout
    assert {path: path.read_bytes() for path in (folder / "lake").rglob("*") if path.is_file()} == before

    shown = billing("report", "--window", "2026-01-15", "--project", folder)
    assert Path(shown.stdout.strip()).is_file()

    facts = json_of(billing("status", "--project", folder, "--json"))
    assert [(window["window"], window["revision"]) for window in facts["windows"]] == [("2026-01-15", 1)]


def test_a_window_that_is_not_collected_is_a_refusal_with_exit_code_1(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)

    done = billing("run", "--window", "2026-01-15", "--project", folder)

    assert done.returncode == 1
    assert done.stderr.startswith("window.not_collected: ")
    assert "Traceback" not in done.stderr


def test_who_runs_windows_issues_nothing_where_the_project_says_who_does_what(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)
    with (folder / "billing.toml").open("a") as file:
        file.write('\n[roles]\nengineer = ["ana"]\nfinance = ["ben"]\n')

    def refusal(*arguments: str) -> str:
        done = billing(*arguments, "--project", folder)
        assert done.returncode
        return done.stderr

    period, window = ("--period", "2026-01"), ("--window", "2026-01-15")
    assert refusal("close", *period, "--by", "ana").startswith("access.denied: ana may not issue")
    assert refusal("adjust", *period, "--by", "ana").startswith("access.denied: ana may not issue")
    assert refusal("run", *window, "--by", "ben").startswith("access.denied: ben may not run")
    assert refusal("rerun", *window).startswith("settings.user: ")
    assert refusal("run", *window, "--by", "ana").startswith("window.not_collected: ")
    assert refusal("adjust", *period, "--dry-run").startswith("adjust.period_is_open: ")


def test_a_refusal_with_json_is_one_json_document(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)

    done = billing("close", "--period", "2026-01", "--project", folder, "--json")

    assert done.returncode == 1
    assert json_of(done)["error"]["code"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--window", "yesterday"), "--window"),
        (("run", "--window", "2026-01-15T06:00Z"), "--window"),
        (("run",), "--window"),
        (("run", "--due", "--window", "2026-01-15"), "--window"),
        (("close", "--period", "2026-13"), "--period"),
        (("collect", "--unknown"), "--unknown"),
    ],
)
def test_wrong_use_is_exit_code_2_and_names_the_option(
    tmp_path: Path, raw_bucket: ObjectStore, arguments: tuple[str, ...], said: str
) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)

    done = billing(*arguments, "--project", folder)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_does_not_exist_is_one_json_document_with_json() -> None:
    done = billing("bogus", "--json")

    assert done.returncode == 2
    assert json_of(done)["error"]["code"] == "cli.usage"


@pytest.mark.slow
def test_a_rerun_says_identical_and_a_diff_says_what_changed_and_why(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)
    cutoff = datetime(2026, 1, 16, 6, tzinfo=UTC)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(data={"input_tokens": "0.0000001"})], NOON)
    put_events(raw_bucket, "usage/b.ndjson", [usage_event(id="late")], cutoff)
    window = ("--window", "2026-01-15", "--project", folder)
    assert billing("collect", "--project", folder).returncode == 0
    assert billing("run", *window).returncode == 0
    assert billing("run", *window, "--include-late").returncode == 0

    rerun = billing("rerun", *window, "--revision", "1")
    changed = billing("diff", *window, "--from", "1", "--to", "2")
    as_json = billing("diff", *window, "--from", "1", "--to", "2", "--json")
    unknown = billing("diff", *window, "--from", "1", "--to", "3")

    assert (rerun.returncode, rerun.stdout.splitlines()[0]) == (0, "window 2026-01-15 revision 1: identical")
    assert [line.split()[0] for line in rerun.stdout.splitlines()[1:]][:7] == [
        "raw_event_files",
        "neighbours",
        "withdrawn_events",
        "withdrawal_types",
        "event_outcomes",
        "excluded_events",
        "line_items",
    ]
    assert changed.stdout.splitlines() == [
        "window 2026-01-15, revision 1 to 2",
        "account  SKU           unit           from            to  change  late events",
        "all      requests      requests          1             2      +1           +1",
        "all      tokens-input  tokens    0.0000001  1000.0000001   +1000        +1000",
        "acct-1   requests      requests          1             2      +1           +1",
        "acct-1   tokens-input  tokens    0.0000001  1000.0000001   +1000        +1000",
    ]
    assert json_of(as_json)["changes"][1]["parts"] == {"late_events": "1000.000000000"}
    assert (unknown.returncode, unknown.stderr.startswith("revision.unknown: ")) == (1, True)


@pytest.mark.slow
def test_every_window_that_is_due_is_billed_and_late_events_are_taken_in(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    today = datetime.now(UTC).date()  # collection reaches now, so the windows that are due end with yesterday's
    first_window = f"first_window = {today - timedelta(days=4)}"
    billing_toml = PROJECT_FILES["billing.toml"].replace("first_window = 2026-01-01", first_window)
    folder = write_project(tmp_path / "project", raw_bucket, {"billing.toml": billing_toml})
    noon = datetime.combine(today - timedelta(days=4), time(12), UTC)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(time=noon.isoformat())], noon)
    put_events(raw_bucket, "usage/b.ndjson", [usage_event(id="b", time=noon.isoformat())], noon + timedelta(days=1))
    assert billing("collect", "--project", folder).returncode == 0

    first = json_of(billing("run", "--due", "--project", folder, "--json"))
    assert first[0]["billed_events"] == 1
    assert first[0]["excluded_events"] == {"late": 1}
    assert [result["window_id"] for result in first[:3]] == [
        (today - timedelta(days=days)).isoformat() for days in (4, 3, 2)
    ]

    second = json_of(billing("run", "--due", "--project", folder, "--json"))
    third = json_of(billing("run", "--due", "--project", folder, "--json"))
    oldest = first[0]["window_id"]
    of_oldest = [(result["revision"], result["billed_events"]) for result in second if result["window_id"] == oldest]
    assert of_oldest == [(2, 2)]
    assert oldest not in [result["window_id"] for result in third]


@pytest.mark.parametrize("command", [("collect",), ("run", "--window", "2026-01-15"), ("status",)])
def test_a_broken_project_stops_every_command_before_any_work(
    tmp_path: Path, raw_bucket: ObjectStore, command: tuple[str, ...]
) -> None:
    folder = write_project(tmp_path / "project", raw_bucket, {"meters.toml": "[[meters]]\nsku = 'a'\n"})

    done = billing(*command, "--project", folder)

    assert done.returncode == 2
    assert "meters.toml" in done.stderr
    assert not (folder / "control_plane.db").exists()
    assert not (folder / "lake").exists()


def test_init_writes_a_project_that_is_valid_and_refuses_a_folder_with_content(tmp_path: Path) -> None:
    folder = tmp_path / "mine"

    made = billing("init", folder)
    again = billing("init", folder)
    status = billing("status", "--project", folder)

    assert made.returncode == 0, made.stderr
    assert again.returncode == 2
    assert status.returncode == 0, status.stderr


def test_a_run_says_which_withdrawals_do_nothing_and_which_replacements_are_not_billed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults, unbilled = {"unmatched": 2}, {"late": 1, "orphaned_account": 3}
    path = Path("out/report.html")

    _say_window(WindowResult("2026-01-15", 1, True, "first", 5, {"voided": 1}, 0, (), faults, unbilled, path))
    said = capsys.readouterr().out
    _say_window(WindowResult("2026-01-15", 1, True, "first", 5, {"voided": 1}, 0, (), {}, {}, path))
    said_of_none = capsys.readouterr().out

    assert "  withdrawals without effect: 2 unmatched\n" in said
    assert "take an event back and are not billed themselves: 1 late, 3 orphaned_account\n" in said
    assert len(said_of_none.splitlines()) == 2


def test_credits_and_holds_are_set_listed_and_taken_back_from_a_shell(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)
    who = ("--by", "ana", "--project", folder)
    of_acct_1 = ("--account", "acct-1", "--currency", "USD")

    granted = billing("credit", "grant", *of_acct_1, "--amount", "99.50", "--reason", "order 1", *who)
    assert granted.stdout == "credit-000001: 99.50 USD for account acct-1\n", granted.stderr
    wrong = billing("credit", "grant", *of_acct_1, "--amount", "1,5", "--reason", "order 2", *who)
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (
        2,
        "cli.wrong_option: --amount: '1,5' is no decimal number such as 99.50",
    )
    held = billing("hold", "--account", "acct-1", "--period", "2026-01", "--reason", "disputed", *who)
    assert held.stdout == "account acct-1 is held in 2026-01: disputed\n"
    [hold] = json_of(billing("holds", "--project", folder, "--json"))
    assert (hold["account_id"], hold["held_by"], hold["released_at"]) == ("acct-1", "ana", None)
    release = ("release", "--account", "acct-1", "--period", "2026-01", "--reason", "settled", *who)
    assert [billing(*release).returncode, billing(*release).returncode] == [0, 2], "there is nothing left to release"
    revoked = billing("credit", "revoke", "credit-000001", "--reason", "granted twice", *who)
    assert revoked.stdout == "credit-000001 is revoked; 99.50 of it was left\n"
    [credit] = json_of(billing("credit", "list", "--project", folder, "--json"))
    assert (credit["balance"], credit["is_revoked"]) == ("0.00", True)


def test_documents_that_are_not_there_are_named(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)

    assert billing("invoice", "list", "--project", folder).stdout == "none\n"
    assert billing("invoice", "verify", "--project", folder).stdout == "0 documents: all as they were issued\n"
    shown = billing("invoice", "show", "TEST-000001", "--project", folder)
    assert (shown.returncode, shown.stderr.split(":")[0]) == (2, "document.unknown")
    drafts = billing("invoice", "drafts", "--period", "2026-01", "--project", folder)
    assert (drafts.returncode, drafts.stderr.split(":")[0]) == (1, "invoice.no_draft")


def test_what_the_month_will_come_to_is_estimated_printed_and_in_the_report(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    with_estimates = BILLING.replace("estimates = false", "estimates = true")
    project = write_project(tmp_path / "project", raw_bucket, {"billing.toml": with_estimates})
    night = usage_event(time="2026-01-01T12:00:00Z", data={"input_tokens": 1_000_000})
    put_events(raw_bucket, "usage/1.ndjson", [night], datetime(2026, 1, 1, 13, tzinfo=UTC))
    billing("collect", "--project", project)
    none = billing("estimate", "--project", project, "--json")
    assert (none.returncode, json_of(none)["error"]["code"]) == (1, "estimate.none")

    ran = json_of(billing("run", "--window", "2026-01-01", "--project", project, "--json"))

    found = json_of(billing("estimate", "--account", "acct-1", "--project", project, "--json"))
    [row] = found["accounts"]
    # 3 USD for a million tokens a day; 31 requests, 21 of them above the free ones
    assert (row["amount_to_date"], row["forecast_amount"], row["days_known"]) == ("3.0000", "93.2100", 1)
    assert [total["forecast_amount"] for total in found["totals"]] == ["93.2100"]
    printed = billing("estimate", "--period", "2026-01", "--project", project).stdout
    assert "3.0000 to date, 93.2100 expected of the whole period (93.2100 to 93.2100)" in printed
    assert "acct-1   1 of 31   3.0000   93.2100" in printed
    report = Path(ran["report"]).read_text()
    assert '<h2 id="section-estimates">Estimate of the month</h2>' in report
    assert "93.21" in report
    unknown = billing("estimate", "--account", "acct-9", "--project", project, "--json")
    assert json_of(unknown)["error"]["code"] == "estimate.no_account"


def test_what_a_month_bills_is_shown_and_signed_from_a_shell(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    project = write_project(
        tmp_path / "project", raw_bucket, {"billing.toml": BILLING + '\n[roles]\nfinance = ["ben"]\n'}
    )

    none = billing("breaks", "--project", project)
    unprepared = billing("sign-off", "show", "--period", "2026-01", "--project", project, "--json")
    early, stranger = (
        billing("sign-off", "prepare", "--period", "2026-01", "--by", who, "--project", project, "--json")
        for who in ("ben", "ana")
    )
    denied = billing(
        *("hold", "--account", "acct-1", "--period", "2026-01", "--reason", "why", "--by", "ana"),
        *("--project", project, "--json"),
    )
    asked = billing(
        *("override", "approve", "--window", "2026-01-15", "--revision", "1", "--by", "ben"),
        *("--project", project, "--json"),
    )

    assert none.stdout == "none\n"
    assert json_of(unprepared)["error"]["code"] == "sign_off.not_prepared"
    assert json_of(stranger)["error"]["code"] == "access.denied"
    assert json_of(early)["error"]["code"] == "close.earlier_period_open"
    assert json_of(denied)["error"]["code"] == "access.denied"
    assert asked.returncode != 0
