from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.dataset import EXCLUDED_EVENTS
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, BillingWindow, parse_window
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.inputs import pinned_meters
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import METERS
from tests.steps.raw_events import (
    COLLECTED_AT,
    CUTOFF_AT,
    WINDOW,
    billed_rows,
    commit_raw_events,
    instant,
    numbered,
    published_bytes,
    published_rows,
    raw_event,
)

MICROSECOND = timedelta(microseconds=1)
NOW = instant("2026-01-16T08:00:00Z")


def billed_ids(workspace: Workspace, revision: int = 1) -> list[str]:
    return [row["id"] for row in billed_rows(workspace, revision)]


def reasons(workspace: Workspace, revision: int = 1) -> dict[tuple[str, int], str]:
    return {
        (row["object_id"], row["line_number"]): row["reason"]
        for row in published_rows(workspace, EXCLUDED_EVENTS, revision)
    }


def test_a_window_is_not_computed_before_collection_reached_its_cutoff(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()], listed_at=CUTOFF_AT - MICROSECOND)

    with pytest.raises(NotReadyError) as refused:
        deduplicate(workspace, WINDOW, NOW)

    assert refused.value.code == "window.not_collected"
    assert "2026-01-16T06:00:00+00:00" in str(refused.value)
    assert "2026-01-16T05:59:59.999999+00:00" in str(refused.value)
    assert "billing collect" in str(refused.value)
    assert workspace.control_plane.latest_revision(WINDOW.window_id) is None


def test_a_window_is_computed_when_collection_reached_its_cutoff(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()], listed_at=CUTOFF_AT)

    revision = deduplicate(workspace, WINDOW, NOW)

    assert (revision.revision, revision.cutoff_at, revision.state) == (1, CUTOFF_AT, RevisionState.CANDIDATE)
    assert revision.reason == "first computation of the window"


def test_a_window_that_was_never_collected_is_not_ready(workspace: Workspace) -> None:
    with pytest.raises(NotReadyError, match="nothing was collected yet"):
        deduplicate(workspace, WINDOW, NOW)


def test_a_window_before_the_first_one_is_refused_and_the_first_one_is_not(workspace: Workspace) -> None:
    first = parse_window(workspace.project.settings.window.first_window.isoformat(), ONE_DAY)
    commit_raw_events(workspace, [raw_event()], listed_at=CUTOFF_AT)

    with pytest.raises(InputError) as refused:
        deduplicate(workspace, BillingWindow(first.start - ONE_DAY, first.start), NOW)

    assert refused.value.code == "window.before_first_window"
    assert deduplicate(workspace, first, NOW).revision == 1


def test_an_event_received_at_the_cutoff_is_late_and_one_microsecond_before_is_not(workspace: Workspace) -> None:
    on_time = raw_event(id="on-time", received_at=CUTOFF_AT - MICROSECOND)
    late = raw_event(id="late", received_at=CUTOFF_AT)
    commit_raw_events(workspace, numbered([on_time, late]))

    deduplicate(workspace, WINDOW, NOW)

    assert billed_ids(workspace) == ["on-time"]
    assert list(reasons(workspace).values()) == ["late"]


def test_every_raw_event_of_the_window_is_billed_or_excluded_once(workspace: Workspace) -> None:
    events = numbered(
        [
            raw_event(id="billed"),
            raw_event(id="billed", received_at=instant("2026-01-15T13:00:00Z")),
            raw_event(id="billed", received_at=instant("2026-01-15T13:00:00Z"), data='{"input_tokens":"1001"}'),
            raw_event(id="future", event_at=instant("2026-01-15T12:10:00.000001Z")),
            raw_event(id="orphan", subject="nobody"),
            raw_event(id="unmetered", type="session.opened"),
            raw_event(id="unreadable", data='{"input_tokens":"many"}'),
            raw_event(id="missing", data="{}"),
            raw_event(id="yesterday", event_at=WINDOW.start - MICROSECOND),
            raw_event(id="tomorrow", event_at=WINDOW.end, received_at=WINDOW.end),
        ]
    )
    commit_raw_events(workspace, events)

    deduplicate(workspace, WINDOW, NOW)

    object_id = events[0]["object_id"]
    assert billed_ids(workspace) == ["billed"]
    assert reasons(workspace) == {
        (object_id, 2): "exact_duplicate",
        (object_id, 3): "conflicting_duplicate",
        (object_id, 4): "in_the_future",
        (object_id, 5): "orphaned_account",
        (object_id, 6): "unknown_sku",
        (object_id, 7): "unreadable_quantity",
        (object_id, 8): "unreadable_quantity",
    }


