"""How events of other windows, withdrawals and fallback accounts decide a window, through the real steps."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.adapters.warehouse import Warehouse, sql_files
from pipeline.core.dataset import EXCLUDED_EVENTS, USAGE
from pipeline.core.errors import InputError
from pipeline.core.invoice import InvoiceDraft
from pipeline.core.outcome import EventOutcomes
from pipeline.core.reason import EXCLUSION_SENTENCES, ExclusionReason
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import EPOCH, ONE_DAY, BillingWindow
from pipeline.steps.aggregate import aggregate
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.inputs import (
    build_excluded_events,
    pinned_meters,
    table_repeated_hashes,
    view_event_quantities,
    view_raw_events,
    view_usage_events,
)
from pipeline.steps.late import late_windows, late_windows_by_state
from pipeline.steps.outcomes import published_outcomes
from pipeline.steps.publish import dataset_files
from pipeline.steps.report import report
from pipeline.steps.status import status
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import BILLING, CONTRACT, write_project
from tests.steps.raw_events import CUTOFF_AT, WINDOW, commit_raw_events, instant, raw_event

MICROSECOND = timedelta(microseconds=1)
NOW = instant("2026-02-20T08:00:00Z")
COLLECTED_AT = instant("2026-02-20T07:00:00Z")
TOMORROW = BillingWindow(WINDOW.end, WINDOW.end + ONE_DAY)

WITHDRAWALS = f"""{CONTRACT.replace('["request.completed"]', '["request.completed", "voided", "corrected"]')}
[[withdrawals]]
event_type = "voided"

[[withdrawals]]
event_type = "corrected"
id = "data.corrects"
replaces = true
"""
METERS = """
[[meters]]
sku = "tokens-input"
event_type = "request.completed"
aggregation = "sum"
value = "data.input_tokens"
unit = "tokens"

