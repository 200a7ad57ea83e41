"""The pages inside Airflow: what finance reads each morning, and what an auditor follows down to a raw event.

Each page is made on the server from ``steps/browse.py``; there is no script. What changes something is a form, in
``forms.py``. Every route depends on ``Access``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.adapters.text_formats import format_amount, format_date, format_instant, format_quantity, format_second
from pipeline.airflow_plugin.access import HEADERS, Access, Number, SignedIn, Viewer
from pipeline.airflow_plugin.opened import OpenedProject
from pipeline.core.breaks import AGE_BUCKETS, age_bucket
from pipeline.core.errors import AccessError, BillingError, InputError, NotReadyError, PublicationError
from pipeline.core.price_book_text import book_changes, book_lines
from pipeline.core.reason import EXCLUSION_SENTENCES, QUARANTINE_SENTENCES
from pipeline.core.window import billing_period
from pipeline.steps import browse
from pipeline.steps.browse import Place
from pipeline.steps.metrics import metrics_text
from pipeline.steps.price_books import ListedBook, find_book, list_books
from pipeline.steps.report import report, report_path
from pipeline.steps.sign_off import newest_preparation
from pipeline.steps.workspace import Workspace

TEMPLATES = Path(__file__).with_name("templates")

# Reports and invoices carry their style, and no script.
DOCUMENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'self'"
)

Digest = Annotated[str, Query(pattern="^[0-9a-f]{64}$")]

NAVIGATION = (
    ("windows", "Windows", "/"),
    ("reports", "Reports", "/reports"),
    ("breaks", "Breaks", "/breaks"),
    ("holds", "Holds", "/holds"),
    ("accounts", "Accounts", "/accounts"),
    ("prices", "Price books", "/prices"),
    ("estimates", "Estimates", "/estimates"),
    ("sign-off", "Sign-off", "/sign-off"),
    ("audit", "Audit log", "/audit"),
)

# What a form did, said on the page that it leads to.
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
DONE_SENTENCES = {
    "held": "The account is held. It gets no document of the period until it is released.",
    "released": "The account is released. The next close of the period issues its invoice.",
    "assigned": "The break has an owner.",
    "noted": "The note is recorded.",
    "resolved": "The break is resolved.",
    "approved": "The price book is approved, and rates from its effective date on.",
    "prepared": "The figures are prepared.",
    "signed": "The decision is recorded.",
    "requested": "The override is asked for. Somebody else has to approve it.",
    "overridden": "The override is approved, and the revision is accepted.",
}


class SecurityHeaders:
    """Adds the security headers to every response that does not have its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (n.lower().encode(), v.encode())
                        for n, v in HEADERS.items()
                        if n.lower().encode() not in present
                    ),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


@dataclass(frozen=True)
class Pages:
    """What every route works with."""

    project: OpenedProject
    access: Access
    templates: Environment

    def shown(self, request: Request, viewer: Viewer, template: str, area: str, **model: Any) -> HTMLResponse:
        """Return a template filled with a model; ``area`` is the entry of the navigation that it belongs to."""
        common = {
            "root": request.scope.get("root_path", ""),
            "viewer": viewer,
            "navigation": NAVIGATION,
            "area": area,
            "project_name": self.project.workspace().project.settings.name,
            "done": DONE_SENTENCES.get(request.query_params.get("done", ""), ""),
        }
        return HTMLResponse(self.templates.get_template(template).render({**common, **model}))


def create_pages(folder: Callable[[], Path], secret: bytes) -> FastAPI:
    """Return the application of a billing project; ``secret`` signs the tokens of its forms."""
    from pipeline.airflow_plugin.forms import add_forms

    project = OpenedProject(folder)
    access = Access(secret, project.roles)
    pages = Pages(project, access, _templates())
    app = FastAPI(title="Billing", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(access)])
    app.add_middleware(SecurityHeaders)
    _add_error_pages(app, pages)
    _add_window_pages(app, pages)
    _add_account_pages(app, pages)
    _add_trace_pages(app, pages)
    _add_other_pages(app, pages)
    add_forms(app, pages)
    return app


def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        quantity=format_quantity,
        amount=format_amount,
        instant=format_instant,
        second=format_second,
        long_date=format_date,
        query=lambda fields: urlencode({name: value for name, value in fields.items() if value is not None}),
        words=lambda code: str(code).replace("_", " "),
    )
    environment.globals.update(
        exclusion_sentences={reason.value: sentence for reason, sentence in EXCLUSION_SENTENCES.items()},
        quarantine_sentences={reason.value: sentence for reason, sentence in QUARANTINE_SENTENCES.items()},
    )
    return environment


# ---- windows and reports ----


