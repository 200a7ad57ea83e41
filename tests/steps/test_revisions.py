"""Which revision of a window is current, what makes the next one, and whether its links hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from pipeline.adapters import warehouse as warehouse_module
from pipeline.adapters.warehouse import Warehouse
from pipeline.cli import app
from pipeline.core.errors import NotReadyError
from pipeline.core.manifest import canonical_json
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import ONE_DAY, BillingWindow
from pipeline.steps.aggregate import aggregate
from pipeline.steps.deduplicate import current_revision, deduplicate
from pipeline.steps.links import LINK_QUERIES, CollectedEvents, read_pinned_rows
from pipeline.steps.outcomes import EVENT_OUTCOMES
from pipeline.steps.publish import pin_file, publish_document, read_document, read_manifest
from pipeline.steps.rerun import RerunResult, rerun
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import BILLING, write_project
from tests.steps.raw_events import CUTOFF_AT, WINDOW, billed_rows, commit_raw_events
from tests.steps.test_windows import COLLECTED_AT, FILES, NOW, WITHDRAWALS, event, void

LATER = COLLECTED_AT + timedelta(hours=1)


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    return open_workspace(write_project(tmp_path / "project", None, FILES))


def compute(ws: Workspace, window: BillingWindow = WINDOW, **options: Any) -> WindowRevision:
    revision = deduplicate(ws, window, NOW, **options)
    if revision.state is not RevisionState.ACCEPTED:
        aggregate(ws, window.window_id, revision.revision, NOW)
    return revision


def decide(ws: Workspace, state: RevisionState = RevisionState.ACCEPTED, **options: Any) -> int:
    revision = compute(ws, **options).revision
    ws.control_plane.decide_revision(WINDOW.window_id, revision, state, NOW, "for the test")
    return revision


def with_unit(ws: Workspace, unit: str) -> Workspace:
    """Write a meter with this unit, as somebody who corrects it, and return the project opened again."""
    (ws.project.folder / "meters.toml").write_text(FILES["meters.toml"].replace('"tokens"', f'"{unit}"'))
    return open_workspace(ws.project.folder)


def kept(ws: Workspace) -> tuple[dict[Path, int], int, int]:
    """Return when each file of the lake was written, and how many publications and audit entries there are."""
    files = [path for path in (ws.project.folder / "lake").rglob("*") if path.is_file()]
    written = {path: path.stat().st_mtime_ns for path in files}
    database = create_engine(f"sqlite:///{ws.project.folder / 'control_plane.db'}")
    with database.connect() as connection:
        count = connection.scalar(text("SELECT COUNT(*) FROM publications"))
    database.dispose()
    return written, int(count or 0), len(ws.control_plane.audit_log())


# ---- which one is current ----


def test_the_accepted_revision_is_current_when_the_inputs_of_a_rejected_one_are_put_back(project: Workspace) -> None:
    commit_raw_events(project, [event("a")], COLLECTED_AT)
    assert decide(project) == 1
    wrong = with_unit(project, "token")
    assert decide(wrong, RevisionState.REJECTED) == 2
    put_back = with_unit(project, "tokens")
    before = kept(put_back)

    again = compute(put_back)

    assert (again.revision, again.state) == (1, RevisionState.ACCEPTED)
    assert kept(put_back) == before
    assert compute(with_unit(project, "token")).revision == 2  # goes on with the rejected one, whose inputs these are
    assert compute(with_unit(project, "calls")).revision == 3


def test_late_events_after_a_rejected_revision_make_the_next_one_of_the_accepted_inputs(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), event("late", received_at=CUTOFF_AT)], COLLECTED_AT)
    decide(project)
    decide(with_unit(project, "token"), RevisionState.REJECTED)
    put_back = with_unit(project, "tokens")

    assert compute(put_back).revision == 1
    third = compute(put_back, include_late=True)

    assert (third.revision, third.reason) == (3, "late events taken in: 1")
    assert [row["id"] for row in billed_rows(put_back, 3)] == ["a", "late"]


def test_a_rejected_revision_that_took_in_late_events_is_gone_on_with_only_when_they_are_asked_for(
    project: Workspace,
) -> None:
    commit_raw_events(project, [event("a"), event("late", received_at=CUTOFF_AT)], COLLECTED_AT)
    decide(project)
    assert decide(project, RevisionState.REJECTED, include_late=True) == 2

    assert compute(project).revision == 1
    again = compute(project, include_late=True)

    assert (again.revision, again.state) == (2, RevisionState.REJECTED)


def test_a_candidate_that_was_left_behind_is_gone_on_with_before_late_events_are_taken_in(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), event("late", received_at=CUTOFF_AT)], COLLECTED_AT)
    opened = deduplicate(project, WINDOW, NOW)

    found = current_revision(project, WINDOW, include_late=False)

    assert (opened.revision, found) == (1, opened)


def test_a_file_that_came_since_makes_the_next_revision_which_takes_in_every_late_event(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), event("late", received_at=CUTOFF_AT)], COLLECTED_AT)
    decide(project)
    assert compute(project).revision == 1  # late events alone make none unless they are asked for
    commit_raw_events(project, [event("later", received_at=CUTOFF_AT + ONE_DAY)], LATER)

    second = compute(project)

    assert (second.revision, second.reason) == (2, "raw event files added: 1")
    assert [row["id"] for row in billed_rows(project, 2)] == ["a", "late", "later"]


# ---- an unchanged window is left alone ----


def test_an_unchanged_window_reads_no_event_and_publishes_nothing_whatever_else_was_collected(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_raw_events(project, [event("a"), void("v", "elsewhere")], COLLECTED_AT)
    decide(project)
    # The void has an effect now, on an event of another window: what became of the events here would be said otherwise.
    commit_raw_events(project, [event("elsewhere", WINDOW.start - timedelta(days=14))], LATER)
    compute(project)  # what is derived of the new file is kept
    before = kept(project)
    opened: list[str] = []
    view_files = Warehouse.view_files

    def counting(self: Warehouse, name: str, dataset: Any, paths: Sequence[Path]) -> None:
        opened.append(name)
        view_files(self, name, dataset, paths)

    monkeypatch.setattr(Warehouse, "view_files", counting)

    again = compute(project)

    assert (again.revision, again.state) == (1, RevisionState.ACCEPTED)
    assert opened == []
    assert kept(project) == before


# ---- what a re-run proves of the links ----


def conflict_in_another_window(ws: Workspace) -> None:
    """Collect a key of the window whose first copy is of the day before, and an event that is withdrawn."""
    commit_raw_events(
        ws,
        [event("first", WINDOW.start - ONE_DAY, id="a"), event("a"), event("b"), void("v", "b", WINDOW.end)],
        COLLECTED_AT,
    )


def poison(ws: Workspace, pin: str, rows: list[dict[str, Any]]) -> None:
    """Have the table of what was derived say other rows, as a defect or somebody with a database client would."""
    database = create_engine(f"sqlite:///{ws.project.folder / 'control_plane.db'}")
    wrong = pin_file(ws, canonical_json(rows))
    with database.begin() as connection:
        changed = connection.execute(
            text("UPDATE derived_pins SET pin = :wrong WHERE pin = :pin"), {"wrong": wrong, "pin": pin}
        )
        assert changed.rowcount
    database.dispose()


def derived(ws: Workspace, column: str) -> list[str]:
    """Return every derived pin whose rows have the column."""
    database = create_engine(f"sqlite:///{ws.project.folder / 'control_plane.db'}")
    with database.connect() as connection:
        pins = connection.scalars(text("SELECT DISTINCT pin FROM derived_pins ORDER BY pin")).all()
    database.dispose()
    return [pin for pin in pins if any(column in row for row in read_pinned_rows(ws, pin))]


def differing(result: RerunResult) -> dict[str, list[tuple[Any, Any]]]:
    return {
        one.dataset: [(row.published, row.computed) for row in one.differences]
        for one in result.datasets
        if not one.is_identical
    }


def test_links_are_derived_again_from_what_was_collected_when_the_revision_was_computed(project: Workspace) -> None:
    conflict_in_another_window(project)
    decide(project)
    commit_raw_events(project, [event("earlier", WINDOW.start - ONE_DAY, id="b"), void("w", "a")], LATER)

    result = rerun(project, WINDOW.window_id, 1)

    counts = {one.dataset: one.row_count_computed for one in result.datasets}
    assert differing(result) == {}
    assert (counts["neighbours"], counts["withdrawn_events"]) == (1, 1)


def test_neighbours_that_are_not_what_the_raw_events_make_are_shown_row_by_row(project: Workspace) -> None:
    conflict_in_another_window(project)
    first = decide(project)
    neighbours = project.control_plane.accepted_revisions()[WINDOW.window_id].pins["neighbours"]
    poison(project, neighbours, [])

    second = compute(project)
    result = rerun(project, WINDOW.window_id, second.revision)

    (row,) = read_pinned_rows(project, neighbours)
    assert (first, second.revision) == (1, 2)
    assert not result.is_identical
    assert differing(result) == {"neighbours": [(None, row)]}


@pytest.mark.parametrize("column", ["events", "target_id"], ids=["named events", "withdrawals"])
def test_withdrawn_events_that_are_not_what_the_raw_events_make_are_shown_row_by_row(
    project: Workspace, column: str
) -> None:
    conflict_in_another_window(project)
    first = compute(project)
    (pin,) = derived(project, column)
    emptied = [{**row, "events": []} for row in read_pinned_rows(project, pin)] if column == "events" else []
    poison(project, pin, emptied)

    second = compute(project)
    result = rerun(project, WINDOW.window_id, second.revision)

    (row,) = read_pinned_rows(project, first.pins["withdrawn_events"])
    assert (second.revision, read_pinned_rows(project, second.pins["withdrawn_events"])) == (2, [])
    assert differing(result)["withdrawn_events"] == [(None, row)]


def test_withdrawal_types_that_are_not_what_the_raw_events_make_are_shown_row_by_row(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), void("v", "elsewhere")], COLLECTED_AT)
    compute(project)
    (pin,) = derived(project, "target_id")
    poison(project, pin, [])

    second = compute(project)
    result = rerun(project, WINDOW.window_id, second.revision)

    assert (second.revision, second.pins["withdrawal_types"]) == (2, [])
    assert differing(result)["withdrawal_types"] == [(None, {"event_type": "voided", "replaces": False})]


def test_a_raw_event_file_of_the_window_that_is_not_pinned_is_shown(tmp_path: Path) -> None:
    files = {**FILES, "billing.toml": BILLING.replace('length = "1d"', 'length = "1h"')}
    ws = open_workspace(write_project(tmp_path / "project", None, files))
    noon = WINDOW.start + timedelta(hours=12)
    hour = BillingWindow(noon, noon + timedelta(hours=1))
    commit_raw_events(ws, [event("a", noon)], COLLECTED_AT)
    commit_raw_events(ws, [event("b", noon), event("c", hour.end)], LATER)
    first = compute(ws, hour)
    both_hours = next(pin for pin in derived(ws, "window_number") if len(read_pinned_rows(ws, pin)) == 2)
    poison(ws, both_hours, read_pinned_rows(ws, both_hours)[1:])

    second = compute(ws, hour)
    results = [rerun(ws, hour.window_id, number) for number in (1, 2)]

    (left_out,) = set(first.pins["raw_event_files"]) - set(second.pins["raw_event_files"])
    assert [differing(result) for result in results] == [{}, {"raw_event_files": [(None, {"path": left_out})]}]


def test_links_are_derived_again_with_the_sql_of_then(
    project: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflict_in_another_window(project)
    decide(project)
    sql = Path(shutil.copytree(warehouse_module._sql_folder(), tmp_path / "sql"))
    monkeypatch.setattr(warehouse_module, "_sql_folder", lambda: sql)
    for query in LINK_QUERIES:
        text_of_then = (sql / f"{query}.sql").read_text()
        (sql / f"{query}.sql").write_text(f"SELECT * FROM (\n{text_of_then}) AS found WHERE FALSE")

    now = CollectedEvents(project)
    derived_now = [now.rows(pin) for pin in (now.neighbours(WINDOW), now.withdrawn_events(WINDOW))]
    result = rerun(project, WINDOW.window_id, 1)

    assert derived_now == [[], []]
    assert differing(result) == {}


def test_links_are_derived_again_with_the_settings_and_rules_of_then(project: Workspace) -> None:
    overtaking = void("v", "b", WINDOW.start + timedelta(hours=11))
    ahead = void("w", "c", received_at=WINDOW.start + timedelta(hours=12, minutes=55))
    commit_raw_events(
        project,
        [event("first", WINDOW.start - ONE_DAY, id="a"), event("a"), event("b"), event("c"), overtaking, ahead],
        COLLECTED_AT,
    )
    commit_raw_events(project, [void("w again", "nothing", id="w")], LATER)
    decide(project)
    billing = project.project.folder / "billing.toml"
    moved_on = billing.read_text().replace('grain = "1h"', 'grain = "1h"\nlook_back = "0d"\nfuture_tolerance = "0m"')
    billing.write_text(moved_on)
    results = [rerun(open_workspace(project.project.folder), WINDOW.window_id)]
    (project.project.folder / "sources/usage.toml").write_text(WITHDRAWALS.split("[[withdrawals]]")[0])
    results += [rerun(open_workspace(project.project.folder), WINDOW.window_id)]

    assert [differing(result) for result in results] == [{}, {}]
    assert [one.row_count_computed for one in results[0].datasets if one.dataset == "withdrawn_events"] == [2]


def test_a_rerun_from_a_shell_ends_with_1_and_the_rows_when_links_are_wrong(project: Workspace) -> None:
    conflict_in_another_window(project)
    first = compute(project)
    poison(project, first.pins["neighbours"], [])
    (named,) = derived(project, "events")
    poison(project, named, [{**row, "events": []} for row in read_pinned_rows(project, named)])
    compute(project)
    command = ["rerun", "--window", WINDOW.window_id, "--project", str(project.project.folder), "--revision"]

    right, wrong = (CliRunner().invoke(app, [*command, number]) for number in ("1", "2"))

    assert (right.exit_code, wrong.exit_code) == (0, 1)
    assert wrong.output.splitlines()[0] == f"window {WINDOW.window_id} revision 2, which is candidate: NOT identical"
    for name in ("neighbours", "withdrawn_events"):
        (row,) = read_pinned_rows(project, first.pins[name])
        computed = [
            line.removeprefix("  computed   ") for line in wrong.output.splitlines() if row["object_id"] in line
        ]
        assert row in [json.loads(line) for line in computed]
    assert "  published  no such row" in wrong.output.splitlines()


def test_what_became_of_the_events_is_compared_too(project: Workspace) -> None:
    conflict_in_another_window(project)
    revision = compute(project)
    published = project.control_plane.publication(EVENT_OUTCOMES, revision.document_scope)
    assert published is not None
    pins = read_manifest(project, published.manifest_hash).pins
    content = {**read_document(project, published.manifest_hash), "billed_event_count": 7}
    publish_document(project, EVENT_OUTCOMES, revision.document_scope, content, pins, NOW)

    result = rerun(project, WINDOW.window_id)

    assert differing(result) == {EVENT_OUTCOMES: [({"billed_event_count": 7}, None), (None, {"billed_event_count": 0})]}


def test_a_rerun_without_a_number_takes_the_newest_accepted_revision_and_else_the_newest(project: Workspace) -> None:
    commit_raw_events(project, [event("a"), event("late", received_at=CUTOFF_AT)], COLLECTED_AT)
    decide(project, RevisionState.REJECTED)
    rejected = rerun(project, WINDOW.window_id)
    decide(project)
    decide(project, RevisionState.REJECTED, include_late=True)

    accepted = rerun(project, WINDOW.window_id)

    assert (rejected.revision, rejected.state) == (1, RevisionState.REJECTED)
    assert (accepted.revision, accepted.state) == (1, RevisionState.ACCEPTED)
    with pytest.raises(NotReadyError, match=r"rerun\.no_revision"):
        rerun(project, (WINDOW.start - ONE_DAY).date().isoformat())
