"""Who is asking, what that person may do, and whether a change was really asked for from one of our pages.

Airflow does not protect what a plugin mounts. Every route therefore depends on ``Access``: the user is the one that
Airflow's auth manager knows, the roles are those of ``billing.toml``, and a request that changes something carries a
token that only a page made for this user has, from our own origin: a cookie that the browser adds by itself is no sign
that the user meant it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import conf
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator

from pipeline.core.access import Action, Role, Roles, can_read, is_allowed
from pipeline.core.errors import AccessError

TOKEN_SECONDS = 12 * 3600  # a page may lie open for a working day
TOKEN_FIELD = "token"  # noqa: S105 - the name of a form field
SAFE_METHODS = ("GET", "HEAD")

HEADERS = {
    # No script runs at all. Airflow shows the pages in a frame of its own origin.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; frame-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with less, browsers send no origin with a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Viewer:
    """The user of a request, with the roles of the project (None: it has none) and a token for the forms of a page."""

    name: str
    roles: Roles | None
    token: str

    @property
    def own_roles(self) -> tuple[Role, ...]:
        return () if self.roles is None else self.roles.roles_of(self.name)

    def may(self, action: str) -> bool:
        """Tell whether a page offers something; whether it is done is decided where it is done."""
        return self.roles is not None and is_allowed(self.roles, self.name, Action(action))


class Access:
    """The dependency of every route: keeps the ``Viewer`` with the request, or refuses with ``AccessError``."""

    def __init__(self, secret: bytes, read_roles: Callable[[], Roles | None]) -> None:
        self._secret = secret
        self._read_roles = read_roles

    async def __call__(self, request: Request, user: Annotated[Any, Depends(get_user)]) -> None:
        name = str(user.get_name() or user.get_id())
        if request.method not in SAFE_METHODS:
            _require_own_origin(request)
            form = await request.form()
            self.require_token(name, str(form.get(TOKEN_FIELD, "")), int(time.time()))
        roles = await run_in_threadpool(self._read_roles)
        if not can_read(roles, name):
            raise AccessError(
                "access.no_role",
                f"{name} has no role in this billing project",
                ["[roles] of billing.toml says who has which role: engineer, finance, pricing or auditor"],
            )
        if roles is None and request.method not in SAFE_METHODS:
            raise AccessError(
                "access.no_roles",
                "these pages change nothing until the project says who may do what",
                ['add [roles] to billing.toml, such as: finance = ["ana"]', "the command line works without roles"],
            )
        request.state.viewer = Viewer(name, roles, self.token(name, int(time.time())))

    def token(self, user: str, at: int) -> str:
        """Return a token for the forms of a page that is made for a user now."""
        expires_at = at + TOKEN_SECONDS
        return f"{expires_at}.{self._signature(user, expires_at)}"

    def require_token(self, user: str, token: str, at: int) -> None:
        """Refuse a token that was not made here, that is another user's, or that is too old."""
        expires_at, _, signature = token.partition(".")
        is_ours = re.fullmatch(r"[0-9]{1,12}", expires_at) is not None and hmac.compare_digest(
            signature.encode(), self._signature(user, int(expires_at)).encode()
        )
        if not is_ours:
            raise AccessError(
                "access.no_form",
                "this change was not asked for from a page of yours",
                ["open the page again and repeat it; nothing was changed"],
            )
        if at >= int(expires_at):
            raise AccessError(
                "access.form_expired", "the page was open for too long", ["open it again; nothing was changed"]
            )

    def _signature(self, user: str, expires_at: int) -> str:
        # The length of the name is in it, so that no name and number of one user read as those of another.
        message = f"billing-form\n{len(user)}\n{user}\n{expires_at}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()


def _viewer(request: Request) -> Viewer:
    viewer: Viewer = request.state.viewer  # missing where a route does not depend on Access
    return viewer


SignedIn = Annotated[Viewer, Depends(_viewer)]


def _storable(number: int) -> int:
    if abs(number) >= 2**63:
        raise ValueError("expected a number of at most 18 digits")
    return number


# A number of an address or a form: no database holds a larger one.
Number = Annotated[int, AfterValidator(_storable)]


def _require_own_origin(request: Request) -> None:
    """Refuse a change that a page of another site asks for. Browsers send the origin with every form."""
    origin = urlsplit(request.headers.get("origin", ""))
    own = {request.headers.get("host", "").lower(), urlsplit(conf.get("api", "base_url", fallback="")).netloc.lower()}
    if origin.scheme not in ("http", "https") or origin.netloc.lower() not in own - {""}:
        raise AccessError(
            "access.other_origin",
            "this change was asked for from another site",
            [
                f"expected the origin of this page, got {request.headers.get('origin', 'none')!r}",
                "nothing was changed; behind a proxy, [api] base_url of Airflow names the address that users see",
            ],
        )
