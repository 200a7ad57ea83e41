"""Credits as people grant them: to an account of the directory, in its currency."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from pipeline.core.credit import CreditGrant, CreditKind
from pipeline.core.errors import InputError
from pipeline.steps.holds import require_account
from pipeline.steps.workspace import Workspace


def grant_credit(
    workspace: Workspace,
    account_id: str,
    currency: str,
    kind: CreditKind,
    amount: Decimal,
    reason: str,
    at: datetime,
    by: str,
    *,
    priority: int = 0,
    expires_on: date | None = None,
) -> CreditGrant:
    """Grant a credit; one that no invoice of the account could ever draw is refused."""
    require_account(workspace, account_id)
    billed_in = workspace.project.directory.accounts()[account_id].currency
    if currency != billed_in:
        raise InputError(
            "credit.wrong_currency",
            f"account {account_id} is invoiced in {billed_in}, and would never draw a credit of {currency}",
            ["nothing was granted; there is no conversion"],
        )
    try:
        return workspace.control_plane.grant_credit(
            account_id, currency, kind, amount, reason, at, by, priority=priority, expires_on=expires_on
        )
    except ValueError as error:
        raise InputError("credit.wrong_amount", f"the credit cannot be granted: {error}", []) from None