def test_the_copy_received_first_is_billed_whichever_file_was_collected_first(workspace: Workspace) -> None:
    later = raw_event(object_id="usage/a@1", received_at=instant("2026-01-15T12:30:00Z"))
    first = raw_event(object_id="usage/b@1", received_at=instant("2026-01-15T12:05:00Z"))
    commit_raw_events(workspace, [later], listed_at=COLLECTED_AT - timedelta(hours=1))
    commit_raw_events(workspace, [first])

    deduplicate(workspace, WINDOW, NOW)

    assert [row["object_id"] for row in billed_rows(workspace, 1)] == ["usage/b@1"]
    assert reasons(workspace) == {("usage/a@1", 1): "exact_duplicate"}


def test_a_window_without_any_event_publishes_empty_datasets(workspace: Workspace) -> None:
    commit_raw_events(workspace, [])

    revision = deduplicate(workspace, WINDOW, NOW)

    assert revision.revision == 1
    assert billed_rows(workspace, 1) == []
    assert published_rows(workspace, EXCLUDED_EVENTS, 1) == []


def test_running_twice_changes_no_byte_and_opens_no_revision(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(id="late", received_at=CUTOFF_AT)]))
    first = deduplicate(workspace, WINDOW, NOW)
    excluded = published_bytes(workspace, EXCLUDED_EVENTS, 1)

    second = deduplicate(workspace, WINDOW, NOW + timedelta(days=3))

    assert second == first
    assert len(workspace.control_plane.window_revisions()) == 1
    assert published_bytes(workspace, EXCLUDED_EVENTS, 1) == excluded


def test_an_accepted_revision_is_returned_as_accepted_when_nothing_changed(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()])
    deduplicate(workspace, WINDOW, NOW)
    workspace.control_plane.decide_revision(WINDOW.window_id, 1, RevisionState.ACCEPTED, NOW, "every gate passed")

    again = deduplicate(workspace, WINDOW, NOW)

    assert (again.revision, again.state) == (1, RevisionState.ACCEPTED)


def test_late_events_stay_out_until_they_are_asked_for(workspace: Workspace) -> None:
    late_at = CUTOFF_AT + timedelta(minutes=7)
    commit_raw_events(workspace, numbered([raw_event(), raw_event(id="late", received_at=late_at)]))
    deduplicate(workspace, WINDOW, NOW)

    without = deduplicate(workspace, WINDOW, NOW)
    taken_in = deduplicate(workspace, WINDOW, NOW, include_late=True)
    retried = deduplicate(workspace, WINDOW, NOW, include_late=True)

    assert without.revision == 1
    assert (taken_in.revision, taken_in.cutoff_at) == (2, late_at + MICROSECOND)
    assert taken_in.reason == "late events taken in: 1"
    assert retried == taken_in
    assert billed_ids(workspace, 1) == ["req-1"]
    assert billed_ids(workspace, 2) == ["late", "req-1"]


def test_asking_for_late_events_where_there_are_none_opens_no_revision(workspace: Workspace) -> None:
    copy_at = CUTOFF_AT + timedelta(hours=1)
    commit_raw_events(workspace, [raw_event(), raw_event(line_number=2, received_at=copy_at)])
    deduplicate(workspace, WINDOW, NOW)

    again = deduplicate(workspace, WINDOW, NOW, include_late=True)

    assert again.revision == 1
    assert list(reasons(workspace).values()) == ["exact_duplicate"]


def test_a_file_that_comes_after_the_revision_makes_the_next_one_which_takes_it_in(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()])
    deduplicate(workspace, WINDOW, NOW)
    received_at = instant("2026-01-18T03:00:00Z")
    late = raw_event(object_id="usage/late@1", id="late", received_at=received_at)
    commit_raw_events(workspace, [late], listed_at=instant("2026-01-18T04:00:00Z"))

    second = deduplicate(workspace, WINDOW, NOW)

    assert (second.revision, second.cutoff_at) == (2, received_at + MICROSECOND)
    assert second.reason == "raw event files added: 1"
    assert billed_ids(workspace, 1) == ["req-1"]
    assert billed_ids(workspace, 2) == ["late", "req-1"]


