"""What is asked of the files of other dates, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.window import ONE_DAY, BillingWindow
from pipeline.steps.links import CollectedEvents, table_links
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import CONTRACT, write_project
from tests.steps.raw_events import COLLECTED_AT, WINDOW, commit_raw_events, raw_event

RULES = CONTRACT.replace('["request.completed"]', '["request.completed", "voided"]')
RULES += '\n[[withdrawals]]\nevent_type = "voided"\n'
WINDOWS = [BillingWindow(WINDOW.start + n * ONE_DAY, WINDOW.end + n * ONE_DAY) for n in range(6)]


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    return open_workspace(write_project(tmp_path / "project", None, {"sources/usage.toml": RULES}))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that were run, in order."""
    names: list[str] = []
    select = Warehouse.select

    def counting(self: Warehouse, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        names.append(query)
        return select(self, query, parameters)

    monkeypatch.setattr(Warehouse, "select", counting)
    return names


def collect_day(ws: Workspace, number: int, *more: dict[str, Any]) -> None:
    at = WINDOWS[number].start
    own = raw_event(object_id=f"usage/{number}@1", id=f"e{number}", event_at=at, received_at=at)
    commit_raw_events(ws, [own, *more], COLLECTED_AT + timedelta(days=number))


def void(name: str, target: str, number: int) -> dict[str, Any]:
    at = WINDOWS[number].start + timedelta(hours=1)
    changed = {"type": "voided", "data": f'{{"id":"{target}"}}', "event_at": at, "received_at": at}
    return raw_event(object_id=f"usage/{name}@1", id=name, **changed)


def pins_of_every_window(ws: Workspace) -> list[str]:
    collected = CollectedEvents(ws)
    return [collected.withdrawn_events(window) for window in WINDOWS]


def test_new_withdrawals_are_held_against_the_files_once_and_not_for_each_window(
    project: Workspace, asked: list[str]
) -> None:
    for number in range(5):
        collect_day(project, number, void(f"v{number}", f"e{number}", number))
    pins_of_every_window(project)
    first = asked.count("named_events")
    asked.clear()

    again = pins_of_every_window(project)
    nothing_new = asked.count("named_events")
    collect_day(project, 5, void("v5", "e0", 5), void("w5", "e5", 5))
    asked.clear()
    with_new = pins_of_every_window(project)

    assert (first, nothing_new) == (1, 0)
    assert asked.count("named_events") == 2  # old files for the keys that are named now, new files for all
    assert asked.count("withdrawal_events") == 1
    assert with_new[:5] == again[:5]
    assert with_new[5] != again[5]


def test_a_collection_that_names_no_new_key_has_only_its_own_files_asked(project: Workspace, asked: list[str]) -> None:
    collect_day(project, 0, void("v", "e1", 0))
    before = pins_of_every_window(project)
    asked.clear()
    collect_day(project, 1, void("w", "e1", 1))

    after = pins_of_every_window(project)

    assert asked.count("named_events") == 1
    assert after[1] != before[1]


def test_what_was_derived_may_be_deleted_and_comes_out_the_same(project: Workspace) -> None:
    for number in range(3):
        collect_day(project, number, void(f"v{number}", "e0", number))
        before = pins_of_every_window(project)
    database = create_engine(f"sqlite:///{project.project.folder / 'control_plane.db'}")
    with database.begin() as connection:
        names = connection.scalars(text("SELECT derivation FROM derived_pins ORDER BY 1")).all()
    pins = []
    for name in names:
        with database.begin() as connection:
            connection.execute(text("DELETE FROM derived_pins WHERE derivation = :name"), {"name": name})
        pins.append(pins_of_every_window(project))
    database.dispose()

    assert len(names) >= 6
    assert pins == [before] * len(names)


def test_a_revision_that_pinned_no_links_has_none(project: Workspace) -> None:
    with Warehouse(project.scratch) as warehouse:
        table_links(warehouse, project, {})
        counts = [
            warehouse.connection.table(name).shape[0] for name in ("neighbours", "withdrawn_events", "withdrawal_types")
        ]

    assert counts == [0, 0, 0]