def _add_window_pages(app: FastAPI, pages: Pages) -> None:

    @app.get("/")
    def windows(request: Request, viewer: SignedIn, before: str | None = None) -> Response:
        ws = pages.project.workspace()
        now = datetime.now(UTC)
        open_breaks = ws.control_plane.breaks()
        ages = [age_bucket(one.opened_at, now) for one in open_breaks]
        return pages.shown(
            request,
            viewer,
            "windows.html",
            "windows",
            page=browse.window_page(ws, before),
            is_first=before is None,
            break_ages={bucket: ages.count(bucket) for bucket in AGE_BUCKETS if bucket in ages},
            held_count=sum(hold.released_at is None for hold in ws.control_plane.holds()),
        )

    @app.get("/windows/{window_id}")
    def window(request: Request, viewer: SignedIn, window_id: str, revision: Number | None = None) -> Response:
        ws = pages.project.workspace()
        detail = browse.window_detail(ws, window_id, revision)
        overrides = ws.control_plane.overrides(window_id, detail.shown.revision.revision)
        return pages.shown(request, viewer, "window.html", "windows", detail=detail, overrides=overrides)

    @app.get("/windows/{window_id}/excluded")
    def excluded(
        request: Request,
        viewer: SignedIn,
        window_id: str,
        revision: Number,
        reason: str,
        after_object: str = "",
        after_line: Number = -1,
    ) -> Response:
        page = browse.excluded_page(
            pages.project.workspace(), window_id, revision, reason, Place(after_object, after_line)
        )
        model = {"window_id": window_id, "revision": revision, "reason": reason, "page": page}
        return pages.shown(request, viewer, "excluded.html", "windows", **model)

    @app.get("/windows/{window_id}/quarantine")
    def quarantine(
        request: Request,
        viewer: SignedIn,
        window_id: str,
        revision: Number,
        after_object: str = "",
        after_line: Number = -1,
    ) -> Response:
        place = Place(after_object, after_line)
        page = browse.quarantine_page(pages.project.workspace(), window_id, revision, place)
        for row in page.rows:
            row["raw"] = bytes(row["raw"] or b"").decode(errors="backslashreplace")
        model = {"window_id": window_id, "revision": revision, "page": page}
        return pages.shown(request, viewer, "quarantine.html", "windows", **model)

    @app.get("/windows/{window_id}/report")
    def window_report(viewer: SignedIn, window_id: str, revision: Number) -> Response:
        ws = pages.project.workspace()
        found = browse.window_detail(ws, window_id, revision).shown.revision
        path = report_path(ws, found.window_id, found.revision)
        if not path.is_file():  # another machine made it; the same revision makes the same bytes here
            path = report(ws, found.window_id, found.revision, datetime.now(UTC))
        return HTMLResponse(path.read_bytes(), headers={"Content-Security-Policy": DOCUMENT_POLICY})

    @app.get("/reports")
    def reports(
        request: Request, viewer: SignedIn, window_id: str | None = None, revision: Number | None = None
    ) -> Response:
        ws = pages.project.workspace()
        page = browse.window_page(ws)
        chosen = None
        if window_id is not None:
            chosen = browse.window_detail(ws, window_id, revision).shown.revision
        elif page.rows:
            chosen = page.rows[0].revision
        return pages.shown(request, viewer, "reports.html", "reports", page=page, chosen=chosen)


# ---- accounts ----


def _add_account_pages(app: FastAPI, pages: Pages) -> None:

    @app.get("/accounts")
    def accounts(request: Request, viewer: SignedIn, after: str = "", search: str = "") -> Response:
        page = browse.account_page(pages.project.workspace(), after, search.strip())
        return pages.shown(request, viewer, "accounts.html", "accounts", page=page, search=search.strip(), after=after)

    @app.get("/accounts/{account_id}")
    def account(request: Request, viewer: SignedIn, account_id: str) -> Response:
        ws = pages.project.workspace()
        detail = browse.account_detail(ws, account_id)
        breaks = [one for one in ws.control_plane.breaks() if one.account_id == account_id]
        final = ws.control_plane.final_periods()
        model = {"detail": detail, "breaks": breaks, "final_periods": final, "periods": browse.billed_periods(ws)}
        model["newest"] = browse.newest_revision(ws)
        return pages.shown(request, viewer, "account.html", "accounts", **model)

    @app.get("/accounts/{account_id}/periods/{period_id}")
    def account_lines(request: Request, viewer: SignedIn, account_id: str, period_id: str) -> Response:
        ws = pages.project.workspace()
        receipt, lines = browse.account_lines(ws, account_id, period_id)
        model = {
            "account_id": account_id,
            "period_id": period_id,
            "receipt": receipt,
            "lines": lines,
            "is_final": ws.control_plane.period_state(period_id) == "final",
        }
        return pages.shown(request, viewer, "account_lines.html", "accounts", **model)

    @app.get("/documents/{number}")
    def document(request: Request, viewer: SignedIn, number: str) -> Response:
        found, content = browse.document_detail(pages.project.workspace(), number)
        return pages.shown(request, viewer, "document.html", "accounts", document=found, content=content)

    @app.get("/documents/{number}/page")
    def document_page(viewer: SignedIn, number: str) -> Response:
        content = browse.document_html(pages.project.workspace(), number)
        return HTMLResponse(content, headers={"Content-Security-Policy": DOCUMENT_POLICY})

    @app.get("/estimates")
    def estimates(request: Request, viewer: SignedIn, after: str = "") -> Response:
        page = browse.estimate_page(pages.project.workspace(), after)
        return pages.shown(request, viewer, "estimates.html", "estimates", page=page)

    @app.get("/api/estimates/{account_id}")
    def estimates_of_account(viewer: SignedIn, account_id: str, period: str | None = None) -> Response:
        rows = browse.account_estimates(pages.project.workspace(), account_id, period)
        if not rows:
            raise InputError(
                "browse.unknown",
                f"account {account_id} has no estimate" + (f" of period {period}" if period else ""),
                ["each accepted night estimates the open periods of the accounts that have usage"],
            )
        return JSONResponse({"account_id": account_id, "estimates": [_json_row(row) for row in rows]})


