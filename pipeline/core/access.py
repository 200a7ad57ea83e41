"""Who may do what: four roles of a billing project, given to names in ``[roles]`` of ``billing.toml``.

The names are those that Airflow's auth manager and the option ``--by`` give. A *role* allows *actions*, each a change
of state; reading is no action. The control plane asks here before it writes, so a page or a command cannot forget to.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from pipeline.core.contract import StrictModel
from pipeline.core.errors import AccessError
from pipeline.core.price_book_version import is_same_person


class Role(StrEnum):
    """What somebody is in a billing project; one person may be several."""

    ENGINEER = "engineer"  # runs windows; no prices, no approval
    FINANCE = "finance"  # approves, holds, releases, credits, signs off
    PRICING = "pricing"  # authors price books
    AUDITOR = "auditor"  # reads everything, computes windows again beside the lake, changes nothing


class Action(StrEnum):
    """Every change of state that a person asks for, and a re-run, which changes none."""

    RUN = "run"
    RERUN = "rerun"
    HOLD = "hold"
    RELEASE = "release"
    REQUEST_OVERRIDE = "request_override"
    APPROVE_OVERRIDE = "approve_override"
    WORK_BREAK = "work_break"
    SIGN_OFF = "sign_off"
    ISSUE = "issue"
    CREDIT = "credit"
    VOID = "void"
    AUTHOR_BOOK = "author_book"
    APPROVE_BOOK = "approve_book"
    SET_CANARY = "set_canary"


ROLE_ACTIONS: Mapping[Role, frozenset[Action]] = {
    Role.ENGINEER: frozenset({Action.RUN, Action.RERUN, Action.REQUEST_OVERRIDE, Action.WORK_BREAK}),
    Role.FINANCE: frozenset(
        {
            *(Action.HOLD, Action.RELEASE, Action.REQUEST_OVERRIDE, Action.APPROVE_OVERRIDE, Action.WORK_BREAK),
            *(Action.SIGN_OFF, Action.ISSUE, Action.CREDIT, Action.VOID, Action.APPROVE_BOOK),
        }
    ),
    Role.PRICING: frozenset({Action.AUTHOR_BOOK, Action.SET_CANARY}),
    Role.AUDITOR: frozenset({Action.RERUN}),
}

Names = tuple[Annotated[str, Field(min_length=1)], ...]


class Roles(StrictModel):
    """The table ``[roles]``: who has each role, such as ``finance = ["ben"]``."""

    engineer: Names = ()
    finance: Names = ()
    pricing: Names = ()
    auditor: Names = ()

    def names_of(self, role: Role) -> Names:
        """Return who has a role."""
        names: Names = getattr(self, role.value)
        return names

    def roles_of(self, user: str) -> tuple[Role, ...]:
        """Return the roles of a person, however the name is typed.

        >>> Roles(finance=("Ben",), auditor=("ben", "ida")).roles_of(" ben")
        (<Role.FINANCE: 'finance'>, <Role.AUDITOR: 'auditor'>)
        """
        return tuple(role for role in Role if any(is_same_person(user, name) for name in self.names_of(role)))


def can_read(roles: Roles | None, user: str) -> bool:
    """Tell whether a person who is signed in may read: anyone, until the project names who has which role."""
    return roles is None or bool(roles.roles_of(user))


def is_allowed(roles: Roles | None, user: str, action: Action) -> bool:
    """Tell whether a person may do something; without roles (a project of one person) everybody may.

    Pages that many can open allow no action without roles: ``roles is not None and is_allowed(...)``.
    """
    return roles is None or any(action in ROLE_ACTIONS[role] for role in roles.roles_of(user))


def require_allowed(roles: Roles | None, user: str, action: Action) -> None:
    """Refuse a person who may not do something, and name the roles that may."""
    if is_allowed(roles, user, action):
        return
    may = " or ".join(role.value for role in Role if action in ROLE_ACTIONS[role])
    has = " and ".join(role.value for role in roles.roles_of(user)) if roles is not None else ""
    raise AccessError(
        "access.denied",
        f"{user} may not {action.value.replace('_', ' ')}: expected the role {may}, got {has or 'no role'}",
        ["[roles] of billing.toml says who has which role; nothing was changed"],
    )
