"""Nothing becomes visible to invoices unless every gate of this very revision stored that it passed."""

from __future__ import annotations

import json

import pytest

from pipeline.core.errors import CheckFailed, NotReadyError, PublicationError, ReconciliationError
from pipeline.core.revision import RevisionState
from pipeline.steps.accept import accept, reject
from pipeline.steps.check import check
from pipeline.steps.reconcile import reconcile
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, write_project
from tests.steps.night import AT, forged_revision, revision_of


def state_of(ws: Workspace, window_id: str, revision: int) -> RevisionState:
    states = {(known.window_id, known.revision): known.state for known in ws.control_plane.window_revisions()}
    return states[window_id, revision]


def test_a_revision_whose_gates_passed_is_accepted_and_the_audit_log_says_why(night: Workspace) -> None:
    revision = revision_of(night)
    check(night, revision.window_id, revision.revision, AT)
    reconcile(night, revision.window_id, revision.revision, AT)

    accept(night, revision.window_id, revision.revision, AT)
    accept(night, revision.window_id, revision.revision, AT)

    accepted = night.control_plane.accepted_revision(revision.window_id)
    assert accepted is not None
    assert accepted.revision == 1
    entries = [entry for entry in night.control_plane.audit_log() if entry.action == "revision_accepted"]
    assert len(entries) == 1, "accepting again changes nothing"
    assert "controls passed" in json.loads(entries[0].details)["why"]


def test_a_revision_that_was_not_checked_is_not_accepted(night: Workspace) -> None:
    revision = revision_of(night)
    reconcile(night, revision.window_id, revision.revision, AT)

    with pytest.raises(NotReadyError, match="not run: check"):
        accept(night, revision.window_id, revision.revision, AT)

    assert state_of(night, revision.window_id, 1) is RevisionState.CANDIDATE


def test_a_revision_that_was_not_reconciled_is_not_accepted(night: Workspace) -> None:
    revision = revision_of(night)
    check(night, revision.window_id, revision.revision, AT)

    with pytest.raises(NotReadyError, match="not run: reconcile"):
        accept(night, revision.window_id, revision.revision, AT)

    assert state_of(night, revision.window_id, 1) is RevisionState.CANDIDATE


def test_a_failed_critical_check_is_not_accepted_even_by_a_caller_that_ignores_the_refusal(night: Workspace) -> None:
    revision = revision_of(night)
    accounts = ACCOUNTS.replace("acct-3,", "acct-4,")
    other = write_project(night.project.folder, night.raw, {"accounts.csv": accounts})
    with pytest.raises(CheckFailed):
        check(open_workspace(other), revision.window_id, revision.revision, AT)
    reconcile(night, revision.window_id, revision.revision, AT)

    with pytest.raises(CheckFailed):
        accept(night, revision.window_id, revision.revision, AT)

    assert state_of(night, revision.window_id, 1) is RevisionState.CANDIDATE


def test_gates_that_another_revision_passed_do_not_count(night: Workspace) -> None:
    first = revision_of(night)
    check(night, first.window_id, first.revision, AT)
    reconcile(night, first.window_id, first.revision, AT)
    second = forged_revision(night, first, {})

    with pytest.raises(NotReadyError, match="not run: check, reconcile"):
        accept(night, second.window_id, second.revision, AT)


def test_a_failed_control_is_not_accepted_even_by_a_caller_that_ignores_the_refusal(night: Workspace) -> None:
    queries = {"usage": "SELECT * FROM usage ORDER BY account_id, sku, grain_start OFFSET 1"}
    revision = forged_revision(night, revision_of(night), queries)
    check(night, revision.window_id, revision.revision, AT)
    with pytest.raises(ReconciliationError):
        reconcile(night, revision.window_id, revision.revision, AT)

    with pytest.raises(ReconciliationError):
        accept(night, revision.window_id, revision.revision, AT)

    assert state_of(night, revision.window_id, revision.revision) is RevisionState.CANDIDATE


def test_a_rejected_revision_keeps_its_reason_in_the_audit_log(night: Workspace) -> None:
    revision = revision_of(night)

    reject(night, revision.window_id, revision.revision, AT, "check.critical_failed: a sum is negative")

    assert state_of(night, revision.window_id, 1) is RevisionState.REJECTED
    newest = night.control_plane.audit_log()[-1]
    assert json.loads(newest.details)["why"] == "check.critical_failed: a sum is negative"


def test_an_accepted_revision_cannot_be_rejected(night: Workspace) -> None:
    revision = revision_of(night)
    check(night, revision.window_id, revision.revision, AT)
    reconcile(night, revision.window_id, revision.revision, AT)
    accept(night, revision.window_id, revision.revision, AT)

    with pytest.raises(PublicationError):
        reject(night, revision.window_id, revision.revision, AT, "too late")
