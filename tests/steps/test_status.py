"""The status tells how far billing is, in values that JSON has."""

from __future__ import annotations

import json
from typing import Any

from pipeline.cli import _status_lines
from pipeline.steps.reconcile import reconcile
from pipeline.steps.status import status
from pipeline.steps.workspace import Workspace
from tests.steps.night import AT, put_night, revision_of


def test_a_project_that_has_collected_nothing_has_a_status(workspace: Workspace) -> None:
    facts = status(workspace)

    assert facts["watermark"] is None
    assert facts["windows"] == []
    assert facts["collected"] == {"objects": 0, "lines": 0, "raw_events": 0, "quarantined": 0}


def test_the_status_shows_the_newest_revision_of_a_window_and_its_verdict(night: Workspace) -> None:
    revision = revision_of(night)
    before = status(night)
    reconcile(night, revision.window_id, revision.revision, AT)

    after = status(night)

    assert json.loads(json.dumps(after)) == after
    assert before["windows"][0]["verdict"] == "not reconciled yet"
    assert after["windows"] == [
        {
            "window": "2026-01-15",
            "revision": 1,
            "state": "candidate",
            "verdict": "reconciled",
            "billed_events": 3,
            "late_events": 1,
            "late_arrivals": [
                {"source": "api", "age": "up to 1 h", "sku": None, "unit": None, "event_count": 1, "quantity": None},
                {
                    "source": "api",
                    "age": "up to 1 h",
                    "sku": "requests",
                    "unit": "requests",
                    "event_count": 1,
                    "quantity": "1.000000000",
                },
                {
                    "source": "api",
                    "age": "up to 1 h",
                    "sku": "tokens-input",
                    "unit": "tokens",
                    "event_count": 1,
                    "quantity": "40.000000000",
                },
            ],
            "fallback_events": 0,
            "idle_withdrawals": 0,
            "unbilled_replacements": 0,
            "cutoff_at": "2026-01-16T06:00:00+00:00",
            "exceptions": 0,
            "needs_revision": False,
            "late_after_close": False,
        }
    ]
    assert after["collected"] == {"objects": 5, "lines": 11, "raw_events": 9, "quarantined": 2}
    assert after["periods"] == [{"period": "2026-01", "state": "open", "line_items": 6, "invoices": 0, "held": 0}]


def test_objects_that_wait_in_the_bucket_are_not_counted_as_collected(workspace: Workspace) -> None:
    put_night(workspace.raw)

    assert status(workspace)["collected"]["objects"] == 0


def test_the_status_as_text_shows_the_newest_windows_and_values_for_people(workspace: Workspace) -> None:
    facts: dict[str, Any] = {
        **status(workspace),
        "windows": [
            {
                "window": f"w{number}",
                "revision": 1000,
                "billed_events": None,
                "late_events": 1000,
                "needs_revision": True,
            }
            for number in range(33)
        ],
    }

    lines = _status_lines(facts)

    of_windows = lines[lines.index("windows: 33") :]
    assert of_windows[1] == "  and 3 earlier"
    assert of_windows[2] == "  window w3  revision 1000  billed events not yet  late events 1,000  needs revision yes"
    assert sum(line.startswith("  window w") for line in lines) == 30
    assert "watermark: not yet" in lines
    assert not any(word in line for line in lines for word in ("None", "True", "False"))
    assert "  and" not in "\n".join(_status_lines({"windows": facts["windows"][:30]}))