@pytest.mark.parametrize(
    ("before_cutoff", "behind"),
    [(MICROSECOND, ", objects received before the cutoff of revision 1 and seen later: 1"), (timedelta(0), "")],
    ids=["before the cutoff", "at the cutoff"],
)
def test_the_reason_says_when_an_object_showed_up_behind_the_watermark(
    workspace: Workspace, before_cutoff: timedelta, behind: str
) -> None:
    commit_raw_events(workspace, [raw_event()])
    deduplicate(workspace, WINDOW, NOW)
    received_at = CUTOFF_AT - before_cutoff
    events = [
        raw_event(object_id="usage/b@1", id="b", received_at=received_at),
        raw_event(object_id="usage/c@1", id="c", received_at=received_at, event_at=WINDOW.end),  # of another window
    ]
    commit_raw_events(workspace, events, instant("2026-01-18T04:00:00Z"), received_at)

    assert deduplicate(workspace, WINDOW, NOW).reason == "raw event files added: 1" + behind


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("First Customer", "First Customer Ltd"),
        ("customer-3\n", "customer-3\nacct-9,New,USD,UTC,standard,2026-01-16T00:00:00Z,,customer-9\n"),
        (
            "acct-1,First Customer,USD,UTC,standard,2026-01-01T00:00:00Z,,customer-1\n",
            "acct-1,First Customer,USD,UTC,standard,2026-01-01T00:00:00Z,2026-01-15T12:00:00Z,customer-1\n"
            "acct-1,First Customer,USD,UTC,standard,2026-01-15T12:00:00Z,,customer-1\n",
        ),
    ],
)
def test_a_directory_that_maps_the_window_as_before_makes_no_new_revision(
    project_folder: Path, old: str, new: str
) -> None:
    workspace = open_workspace(project_folder)
    commit_raw_events(workspace, [raw_event()])
    first = deduplicate(workspace, WINDOW, NOW)
    text = (project_folder / "accounts.csv").read_text(encoding="utf-8")
    assert old in text
    (project_folder / "accounts.csv").write_text(text.replace(old, new), encoding="utf-8")

    assert deduplicate(open_workspace(project_folder), WINDOW, NOW) == first


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("meters.toml", 'unit = "tokens"', 'unit = "token"', "meters.toml changed"),
        ("accounts.csv", ",customer-1\n", ",customer-1;customer-7\n", "accounts.csv changed"),
        ("billing.toml", 'grace_period = "6h"', 'grace_period = "5h"', "grace period changed from 21600 s to 18000 s"),
        ("billing.toml", 'grain = "1h"', 'grain = "30m"', "grain changed from 3600 s to 1800 s"),
    ],
)
def test_a_changed_project_file_makes_the_next_revision_and_is_its_reason(
    project_folder: Path, name: str, old: str, new: str, reason: str
) -> None:
    workspace = open_workspace(project_folder)
    commit_raw_events(workspace, [raw_event()])
    deduplicate(workspace, WINDOW, NOW)
    text = (project_folder / name).read_text(encoding="utf-8")
    assert old in text
    (project_folder / name).write_text(text.replace(old, new), encoding="utf-8")

    second = deduplicate(open_workspace(project_folder), WINDOW, NOW)

    assert (second.revision, second.reason) == (2, reason)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("meters.toml", lambda text: f"# what we sell\n{text}"),
        ("meters.toml", lambda text: text.replace('unit = "tokens"', 'description = "Input"\nunit = "tokens"')),
        ("meters.toml", lambda text: "\n[[meters]]".join(["", *reversed(text.split("\n[[meters]]")[1:])])),
        ("meters.toml", lambda text: text.replace('sku = "requests"\n', "") + 'sku = "requests"\n'),
        ("billing.toml", lambda text: text.replace('grain = "1h"', 'grain = "1h"\nlook_back = "3d"')),
        (
            "sources/usage.toml",
            lambda text: (
                text.replace('["request.completed"]', '["request.completed", "voided"]')
                + '\n[[withdrawals]]\nevent_type = "voided"\n'
            ),
        ),
    ],
    ids=["comment", "description", "order of meters", "order of keys", "look-back", "withdrawals that never came"],
)
def test_a_project_file_that_is_written_otherwise_and_changes_no_row_makes_no_revision(
    project_folder: Path, name: str, change: Callable[[str], str]
) -> None:
    workspace = open_workspace(project_folder)
    commit_raw_events(workspace, [raw_event()])
    first = deduplicate(workspace, WINDOW, NOW)
    text = (project_folder / name).read_text(encoding="utf-8")
    assert change(text) != text
    (project_folder / name).write_text(change(text), encoding="utf-8")

    assert deduplicate(open_workspace(project_folder), WINDOW, NOW) == first


