"""A gate is overridden by two people, for exactly what failed, and never silently."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from pipeline.core.access import Roles
from pipeline.core.check import Severity
from pipeline.core.errors import (
    AccessError,
    CheckFailed,
    InputError,
    NotReadyError,
    PublicationError,
    ReconciliationError,
)
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.steps.accept import accept, reject
from pipeline.steps.check import check
from pipeline.steps.overrides import approve_override, request_override
from pipeline.steps.reconcile import reconcile
from pipeline.steps.service_levels import published_service_levels
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, write_project
from tests.steps.night import AT, forged_revision, revision_of

LATER = AT + timedelta(hours=3)


@pytest.fixture
def refused(night: Workspace) -> WindowRevision:
    """A revision that lacks a usage row, refused by reconcile."""
    queries = {"usage": "SELECT * FROM usage ORDER BY account_id, sku, grain_start OFFSET 1"}
    revision = forged_revision(night, revision_of(night), queries)
    check(night, revision.window_id, revision.revision, AT)
    with pytest.raises(ReconciliationError) as refusal:
        reconcile(night, revision.window_id, revision.revision, AT)
    reject(night, revision.window_id, revision.revision, AT, str(refusal.value))
    return revision


def state_of(ws: Workspace, revision: WindowRevision) -> RevisionState:
    newest = ws.control_plane.latest_revision(revision.window_id)
    assert newest is not None
    return newest.state


def test_a_revision_that_two_people_override_is_accepted_and_the_audit_log_says_who_and_why(
    night: Workspace, refused: WindowRevision
) -> None:
    asked = request_override(night, refused.window_id, refused.revision, "known outage", AT, "ana")
    assert state_of(night, refused) is RevisionState.REJECTED
    with pytest.raises(ReconciliationError):
        accept(night, refused.window_id, refused.revision, LATER)

    approved = approve_override(night, refused.window_id, refused.revision, LATER, "ben")

    assert (approved.requested_by, approved.approved_by, approved.approved_at) == ("ana", "ben", LATER)
    assert any(sentence.startswith("usage_quantity, ") for sentence in asked.failures)
    assert state_of(night, refused) is RevisionState.ACCEPTED
    [entry] = [entry for entry in night.control_plane.audit_log() if entry.action == "revision_accepted"]
    assert "overridden by ana and ben: known outage" in json.loads(entry.details)["why"]


def test_what_two_people_accept_is_finished_like_any_night(night: Workspace, refused: WindowRevision) -> None:
    request_override(night, refused.window_id, refused.revision, "known outage", AT, "ana")
    assert published_service_levels(night, refused.window_id, refused.revision) is None

    approve_override(night, refused.window_id, refused.revision, LATER, "ben")

    assert published_service_levels(night, refused.window_id, refused.revision) is not None
    metrics = (night.project.folder / night.project.settings.operations.metrics_file).read_text()
    assert 'billing_windows{state="rejected"} 0' in metrics


def test_a_run_that_is_cleared_after_an_override_goes_on(night: Workspace, refused: WindowRevision) -> None:
    request_override(night, refused.window_id, refused.revision, "known outage", AT, "ana")
    approve_override(night, refused.window_id, refused.revision, LATER, "ben")

    check(night, refused.window_id, refused.revision, LATER)
    reconcile(night, refused.window_id, refused.revision, LATER)
    accept(night, refused.window_id, refused.revision, LATER)

    assert state_of(night, refused) is RevisionState.ACCEPTED


def test_approving_again_changes_nothing(night: Workspace, refused: WindowRevision) -> None:
    request_override(night, refused.window_id, refused.revision, "known outage", AT, "ana")
    first = approve_override(night, refused.window_id, refused.revision, LATER, "ben")
    entries = len(night.control_plane.audit_log())

    assert approve_override(night, refused.window_id, refused.revision, LATER + timedelta(days=1), "eve") == first
    assert len([e for e in night.control_plane.audit_log()[entries:] if e.action != "published"]) == 0


@pytest.mark.parametrize("name", ["ana", " ANA "])
def test_whoever_asked_cannot_approve(night: Workspace, refused: WindowRevision, name: str) -> None:
    request_override(night, refused.window_id, refused.revision, "known outage", AT, "ana")

    with pytest.raises(PublicationError, match=r"override\.same_person"):
        approve_override(night, refused.window_id, refused.revision, LATER, name)

    assert state_of(night, refused) is RevisionState.REJECTED


def test_nothing_is_approved_that_nobody_asked_for(night: Workspace, refused: WindowRevision) -> None:
    with pytest.raises(InputError, match=r"override\.not_requested"):
        approve_override(night, refused.window_id, refused.revision, LATER, "ben")


def test_an_override_of_other_failures_does_not_count(night: Workspace, refused: WindowRevision) -> None:
    night.control_plane.request_override(
        refused.window_id, refused.revision, ["usage_quantity, another one"], "known outage", AT, "ana"
    )

    with pytest.raises(InputError, match="something else failed when it was asked for"):
        approve_override(night, refused.window_id, refused.revision, LATER, "ben")
    with pytest.raises(ReconciliationError):
        accept(night, refused.window_id, refused.revision, LATER)


def test_a_revision_whose_gates_pass_has_nothing_to_override(night: Workspace) -> None:
    revision = revision_of(night)
    check(night, revision.window_id, revision.revision, AT)

    with pytest.raises(InputError, match=r"override\.nothing_failed"):
        request_override(night, revision.window_id, revision.revision, "to be sure", AT, "ana")


def test_a_revision_that_was_never_checked_cannot_be_overridden(night: Workspace) -> None:
    revision = revision_of(night)

    with pytest.raises(NotReadyError, match="not run: check"):
        request_override(night, revision.window_id, revision.revision, "no time", AT, "ana")


def test_a_critical_expectation_is_overridden_like_a_control(night: Workspace) -> None:
    accounts = ACCOUNTS.replace("acct-3,", "acct-4,")
    other = open_workspace(write_project(night.project.folder, night.raw, {"accounts.csv": accounts}))
    revision = revision_of(other)
    with pytest.raises(CheckFailed):
        check(other, revision.window_id, revision.revision, AT)

    asked = request_override(other, revision.window_id, revision.revision, "merger", AT, "ana")
    approve_override(other, revision.window_id, revision.revision, LATER, "ben")

    assert all("expected" in sentence for sentence in asked.failures)
    assert state_of(other, revision) is RevisionState.ACCEPTED
    assert check(other, revision.window_id, revision.revision, LATER).failed(Severity.CRITICAL)


def test_only_finance_approves_an_override(night: Workspace, refused: WindowRevision) -> None:
    night.control_plane.roles = Roles(engineer=("ana", "ann"), finance=("ben",), auditor=("ida",))
    with pytest.raises(AccessError):
        request_override(night, refused.window_id, refused.revision, "known outage", AT, "ida")
    request_override(night, refused.window_id, refused.revision, "known outage", AT, "ana")

    with pytest.raises(AccessError, match="ann may not approve override"):
        approve_override(night, refused.window_id, refused.revision, LATER, "ann")
    approve_override(night, refused.window_id, refused.revision, LATER, "ben")
