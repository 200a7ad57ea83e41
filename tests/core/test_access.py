"""Who may do what: each role its own actions, and everybody everything until roles are given."""

from __future__ import annotations

import pytest

from pipeline.core.access import ROLE_ACTIONS, Action, Role, Roles, can_read, is_allowed, require_allowed
from pipeline.core.errors import AccessError

ROLES = Roles(engineer=("ana",), finance=("ben", "eve"), pricing=("kim",), auditor=("ida",))

MAY = {
    "ana": {Action.RUN, Action.RERUN, Action.REQUEST_OVERRIDE, Action.WORK_BREAK},
    "ben": {
        *(Action.HOLD, Action.RELEASE, Action.REQUEST_OVERRIDE, Action.APPROVE_OVERRIDE, Action.WORK_BREAK),
        *(Action.SIGN_OFF, Action.ISSUE, Action.CREDIT, Action.VOID, Action.APPROVE_BOOK),
    },
    "kim": {Action.AUTHOR_BOOK, Action.SET_CANARY},
    "ida": {Action.RERUN},
    "nobody": set(),
}


@pytest.mark.parametrize("user", MAY)
def test_each_role_may_do_its_own_actions_and_no_other(user: str) -> None:
    assert {action for action in Action if is_allowed(ROLES, user, action)} == MAY[user]


def test_every_action_is_allowed_to_somebody_and_every_role_is_listed() -> None:
    assert set().union(*ROLE_ACTIONS.values()) == set(Action)
    assert set(ROLE_ACTIONS) == set(Role)


def test_whoever_writes_prices_cannot_approve_them_nor_can_an_engineer() -> None:
    assert not is_allowed(ROLES, "kim", Action.APPROVE_BOOK)
    assert not is_allowed(ROLES, "ana", Action.AUTHOR_BOOK)


def test_without_roles_everybody_may_do_everything() -> None:
    assert all(is_allowed(None, "anybody", action) for action in Action)
    assert can_read(None, "anybody")


def test_with_roles_only_those_who_have_one_may_read() -> None:
    assert [user for user in MAY if can_read(ROLES, user)] == ["ana", "ben", "kim", "ida"]


def test_the_refusal_names_the_person_the_action_and_who_may() -> None:
    with pytest.raises(AccessError) as refusal:
        require_allowed(ROLES, "ana", Action.APPROVE_OVERRIDE)

    assert refusal.value.code == "access.denied"
    assert refusal.value.summary == "ana may not approve override: expected the role finance, got engineer"
    require_allowed(ROLES, " Ben ", Action.APPROVE_OVERRIDE)
