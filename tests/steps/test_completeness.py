"""A window closes on evidence: what refuses it, what closes it all the same, and where that is written down (P9)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.project_files import load_project
from pipeline.cli import app
from pipeline.core.completeness import UnclaimedKey
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.revision import Collection, RevisionState
from pipeline.core.sli import Indicator
from pipeline.core.window import ONE_DAY, BillingWindow
from pipeline.steps.collect import collect
from pipeline.steps.completeness import published_completeness, source_facts, source_states
from pipeline.steps.control_totals import pins_of_reconciliation
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.report import report
from pipeline.steps.run import LeftOutWindow, WindowResult, run_due_windows, run_window
from pipeline.steps.service_levels import published_service_levels
from pipeline.steps.status import status
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import BILLING, CONTRACT, put_events, usage_event, write_project
from tests.fixtures_s3 import put_object
from tests.test_cli import billing, json_of

START = datetime(2026, 1, 15, tzinfo=UTC)
WINDOW = BillingWindow(START, START + ONE_DAY)
NEXT_WINDOW = BillingWindow(WINDOW.end, WINDOW.end + ONE_DAY)
CUTOFF = WINDOW.end + timedelta(hours=6)
AT = CUTOFF + timedelta(minutes=1)
NOON = START + timedelta(hours=12)
FIRST_WINDOW = BILLING.replace("first_window = 2026-01-01", "first_window = 2026-01-15")
OFFSETS = """
[completeness]
evidence = "offsets"
key_pattern = 'usage/.*\\+(?P<partition>\\d+)\\+(?P<offset>\\d+)\\.ndjson'
"""
CONTROL_FILE = """
[completeness]
evidence = "control_file"
key_pattern = "control/.*"
"""
HEARTBEAT = """
[completeness]
evidence = "heartbeat"
key_pattern = "beat/(?P<until>.*)"
"""
MANIFEST = """
[manifest]
key_pattern = "usage/.*manifest"
base = ""
"""


def opened(folder: Path, raw: ObjectStore, completeness: str) -> Workspace:
    """Open a project whose first window is 2026-01-15 and whose one contract declares this evidence."""
    files = {"billing.toml": FIRST_WINDOW, "sources/usage.toml": CONTRACT + completeness}
    return open_workspace(write_project(folder, raw, files))


def put_offsets(
    raw: ObjectStore, offset: int, count: int, received_at: datetime, time: str = "2026-01-15T11:00:00Z"
) -> None:
    events = [usage_event(id=f"e{offset + index}", time=time) for index in range(count)]
    put_events(raw, f"usage/calls+3+{offset:010d}.ndjson", events, received_at)


def put_gap(raw: ObjectStore) -> None:
    """Put two objects into the bucket between which offsets 2 to 9 of partition 3 are missing."""
    put_offsets(raw, 0, 2, NOON)
    put_offsets(raw, 10, 1, NOON + timedelta(minutes=1))


def collect_at(ws: Workspace, listed_at: datetime) -> None:
    collect(ws, listed_at, lambda _: None)


def collect_evidence(ws: Workspace, key: str, content: Any = None, received_at: datetime = NOON) -> None:
    """Put an object of evidence into the bucket and collect it."""
    put_object(ws.raw, key, json.dumps(content).encode(), received_at)
    collect_at(ws, CUTOFF)


def run(ws: Workspace, window: BillingWindow = WINDOW, **options: Any) -> WindowResult:
    return run_window(ws, window, AT, lambda _: None, **options)


def revision_of(ws: Workspace, **options: Any) -> int:
    """Open or find the current revision of the window, which is where evidence is asked for, and return its number."""
    return deduplicate(ws, WINDOW, AT, **options).revision


def words_of(path: Path) -> str:
    page = path.read_text(encoding="utf-8")
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page[page.index("<body>") :])).split())


def missing_events(ws: Workspace, revision: int) -> tuple[int, int]:
    """Return how many events that the producers counted were collected, and how many they counted."""
    levels = published_service_levels(ws, WINDOW.window_id, revision)
    assert levels is not None
    level = levels.level(Indicator.MISSING_EVENT_RATE)
    assert level is not None
    return level.measurement.good_count, level.measurement.total_count


def actions(ws: Workspace) -> list[str]:
    return [entry.action for entry in ws.control_plane.audit_log()]


@pytest.fixture
def gap(tmp_path: Path, raw_bucket: ObjectStore) -> Workspace:
    """A project whose window 2026-01-15 lacks the offsets 2 to 9 of partition 3."""
    ws = opened(tmp_path / "project", raw_bucket, OFFSETS)
    put_gap(raw_bucket)
    collect_at(ws, CUTOFF)
    return ws


# ---- refused, or closed with an exception ----


def test_a_window_with_a_gap_is_refused_with_one_sentence_that_names_it_and_nothing_is_opened(gap: Workspace) -> None:
    with pytest.raises(NotReadyError) as refused:
        run(gap)

    assert refused.value.code == "window.incomplete"
    assert (
        refused.value.summary == "window 2026-01-15 is not shown to be complete: usage lacks offset 2–9 of partition 3"
    )
    assert refused.value.details[0] == "missing: usage: offset 2–9 of partition 3, since 2026-01-15T12:01:00+00:00"
    assert gap.control_plane.latest_revision(WINDOW.window_id) is None
    assert not (gap.out / "reports").exists()


def test_a_window_closes_when_the_missing_object_has_come(gap: Workspace) -> None:
    put_offsets(gap.raw, 2, 8, NOON)
    collect_at(gap, AT)

    assert revision_of(gap) == 1
    assert gap.control_plane.exceptions() == []


def test_accepting_an_incomplete_window_is_recorded_with_its_reason_and_printed(gap: Workspace) -> None:
    result = run(gap, accept_incomplete="  broker lost the segment, ticket 4711 ")

    (exception,) = gap.control_plane.exceptions()
    assert (exception.window_id, exception.revision, exception.contract) == ("2026-01-15", 1, "usage")
    assert exception.missing == ("offset 2–9 of partition 3",)
    assert exception.reason == "broker lost the segment, ticket 4711"
    assert actions(gap).index("completeness_exception_recorded") == actions(gap).index("revision_opened") + 1
    gap.control_plane.verify_audit_log()
    words = words_of(result.report)
    assert "Closed without full evidence. usage lacked offset 2–9 of partition 3: “broker lost" in words
    shown_until = "(since 2026-01-15 12:01:00 UTC) contiguous offsets 2026-01-15 12:00:00"
    assert f"usage 1 missing offset 2–9 of partition 3 {shown_until}" in words
    assert "usage offset 2–9 of partition 3 broker lost the segment, ticket 4711 2026-01-16 06:01:00" in words


def test_an_exception_holds_for_its_revision_and_is_not_asked_again(gap: Workspace) -> None:
    revision_of(gap, accept_incomplete="known loss")
    entries = gap.control_plane.audit_log()

    assert revision_of(gap) == 1
    assert revision_of(gap, accept_incomplete="another reason") == 1
    assert gap.control_plane.audit_log() == entries


def test_a_new_gap_is_asked_for_although_another_one_was_accepted(gap: Workspace) -> None:
    accepted = run(gap, accept_incomplete="known loss")
    put_offsets(gap.raw, 20, 1, NOON + timedelta(minutes=2), time="2026-01-17T00:00:00Z")
    collect_at(gap, AT)

    with pytest.raises(NotReadyError) as refused:
        run(gap)
    assert refused.value.summary.endswith("usage lacks offset 11–19 of partition 3")
    assert not any("offset 2–9" in line for line in refused.value.details)

    result = run(gap, accept_incomplete="lost too")
    assert (result.revision, result.is_new) == (1, False)
    assert [(one.missing, one.reason) for one in gap.control_plane.exceptions()] == [
        (("offset 2–9 of partition 3",), "known loss"),
        (("offset 11–19 of partition 3",), "lost too"),
    ]
    assert accepted.report == result.report
    assert "known loss" in words_of(result.report)
    assert "lost too" in words_of(result.report)


def test_the_next_revision_of_a_window_asks_again(gap: Workspace) -> None:
    revision_of(gap, accept_incomplete="known loss")
    put_offsets(gap.raw, 11, 1, NOON + timedelta(minutes=3))
    collect_at(gap, AT)

    with pytest.raises(NotReadyError, match="offset 2–9"):
        revision_of(gap)
    assert revision_of(gap, accept_incomplete="still lost") == 2
    assert [one.revision for one in gap.control_plane.exceptions()] == [1, 2]


def test_accepting_when_nothing_is_missing_records_nothing(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, OFFSETS)
    put_offsets(raw_bucket, 0, 2, NOON)
    collect_at(ws, CUTOFF)

    result = run(ws, accept_incomplete="to be safe")

    assert ws.control_plane.exceptions() == []
    assert "completeness_exception_recorded" not in actions(ws)
    assert "to be safe" not in words_of(result.report)
    assert "usage complete contiguous offsets 2026-01-16 06:00:00" in words_of(result.report)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_an_empty_reason_is_refused(gap: Workspace, reason: str) -> None:
    with pytest.raises(InputError, match=r"window\.no_reason"):
        run(gap, accept_incomplete=reason)

    assert gap.control_plane.latest_revision(WINDOW.window_id) is None


def test_a_reason_does_not_replace_a_collection_that_reached_the_cutoff(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, OFFSETS)
    ws.control_plane.commit_collection(
        Collection(CUTOFF - timedelta(microseconds=1), ()), [], AT, pending={"usage/a.ndjson": "timed out"}
    )

    with pytest.raises(NotReadyError, match=r"window\.not_collected") as refused:
        run(ws, accept_incomplete="hurry")

    assert any("usage/a.ndjson" in line for line in refused.value.details)


@pytest.mark.parametrize(("gaps", "more"), [(10, None), (12, "and 2 more, see `billing status`")])
def test_at_most_ten_things_that_are_missing_are_listed_with_the_count_of_the_others(
    tmp_path: Path, raw_bucket: ObjectStore, gaps: int, more: str | None
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, OFFSETS)
    for number in range(gaps + 1):
        put_offsets(raw_bucket, 10 * number, 1, NOON)
    collect_at(ws, CUTOFF)

    with pytest.raises(NotReadyError) as refused:
        run(ws)

    assert sum(line.startswith("missing: ") for line in refused.value.details) == 10
    assert [line for line in refused.value.details if line.startswith("and ")] == ([more] if more else [])
    assert f"and {gaps - 1} more" in refused.value.summary


# ---- reports ----


def test_the_report_of_an_exception_is_the_same_bytes_whatever_is_known_later(gap: Workspace) -> None:
    first = run(gap, accept_incomplete="known loss").report.read_bytes()
    put_offsets(gap.raw, 2, 8, NOON, time="2026-01-20T00:00:00Z")
    collect_at(gap, AT + ONE_DAY)

    assert report(gap, WINDOW.window_id, 1, AT).read_bytes() == first


def test_what_was_known_is_pinned_by_the_reconciliation(gap: Workspace) -> None:
    result = run(gap, accept_incomplete="known loss")
    revision = gap.control_plane.accepted_revision(result.window_id)
    assert revision is not None

    known = published_completeness(gap, pins_of_reconciliation(gap, revision)["completeness"])

    assert known is not None
    assert [(source.contract, source.evidence, source.watermark_at) for source in known.sources] == [
        ("usage", "offsets", NOON)
    ]
    assert published_completeness(gap, None) is None


def test_a_run_again_publishes_nothing_new_about_completeness(gap: Workspace) -> None:
    deduplicate(gap, WINDOW, AT, accept_incomplete="known loss")
    entries = gap.control_plane.audit_log()
    collect_at(gap, AT)  # the watermark moves on
    before = len(gap.control_plane.audit_log())

    deduplicate(gap, WINDOW, AT + ONE_DAY)

    assert len(gap.control_plane.audit_log()) == before == len(entries) + 1


def test_the_report_names_objects_that_nobody_collects(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, "")
    unclaimed = [UnclaimedKey("stray/<b>.txt", 1234), UnclaimedKey("usage/unlisted.ndjson", 7, "usage")]
    ws.control_plane.commit_collection(
        Collection(CUTOFF, ()), [], AT, pending={"other/locked.ndjson": "access denied"}, unclaimed=unclaimed
    )

    words = words_of(run(ws).report)

    assert "stray/<b>.txt no contract covers it 1,234 2026-01-16 06:01:00" in words
    assert "usage/unlisted.ndjson no manifest of usage lists it 7" in words
    assert "other/locked.ndjson 2026-01-16 06:01:00 access denied" in words
    assert "usage complete elapsed time only, the weakest 2026-01-16 06:00:00" in words


def test_each_exception_has_a_line_of_its_own_and_its_cells_their_names_for_a_narrow_page(gap: Workspace) -> None:
    run(gap, accept_incomplete="known loss")
    put_offsets(gap.raw, 20, 1, NOON + timedelta(minutes=2), time="2026-01-17T00:00:00Z")
    collect_at(gap, AT)
    page = run(gap, accept_incomplete="lost <too>").report.read_text(encoding="utf-8")

    banner = page[page.index('<div class="exception">') : page.index('<dl class="facts">')]
    assert re.findall("<li><bdi>(.*)</bdi></li>", banner) == [
        "usage lacked offset 2–9 of partition 3: “known loss”",
        "usage lacked offset 11–19 of partition 3: “lost &lt;too&gt;”",
    ]
    assert page.count('<div class="scroll stacked"') == 2
    for name in ("For this window", "Shown to be complete up to (UTC)", "Closed without", "Reason"):
        assert f'<th scope="col">{name}</th>' in page
        assert f'data-name="{name}">' in page


def test_a_long_name_in_the_waterfall_gets_room_left_of_the_axis(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, CONTROL_FILE)
    collect_evidence(ws, "control/1", {"half": "a file"})

    page = run(ws, accept_incomplete="known").report.read_text(encoding="utf-8")

    wide = page[page.index('<svg class="chart wide"') : page.index('<svg class="chart narrow"')]
    left = int(re.findall(r'viewBox="(-?\d+) 0', wide)[0])
    names = re.findall(r'<text class="name" x="(-?\d+)" y="\d+">(.*)</text>', wide)
    axis_x = int(re.findall(r'class="axis" x1="(\d+)"', wide)[0])
    assert ("quarantined: unreadable evidence") in [name for _, name in names]
    assert all(left <= int(x) and int(x) + 8 * len(name) <= axis_x for x, name in names)


# ---- every window that is due ----


def test_an_incomplete_window_is_left_out_and_holds_back_no_other(gap: Workspace) -> None:
    collect_at(gap, CUTOFF + ONE_DAY)

    found = list(run_due_windows(gap, lambda: AT + ONE_DAY, lambda _: None))

    assert [type(one) for one in found] == [LeftOutWindow, WindowResult]
    left_out, billed = found
    assert (left_out.window_id, billed.window_id) == (WINDOW.window_id, NEXT_WINDOW.window_id)
    assert isinstance(left_out, LeftOutWindow)
    assert (left_out.code, left_out.summary) == (
        "window.incomplete",
        "window 2026-01-15 is not shown to be complete: usage lacks offset 2–9 of partition 3",
    )
    accepted = gap.control_plane.accepted_revision(NEXT_WINDOW.window_id)
    assert accepted is not None
    assert accepted.state is RevisionState.ACCEPTED


@pytest.mark.slow
def test_the_command_line_leaves_it_out_with_exit_code_1_and_closes_it_with_a_reason(
    gap: Workspace, tmp_path: Path
) -> None:
    collect_at(gap, CUTOFF + ONE_DAY)
    folder = tmp_path / "project"

    due = billing("run", "--due", "--project", folder, "--json")
    assert due.returncode == 1, due.stderr
    assert [one["window_id"] for one in json_of(due)] == ["2026-01-15", "2026-01-16"]
    assert json_of(due)[0]["code"] == "window.incomplete"
    again = billing("run", "--due", "--project", folder)
    assert again.returncode == 1
    assert "left out: window 2026-01-15 is not shown to be complete: usage lacks offset 2–9" in again.stderr

    named = billing("run", "--window", "2026-01-15", "--project", folder)
    assert named.returncode == 1
    assert named.stderr.startswith("window.incomplete: window 2026-01-15")
    for_all = billing("run", "--due", "--accept-incomplete", "x", "--project", folder)
    assert for_all.returncode == 2
    shown = billing("status", "--project", folder)
    assert "missing: offset 2–9 of partition 3  since 2026-01-15T12:01:00+00:00" in shown.stdout

    closed = billing(
        "run", "--window", "2026-01-15", "--accept-incomplete", "known loss", "--project", folder, "--json"
    )
    assert closed.returncode == 0, closed.stderr
    assert billing("run", "--due", "--project", folder).returncode == 0
    after = billing("status", "--project", folder).stdout
    assert (
        "missing: offset 2–9 of partition 3  since 2026-01-15T12:01:00+00:00  "
        'accepted for window 2026-01-15: "known loss"'
    ) in after


# ---- control files ----


def control(counts: Iterable[int]) -> list[dict[str, Any]]:
    """Return what the control file of a day says: an entry of the source `api` for each hour."""
    return [
        {
            "source": "api",
            "hour": (START + timedelta(hours=hour)).isoformat(),
            "count": count,
            "sums": {"data.input_tokens": str(count * 1000)},
        }
        for hour, count in enumerate(counts)
    ]


def test_a_window_is_complete_when_every_control_file_ties_and_duplicates_do_not_count(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, CONTROL_FILE)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(id="a"), usage_event(id="b")], NOON)
    put_events(raw_bucket, "usage/b.ndjson", [usage_event(id="a")], NOON)
    collect_at(ws, CUTOFF)
    counts = [0] * 24
    counts[12] = 3
    collect_evidence(ws, "control/1", control(counts))

    with pytest.raises(NotReadyError) as refused:
        run(ws)
    assert refused.value.summary.endswith(
        "usage lacks 1 of 3 events (control/1; 2 were collected) for api at 2026-01-15T12:00Z"
    )
    assert status(ws)["sources"][0]["watermark"] == "2026-01-15T12:00:00+00:00"

    counts[12] = 2
    collect_evidence(ws, "control/2", control(counts), AT)
    assert revision_of(ws) == 1
    assert status(ws)["sources"][0]["watermark"] == "2026-01-16T00:00:00+00:00"


def test_an_event_received_at_the_cutoff_is_missing_until_a_revision_takes_it_in(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, CONTROL_FILE)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(id="a")], CUTOFF - timedelta(microseconds=1))
    put_events(raw_bucket, "usage/b.ndjson", [usage_event(id="b")], CUTOFF)
    collect_at(ws, AT)
    collect_evidence(ws, "control/1", control([0] * 12 + [2] + [0] * 11), AT)

    with pytest.raises(NotReadyError, match="1 of 2 events"):
        run(ws)
    run(ws, accept_incomplete="the rest is late")
    assert missing_events(ws, 1) == (1, 2)

    assert run(ws, include_late=True).revision == 2
    assert missing_events(ws, 2) == (2, 2)
    assert [one.revision for one in ws.control_plane.exceptions()] == [1]


def test_a_quarantined_line_is_an_event_that_the_control_file_misses(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, CONTROL_FILE)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(id="a"), usage_event(id="b", subject=None)], NOON)
    collect_at(ws, CUTOFF)
    collect_evidence(ws, "control/1", control([0] * 12 + [2] + [0] * 11))

    with pytest.raises(NotReadyError, match="1 of 2 events"):
        run(ws)


@pytest.mark.parametrize(("length", "is_accepted"), [("1h", True), ("90m", False)])
def test_control_files_need_windows_of_whole_hours(
    tmp_path: Path, raw_bucket: ObjectStore, length: str, is_accepted: bool
) -> None:
    settings = FIRST_WINDOW.replace('length = "1d"', f'length = "{length}"').replace('grain = "1h"', 'grain = "30m"')
    files = {"billing.toml": settings, "sources/usage.toml": CONTRACT + CONTROL_FILE}
    folder = write_project(tmp_path / "project", raw_bucket, files)

    if is_accepted:
        assert load_project(folder).contracts[0].completeness.evidence == "control_file"
    else:
        with pytest.raises(InputError, match=r"window\.length: found 90m, accepted whole hours, because usage"):
            load_project(folder)


# ---- heartbeats and manifests ----


def test_a_heartbeat_closes_the_window_that_it_reaches(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, HEARTBEAT)
    collect_at(ws, CUTOFF)
    collect_evidence(ws, "beat/2026-01-15T23")

    with pytest.raises(NotReadyError, match="a heartbeat up to 2026-01-16T00:00Z; the newest says 2026-01-15T23:00Z"):
        run(ws)

    collect_evidence(ws, "beat/2026-01-16T00")
    assert revision_of(ws) == 1


def test_an_object_that_a_manifest_lists_and_that_is_not_there_is_missing(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, MANIFEST)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(id="a")], NOON)
    collect_at(ws, CUTOFF)
    collect_evidence(ws, "usage/manifest", ["usage/a.ndjson", "usage/b.ndjson"])

    with pytest.raises(NotReadyError, match=r"usage lacks usage/b\.ndjson, which manifest usage/manifest lists"):
        run(ws)

    collect_evidence(ws, "usage/manifest", ["usage/a.ndjson"], NOON + timedelta(hours=1))
    assert revision_of(ws) == 1


def test_a_manifest_that_was_quarantined_is_missing_until_a_readable_version_comes(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, MANIFEST)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(id="a")], NOON)
    collect_at(ws, CUTOFF)
    collect_evidence(ws, "usage/manifest", {"no": "list"})
    before = source_facts(ws, ws.project.contracts[0])

    collect_evidence(ws, "usage/manifest", ["usage/a.ndjson"], NOON + timedelta(hours=1))
    after = source_facts(ws, ws.project.contracts[0])

    assert [one.key for one in before.unread_manifests] == ["usage/manifest"]
    assert [one.key for one in before.objects] == []
    assert [one.key for one in after.objects] == ["usage/a.ndjson"]
    assert after.unread_manifests == []


# ---- status ----


def test_the_status_shows_a_gap_as_soon_as_it_is_seen_and_since_when(gap: Workspace) -> None:
    facts = status(gap)

    assert json.loads(json.dumps(facts)) == facts
    assert facts["sources"] == [
        {
            "contract": "usage",
            "evidence": "offsets",
            "has_manifest": False,
            "watermark": "2026-01-15T12:00:00+00:00",
            "missing_count": 1,
            "missing": [
                {"sentence": "offset 2–9 of partition 3", "since": "2026-01-15T12:01:00+00:00", "accepted": []}
            ],
            "overlaps": [],
            "pending": [],
        }
    ]


def test_the_status_shows_a_gap_of_a_window_that_is_not_over(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, OFFSETS)
    put_gap(raw_bucket)
    collect_at(ws, NOON + timedelta(hours=1))

    (source,) = status(ws)["sources"]

    assert [one["sentence"] for one in source["missing"]] == ["offset 2–9 of partition 3"]


def test_a_window_that_is_not_over_lacks_no_heartbeat(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, HEARTBEAT)
    put_object(raw_bucket, "beat/2026-01-15T11", b"", NOON - timedelta(minutes=59))
    collect_at(ws, NOON)

    (source,) = status(ws)["sources"]

    assert (source["missing"], source["watermark"]) == ([], "2026-01-15T11:00:00+00:00")


def test_the_status_names_what_waits_in_the_bucket(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, "")
    ws.control_plane.commit_collection(
        Collection(NOON, ()), [], NOON, pending={"usage/a.ndjson": "timed out"}, unclaimed=[UnclaimedKey("stray", 5)]
    )

    facts = status(ws)

    pending = {"key": "usage/a.ndjson", "message": "timed out", "since": "2026-01-15T12:00:00+00:00"}
    assert facts["sources"][0]["pending"] == [pending]
    assert facts["pending_objects"] == 1
    assert facts["unclaimed_objects"] == {
        "count": 1,
        "first": [{"key": "stray", "byte_count": 5, "contract": "", "first_seen_at": "2026-01-15T12:00:00+00:00"}],
    }


def test_an_accepted_gap_is_named_with_its_reason_until_it_is_filled(gap: Workspace) -> None:
    run(gap, accept_incomplete="known loss")
    collect_at(gap, NEXT_WINDOW.start + timedelta(hours=7))

    facts = status(gap)

    (source,) = facts["sources"]
    assert source["watermark"] == "2026-01-15T12:00:00+00:00"
    assert source["missing"] == [
        {
            "sentence": "offset 2–9 of partition 3",
            "since": "2026-01-15T12:01:00+00:00",
            "accepted": [{"reason": "known loss", "windows": ["2026-01-15"]}],
        }
    ]
    assert facts["windows"][0]["exceptions"] == 1

    put_offsets(gap.raw, 2, 8, NOON)
    collect_at(gap, NEXT_WINDOW.start + timedelta(hours=8))
    assert (missing_of(gap), status(gap)["sources"][0]["watermark"]) == ([], "2026-01-16T08:00:00+00:00")


def test_a_gap_that_holds_the_watermark_is_named_although_every_window_it_concerns_is_accepted(gap: Workspace) -> None:
    put_offsets(gap.raw, 2, 8, NOON)
    collect_at(gap, CUTOFF)
    run(gap)
    put_offsets(gap.raw, 20, 1, NOON + timedelta(minutes=2), time="2026-01-15T11:00:00Z")
    collect_at(gap, CUTOFF)

    assert missing_of(gap) == [("offset 11–19 of partition 3", [])]


def missing_of(ws: Workspace) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return what the status says is missing of the one source, with the reasons and windows it was accepted for."""
    (source,) = status(ws)["sources"]
    return [
        (one["sentence"], [(accepted["reason"], accepted["windows"]) for accepted in one["accepted"]])
        for one in source["missing"]
    ]


