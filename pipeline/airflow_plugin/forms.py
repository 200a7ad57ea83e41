"""What people change from the pages: each is a form that posts, and the step behind it decides whether it may be.

The control plane asks for the role and records the change in the audit log, here as for the command line; ``Access``
has checked before that the user meant it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import Response

from pipeline.airflow_plugin.access import Number, SignedIn
from pipeline.core.approval import Decision
from pipeline.core.errors import InputError
from pipeline.core.window import billing_period
from pipeline.steps.holds import hold_account, release_account
from pipeline.steps.overrides import approve_override as approve_override_step
from pipeline.steps.overrides import request_override as request_override_step
from pipeline.steps.price_books import approve_book
from pipeline.steps.sign_off import prepare_figures
from pipeline.steps.sign_off import sign_off as sign_off_step

if TYPE_CHECKING:
    from pipeline.airflow_plugin.pages import Pages

Words = Annotated[str, Form(min_length=1, max_length=2000)]


def add_forms(app: FastAPI, pages: Pages) -> None:
    """Add the route of each form."""
    from pipeline.airflow_plugin.pages import redirect

    @app.post("/holds")
    def hold(request: Request, viewer: SignedIn, account_id: Words, period_id: Words, reason: Words) -> Response:
        ws = pages.project.workspace()
        hold_account(ws, _period(period_id), account_id.strip(), reason, datetime.now(UTC), viewer.name)
        return redirect(request, "/holds", "held")

    @app.post("/holds/release")
    def release(request: Request, viewer: SignedIn, account_id: Words, period_id: Words, reason: Words) -> Response:
        ws = pages.project.workspace()
        release_account(ws, _period(period_id), account_id.strip(), reason, datetime.now(UTC), viewer.name)
        return redirect(request, "/holds", "released")

    @app.post("/breaks/{break_id}/assign")
    def assign(request: Request, viewer: SignedIn, break_id: Number, owner: Words) -> Response:
        pages.project.workspace().control_plane.assign_break(break_id, owner, datetime.now(UTC), viewer.name)
        return redirect(request, "/breaks", "assigned")

    @app.post("/breaks/{break_id}/note")
    def note(request: Request, viewer: SignedIn, break_id: Number, note: Words) -> Response:
        pages.project.workspace().control_plane.note_break(break_id, note, datetime.now(UTC), viewer.name)
        return redirect(request, "/breaks", "noted")

    @app.post("/breaks/{break_id}/resolve")
    def resolve(request: Request, viewer: SignedIn, break_id: Number, reason: Words) -> Response:
        pages.project.workspace().control_plane.resolve_break(break_id, reason, datetime.now(UTC), viewer.name)
        return redirect(request, "/breaks", "resolved")

    @app.post("/prices/{version}/approve")
    def approve(request: Request, viewer: SignedIn, version: str) -> Response:
        approve_book(pages.project.workspace(), version, viewer.name, datetime.now(UTC))
        return redirect(request, f"/prices/{version}", "approved")

    @app.post("/windows/{window_id}/override")
    def request_override(
        request: Request, viewer: SignedIn, window_id: str, revision: Annotated[Number, Form()], reason: Words
    ) -> Response:
        ws = pages.project.workspace(with_price_books=True)
        request_override_step(ws, window_id, revision, reason, datetime.now(UTC), viewer.name)
        return redirect(request, f"/windows/{window_id}?revision={revision}", "requested")

    @app.post("/windows/{window_id}/override/approve")
    def approve_override(
        request: Request, viewer: SignedIn, window_id: str, revision: Annotated[Number, Form()]
    ) -> Response:
        ws = pages.project.workspace(with_price_books=True)
        approve_override_step(ws, window_id, revision, datetime.now(UTC), viewer.name)
        return redirect(request, f"/windows/{window_id}?revision={revision}", "overridden")

    @app.post("/sign-off/{period_id}/prepare")
    def prepare(request: Request, viewer: SignedIn, period_id: str) -> Response:
        ws = pages.project.workspace(with_price_books=True)
        prepare_figures(ws, _period(period_id), datetime.now(UTC), viewer.name)
        return redirect(request, f"/sign-off/{_period(period_id)}", "prepared")

    @app.post("/sign-off/{period_id}")
    def sign_off(
        request: Request,
        viewer: SignedIn,
        period_id: str,
        decision: Annotated[Decision, Form()],
        content_hash: Words,
        reason: Words,
        accounts: Annotated[str, Form(max_length=20_000)] = "",
    ) -> Response:
        ws = pages.project.workspace(with_price_books=True)
        named = accounts.replace(",", " ").split()
        sign_off_step(
            *(ws, _period(period_id), decision, reason, datetime.now(UTC), viewer.name),
            accounts=named,
            content_hash=content_hash,
        )
        return redirect(request, "/sign-off", "signed")


def _period(text: str) -> str:
    try:
        return billing_period(text.strip(), "UTC").period_id
    except ValueError as error:
        raise InputError("browse.period", str(error), ["nothing was changed"]) from None