def test_every_field_of_a_meter_that_counts_comes_back_from_its_pin(project_folder: Path) -> None:
    meters = """
[[meters]]
sku = "peak"
event_type = "request.completed"
aggregation = "sum_of_maxima"
value = "data.input_tokens"
bucket = "4h"
unit = "tokens"
billing_unit = { name = "Mtokens", size = 1000000 }
dimensions = ["region", "model"]

[meters.filter]
kind = "paid"
"""
    (project_folder / "meters.toml").write_text(METERS + meters, encoding="utf-8")
    workspace = open_workspace(project_folder)
    commit_raw_events(workspace, [raw_event()])

    pinned = pinned_meters(workspace, deduplicate(workspace, WINDOW, NOW))

    assert pinned == tuple(sorted(workspace.project.meters, key=lambda meter: meter.sku))


def test_a_window_shorter_than_a_day_pins_only_files_that_have_an_event_of_it(project_folder: Path) -> None:
    text = (project_folder / "billing.toml").read_text(encoding="utf-8")
    (project_folder / "billing.toml").write_text(text.replace('length = "1d"', 'length = "1h"'), encoding="utf-8")
    workspace = open_workspace(project_folder)
    noon, one = (WINDOW.start + timedelta(hours=hour) for hour in (12, 13))
    hour = BillingWindow(noon, one)
    commit_raw_events(workspace, [raw_event(object_id="usage/a@1", event_at=noon)])
    first = deduplicate(workspace, hour, NOW)
    outside = [
        raw_event(object_id=f"usage/{n}@1", id=f"{n}", event_at=at) for n, at in enumerate([one, noon - MICROSECOND])
    ]
    commit_raw_events(workspace, outside, COLLECTED_AT + timedelta(hours=1))

    again = deduplicate(workspace, hour, NOW)
    inside = raw_event(object_id="usage/b@1", id="b", event_at=one - MICROSECOND)
    commit_raw_events(workspace, [inside], COLLECTED_AT + timedelta(hours=2))
    second = deduplicate(workspace, hour, NOW)

    assert again == first
    assert (second.revision, second.reason) == (2, "raw event files added: 1")
    assert len(second.pins["raw_event_files"]) == 2


def test_a_changed_price_or_seller_leaves_the_revision_as_it_is(project_folder: Path) -> None:
    workspace = open_workspace(project_folder)
    commit_raw_events(workspace, [raw_event()])
    first = deduplicate(workspace, WINDOW, NOW)
    text = (project_folder / "billing.toml").read_text(encoding="utf-8")
    (project_folder / "billing.toml").write_text(text.replace("Test Ltd", "Other Ltd"), encoding="utf-8")

    again = deduplicate(open_workspace(project_folder), WINDOW, NOW)

    assert again == first


def test_a_revision_pins_its_inputs_by_hash_and_no_file_of_another_date(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(event_at=WINDOW.end, received_at=WINDOW.end)]))

    pins: dict[str, Any] = dict(deduplicate(workspace, WINDOW, NOW).pins)

    assert len(pins["raw_event_files"]) == 1
    assert workspace.lake.local_file(pins["raw_event_files"][0]).is_file()
    assert [meter["sku"] for meter in json.loads(workspace.lake.get_bytes(f"pins/{pins['meters.toml']}"))] == [
        "requests",
        "tokens-input",
    ]
    assert workspace.lake.get_bytes(f"pins/{pins['accounts.csv']}") == workspace.project.files["accounts.csv"]
    assert sorted(pins["sql"]) == [
        *("event_quantities", "excluded_events", "metered_exclusions", "usage", "usage_events", "usage_levels"),
        *("usage_values", "window_events", "window_hashes"),
    ]


def test_files_of_other_dates_do_not_change_the_inputs(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()])
    first = deduplicate(workspace, WINDOW, NOW)
    other_day = raw_event(object_id="usage/next@1", event_at=WINDOW.end, received_at=WINDOW.end)
    commit_raw_events(workspace, [other_day], listed_at=COLLECTED_AT + timedelta(hours=1))

    again = deduplicate(workspace, WINDOW, NOW)

    assert again == first