def test_an_accepted_hour_is_named_until_its_control_file_comes_and_after_what_nobody_accepted(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, CONTROL_FILE)
    collect_evidence(ws, "control/1", control([0] * 22))
    revision_of(ws, accept_incomplete="not delivered")
    run(ws)
    collect_at(ws, CUTOFF + ONE_DAY)

    accepted = (
        "no control file for api from 2026-01-15T22:00Z to 2026-01-16T00:00Z, 2 hours (no event was collected)",
        [("not delivered", ["2026-01-15"])],
    )
    next_day = "no control file for api from 2026-01-16T00:00Z to 2026-01-17T00:00Z, 24 hours (no event was collected)"
    assert missing_of(ws) == [(next_day, []), accepted]

    put_object(ws.raw, "control/2", json.dumps(control([0] * 24)).encode(), AT)
    collect_at(ws, CUTOFF + ONE_DAY)
    assert missing_of(ws) == [(next_day, [])]


def test_an_accepted_heartbeat_is_named_until_one_reaches_the_end_of_its_window(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, HEARTBEAT)
    collect_evidence(ws, "beat/2026-01-15T20")
    run(ws, accept_incomplete="beats are late")
    collect_evidence(ws, "beat/2026-01-15T21")

    sentence = "a heartbeat up to 2026-01-16T00:00Z; the newest says 2026-01-15T21:00Z"
    assert missing_of(ws) == [(sentence, [("beats are late", ["2026-01-15"])])]

    collect_evidence(ws, "beat/2026-01-16T00")
    assert missing_of(ws) == []