# ---- from a line to its events, and back ----


def _add_trace_pages(app: FastAPI, pages: Pages) -> None:
    @app.get("/line")
    def line(
        request: Request,
        viewer: SignedIn,
        manifest: Digest,
        line_item_id: str,
        after_grain: datetime | None = None,
        after_dimensions: str = "",
    ) -> Response:
        after = (_aware(after_grain), after_dimensions) if after_grain is not None else None
        detail = browse.line_detail(pages.project.workspace(), manifest, line_item_id, after)
        return pages.shown(request, viewer, "line.html", "accounts", detail=detail)

    @app.get("/usage")
    def usage(
        request: Request,
        viewer: SignedIn,
        manifest: Digest,
        account_id: str,
        sku: str,
        dimensions: str,
        grain_start: datetime,
        after_object: str = "",
        after_line: Number = -1,
    ) -> Response:
        place = Place(after_object, after_line)
        ws = pages.project.workspace()
        detail = browse.usage_detail(ws, manifest, account_id, sku, dimensions, _aware(grain_start), place)
        return pages.shown(request, viewer, "usage.html", "accounts", detail=detail, manifest=manifest)

    @app.get("/event")
    def event(request: Request, viewer: SignedIn, object_id: str, line_number: Number) -> Response:
        detail = browse.event_detail(pages.project.workspace(), Place(object_id, line_number))
        return pages.shown(request, viewer, "event.html", "accounts", detail=detail)


# ---- breaks, holds, price books, sign-off, audit log ----


