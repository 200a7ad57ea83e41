"""One night without Airflow: what a refusal leaves behind, and how a mended night goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import PricingError
from pipeline.core.revision import RevisionState
from pipeline.steps.collect import collect
from pipeline.steps.run import run_window
from pipeline.steps.workspace import open_workspace
from tests.fixtures_project import PRICE_BOOK, write_project
from tests.steps.night import AT, WINDOW, put_night

BOOK = "price_books/2025-01-01.toml"


def test_a_night_that_cannot_be_priced_is_rejected_with_its_report_and_accepted_when_mended(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    unpriced = PRICE_BOOK.replace('currency = "EUR"', 'currency = "CHF"', 1)
    folder = write_project(tmp_path / "project", raw_bucket, {BOOK: unpriced})
    workspace = open_workspace(folder)
    put_night(workspace.raw)
    collect(workspace, AT, lambda _: None)
    said: list[str] = []

    with pytest.raises(PricingError):
        run_window(workspace, WINDOW, AT, said.append)

    rejected = workspace.control_plane.latest_revision(WINDOW.window_id)
    assert rejected is not None
    assert rejected.state is RevisionState.REJECTED
    assert (workspace.out / "reports" / f"{WINDOW.window_id}-r1.html").is_file()
    assert "rejected" in said[-1]

    mended = open_workspace(write_project(folder, raw_bucket, {BOOK: PRICE_BOOK}))
    result = run_window(mended, WINDOW, AT, said.append)

    assert (result.revision, result.is_new) == (1, True)
    assert mended.control_plane.accepted_revision(WINDOW.window_id) is not None