def test_an_unreadable_control_file_is_named_where_one_is_missing(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, CONTROL_FILE)
    collect_evidence(ws, "control/1", control([0] * 23))
    collect_evidence(ws, "control/2", {"half": "a file"}, WINDOW.end)

    with pytest.raises(NotReadyError) as refused:
        run(ws)
    sentence = "the control file (no event was collected; control/2 could not be read) for api at 2026-01-15T23:00Z"
    assert refused.value.summary.endswith(f"usage lacks {sentence}")

    collect_evidence(ws, "control/2", control([0] * 23), AT)
    assert [one.sentence for one in source_states(ws, WINDOW, CUTOFF, [])[0].missing] == [
        "the control file (no event was collected) for api at 2026-01-15T23:00Z"
    ]


@pytest.mark.parametrize(
    ("completeness", "sentence"),
    [
        (
            CONTROL_FILE + 'sources = ["api"]',
            "no control file for api from 2026-01-15T00:00Z to 2026-11-19T00:00Z, 7,392 hours (no event was collected)",
        ),
        (HEARTBEAT, "a heartbeat up to 2026-11-19T00:00Z; none was collected"),
    ],
)
def test_a_quiet_source_is_one_sentence_however_many_windows_are_open(
    tmp_path: Path, raw_bucket: ObjectStore, completeness: str, sentence: str
) -> None:
    ws = opened(tmp_path / "project", raw_bucket, completeness)
    collect_at(ws, START + timedelta(days=308, hours=6))

    assert missing_of(ws) == [(sentence, [])]

    shown = CliRunner().invoke(app, ["status", "--project", str(tmp_path / "project")]).output
    assert f"    missing: {sentence}  since 2026-" in shown
    assert len(shown.splitlines()) < 20
    assert "watermark nothing is shown yet" in shown
    assert not re.search(r"\b(None|True|False)\b", shown)


def test_the_status_names_ten_things_and_says_how_many_more_there_are(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, OFFSETS)
    for number in range(13):
        put_offsets(raw_bucket, 10 * number, 1, NOON)
    collect_at(ws, CUTOFF)

    (source,) = status(ws)["sources"]
    shown = CliRunner().invoke(app, ["status", "--project", str(tmp_path / "project")]).output

    assert (source["missing_count"], len(source["missing"])) == (12, 10)
    assert shown.count("missing: offset") == 10
    assert "    missing: and 2 more\n" in shown


def test_at_most_ten_windows_that_are_left_out_are_named(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    ws = opened(tmp_path / "project", raw_bucket, HEARTBEAT)
    collect_at(ws, CUTOFF + 11 * ONE_DAY)
    due = ["run", "--due", "--project", str(tmp_path / "project")]

    shown = CliRunner().invoke(app, due)
    as_json = CliRunner().invoke(app, [*due, "--json"])

    assert (shown.exit_code, as_json.exit_code) == (1, 1)
    assert shown.stderr.count("left out: window") == 10
    assert shown.stderr.splitlines()[-1] == "and 2 more are left out, see `billing status`"
    assert len(json.loads(as_json.stdout)) == 12
