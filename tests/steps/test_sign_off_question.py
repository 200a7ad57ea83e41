"""The question before a period closes, and what an answer does: recorded for the right person, about what was asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.approval import Decision
from pipeline.core.errors import AccessError, PublicationError
from pipeline.steps.close import close
from pipeline.steps.sign_off_question import OPTIONS, question, record_answer
from pipeline.steps.workspace import Workspace, open_workspace
from tests.airflow_plugin.billed import AT, MARKUP, billed_folder

__all__ = ["billed_folder"]
PERIOD = "2026-01"


@pytest.fixture
def ready(billed_folder: Path, tmp_path: Path) -> Workspace:
    return open_workspace(Path(shutil.copytree(billed_folder, tmp_path / "project")))


def answer(option: str, user: str = "fred", **given: str) -> dict[str, Any]:
    """Return an answer as Airflow's human-in-the-loop operator gives it."""
    return {
        "chosen_options": [option],
        "params_input": {"reason": "looked at it", "hold_accounts": "", **given},
        "responded_by_user": {"id": user, "name": user},
    }


def test_the_question_has_the_figures_and_no_text_of_a_customer(ready: Workspace) -> None:
    asked = question(ready, PERIOD, AT)

    assert asked is not None
    assert "| Net USD | 5.25 |" in asked["body"]
    assert "/billing/sign-off/2026-01" in asked["body"]
    assert MARKUP not in asked["body"]
    assert "disputed" not in asked["body"], "reasons are words of people"


def test_an_approval_is_recorded_and_the_period_closes_without_another_question(ready: Workspace) -> None:
    asked = question(ready, PERIOD, AT)
    assert asked is not None

    signed = record_answer(ready, PERIOD, asked, answer("Approve"), AT)

    assert (signed.decision, signed.signed_by, signed.reason) == (Decision.APPROVE, "fred", "looked at it")
    assert question(ready, PERIOD, AT) is None
    assert {one.account_id for one in close(ready, PERIOD, AT).invoices} == {"acct-1", "acct-3"}


def test_an_approval_may_hold_accounts(ready: Workspace) -> None:
    asked = question(ready, PERIOD, AT)
    assert asked is not None

    record_answer(ready, PERIOD, asked, answer("Approve, hold accounts", hold_accounts="acct-3, acct-1"), AT)

    assert set(ready.control_plane.held_accounts(PERIOD)) == {"acct-1", "acct-2", "acct-3"}
    assert close(ready, PERIOD, AT).invoices == []


def test_a_rejection_stops_the_close_with_its_reason_and_is_asked_again(ready: Workspace) -> None:
    asked = question(ready, PERIOD, AT)
    assert asked is not None

    record_answer(ready, PERIOD, asked, answer("Reject", reason="acct-1 is too low"), AT)

    with pytest.raises(PublicationError, match="acct-1 is too low"):
        close(ready, PERIOD, AT)
    assert question(ready, PERIOD, AT) == asked


@pytest.mark.parametrize("option", OPTIONS)
def test_an_answer_of_somebody_without_the_role_decides_nothing(ready: Workspace, option: str) -> None:
    asked = question(ready, PERIOD, AT)
    assert asked is not None

    with pytest.raises(AccessError, match=r"access\.denied"):
        record_answer(ready, PERIOD, asked, answer(option, user="erin"), AT)

    assert ready.control_plane.sign_offs(PERIOD) == []


def test_an_answer_about_figures_that_changed_since_decides_nothing(ready: Workspace) -> None:
    asked = question(ready, PERIOD, AT)
    assert asked is not None
    accounts = ready.project.folder / "accounts.csv"
    accounts.write_text(accounts.read_text().replace("Dritte Kundin", "Vierte Kundin"))
    reopened = open_workspace(ready.project.folder)

    with pytest.raises(PublicationError, match=r"sign_off\.figures_changed"):
        record_answer(reopened, PERIOD, asked, answer("Approve"), AT)

    assert reopened.control_plane.sign_offs(PERIOD) == []


def test_nothing_is_asked_where_periods_close_without_a_sign_off(ready: Workspace) -> None:
    settings = ready.project.folder / "billing.toml"
    settings.write_text(settings.read_text().replace('sign_off = "required"', 'sign_off = "none"'))

    assert question(open_workspace(ready.project.folder), PERIOD, AT) is None
