"""Sign-off: somebody looks at what a period would bill, and approves it, approves it without some accounts, or rejects.

The figures are prepared by who may sign them, or by the pipeline before it asks, and kept: whoever reads them later
computes nothing. The decision names the hash of what was looked at. Anything that changes a figure afterwards (late
usage, another price book, an account's tax region) changes the hash, and close asks again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from pipeline.core.access import Action, require_allowed
from pipeline.core.approval import Decision, PeriodFigures, Preparation, SignOff
from pipeline.core.errors import InputError, NotReadyError, PublicationError
from pipeline.steps.holds import hold_account, require_account
from pipeline.steps.prepare import nets_of, prepared_period
from pipeline.steps.publish import publish_document, read_document
from pipeline.steps.workspace import Workspace

PERIOD_FIGURES = "period_figures"


def is_required(workspace: Workspace) -> bool:
    """Tell whether the project's periods close only after a sign-off."""
    return workspace.project.settings.close.sign_off == "required"


def prepare_figures(workspace: Workspace, period_id: str, at: datetime, by: str) -> PeriodFigures:
    """Return ``figures_to_sign`` for somebody who may sign them."""
    require_allowed(workspace.control_plane.roles, by, Action.SIGN_OFF)
    return figures_to_sign(workspace, period_id, at, by)


def newest_preparation(workspace: Workspace, period_id: str) -> Preparation | None:
    """Return the figures that were prepared last, if any were; nothing is computed and nothing changes."""
    receipt = workspace.control_plane.publication(PERIOD_FIGURES, f"period={period_id}")
    return None if receipt is None else Preparation.from_json(read_document(workspace, receipt.manifest_hash))


def figures_to_sign(
    workspace: Workspace, period_id: str, at: datetime, by: str | None = None, without: Collection[str] = ()
) -> PeriodFigures:
    """Return what a period would bill if it closed now, rated afresh; a period that is not ready to close raises.

    Line items and controls are published, differences become breaks, and accounts may be held. The figures are
    published as the document ``period_figures``, which ``newest_preparation`` reads. ``without`` accounts: as if they
    were held, too.
    """
    if workspace.control_plane.period_state(period_id) == "final":
        raise InputError(
            "sign_off.period_is_final",
            f"period {period_id} is final, so there is nothing left to sign",
            ["`billing sign-off list` shows who signed it; nothing was changed"],
        )
    with prepared_period(workspace, period_id, at) as prepared:
        net, held_net = nets_of(prepared.drafts, {*prepared.figures.held, *without})
        figures = replace(prepared.figures, net=net, held_net=held_net)
        content = Preparation(figures, at, by).to_json()
        publish_document(workspace, PERIOD_FIGURES, f"period={period_id}", content, {}, at)
        return figures


def sign_off(
    workspace: Workspace,
    period_id: str,
    decision: Decision,
    reason: str,
    at: datetime,
    by: str,
    *,
    accounts: Sequence[str] = (),
    content_hash: str | None = None,
) -> SignOff:
    """Record a decision about what a period would bill now, and return it.

    ``Decision.HOLD`` approves the period and holds ``accounts``, with the same reason. ``content_hash`` is that of the
    figures that were looked at: if they are others by now, nothing is recorded.
    """
    require_allowed(workspace.control_plane.roles, by, Action.SIGN_OFF)
    if (decision is Decision.HOLD) != bool(accounts):
        raise InputError(
            "sign_off.no_accounts",
            "a sign-off names accounts if it holds some, and else none",
            [f"expected accounts only with {Decision.HOLD.value}, got {decision.value} with {len(accounts)} accounts"],
        )
    for account_id in accounts:
        require_account(workspace, account_id)
    figures = figures_to_sign(workspace, period_id, at, by, accounts)
    if content_hash is not None and content_hash != figures.content_hash:
        raise PublicationError(
            "sign_off.figures_changed",
            f"what period {period_id} would bill is not what was looked at",
            [
                f"expected figures {content_hash[:12]}, got {figures.content_hash[:12]} by now",
                f"nothing was recorded; look again: billing sign-off prepare --period {period_id} --by NAME",
            ],
        )
    for account_id in accounts:
        hold_account(workspace, period_id, account_id, reason, at, by)
    shown = {**figures.to_json(), "held": workspace.control_plane.held_accounts(period_id)}
    return workspace.control_plane.sign_off(period_id, decision, figures.content_hash, shown, reason, at, by)


def newest_sign_off(workspace: Workspace, period_id: str) -> SignOff | None:
    """Return the decision that holds, if there is one."""
    return next(iter(reversed(workspace.control_plane.sign_offs(period_id))), None)


def require_signed_off(workspace: Workspace, figures: PeriodFigures) -> None:
    """Refuse to issue figures that nobody approved, or that somebody rejected."""
    period_id = figures.period_id
    newest = newest_sign_off(workspace, period_id)
    next_step = (
        f"billing sign-off prepare --period {period_id} --by NAME, then billing sign-off approve; no number was taken"
    )
    if newest is not None and not newest.allows_issuing and newest.content_hash == figures.content_hash:
        raise PublicationError(
            "close.rejected",
            f"period {period_id} was rejected by {newest.signed_by}: {newest.reason}",
            [f"expected an approval of figures {figures.content_hash[:12]}", next_step],
        )
    if not is_required(workspace):
        return
    released = [] if newest is None else newest.released_since(figures.held)
    if newest is not None and released and newest.content_hash == figures.content_hash:
        raise NotReadyError(
            "close.not_signed_off",
            f"nobody has approved all that period {period_id} bills",
            [f"{newest.signed_by} approved it without {', '.join(released[:10])}, released since", next_step],
        )
    if newest is None or newest.content_hash != figures.content_hash:
        was = "nobody signed it" if newest is None else f"figures {newest.content_hash[:12]} were signed"
        raise NotReadyError(
            "close.not_signed_off",
            f"nobody has approved what period {period_id} bills",
            [f"expected an approval of figures {figures.content_hash[:12]}, but {was}", next_step],
        )
