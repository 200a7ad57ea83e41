"""Overrides: a revision is accepted although a gate refused it, asked for by one person and approved by another.

What is overridden is exactly what failed when it was asked for; the same revision with another failure asks again. The
failed checks and controls stay as they were published, and the report prints the override beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from pipeline.core.access import Action, require_allowed
from pipeline.core.approval import Override, failures_hash_of
from pipeline.core.dataset import RECONCILIATION
from pipeline.core.errors import InputError, ReconciliationError
from pipeline.core.revision import RevisionState
from pipeline.steps.accept import accept, gate_failures
from pipeline.steps.aggregate import find_revision
from pipeline.steps.estimate import estimate
from pipeline.steps.finish import finish_night
from pipeline.steps.reconcile import reconcile
from pipeline.steps.workspace import Workspace

_log = logging.getLogger(__name__)


def request_override(
    workspace: Workspace, window_id: str, revision: int, reason: str, at: datetime, by: str
) -> Override:
    """Ask that a refused revision be accepted as it is, and return what that would override.

    A revision that its checks stopped is reconciled first, so that whoever approves it sees everything that fails.
    """
    require_allowed(workspace.control_plane.roles, by, Action.REQUEST_OVERRIDE)
    found = find_revision(workspace, window_id, revision)
    if found.state is RevisionState.ACCEPTED:
        raise InputError(
            "override.accepted",
            f"revision {revision} of window {window_id} is accepted already",
            ["there is nothing to override; nothing was changed"],
        )
    if workspace.control_plane.publication(RECONCILIATION.name, found.scope, revision) is None:
        with suppress(ReconciliationError):  # published before it refuses, and part of what is overridden
            reconcile(workspace, window_id, revision, at)
    failures = gate_failures(workspace, window_id, revision)
    if not failures:
        raise InputError(
            "override.nothing_failed",
            f"every gate of revision {revision} of window {window_id} passes",
            [f"there is nothing to override; billing run --window {window_id}"],
        )
    return workspace.control_plane.request_override(window_id, revision, failures, reason, at, by)


def approve_override(
    workspace: Workspace,
    window_id: str,
    revision: int,
    at: datetime,
    by: str,
    say: Callable[[str], None] = _log.info,
) -> Override:
    """Approve what somebody else asked for, and accept the revision; again it finishes or repeats that."""
    require_allowed(workspace.control_plane.roles, by, Action.APPROVE_OVERRIDE)
    find_revision(workspace, window_id, revision)
    failures_hash = failures_hash_of(gate_failures(workspace, window_id, revision))
    override = workspace.control_plane.approve_override(window_id, revision, failures_hash, at, by)
    accept(workspace, window_id, revision, at)
    estimate(workspace, window_id, revision, at)
    finish_night(workspace, window_id, revision, at, say, refresh=True)
    return override
