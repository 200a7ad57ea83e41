"""Holds as people set them: an account of the directory, a reason, and somebody who stands behind it."""

from __future__ import annotations

from datetime import datetime

from pipeline.core.errors import InputError
from pipeline.core.hold import Hold
from pipeline.steps.workspace import Workspace


def hold_account(workspace: Workspace, period_id: str, account_id: str, reason: str, at: datetime, by: str) -> Hold:
    """Hold an account in a period, and return the hold; an account that the directory does not have is refused."""
    require_account(workspace, account_id)
    return workspace.control_plane.hold_account(period_id, account_id, reason, at, by)


def release_account(workspace: Workspace, period_id: str, account_id: str, reason: str, at: datetime, by: str) -> int:
    """End every hold of an account in a period and return how many there were; none is refused."""
    released = workspace.control_plane.release_account(period_id, account_id, reason, at, by)
    if not released:
        raise InputError(
            "hold.not_held",
            f"account {account_id} is not held in period {period_id}",
            ["`billing holds` lists the accounts that are; nothing was changed"],
        )
    return released


def require_account(workspace: Workspace, account_id: str) -> None:
    """Refuse an account that ``accounts.csv`` does not have: a typing error would hold or credit nobody."""
    if account_id not in workspace.project.directory.accounts():
        raise InputError(
            "account.unknown",
            f"there is no account {account_id!r}",
            ["expected an account_id of accounts.csv; nothing was changed"],
        )