[[meters]]
sku = "requests"
event_type = "corrected"
aggregation = "count"
unit = "requests"
"""
FILES = {"sources/usage.toml": WITHDRAWALS, "meters.toml": METERS}


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    """A project whose feed may void and correct events; its events are committed without a bucket."""
    return open_workspace(write_project(tmp_path / "project", None, FILES))


def event(name: str, at: datetime = WINDOW.start + timedelta(hours=12), **changed: Any) -> dict[str, Any]:
    """Return an event in an object of its own, received five minutes after its time."""
    return raw_event(
        **{
            "object_id": f"usage/{name}@1",
            "id": name,
            "event_at": at,
            "received_at": at + timedelta(minutes=5),
            **changed,
        }
    )


def void(name: str, target: str, at: datetime = WINDOW.start + timedelta(hours=13), **changed: Any) -> dict[str, Any]:
    return event(name, at, type="voided", data=f'{{"id":"{target}"}}', **changed)


def correction(name: str, target: str, **changed: Any) -> dict[str, Any]:
    return event(name, type="corrected", data=f'{{"corrects":"{target}"}}', **changed)


def outcome(ws: Workspace, window: BillingWindow = WINDOW) -> dict[str, str]:
    """Run the window and return, by object, why an event is excluded (and by which object), or ``billed``."""
    return rows_of(ws, deduplicate(ws, window, NOW))


def rows_of(ws: Workspace, revision: WindowRevision) -> dict[str, str]:
    with Warehouse(ws.scratch) as warehouse:
        view_usage_events(warehouse, ws, revision)
        billed = warehouse.connection.table("usage_events").to_arrow_table().to_pylist()
        excluded = warehouse.connection.table("excluded_events").to_arrow_table().to_pylist()
    found = {name_of(row["object_id"]): "billed" for row in billed}
    for row in excluded:
        winner = f" {name_of(row['winner_object_id'])}" if row["winner_object_id"] else ""
        found[name_of(row["object_id"])] = row["reason"] + winner
    assert len(found) == len(billed) + len(excluded)
    return found


def outcomes_of(ws: Workspace) -> EventOutcomes:
    revision = ws.control_plane.latest_revision(WINDOW.window_id)
    assert revision is not None
    outcomes = published_outcomes(ws, revision)
    assert outcomes is not None
    return outcomes


def name_of(object_id: str) -> str:
    return object_id.removeprefix("usage/").partition("@")[0]


def accept(ws: Workspace, window: BillingWindow = WINDOW) -> WindowRevision:
    revision = deduplicate(ws, window, NOW, include_late=True)
    ws.control_plane.decide_revision(
        window.window_id, revision.revision, RevisionState.ACCEPTED, NOW, "every gate passed"
    )
    return revision


def finalise(ws: Workspace, period_id: str) -> None:
    def no_document(draft: InvoiceDraft, number: str) -> str:
        raise AssertionError(f"no draft was given, yet {number} is asked for {draft}")

    ws.control_plane.finalise_period(period_id, "TEST", [], no_document, NOW)


# ---- copies in other windows ----


@pytest.mark.parametrize(
    ("distance", "is_seen"),
    [
        (timedelta(days=7), True),  # the first instant of the look-back
        (timedelta(days=7) + MICROSECOND, False),
    ],
)
def test_a_key_that_was_received_first_in_an_earlier_window_conflicts_within_the_look_back(
    project: Workspace, distance: timedelta, is_seen: bool
) -> None:
    first = event("first", WINDOW.start - distance, id="k")
    second = event("second", id="k")
    commit_raw_events(project, [first, second], COLLECTED_AT)

    assert outcome(project) == {"second": "conflicting_duplicate first" if is_seen else "billed"}
    assert rows_of(project, deduplicate(project, window_of(first["event_at"]), NOW)) == {"first": "billed"}


def window_of(at: datetime) -> BillingWindow:
    start = EPOCH + (at - EPOCH) // ONE_DAY * ONE_DAY
    return BillingWindow(start, start + ONE_DAY)


@pytest.mark.parametrize(
    ("distance", "is_seen"),
    [(timedelta(days=7) - MICROSECOND, True), (timedelta(days=7), False)],
)
def test_a_key_that_was_received_first_in_a_later_window_conflicts_within_the_look_back(
    project: Workspace, distance: timedelta, is_seen: bool
) -> None:
    own = event("own", id="k", received_at=WINDOW.end + timedelta(hours=1))
    later = event("later", WINDOW.end + distance, id="k", received_at=WINDOW.end)
    commit_raw_events(project, [own, later], COLLECTED_AT)

    found = outcome(project)

    # The copy of the future gives way to one whose time was right, whenever it was received.
    assert found == {"own": "billed"}
    late = event("late", id="k2", received_at=WINDOW.end + timedelta(days=9))
    first = event("first", WINDOW.end + distance, id="k2")
    commit_raw_events(project, [late, first], COLLECTED_AT + timedelta(hours=1))
    taken_in = rows_of(project, deduplicate(project, WINDOW, NOW, include_late=True))
    assert taken_in["late"] == ("conflicting_duplicate first" if is_seen else "billed")


def test_without_a_look_back_no_other_window_is_looked_at(tmp_path: Path) -> None:
    billing = BILLING.replace('grain = "1h"', 'grain = "1h"\nlook_back = "0d"')
    ws = open_workspace(write_project(tmp_path / "project", None, {"billing.toml": billing}))
    commit_raw_events(
        ws, [event("first", WINDOW.start - timedelta(hours=1), id="k"), event("second", id="k")], COLLECTED_AT
    )

    assert outcome(ws) == {"second": "billed"}


def test_an_event_before_the_first_window_takes_nothing_from_one_that_is_billed(tmp_path: Path) -> None:
    billing = BILLING.replace("first_window = 2026-01-01", "first_window = 2026-01-15")
    ws = open_workspace(write_project(tmp_path / "project", None, {"billing.toml": billing}))
    commit_raw_events(ws, [event("never", WINDOW.start - MICROSECOND, id="k"), event("own", id="k")], COLLECTED_AT)

    assert outcome(ws) == {"own": "billed"}


def test_a_look_back_of_parts_of_a_window_is_refused(tmp_path: Path) -> None:
    billing = BILLING.replace('grain = "1h"', 'grain = "1h"\nlook_back = "36h"')

    with pytest.raises(InputError, match="look_back must be whole windows"):
        open_workspace(write_project(tmp_path / "project", None, {"billing.toml": billing}))


def test_files_of_other_dates_that_change_nothing_make_no_revision_and_those_that_do_make_one(
    project: Workspace,
) -> None:
    commit_raw_events(project, [event("a"), event("b")], COLLECTED_AT)
    first = deduplicate(project, WINDOW, NOW)
    after = event("after", WINDOW.end, id="a")  # received after the copy of the window
    commit_raw_events(project, [after, event("other", WINDOW.end)], COLLECTED_AT + timedelta(hours=1))

    unchanged = deduplicate(project, WINDOW, NOW)
    before = event("before", WINDOW.start - timedelta(hours=1), id="b")
    commit_raw_events(project, [before], COLLECTED_AT + timedelta(hours=2))
    second = deduplicate(project, WINDOW, NOW)

    assert unchanged == first
    assert (second.revision, second.reason) == (2, "copies of its keys in other windows changed")
    assert rows_of(project, second) == {"a": "billed", "b": "conflicting_duplicate before"}


@pytest.mark.parametrize("query", ["excluded_events", "neighbours"])
@pytest.mark.parametrize("weak_hash", ["1", "key_hash % 4"])
def test_a_collision_of_hashes_costs_a_comparison_and_never_an_event(
    project: Workspace, query: str, weak_hash: str
) -> None:
    events = [event(f"e{number}", id=f"k{number % 17}") for number in range(40)]
    events += [event(f"n{number}", WINDOW.end, id=f"k{number}") for number in range(15, 25)]
    events += [event("before", WINDOW.start - timedelta(hours=1), id="k3")]
    commit_raw_events(project, events, COLLECTED_AT)
    revision = deduplicate(project, WINDOW, NOW)
    text = next(file for file in sql_files() if file.stem == query).read_text(encoding="utf-8")
    parameters = {
        "window_start": WINDOW.start,
        "window_end": WINDOW.end,
        "future_tolerance": timedelta(minutes=5),
        "cutoff_at": CUTOFF_AT,
        "look_back_start": WINDOW.start - timedelta(days=7),
        "look_back_end": WINDOW.end + timedelta(days=7),
    }
    found = []

    with Warehouse(project.scratch) as warehouse:
        every_file = [
            file for files in (TOMORROW, WINDOW, window_of(WINDOW.start - ONE_DAY)) for file in files_of(project, files)
        ]
        view_raw_events(warehouse, project, revision.pins)
        view_event_quantities(warehouse, pinned_meters(project, revision), WINDOW)
        build_excluded_events(warehouse, project, revision.pins, WINDOW, CUTOFF_AT)
        used = {name: value for name, value in parameters.items() if f"${name}" in text}
        for key_hash in ("key_hash", weak_hash):
            for name, files in (("raw_events", files_of(project, WINDOW)), ("look_back_events", every_file)):
                warehouse.connection.execute(
                    f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * REPLACE (CAST({key_hash} AS UBIGINT) AS key_hash) "
                    f"FROM read_parquet({files}, hive_partitioning = false)"
                )
            table_repeated_hashes(warehouse, WINDOW)
            found.append(warehouse.connection.sql(text, params=used).to_arrow_table().to_pylist())

    expected, actual = found
    assert len(expected) >= 1
    assert actual == expected


def test_a_collision_of_payload_hashes_changes_the_word_for_a_copy_and_never_what_is_billed(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [event("a"), event("b", id="a"), event("c", id="a", data='{"input_tokens":"2"}'), event("d")]
    monkeypatch.setattr("tests.steps.raw_events.payload_hash", lambda quantity, data: 1)
    commit_raw_events(project, events, COLLECTED_AT)

    revision = deduplicate(project, WINDOW, NOW)

    assert rows_of(project, revision) == {
        "a": "billed",
        "b": "exact_duplicate a",
        "c": "exact_duplicate a",
        "d": "billed",
    }


def files_of(ws: Workspace, window: BillingWindow) -> list[str]:
    from pipeline.steps.links import CollectedEvents

    return [str(ws.lake.local_file(path)) for path in CollectedEvents(ws).files_of(window.event_dates())]


# ---- withdrawals ----


def test_a_void_takes_its_event_back_and_is_never_billed(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), event("b"), void("v", "a")], COLLECTED_AT)

    assert outcome(project) == {"a": "voided v", "b": "billed", "v": "withdrawal"}


def test_a_void_of_another_source_takes_nothing_back(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), void("v", "a", source="other")], COLLECTED_AT)

    assert outcome(project) == {"a": "billed", "v": "withdrawal"}


def test_a_void_that_was_received_before_its_event_takes_it_back(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), void("v", "a", received_at=WINDOW.start)], COLLECTED_AT)

    assert outcome(project)["a"] == "voided v"


def test_a_replacement_is_billed_in_the_place_of_what_it_names(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), correction("r", "a"), correction("r2", "r")], COLLECTED_AT)

    assert outcome(project) == {"a": "voided r", "r": "voided r2", "r2": "billed"}


def test_the_first_received_of_two_voids_is_the_one_that_is_shown(project: Workspace) -> None:
    late = void("v1", "a", received_at=WINDOW.start + timedelta(hours=20))
    commit_raw_events(project, [event("a"), late, void("v2", "a")], COLLECTED_AT)

    assert outcome(project) == {"a": "voided v2", "v1": "withdrawal", "v2": "withdrawal"}


def test_a_retry_of_a_void_that_names_another_event_is_a_conflict_and_takes_nothing_back(project: Workspace) -> None:
    retry = void("retry", "b", id="v", received_at=WINDOW.start + timedelta(hours=20))
    commit_raw_events(project, [event("a"), event("b"), void("v", "a"), retry], COLLECTED_AT)

    assert outcome(project) == {"a": "voided v", "b": "billed", "v": "withdrawal", "retry": "conflicting_duplicate v"}


@pytest.mark.parametrize("second_at", [WINDOW.start + timedelta(hours=12), WINDOW.end])
def test_of_two_replacements_of_one_event_the_first_received_is_billed(project: Workspace, second_at: datetime) -> None:
    second = {**correction("r2", "a"), "event_at": second_at, "received_at": WINDOW.end}
    commit_raw_events(project, [event("a"), correction("r1", "a"), second, void("v", "a")], COLLECTED_AT)

    found = {**outcome(project), **outcome(project, TOMORROW)}

    assert found == {"a": "voided r1", "r1": "billed", "r2": "conflicting_duplicate r1", "v": "withdrawal"}


def test_a_second_replacement_leaves_an_event_of_its_own_key_alone(project: Workspace) -> None:
    """The key of the second replacement belongs to an event that came before it: that one is billed."""
    events = [event("a"), correction("r1", "a"), event("own"), correction("r2", "a", id="own", received_at=WINDOW.end)]
    commit_raw_events(project, events, COLLECTED_AT)

    assert outcome(project) == {
        "a": "voided r1",
        "r1": "billed",
        "own": "billed",
        "r2": "conflicting_duplicate own",
    }


def test_replacements_that_replace_each_other_leave_one_to_be_billed(project: Workspace) -> None:
    last = correction("r3", "r1", received_at=WINDOW.end)
    commit_raw_events(project, [correction("r1", "r2"), correction("r2", "r3"), last], COLLECTED_AT)

    found = outcome(project)

    assert found == {"r1": "billed", "r2": "voided r1", "r3": "voided r2"}
    assert outcomes_of(project).idle_withdrawal_counts == {"names_a_cycle": 1}


def test_a_key_that_is_used_again_after_the_look_back_is_billed_until_it_is_withdrawn_again(project: Workspace) -> None:
    again_at = WINDOW.start + timedelta(days=30)
    events = [event("a"), void("v1", "a", received_at=WINDOW.end), event("again", again_at, id="a")]
    commit_raw_events(project, events, COLLECTED_AT)
    before = outcome(project), outcome(project, window_of(again_at))
    commit_raw_events(project, [void("v2", "a", again_at)], COLLECTED_AT + timedelta(hours=1))

    after = outcome(project), outcome(project, window_of(again_at))

    assert before == ({"a": "voided v1", "v1": "withdrawal"}, {"again": "billed"})
    assert after == (before[0], {"again": "voided v2", "v2": "withdrawal"})


def test_a_replacement_that_is_not_billed_still_takes_its_event_back_and_is_listed(project: Workspace) -> None:
    elsewhere = WINDOW.start - timedelta(days=2)
    events = [
        *(event(name) for name in ("a", "b", "c")),
        event("d", elsewhere),
        correction("orphan", "a", subject="nobody"),
        correction("fine", "b"),
        correction("taken_back", "c", subject="nobody"),
        void("v", "taken_back"),
        correction("late", "d", received_at=CUTOFF_AT),
        correction("late_here", "fine", received_at=CUTOFF_AT),
        correction("unmatched", "never-sent", subject="nobody"),
    ]
    commit_raw_events(project, events, COLLECTED_AT)

    found = outcome(project)
    outcomes = outcomes_of(project)
    page = report(project, WINDOW.window_id, 1, CUTOFF_AT).read_text(encoding="utf-8")

    assert (found["a"], found["orphan"], found["fine"]) == ("voided orphan", "orphaned_account", "billed")
    assert outcomes.unbilled_replacement_counts == {"late": 1, "orphaned_account": 1}
    assert [one.id for one in outcomes.unbilled_replacements] == ["late", "orphan"]
    assert "Each takes an event back and is not billed in its place. 1 late: " in page


def test_late_arrivals_that_the_next_revision_excludes_for_another_reason_are_not_counted(project: Workspace) -> None:
    late_events = [
        event("billed"),
        event("orphan", subject="nobody"),
        event("unmetered", type="opened"),
        event("unreadable", data='{"input_tokens":"many"}'),
        event("gone"),
        void("v", "gone"),
    ]
    late = [{**one, "received_at": CUTOFF_AT} for one in late_events]
    commit_raw_events(project, [event("a"), *late], COLLECTED_AT)

    first = deduplicate(project, WINDOW, NOW)
    waiting = outcomes_of(project).late_arrivals
    second = deduplicate(project, WINDOW, NOW, include_late=True)
    taken_in = outcomes_of(project).late_arrivals

    assert {rows_of(project, first)[one["id"]] for one in late} == {"late"}
    assert sorted(name for name, text in rows_of(project, second).items() if text == "billed") == ["a", "billed"]
    assert [(one.sku, one.event_count) for one in waiting] == [(None, 1), ("tokens-input", 1)]
    assert taken_in == waiting


def test_withdrawals_without_effect_are_counted_with_their_fault(project: Workspace) -> None:
    events = [
        event("a"),
        void("v", "a"),
        void("of_void", "v"),
        void("itself", "itself"),
        void("nothing", ""),
        void("unknown", "never-sent"),
        void("elsewhere", "b"),
        event("b", WINDOW.start - timedelta(days=14)),
    ]
    commit_raw_events(project, events, COLLECTED_AT)

    found = outcome(project)
    outcomes = outcomes_of(project)

    assert found["a"] == "voided v"
    assert outcomes.idle_withdrawal_counts == {
        "names_a_void": 1,
        "names_itself": 1,
        "names_no_event": 1,
        "unmatched": 1,
    }
    assert [name_of(one.object_id) for one in outcomes.idle_withdrawals] == ["itself", "nothing", "of_void", "unknown"]


def test_a_void_of_another_month_makes_the_next_revision_of_the_window_it_reaches(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), event("b")], COLLECTED_AT)
    accept(project)
    at = instant("2026-02-18T10:00:00Z")
    commit_raw_events(project, [void("v", "a", at), void("w", "x", at)], COLLECTED_AT + timedelta(hours=1))

    late = late_windows(project)
    second = deduplicate(project, WINDOW, NOW)

    assert late == [WINDOW]
    assert (second.revision, second.reason) == (2, "withdrawals of its events changed")
    assert second.cutoff_at == at + timedelta(minutes=5) + MICROSECOND
    assert rows_of(project, second) == {"a": "voided v", "b": "billed"}


@pytest.mark.parametrize(
    ("received_at", "found", "is_late"),
    [(CUTOFF_AT - MICROSECOND, "voided v", False), (CUTOFF_AT, "billed", True)],
)
def test_a_void_received_at_the_cutoff_is_late_and_one_microsecond_before_is_not(
    project: Workspace, received_at: datetime, found: str, is_late: bool
) -> None:
    commit_raw_events(project, [event("a"), void("v", "a", WINDOW.end, received_at=received_at)], COLLECTED_AT)
    first = outcome(project)
    project.control_plane.decide_revision(WINDOW.window_id, 1, RevisionState.ACCEPTED, NOW, "every gate passed")

    late = late_windows(project)
    taken_in = rows_of(project, deduplicate(project, WINDOW, NOW, include_late=True))

    assert first == {"a": found}
    assert late == ([WINDOW] if is_late else [])
    assert taken_in == {"a": "voided v"}


def test_a_void_after_the_close_is_shown_and_makes_the_window_late(project: Workspace) -> None:
    commit_raw_events(project, [event("a")], COLLECTED_AT)
    accept(project)
    finalise(project, "2026-01")
    commit_raw_events(project, [void("v", "a", instant("2026-02-18T10:00:00Z"))], COLLECTED_AT + timedelta(hours=1))

    assert late_windows(project) == [WINDOW]
    assert late_windows_by_state(project) == ([], [WINDOW])
    (window,) = status(project)["windows"]
    assert (window["needs_revision"], window["late_after_close"]) == (False, True)


def test_nothing_of_other_dates_is_read_again_when_nothing_was_collected(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_raw_events(project, [event("a"), void("v", "a", WINDOW.end), event("b", WINDOW.end, id="a")], COLLECTED_AT)
    accept(project)
    opened: list[str] = []
    view_files = Warehouse.view_files

    def counting(self: Warehouse, name: str, dataset: Any, paths: Sequence[Path]) -> None:
        opened.append(name)
        view_files(self, name, dataset, paths)

    monkeypatch.setattr(Warehouse, "view_files", counting)

    assert late_windows(project) == []
    assert set(opened) <= {"excluded_events"}


# ---- accounts ----


def test_usage_that_nobody_owns_goes_to_the_fallback_account_and_is_counted(tmp_path: Path) -> None:
    billing = BILLING.replace(
        "[raw]", '[accounts]\nfallback = "acct-1"\nfallback_by_source = { api = "acct-2" }\n\n[raw]'
    )
    billing = billing.replace("first_window = 2026-01-01", "first_window = 2026-01-02")
    ws = open_workspace(write_project(tmp_path / "project", None, {"billing.toml": billing}))
    commit_raw_events(
        ws, [event("a"), event("b", subject="nobody"), event("c", subject="nobody", source="batch")], COLLECTED_AT
    )

    revision = deduplicate(ws, WINDOW, NOW)
    outcomes = published_outcomes(ws, revision)
    aggregate(ws, revision.window_id, revision.revision, NOW)

    assert rows_of(ws, revision) == {"a": "billed", "b": "billed", "c": "billed"}
    assert outcomes is not None
    assert [(one.source, one.account_id, one.event_count) for one in outcomes.fallbacks] == [
        ("api", "acct-2", 1),
        ("batch", "acct-1", 1),
    ]
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files("usage", USAGE, dataset_files(ws, USAGE, revision.scope, revision.revision))
        usage = warehouse.connection.sql("SELECT DISTINCT account_id FROM usage ORDER BY 1").fetchall()
    assert usage == [("acct-1",), ("acct-2",)]


@pytest.mark.parametrize("account_id", ["acct-9", "acct-late", "acct-gap"])
def test_a_fallback_account_that_is_not_there_from_the_first_window_on_is_refused(
    tmp_path: Path, account_id: str
) -> None:
    accounts = (
        "account_id,name,currency,time_zone,plan,valid_from,valid_to,external_references\n"
        "acct-1,First,USD,UTC,standard,2026-01-01T00:00:00Z,,customer-1\n"
        "acct-late,Late,USD,UTC,standard,2026-01-01T00:00:00.000001Z,,customer-2\n"
        "acct-gap,Gap,USD,UTC,standard,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,customer-3\n"
        "acct-gap,Gap,USD,UTC,standard,2026-02-01T00:00:00.000001Z,,customer-4\n"
    )
    billing = BILLING.replace("[raw]", f'[accounts]\nfallback = "{account_id}"\n\n[raw]')

    with pytest.raises(InputError, match=f"accounts.fallback: found '{account_id}'"):
        open_workspace(write_project(tmp_path / "project", None, {"billing.toml": billing, "accounts.csv": accounts}))


def test_a_fallback_account_may_have_several_rows_that_touch(tmp_path: Path) -> None:
    accounts = (
        "account_id,name,currency,time_zone,plan,valid_from,valid_to,external_references\n"
        "acct-1,First,USD,UTC,standard,2026-02-01T00:00:00Z,,customer-1\n"
        "acct-1,First,USD,UTC,standard,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,customer-1;customer-2\n"
    )
    billing = BILLING.replace("[raw]", '[accounts]\nfallback = "acct-1"\n\n[raw]')
    folder = write_project(tmp_path / "project", None, {"billing.toml": billing, "accounts.csv": accounts})

    assert list(open_workspace(folder).project.settings.accounts.fallbacks) == [(None, "acct-1")]


# ---- every reason ----


def test_every_reason_of_exclusion_has_a_sentence_and_an_event_that_has_it(project: Workspace) -> None:
    events = [
        event("kept"),
        event("copy", id="kept", received_at=WINDOW.end),
        event("conflict", id="kept", subject="customer-2", received_at=WINDOW.end),
        event("gone"),
        void("v", "gone"),
        event("late", received_at=CUTOFF_AT),
        event("future", received_at=WINDOW.start),
        event("orphan", subject="nobody"),
        event("unmetered", type="opened"),
        event("unreadable", data='{"input_tokens":"many"}'),
    ]
    commit_raw_events(project, events, COLLECTED_AT)

    found = {text.split()[0] for text in outcome(project).values()} - {"billed"}

    assert found == set(ExclusionReason) == set(EXCLUSION_SENTENCES)


# ---- properties ----

SUBJECTS = ("customer-1", "customer-2", "nobody")
DRAWN = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["a", "b", "c"]),
            "type": st.sampled_from(["request.completed", "request.completed", "voided", "corrected", "opened"]),
            "target": st.sampled_from(["a", "b", "c", ""]),
            "subject": st.sampled_from(SUBJECTS),
            "hour": st.sampled_from([-24 * 8, -24 * 7, -1, 0, 12, 23, 24, 36, 24 * 8 - 1, 24 * 8, 24 * 30]),
            "received_hour": st.sampled_from([-200, 0, 11, 12, 13, 29, 30, 40, 300, 800]),
            "tokens": st.sampled_from(["1", "2", "NaN"]),
        }
    ),
    min_size=1,
    max_size=14,
)


def built(drawn: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        raw_event(
            object_id=f"usage/{number}@1",
            id=one["id"],
            type=one["type"],
            subject=one["subject"],
            event_at=WINDOW.start + timedelta(hours=one["hour"]),
            received_at=WINDOW.start + timedelta(hours=one["received_hour"]),
            data={
                "voided": f'{{"id":"{one["target"]}"}}',
                "corrected": f'{{"corrects":"{one["target"]}"}}',
            }.get(one["type"], f'{{"input_tokens":"{one["tokens"]}"}}'),
        )
        for number, one in enumerate(drawn)
    ]


def reference(events: Sequence[Mapping[str, Any]], window: BillingWindow, cutoff_at: datetime) -> dict[str, str]:
    """Decide every event of the window by the rules of docs/windows.md, one by one and without SQL."""

    def is_future(one: Mapping[str, Any]) -> bool:
        return bool(one["event_at"] > one["received_at"] + timedelta(minutes=5))

    def order(one: Mapping[str, Any]) -> tuple[Any, ...]:
        return is_future(one), one["received_at"], one["object_id"], one["line_number"]

    def receipt(one: Mapping[str, Any]) -> tuple[Any, ...]:
        return one["received_at"], one["object_id"], one["line_number"]

    def target(one: Mapping[str, Any]) -> str:
        return re.sub(r'.*:"(.*)"}', r"\1", one["data"])

    def acts_on(one: Mapping[str, Any], received_at: datetime) -> bool:
        return bool(received_at < one["received_at"] + timedelta(days=7))

    withdrawing = [one for one in events if one["type"] in ("voided", "corrected")]
    standing: dict[str, Mapping[str, Any]] = {}
    for one in sorted(withdrawing, key=order):
        standing.setdefault(one["id"], one)
    voids = {one["id"] for one in standing.values() if one["type"] == "voided"}
    sound = {
        name: one for name, one in standing.items() if target(one) and target(one) != name and target(one) not in voids
    }
    replacements = {name: one for name, one in sound.items() if one["type"] == "corrected"}

    def replaced(name: str) -> str | None:
        other = replacements.get(target(replacements[name]))
        return other["id"] if other and acts_on(replacements[name], other["received_at"]) else None

    for name in list(replacements):
        ring: list[str] = []
        at: str | None = name if name in replacements else None
        while at is not None and at not in ring:
            ring.append(at)
            at = replaced(at)
        if at == name:
            last = max(ring, key=lambda one: receipt(replacements[one]))
            del replacements[last], sound[last]

    def winner_of(one: Mapping[str, Any]) -> Mapping[str, Any] | None:
        leader: Mapping[str, Any] | None = None
        for other in sorted((o for o in replacements.values() if target(o) == target(one)), key=receipt):
            leader = other if leader is None or not acts_on(leader, other["received_at"]) else leader
            if other is one:
                break
        assert leader is not None
        if leader is not one:
            return winner_of(leader) or leader
        following = replaced(one["id"])
        return None if following is None else winner_of(replacements[following])

    winners = {name: winner for name, one in replacements.items() if (winner := winner_of(one)) is not None}

    def withdrawal_of(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if event in withdrawing and event["id"] in winners:
            return winners[event["id"]]
        acting = sorted((one for name, one in sound.items() if name not in winners), key=receipt)
        found = (one for one in acting if target(one) == event["id"] and acts_on(one, event["received_at"]))
        return next(found, None)

    seen_from = max(window.start - timedelta(days=7), instant("2026-01-01T00:00:00Z"))
    found = {}
    for one in events:
        if not window.start <= one["event_at"] < window.end:
            continue
        copies = [
            o for o in events if o["id"] == one["id"] and seen_from <= o["event_at"] < window.end + timedelta(days=7)
        ]
        winner = min(copies, key=order)
        content = ("type", "event_at", "subject", "quantity", "data")
        if winner is not one:
            is_exact = all(winner[name] == one[name] for name in content)
            reason = f"{'exact' if is_exact else 'conflicting'}_duplicate {name_of(winner['object_id'])}"
        elif (by := withdrawal_of(one)) is not None and by["received_at"] < cutoff_at:
            reason = "conflicting_duplicate" if one in withdrawing and one["id"] in winners else "voided"
            reason += f" {name_of(by['object_id'])}"
        elif one["received_at"] >= cutoff_at:
            reason = "late"
        elif one["type"] == "voided":
            reason = "withdrawal"
        elif is_future(one):
            reason = "in_the_future"
        elif one["subject"] == "nobody":
            reason = "orphaned_account"
        elif one["type"] == "opened":
            reason = "unknown_sku"
        elif "NaN" in one["data"]:
            reason = "unreadable_quantity"
        else:
            reason = "billed"
        found[name_of(one["object_id"])] = reason
    return found


SLOW = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SLOW
@given(drawn=DRAWN)
def test_a_deduplication_written_in_python_decides_every_event_the_same(tmp_path: Path, drawn: list[Any]) -> None:
    events = built(drawn)
    with TemporaryDirectory(dir=tmp_path) as folder:
        ws = open_workspace(write_project(Path(folder) / "project", None, FILES))
        commit_raw_events(ws, events, COLLECTED_AT)

        first = deduplicate(ws, WINDOW, NOW)
        second = deduplicate(ws, WINDOW, NOW, include_late=True)

        assert rows_of(ws, first) == reference(events, WINDOW, first.cutoff_at)
        assert rows_of(ws, second) == reference(events, WINDOW, second.cutoff_at)
        assert "late" not in rows_of(ws, second).values()


@SLOW
@given(drawn=DRAWN, seed=st.integers(0, 1_000))
def test_the_order_and_the_split_of_collections_do_not_matter(tmp_path: Path, drawn: list[Any], seed: int) -> None:
    events = built(drawn)
    shuffled = random.Random(seed).sample(events, len(events))
    cut = random.Random(seed).randint(0, len(events))
    results = []
    with TemporaryDirectory(dir=tmp_path) as folder:
        for name, parts in (("whole", [events]), ("parts", [shuffled[:cut], shuffled[cut:]])):
            ws = open_workspace(write_project(Path(folder) / name, None, FILES))
            for number, part in enumerate(parts):
                commit_raw_events(ws, part, COLLECTED_AT + timedelta(hours=number))
            revision = deduplicate(ws, WINDOW, NOW)
            usage = aggregate(ws, revision.window_id, revision.revision, NOW)
            results.append((rows_of(ws, revision), usage.content_hash, usage.row_count))

    assert results[0] == results[1]


@SLOW
@given(drawn=DRAWN, more=DRAWN)
def test_a_later_revision_leaves_every_earlier_one_as_it_was(tmp_path: Path, drawn: list[Any], more: list[Any]) -> None:
    events = built(drawn)
    added = [{**one, "object_id": f"usage/more{number}@1"} for number, one in enumerate(built(more))]
    with TemporaryDirectory(dir=tmp_path) as folder:
        ws = open_workspace(write_project(Path(folder) / "project", None, FILES))
        commit_raw_events(ws, events, COLLECTED_AT)
        first = deduplicate(ws, WINDOW, NOW)
        before = ws.control_plane.publication(EXCLUDED_EVENTS.name, first.scope, 1), rows_of(ws, first)
        commit_raw_events(ws, added, COLLECTED_AT + timedelta(hours=1))

        newest = deduplicate(ws, WINDOW, NOW, include_late=True)

        assert (ws.control_plane.publication(EXCLUDED_EVENTS.name, first.scope, 1), rows_of(ws, first)) == before
        assert rows_of(ws, newest) == reference([*events, *added], WINDOW, newest.cutoff_at)


# ---- what a project may say ----


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {"sources/usage.toml": WITHDRAWALS, "meters.toml": METERS.replace('"corrected"', '"voided"')},
            "event_type of requests: found 'voided', which only withdraws other events",
        ),
        (
            {"sources/usage.toml": CONTRACT + '\n[[withdrawals]]\nevent_type = "voided"\n'},
            "withdrawals names voided, which event_types does not",
        ),
        (
            {"sources/usage.toml": WITHDRAWALS + '\n[[withdrawals]]\nevent_type = "voided"\n'},
            "withdrawals names an event type twice",
        ),
        (
            {
                **FILES,
                "sources/other.toml": WITHDRAWALS.replace('"usage', '"other').replace("data.corrects", "data.id"),
            },
            "withdrawals of corrected: found one rule in other and another in usage",
        ),
        (
            {**FILES, "sources/usage.toml": WITHDRAWALS + '\n[event.data]\ncorrects = { field = "data.corrects" }\n'},
            "withdrawals.id of usage: found 'data.id', which the contract does not take from a record",
        ),
    ],
)
def test_a_rule_of_withdrawal_that_cannot_work_is_refused(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    with pytest.raises(InputError) as refused:
        open_workspace(write_project(tmp_path / "project", None, files))

    assert problem in str(refused.value)


def test_the_report_shows_the_look_back_late_arrivals_fallbacks_and_idle_withdrawals(tmp_path: Path) -> None:
    billing = BILLING.replace("[raw]", '[accounts]\nfallback = "acct-1"\n\n[raw]')
    ws = open_workspace(write_project(tmp_path / "project", None, {**FILES, "billing.toml": billing}))
    events = [event("a", subject="nobody"), event("late", received_at=CUTOFF_AT), void("v", "never-sent")]
    commit_raw_events(ws, events, COLLECTED_AT)
    revision = deduplicate(ws, WINDOW, NOW)

    page = report(ws, revision.window_id, revision.revision, CUTOFF_AT).read_text(encoding="utf-8")

    assert "found up to 7 days before and after it" in page
    assert "of billing.toml says: 1." in page
    assert "1 unmatched: no event with the key it names has been received, up to the look-back after it" in page
    assert '<bdi>up to 1 h</bdi></td><td class="nowrap"><bdi>tokens-input</bdi></td>' in page
