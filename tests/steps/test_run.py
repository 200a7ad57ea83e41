"""One night without Airflow: what a refusal leaves behind, and how a mended night goes on."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.dataset import USAGE
from pipeline.core.errors import PricingError
from pipeline.core.revision import RevisionState
from pipeline.steps.collect import collect
from pipeline.steps.rerun import rerun
from pipeline.steps.run import run_window, settle_window
from pipeline.steps.service_levels import published_service_levels
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import PRICE_BOOK, put_events, usage_event, write_project
from tests.steps.night import AT, START, WINDOW, put_night, revision_of

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
    assert published_service_levels(workspace, WINDOW.window_id, rejected.revision) is not None


@pytest.mark.slow
def test_the_same_window_run_twice_at_once_is_accepted_once(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)
    put_night(raw_bucket)
    workspace = open_workspace(folder)
    collect(workspace, AT, lambda _: None)
    command = [sys.executable, "-m", "pipeline", "run", "--window", WINDOW.window_id, "--project", str(folder)]

    at_once = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in at_once]

    assert [process.returncode for process in at_once] == [0, 0], said
    revisions = workspace.control_plane.window_revisions()
    assert [(one.revision, one.state) for one in revisions] == [(1, RevisionState.ACCEPTED)]
    assert [one.action for one in workspace.control_plane.audit_log()].count("revision_accepted") == 1
    assert rerun(workspace, WINDOW.window_id).is_identical
    assert list(workspace.scratch.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_usage_was_published_is_gone_on_with(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    folder = write_project(tmp_path / "project", raw_bucket)
    put_night(raw_bucket)
    workspace = open_workspace(folder)
    collect(workspace, AT, lambda _: None)
    command = [sys.executable, "-m", "pipeline", "run", "--window", WINDOW.window_id, "--project", str(folder)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    opened = killed.stdout.readline()  # deduplicate is done, aggregate begins
    killed.kill()
    killed.wait()
    assert "revision 1 opened" in opened
    assert workspace.control_plane.publication(USAGE.name, f"window={WINDOW.window_id}") is None

    result = run_window(workspace, WINDOW, AT, lambda _: None)

    assert (result.revision, result.is_new) == (1, True)
    assert rerun(workspace, WINDOW.window_id).is_identical
    assert list(workspace.scratch.iterdir()) == []


def test_a_refusal_of_a_run_whose_revision_another_run_accepted_meanwhile_is_told_as_it_is(
    night: Workspace,
) -> None:
    candidate = revision_of(night)
    run_window(night, WINDOW, AT, lambda _: None)
    book = night.project.folder / BOOK
    book.write_text(book.read_text().replace('currency = "EUR"', 'currency = "CHF"', 1))

    with pytest.raises(PricingError) as refused:
        settle_window(open_workspace(night.project.folder), candidate, AT, lambda _: None)

    assert refused.value.code != "revision.already_accepted"
    assert revision_of(night).state is RevisionState.ACCEPTED
