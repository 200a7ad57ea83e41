"""What SQL is given of the pinned project files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.account import VALID_FOR_EVER
from pipeline.steps.inputs import account_references, changed_inputs, pinned_directory
from pipeline.steps.publish import pin_file
from pipeline.steps.workspace import open_workspace
from tests.fixtures_project import write_project

HEADER = "account_id,name,currency,time_zone,plan,valid_from,valid_to,external_references"


@pytest.mark.parametrize("is_of_today", [True, False])
def test_each_subject_of_an_account_has_a_row_with_its_validity(tmp_path: Path, is_of_today: bool) -> None:
    rows = [
        "acct-1,One,USD,UTC,standard,2026-01-01T00:00:00+01:00,2026-01-15T10:30:00Z,vm-1; vm-2",
        "acct-2,Two,USD,UTC,standard,2026-01-15T10:30:00Z,,vm-1",
    ]

    pinned = "\n".join([HEADER, *rows, ""])
    workspace = open_workspace(write_project(tmp_path, None, {"accounts.csv": pinned} if is_of_today else {}))

    found = account_references(pinned_directory(workspace, pin_file(workspace, pinned.encode())))

    start, moved_at = datetime(2025, 12, 31, 23, tzinfo=UTC), datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
    assert found == [
        ("vm-1", "acct-1", start, moved_at),
        ("vm-2", "acct-1", start, moved_at),
        ("vm-1", "acct-2", moved_at, VALID_FOR_EVER),
    ]


PINS = {"raw_event_files": ["a"], "neighbours": "1", "sql": {"usage": "1"}, "grain_seconds": 3600}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (PINS, PINS, ""),
        (PINS, {**PINS, "withdrawn_events": "1"}, "withdrawn events is pinned now"),
        ({**PINS, "look_back_seconds": 1}, PINS, "look back is not pinned any more"),
        ({}, {"raw_event_files": ["a"]}, "raw event files added: 1, raw event files is pinned now"),
        ({"sql": {}}, {"sql": {"usage": "1"}}, "sql/usage.sql changed"),
        ({"sql": {"usage": "1"}}, {"sql": {}}, "sql/usage.sql changed"),
        (PINS, {**PINS, "neighbours": "2"}, "copies of its keys in other windows changed"),
        (PINS, {**PINS, "grain_seconds": 60}, "grain changed from 3600 s to 60 s"),
    ],
)
def test_pins_that_an_earlier_version_did_not_have_are_said_in_words(
    before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    assert changed_inputs(before, after) == words