def _add_other_pages(app: FastAPI, pages: Pages) -> None:

    @app.get("/breaks")
    def breaks(request: Request, viewer: SignedIn, include_resolved: bool = False) -> Response:
        now = datetime.now(UTC)
        found = pages.project.workspace().control_plane.breaks(include_resolved=include_resolved)
        rows = [(one, age_bucket(one.opened_at, one.resolved_at or now)) for one in found]
        model = {"rows": rows, "include_resolved": include_resolved, "buckets": AGE_BUCKETS}
        return pages.shown(request, viewer, "breaks.html", "breaks", **model)

    @app.get("/holds")
    def holds(request: Request, viewer: SignedIn, include_released: bool = False) -> Response:
        ws = pages.project.workspace()
        found = [hold for hold in ws.control_plane.holds() if include_released or hold.released_at is None]
        periods = browse.billed_periods(ws)
        model = {"holds": found[::-1], "include_released": include_released, "period": periods[-1] if periods else ""}
        return pages.shown(request, viewer, "holds.html", "holds", **model)

    @app.get("/prices")
    def prices(request: Request, viewer: SignedIn) -> Response:
        ws = pages.project.workspace(with_price_books=_has_live_files(pages.project.workspace()))
        return pages.shown(request, viewer, "prices.html", "prices", books=list_books(ws))

    @app.get("/prices/{version}")
    def price_book(request: Request, viewer: SignedIn, version: str, against: str | None = None) -> Response:
        ws = pages.project.workspace(with_price_books=_has_live_files(pages.project.workspace()))
        books = list_books(ws)
        listed = next((one for one in books if one.version == version), None)
        if listed is None:
            raise InputError("browse.unknown", f"there is no price book {version}", ["choose one from the list"])
        book = find_book(ws, version).priced.book
        earlier = [
            one.version for one in books if (one.version != version and one.approved_by) or one.state == "live file"
        ]
        before = against or next((one for one in earlier[::-1] if one != version), None)
        changes = None if before is None else book_changes(find_book(ws, before).priced.book, book)
        model = {
            "listed": listed,
            "tables": book_lines(book),
            "before": before,
            "changes": changes,
            "others": [one.version for one in books if one.version != version],
        }
        return pages.shown(request, viewer, "price_book.html", "prices", **model)

    @app.get("/sign-off")
    def sign_offs(request: Request, viewer: SignedIn) -> Response:
        ws = pages.project.workspace()
        signed = ws.control_plane.sign_offs()
        final = ws.control_plane.final_periods()
        model = {
            "periods": [(period_id, period_id in final) for period_id in browse.billed_periods(ws)[::-1]],
            "signed": {one.period_id: one for one in signed},
            "is_required": ws.project.settings.close.sign_off == "required",
        }
        return pages.shown(request, viewer, "sign_offs.html", "sign-off", **model)

    @app.get("/sign-off/{period_id}")
    def sign_off(request: Request, viewer: SignedIn, period_id: str) -> Response:
        ws = pages.project.workspace()
        _require_period(period_id)
        model = {
            "period_id": period_id,
            "signed": ws.control_plane.sign_offs(period_id)[::-1],
            "prepared": newest_preparation(ws, period_id),
            "is_final": ws.control_plane.period_state(period_id) == "final",
        }
        return pages.shown(request, viewer, "sign_off.html", "sign-off", **model)

    @app.get("/audit")
    def audit(request: Request, viewer: SignedIn, before: Number | None = None) -> Response:
        entries = pages.project.workspace().control_plane.newest_audit_entries(browse.ROWS_PER_PAGE, before)
        return pages.shown(request, viewer, "audit.html", "audit", entries=entries)

    @app.get("/metrics")
    def metrics(viewer: SignedIn) -> Response:
        return Response(metrics_text(pages.project.workspace()), media_type=OPEN_METRICS)

    @app.get("/billing.css")
    def style(viewer: SignedIn) -> Response:
        content = (TEMPLATES / "billing.css").read_bytes()
        return Response(content, media_type="text/css", headers={"Cache-Control": "private, max-age=300"})


def _require_period(period_id: str) -> None:
    try:
        billing_period(period_id, "UTC")
    except ValueError as error:
        raise InputError("browse.unknown", str(error), ["choose a period from the list"]) from None


def _book_before(books: Sequence[ListedBook], version: str) -> str | None:
    """Return the version to compare one with: the last other one that rates, from a date not after its own if any."""
    chosen = next(one for one in books if one.version == version)
    rating = [one for one in books if one.version != version and (one.approved_by or one.state == "live file")]
    earlier = [one for one in rating if one.effective_from <= chosen.effective_from]
    return (earlier or rating)[-1].version if rating else None


def _has_live_files(ws: Workspace) -> bool:
    return ws.project.settings.price_books.approval == "files"


# ---- refusals ----


def _add_error_pages(app: FastAPI, pages: Pages) -> None:
    def refused(request: Request, status: int, summary: str, details: tuple[str, ...], code: str) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if path.startswith("/api/"):
            return JSONResponse({"code": code, "error": summary, "details": list(details)}, status)
        root = request.scope.get("root_path", "")
        model = {
            "root": root,
            "airflow": root.removesuffix("/billing"),
            "status": HTTPStatus(status),
            "summary": summary,
            "details": details,
            "code": code,
        }
        return HTMLResponse(pages.templates.get_template("refused.html").render(model), status)

    @app.exception_handler(BillingError)
    def billing_error(request: Request, error: BillingError) -> Response:
        return refused(request, _status_of(error), error.summary, error.details, error.code)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> Response:
        return refused(request, error.status_code, str(error.detail), (), "")

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        details = tuple(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return refused(request, 400, "the address or the form is not complete", details, "")


def _status_of(error: BillingError) -> int:
    if isinstance(error, AccessError):
        return 403
    if error.code in ("browse.unknown", "document.unknown", "account.unknown", "break.unknown"):
        return 404
    if isinstance(error, PublicationError):
        return 409
    return 503 if isinstance(error, NotReadyError) or error.code.startswith("project.") else 400


def redirect(request: Request, path: str, done: str) -> Response:
    """Lead the browser to a page that says what was done; loading it again repeats nothing."""
    join = "&" if "?" in path else "?"
    return RedirectResponse(f"{request.scope.get('root_path', '')}{path}{join}{urlencode({'done': done})}", 303)


def _aware(instant: datetime) -> datetime:
    try:
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except OverflowError:
        raise InputError("browse.unknown", f"{instant.isoformat()} is no instant of usage", ["follow a link"]) from None


def _json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row for JSON: numbers as texts of their exact digits, instants in ISO 8601."""
    return {
        name: value if value is None or isinstance(value, int | str) else getattr(value, "isoformat", value.__str__)()
        for name, value in row.items()
    }
