"""The sign-off as a question that an orchestrator puts to people, and their answer as a decision.

Who answers is asked for the role when the decision is recorded: the orchestrator knows its own users' rights only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pipeline.adapters.text_formats import format_amount, format_quantity
from pipeline.core.approval import Decision, PeriodFigures, SignOff
from pipeline.steps.sign_off import figures_to_sign, is_required, newest_sign_off, sign_off
from pipeline.steps.workspace import Workspace

OPTIONS = {
    "Approve": Decision.APPROVE,
    "Approve, hold accounts": Decision.HOLD,
    "Reject": Decision.REJECT,
}


def question(workspace: Workspace, period_id: str, at: datetime) -> dict[str, str] | None:
    """Return what finance is asked before a period closes; None where nothing is left to ask.

    That is where the project closes without a sign-off, and where these very figures are approved already.
    ``content_hash`` names what is asked about, ``body`` is Markdown without any text of a customer.
    """
    if not is_required(workspace):
        return None
    figures = figures_to_sign(workspace, period_id, at)
    newest = newest_sign_off(workspace, period_id)
    if newest is not None and newest.allows_issuing and newest.content_hash == figures.content_hash:
        return None
    return {
        "subject": f"Close {period_id}?",
        "body": _body(figures),
        "content_hash": figures.content_hash,
    }


def record_answer(
    workspace: Workspace, period_id: str, asked: Mapping[str, str], answer: Mapping[str, Any], at: datetime
) -> SignOff:
    """Record the decision of who answered, about the figures that were asked about.

    ``answer`` has ``chosen_options`` (one of ``OPTIONS``), ``params_input`` with the texts ``reason`` and
    ``hold_accounts``, and ``responded_by_user`` with the ``name``. Refused: what ``sign_off`` refuses.
    """
    [chosen] = answer["chosen_options"]
    given = answer["params_input"]
    return sign_off(
        *(workspace, period_id, OPTIONS[chosen], given["reason"], at, answer["responded_by_user"]["name"]),
        accounts=str(given.get("hold_accounts") or "").replace(",", " ").split(),
        content_hash=asked["content_hash"],
    )


def _body(figures: PeriodFigures) -> str:
    amounts = [
        f"| Net {currency} | {format_amount(amount, currency)} |" for currency, amount in sorted(figures.net.items())
    ]
    kept_back = [
        f"| Held back {currency} | {format_amount(amount, currency)} |"
        for currency, amount in sorted(figures.held_net.items())
    ]
    rows = [
        *amounts,
        *kept_back,
        f"| Accounts | {format_quantity(figures.accounts)} |",
        f"| Lines | {format_quantity(figures.line_items)} |",
        f"| Held accounts | {format_quantity(len(figures.held))} |",
        f"| Open breaks | {format_quantity(figures.open_breaks)} |",
    ]
    return "\n".join(
        [
            f"**{figures.verdict}**",
            "",
            "| What would be billed | |",
            "|---|---:|",
            *rows,
            "",
            f"Beside it: [the nightly report](/billing/reports), "
            f"[the figures](/billing/sign-off/{figures.period_id}), [the breaks](/billing/breaks).",
            "",
            f"What is signed is named `{figures.content_hash}`; if a figure changes before the answer, you are asked "
            "again.",
        ]
    )
