"""A period is issued as somebody signed it: other figures, a rejection or nobody's name, and no number is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from pipeline.core.access import Roles
from pipeline.core.approval import Decision, Preparation
from pipeline.core.credit import CreditKind
from pipeline.core.errors import AccessError, InputError, NotReadyError, PublicationError
from pipeline.core.project import CloseSettings
from pipeline.core.window import ONE_DAY
from pipeline.steps.close import close
from pipeline.steps.credits import grant_credit
from pipeline.steps.holds import hold_account
from pipeline.steps.sign_off import figures_to_sign, newest_preparation, prepare_figures, sign_off
from pipeline.steps.workspace import Workspace
from tests.steps.test_close import january, ready, ready_folder
from tests.steps.test_rate import AT, bill, receive, tokens

__all__ = ["january", "ready", "ready_folder"]

PERIOD = "2026-01"


@pytest.fixture
def signed(ready: Workspace) -> Workspace:
    """The project that is ready to close, where closing asks for a signature."""
    settings = ready.project.settings.model_copy(update={"close": CloseSettings(sign_off="required")})
    return replace(ready, project=replace(ready.project, settings=settings))


def test_a_period_that_nobody_signed_is_not_closed(signed: Workspace) -> None:
    with pytest.raises(NotReadyError, match=r"close\.not_signed_off.*\n.*nobody signed it"):
        close(signed, PERIOD, AT)

    assert signed.control_plane.documents() == []
    assert signed.control_plane.last_numbers() == {}


def test_what_is_signed_is_what_is_issued(signed: Workspace) -> None:
    figures = figures_to_sign(signed, PERIOD, AT)
    made = sign_off(signed, PERIOD, Decision.APPROVE, "ties", AT, "ben", content_hash=figures.content_hash)

    result = close(signed, PERIOD, AT + ONE_DAY)

    net: dict[str, Decimal] = {}
    for invoice in result.invoices:
        net[invoice.currency] = net.get(invoice.currency, Decimal(0)) + invoice.total  # no tax in this project
    assert net == figures.net
    assert (figures.accounts, made.signed_by, made.content_hash) == (len(result.invoices), "ben", figures.content_hash)
    assert figures.verdict.startswith("reconciled: ")
    assert made.figures["net"] == {currency: f"{amount:f}" for currency, amount in figures.net.items()}
    [entry] = [entry for entry in signed.control_plane.audit_log() if entry.action == "period_signed_off"]
    assert json.loads(entry.details)["reason"] == "ties"


def test_figures_that_change_after_the_approval_ask_for_another_one(signed: Workspace) -> None:
    sign_off(signed, PERIOD, Decision.APPROVE, "ties", AT, "ben")
    receive(signed, tokens(900_000, "2026-01-31T11:00:00Z"))
    bill(signed, "2026-01-31", include_late=True)

    with pytest.raises(NotReadyError, match=r"close\.not_signed_off"):
        close(signed, PERIOD, AT)

    sign_off(signed, PERIOD, Decision.APPROVE, "with the late hour", AT, "ben")
    assert close(signed, PERIOD, AT).invoices


def test_an_approval_of_other_figures_than_were_looked_at_records_nothing(signed: Workspace) -> None:
    with pytest.raises(PublicationError, match=r"sign_off\.figures_changed"):
        sign_off(signed, PERIOD, Decision.APPROVE, "ties", AT, "ben", content_hash="0" * 64)

    assert signed.control_plane.sign_offs() == []


def test_a_rejected_period_is_not_closed_until_somebody_approves(signed: Workspace) -> None:
    sign_off(signed, PERIOD, Decision.REJECT, "acct-3 looks wrong", AT, "ben")
    with pytest.raises(PublicationError, match="rejected by ben: acct-3 looks wrong"):
        close(signed, PERIOD, AT)

    sign_off(signed, PERIOD, Decision.APPROVE, "looked again", AT, "eve")

    assert close(signed, PERIOD, AT).invoices


def test_a_rejection_stops_a_close_that_asks_for_no_signature(ready: Workspace) -> None:
    sign_off(ready, PERIOD, Decision.REJECT, "acct-3 looks wrong", AT, "ben")

    with pytest.raises(PublicationError, match=r"close\.rejected"):
        close(ready, PERIOD, AT)


def test_a_period_is_approved_without_some_accounts(signed: Workspace) -> None:
    made = sign_off(signed, PERIOD, Decision.HOLD, "disputed", AT, "ben", accounts=["acct-2"])

    result = close(signed, PERIOD, AT)

    assert "acct-2" not in {invoice.account_id for invoice in result.invoices}
    assert result.held == {"acct-2": "disputed"} == made.figures["held"]


def test_the_net_of_an_approval_leaves_out_what_is_held(signed: Workspace) -> None:
    whole = figures_to_sign(signed, PERIOD, AT)
    made = sign_off(signed, PERIOD, Decision.HOLD, "disputed", AT, "ben", accounts=["acct-2"])

    due = close(signed, PERIOD, AT).totals

    assert made.figures["net"] == {currency: f"{amount:f}" for currency, amount in sorted(due.items())}
    assert whole.held_net == {}
    held = {currency: Decimal(amount) for currency, amount in made.figures["held_net"].items()}
    assert sum(held.values()) > 0
    assert {name: due.get(name, 0) + held.get(name, 0) for name in whole.net} == whole.net


def test_an_account_that_an_approval_left_out_is_not_issued_when_it_is_released(signed: Workspace) -> None:
    sign_off(signed, PERIOD, Decision.HOLD, "disputed", AT, "ben", accounts=["acct-2"])
    signed.control_plane.release_account(PERIOD, "acct-2", "settled", AT, "ben")

    with pytest.raises(NotReadyError, match=r"close\.not_signed_off.*\n.*without acct-2, released since"):
        close(signed, PERIOD, AT)

    sign_off(signed, PERIOD, Decision.APPROVE, "with acct-2", AT, "ben")
    assert "acct-2" in {invoice.account_id for invoice in close(signed, PERIOD, AT).invoices}


def test_a_credit_that_is_granted_after_the_approval_asks_for_another_one(signed: Workspace) -> None:
    sign_off(signed, PERIOD, Decision.APPROVE, "ties", AT, "ben")
    grant_credit(signed, "acct-2", "USD", CreditKind.PROMOTIONAL, Decimal(1), "gift", AT, "ben")

    with pytest.raises(NotReadyError, match=r"close\.not_signed_off"):
        close(signed, PERIOD, AT)


@pytest.mark.parametrize("period_id", ["2026-13", "1999-01", "2031-01", "January"])
def test_a_hold_of_a_month_that_is_no_period_of_the_project_is_refused(ready: Workspace, period_id: str) -> None:
    with pytest.raises(InputError, match=r"hold\.unknown_period"):
        hold_account(ready, period_id, "acct-2", "disputed", AT, "ben")


@pytest.mark.parametrize(
    ("decision", "accounts"), [(Decision.HOLD, []), (Decision.APPROVE, ["acct-2"]), (Decision.REJECT, ["acct-2"])]
)
def test_only_a_hold_names_accounts(signed: Workspace, decision: Decision, accounts: list[str]) -> None:
    with pytest.raises(InputError, match=r"sign_off\.no_accounts"):
        sign_off(signed, PERIOD, decision, "why", AT, "ben", accounts=accounts)


def test_an_account_that_is_held_after_the_approval_leaves_it_as_it_is(signed: Workspace) -> None:
    sign_off(signed, PERIOD, Decision.APPROVE, "ties", AT, "ben")
    signed.control_plane.hold_account(PERIOD, "acct-2", "disputed", AT, "ben")

    assert close(signed, PERIOD, AT).held == {"acct-2": "disputed"}


def test_the_figures_that_were_prepared_are_read_again_without_computing(signed: Workspace) -> None:
    assert newest_preparation(signed, PERIOD) is None
    figures = prepare_figures(signed, PERIOD, AT, "ben")
    before = signed.control_plane.audit_log()

    read = newest_preparation(signed, PERIOD)

    assert read == Preparation(figures, AT, "ben")
    assert signed.control_plane.audit_log() == before


def test_a_final_period_has_nothing_left_to_sign(ready: Workspace) -> None:
    close(ready, PERIOD, AT)

    with pytest.raises(InputError, match=r"sign_off\.period_is_final"):
        figures_to_sign(ready, PERIOD, AT)


def test_a_period_that_is_not_complete_cannot_be_signed(january: Workspace) -> None:
    with pytest.raises(NotReadyError, match=r"close\.period_not_ready"):
        sign_off(january, PERIOD, Decision.APPROVE, "ties", AT, "ben")


def test_only_finance_signs(signed: Workspace) -> None:
    signed.control_plane.roles = Roles(engineer=("ana",), finance=("ben",))

    with pytest.raises(AccessError):
        sign_off(signed, PERIOD, Decision.APPROVE, "ties", AT, "ana")

    assert signed.control_plane.sign_offs() == []
