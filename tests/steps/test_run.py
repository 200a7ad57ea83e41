"""One night without Airflow: what a refusal leaves behind, and how a mended night goes on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import PricingError
from pipeline.core.revision import RevisionState
from pipeline.steps.collect import collect
from pipeline.steps.run import run_window
from pipeline.steps.workspace import open_workspace
from tests.fixtures_project import PRICE_BOOK, put_events, usage_event, write_project
from tests.steps.night import AT, START, WINDOW, put_night

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


def test_quantities_whose_sum_does_not_fit_reject_the_night_with_a_sentence(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_workspace(write_project(tmp_path / "project", raw_bucket))
    absurd = [usage_event(id=f"absurd-{n}", data={"input_tokens": "9" * 29}) for n in range(2)]
    put_events(raw_bucket, "usage/absurd.ndjson", absurd, START + timedelta(hours=13))
    collect(workspace, AT, lambda _: None)

    with pytest.raises(PricingError) as refused:
        run_window(workspace, WINDOW, AT, lambda _: None)

    assert refused.value.code == "warehouse.number_too_large"
    rejected = workspace.control_plane.latest_revision(WINDOW.window_id)
    assert rejected is not None
    assert rejected.state is RevisionState.REJECTED
