"""Every page and every form, by whom it may be used: one table, and a route that is not in it fails."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest

from pipeline.core.access import ROLE_ACTIONS, Action, Role
from pipeline.steps import browse
from pipeline.steps.sign_off import figures_to_sign
from pipeline.steps.workspace import Workspace, open_workspace
from tests.airflow_plugin.billed import AT, MARKUP
from tests.airflow_plugin.signed_in import ORIGIN, SECRET, SignIn, browser, submit

USERS = {"erin": Role.ENGINEER, "fred": Role.FINANCE, "pia": Role.PRICING, "ada": Role.AUDITOR}
NOBODY = "nora"


@dataclass(frozen=True)
class Form:
    """A form: where it is sent, with what, which action it is, and what the audit log says of it afterwards."""

    path: str
    action: Action
    recorded: str
    fields: dict[str, str] = field(default_factory=dict)


def pages_of(ws: Workspace) -> dict[str, str]:
    """Return an address of each page, by its route: a line, its usage and its events are real ones."""
    receipt, lines = browse.account_lines(ws, "acct-1", "2026-01")
    line = next(line for line in lines if line["sku"] == "tokens-input")
    of_line = {"manifest": receipt.manifest_hash, "line_item_id": line["line_item_id"]}
    row = browse.line_detail(ws, receipt.manifest_hash, line["line_item_id"]).page.rows[0]
    of_usage = {
        "manifest": row["usage_manifest"],
        "account_id": "acct-1",
        "sku": line["sku"],
        "dimensions": row["dimensions"],
        "grain_start": row["grain_start"].isoformat(),
    }
    place = browse.usage_detail(
        ws, row["usage_manifest"], "acct-1", line["sku"], row["dimensions"], row["grain_start"], browse.Place()
    ).page.rows[-1]
    of_event = {"object_id": place["object_id"], "line_number": place["line_number"]}
    version = ws.control_plane.price_book_versions()[-1].version
    return {
        "/": "/",
        "/windows/{window_id}": "/windows/2026-02-01",
        "/windows/{window_id}/excluded": "/windows/2026-01-30/excluded?revision=1&reason=exact_duplicate",
        "/windows/{window_id}/quarantine": "/windows/2026-02-01/quarantine?revision=1",
        "/windows/{window_id}/report": "/windows/2026-01-30/report?revision=1",
        "/reports": "/reports",
        "/breaks": "/breaks?include_resolved=true",
        "/holds": "/holds?include_released=true",
        "/accounts": "/accounts",
        "/accounts/{account_id}": "/accounts/acct-1",
        "/accounts/{account_id}/periods/{period_id}": "/accounts/acct-1/periods/2026-01",
        "/documents/{number}": "/documents/TEST-000001",
        "/documents/{number}/page": "/documents/TEST-000001/page",
        "/line": f"/line?{urlencode(of_line)}",
        "/usage": f"/usage?{urlencode(of_usage)}",
        "/event": f"/event?{urlencode(of_event)}",
        "/prices": "/prices",
        "/prices/{version}": f"/prices/{version}",
        "/estimates": "/estimates",
        "/api/estimates/{account_id}": "/api/estimates/acct-1",
        "/sign-off": "/sign-off",
        "/sign-off/{period_id}": "/sign-off/2026-01",
        "/audit": "/audit",
        "/metrics": "/metrics",
        "/billing.css": "/billing.css",
    }


@cache
def hash_to_sign(folder: Path) -> str:
    """Return the hash of the figures of January, which is that of every copy of the project."""
    return figures_to_sign(open_workspace(folder), "2026-01", AT).content_hash


def forms_of(folder: Path) -> dict[str, Form]:
    """Return each form by its route, filled in so that it is done when the right person sends it."""
    ws = open_workspace(folder)
    version = ws.control_plane.price_book_versions()[-1].version
    break_id = ws.control_plane.breaks()[0].break_id
    hold = {"account_id": "acct-3", "period_id": "2026-01", "reason": "look again"}
    release = {"account_id": "acct-2", "period_id": "2026-01", "reason": "settled"}
    signed = {
        "decision": "approve",
        "content_hash": hash_to_sign(folder),
        "reason": "as expected",
    }
    return {
        "/holds": Form("/holds", Action.HOLD, "account_held", hold),
        "/holds/release": Form("/holds/release", Action.RELEASE, "account_released", release),
        "/breaks/{break_id}/assign": Form(
            f"/breaks/{break_id}/assign", Action.WORK_BREAK, "break_assigned", {"owner": "erin"}
        ),
        "/breaks/{break_id}/note": Form(
            f"/breaks/{break_id}/note", Action.WORK_BREAK, "break_noted", {"note": "asked them"}
        ),
        "/breaks/{break_id}/resolve": Form(
            f"/breaks/{break_id}/resolve", Action.WORK_BREAK, "break_resolved", {"reason": "theirs"}
        ),
        "/prices/{version}/approve": Form(
            f"/prices/{version}/approve", Action.APPROVE_BOOK, "price_book_approved", {"version": version}
        ),
        "/windows/{window_id}/override": Form(
            "/windows/2026-02-01/override",
            Action.REQUEST_OVERRIDE,
            "override_requested",
            {"revision": "2", "reason": "known to be right"},
        ),
        "/sign-off/{period_id}": Form("/sign-off/2026-01", Action.SIGN_OFF, "period_signed_off", signed),
        "/sign-off/{period_id}/prepare": Form("/sign-off/2026-01/prepare", Action.SIGN_OFF, "published"),
    }


def routes(method: str, folder: Path) -> set[str]:
    from fastapi.routing import APIRoute

    from pipeline.airflow_plugin.pages import create_pages

    found = create_pages(lambda: folder, SECRET).routes
    assert all(isinstance(route, APIRoute) for route in found), "a mounted application is not protected by itself"
    return {route.path for route in found if method in route.methods}


def actions_in(ws: Workspace) -> list[str]:
    return [entry.action for entry in ws.control_plane.audit_log()]


def refusal(response: Any) -> str:
    found = re.search(r'class="code">([a-z_.]+)</span>', response.text)
    return found[1] if found else ""


def test_the_table_has_every_page_and_every_form(closed_folder: Path, billed_folder: Path) -> None:
    assert set(pages_of(open_workspace(closed_folder))) == routes("GET", closed_folder)
    assert {*forms_of(billed_folder), "/windows/{window_id}/override/approve"} == routes("POST", billed_folder)


def test_nobody_reads_a_page_without_signing_in(closed_folder: Path) -> None:
    client = browser(closed_folder)

    answers = {
        path: client.get(f"/billing{path}").status_code for path in pages_of(open_workspace(closed_folder)).values()
    }

    assert set(answers.values()) == {401}, answers


def test_a_forged_session_is_no_session(closed_folder: Path, airflow_users: SignIn) -> None:
    [(name, token)] = airflow_users("fred").items()
    forged = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")

    assert browser(closed_folder, {name: forged}).get("/billing/").status_code in (401, 403)


def test_who_has_no_role_reads_nothing(closed_folder: Path, airflow_users: SignIn) -> None:
    client = browser(closed_folder, airflow_users(NOBODY))

    for path in pages_of(open_workspace(closed_folder)).values():
        answer = client.get(f"/billing{path}")
        assert answer.status_code == 403, path
        assert "acct-1" not in answer.text


@pytest.mark.parametrize("user", USERS)
def test_every_role_reads_every_page(user: str, closed_folder: Path, airflow_users: SignIn) -> None:
    client = browser(closed_folder, airflow_users(user))

    answers = {path: client.get(f"/billing{path}") for path in pages_of(open_workspace(closed_folder)).values()}

    assert {path: answer.status_code for path, answer in answers.items() if answer.status_code != 200} == {}


def test_no_page_runs_a_script_or_shows_markup_of_a_customer(closed_folder: Path, airflow_users: SignIn) -> None:
    client = browser(closed_folder, airflow_users("fred"))

    answers = {path: client.get(f"/billing{path}") for path in pages_of(open_workspace(closed_folder)).values()}

    for path, answer in answers.items():
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), path
        assert "script-src" not in policy, path
        assert "frame-ancestors 'self'" in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff", path
        if answer.headers["content-type"].startswith("text/html"):
            assert "<img" not in answer.text, path
            assert not re.search(r"<script|\son[a-z]+=\"", answer.text), path
    shown = [path for path, answer in answers.items() if "&lt;img src=x" in answer.text]
    assert len(shown) >= 10, "the markup has to be on the pages, escaped"


@pytest.mark.parametrize(
    "route",
    [
        *("/holds", "/holds/release", "/breaks/{break_id}/assign", "/breaks/{break_id}/note"),
        *("/breaks/{break_id}/resolve", "/prices/{version}/approve", "/windows/{window_id}/override"),
        *("/sign-off/{period_id}", "/sign-off/{period_id}/prepare"),
    ],
)
def test_a_form_is_done_for_the_right_role_alone(
    route: str, billed_folder: Path, tmp_path: Path, airflow_users: SignIn
) -> None:
    folder = Path(shutil.copytree(billed_folder, tmp_path / "project"))
    ws = open_workspace(folder)
    form = forms_of(billed_folder)[route]
    may = {user for user, role in USERS.items() if form.action in ROLE_ACTIONS[role]}
    assert may, "somebody has to be able to"
    before = actions_in(ws)

    signed_out = submit(browser(folder), f"/billing{form.path}", form.fields)
    refused = {}
    for user in sorted({*USERS, NOBODY} - may):
        client = browser(folder, airflow_users(user))
        # A token of their own: it is the role that is missing.
        fields = {**form.fields, "token": own_token(folder, user)}
        refused[user] = submit(client, f"/billing{form.path}", fields)
    assert actions_in(ws) == before
    user = sorted(may)[-1]
    done = submit(
        browser(folder, airflow_users(user)), f"/billing{form.path}", {**form.fields, "token": own_token(folder, user)}
    )

    assert signed_out.status_code == 401
    assert {user: answer.status_code for user, answer in refused.items()} == dict.fromkeys(refused, 403)
    assert done.status_code == 303, done.text
    assert actions_in(ws)[len(before) :][-1] == form.recorded
    if form.recorded != "published":  # what the pipeline computes is published by it
        assert f'"by":"{user}"' in ws.control_plane.audit_log()[-1].details


def own_token(folder: Path, user: str) -> str:
    """Return the token that a page makes for a user."""
    import time

    from pipeline.airflow_plugin.access import Access

    return Access(SECRET, lambda: None).token(user, int(time.time()))


def test_reading_the_figures_of_a_period_changes_nothing(
    billed_folder: Path, tmp_path: Path, airflow_users: SignIn
) -> None:
    folder = Path(shutil.copytree(billed_folder, tmp_path / "project"))
    ws = open_workspace(folder)
    path = "/billing/sign-off/2026-01"
    auditor, finance = browser(folder, airflow_users("ada")), browser(folder, airflow_users("fred"))
    before = actions_in(ws)

    assert [client.get(path).status_code for client in (auditor, finance)] == [200, 200]
    assert actions_in(ws) == before
    refused = submit(auditor, f"{path}/prepare", {"token": own_token(folder, "ada")})
    assert (refused.status_code, actions_in(ws)) == (403, before)
    assert submit(finance, f"{path}/prepare", {"token": own_token(folder, "fred")}).status_code == 303
    prepared = actions_in(ws)
    shown = [client.get(path) for client in (auditor, finance)]

    assert actions_in(ws) == prepared != before
    for page in shown:
        assert "by fred" in page.text
        assert hash_to_sign(folder) in page.text


@pytest.mark.parametrize("odd", ["x", "1" + "0" * 23, "-1", "\0", "0001-01-01T00:00:00+14:00", "9999-99"])
def test_an_odd_address_is_refused_with_a_sentence(odd: str, closed_folder: Path, airflow_users: SignIn) -> None:
    client = browser(closed_folder, airflow_users("fred"))
    given = ("window_id", "revision", "before", "after_line", "after_grain", "grain_start", "line_number", "manifest")
    refused = 0

    for route, path in pages_of(open_workspace(closed_folder)).items():
        fields = dict(parse_qsl(urlsplit(path).query))
        names = [*fields, *(name for name in given if name not in fields)]
        odd_paths = [f"{urlsplit(path).path}?{urlencode({**fields, name: odd})}" for name in names]
        if "{" in route:
            odd_paths.append(re.sub(r"\{\w+\}", quote(odd), route))
        for odd_path in odd_paths:
            answer = client.get(f"/billing{odd_path}")  # an error that nobody handles is raised here
            assert answer.status_code in (200, 303, 400, 404), odd_path
            if answer.status_code >= 400 and not route.startswith("/api"):
                refused += 1
                assert "<h1>" in answer.text, odd_path
    assert refused > 10


def test_a_break_of_a_number_that_no_database_holds_is_refused(closed_folder: Path, airflow_users: SignIn) -> None:
    fields = {"owner": "erin", "token": own_token(closed_folder, "fred")}

    answer = submit(browser(closed_folder, airflow_users("fred")), f"/billing/breaks/{2**63}/assign", fields)

    assert answer.status_code == 400
    assert "at most 18 digits" in answer.text


def test_an_override_is_approved_by_another_person_than_the_one_who_asks(
    billed_folder: Path, tmp_path: Path, airflow_users: SignIn
) -> None:
    folder = Path(shutil.copytree(billed_folder, tmp_path / "project"))
    ws = open_workspace(folder)
    asked, approved = "/billing/windows/2026-02-01/override", "/billing/windows/2026-02-01/override/approve"
    ask = {"revision": "2", "reason": "known to be right"}

    def sent(user: str, path: str, fields: dict[str, str]) -> Any:
        client = browser(folder, airflow_users(user))
        return submit(client, path, {**fields, "token": own_token(folder, user)})

    assert sent("fred", asked, ask).status_code == 303
    own = sent("fred", approved, {"revision": "2"})
    by_engineer = sent("erin", approved, {"revision": "2"})
    by_another = sent("fiona", approved, {"revision": "2"})

    assert (own.status_code, by_engineer.status_code) == (409, 403)
    assert by_another.status_code == 303, by_another.text
    assert ws.control_plane.accepted_revision("2026-02-01").revision == 2


def test_pages_of_a_project_without_roles_are_read_and_change_nothing(
    billed_folder: Path, tmp_path: Path, airflow_users: SignIn
) -> None:
    folder = Path(shutil.copytree(billed_folder, tmp_path / "project"))
    settings = folder / "billing.toml"
    settings.write_text(settings.read_text().partition("[roles]")[0])
    client = browser(folder, airflow_users(NOBODY))
    form = forms_of(billed_folder)["/holds"]

    page = client.get("/billing/holds")
    answer = submit(client, "/billing/holds", {**form.fields, "token": own_token(folder, NOBODY)})

    assert page.status_code == 200
    assert '<form method="post"' not in page.text
    assert (answer.status_code, refusal(answer)) == (403, "access.no_roles")
    assert actions_in(open_workspace(folder))[-1] != "account_held"


@pytest.mark.parametrize("user", USERS)
def test_a_page_offers_only_the_forms_that_its_viewer_may_send(
    user: str, billed_folder: Path, airflow_users: SignIn
) -> None:
    client = browser(billed_folder, airflow_users(user))
    ws = open_workspace(billed_folder)
    shown_on = {
        "/holds": "/holds",
        "/holds/release": "/holds",
        "/breaks/{break_id}/assign": "/breaks",
        "/breaks/{break_id}/note": "/breaks",
        "/breaks/{break_id}/resolve": "/breaks",
        "/prices/{version}/approve": f"/prices/{ws.control_plane.price_book_versions()[-1].version}",
        "/windows/{window_id}/override": "/windows/2026-02-01",
        "/sign-off/{period_id}": "/sign-off/2026-01",
        "/sign-off/{period_id}/prepare": "/sign-off/2026-01",
    }

    for route, form in forms_of(billed_folder).items():
        page = client.get(f"/billing{shown_on[route]}").text
        offered = f'method="post" action="/billing{form.path}"' in page
        assert offered == (form.action in ROLE_ACTIONS[USERS[user]]), route


HOLD = {"account_id": "acct-3", "period_id": "2026-01", "reason": "look again"}


@pytest.mark.parametrize(
    ("token_of_user", "headers", "code"),
    [
        ("", {}, "access.no_form"),
        ("fiona", {}, "access.no_form"),
        ("fred", {"Origin": "https://evil.example"}, "access.other_origin"),
        ("fred", {"Origin": "null"}, "access.other_origin"),
        ("fred", {"Origin": ""}, "access.other_origin"),
        ("fred", {"Origin": "http://testserver.evil.example"}, "access.other_origin"),
    ],
)
def test_a_change_that_the_user_did_not_ask_for_is_refused(
    token_of_user: str, headers: dict[str, str], code: str, billed_folder: Path, airflow_users: SignIn
) -> None:
    client = browser(billed_folder, airflow_users("fred"))
    token = own_token(billed_folder, token_of_user) if token_of_user else ""
    before = actions_in(open_workspace(billed_folder))

    answer = submit(client, "/billing/holds", {**HOLD, "token": token}, **headers)

    assert (answer.status_code, refusal(answer)) == (403, code)
    assert actions_in(open_workspace(billed_folder)) == before


def test_a_token_ends_when_its_time_is_over() -> None:
    from pipeline.airflow_plugin.access import TOKEN_SECONDS, Access
    from pipeline.core.errors import AccessError

    access = Access(SECRET, lambda: None)
    token = access.token("fred", 1_000)

    access.require_token("fred", token, 1_000 + TOKEN_SECONDS - 1)
    with pytest.raises(AccessError, match=r"access\.form_expired"):
        access.require_token("fred", token, 1_000 + TOKEN_SECONDS)
    with pytest.raises(AccessError, match=r"access\.no_form"):
        access.require_token("fred", f"9{token}", 1_000)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/windows/2026-01-29", 404),
        ("/windows/yesterday", 404),
        ("/windows/2026-01-30?revision=9", 404),
        ("/accounts/acct-404", 404),
        ("/accounts/acct-1/periods/2025-01", 404),
        ("/documents/TEST-999999", 404),
        ("/event?object_id=usage%2Fnone%401&line_number=1", 404),
        ("/prices/standard%40000000000000", 404),
        ("/api/estimates/acct-404", 404),
        ("/line?manifest=..%2F..%2Fetc&line_item_id=x", 400),
        ("/nothing", 404),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(
    path: str, status: int, closed_folder: Path, airflow_users: SignIn
) -> None:
    answer = browser(closed_folder, airflow_users("ada")).get(f"/billing{path}")

    assert answer.status_code == status
    assert "Traceback" not in answer.text


def test_a_project_with_a_problem_shows_the_problem_and_comes_back_when_it_is_mended(
    billed_folder: Path, tmp_path: Path, airflow_users: SignIn
) -> None:
    folder = Path(shutil.copytree(billed_folder, tmp_path / "project"))
    client = browser(folder, airflow_users("ada"))
    meters = folder / "meters.toml"
    text = meters.read_text()
    assert client.get("/billing/").status_code == 200

    meters.write_text(text.replace('aggregation = "sum"', 'aggregation = "guess"'))
    broken = client.get("/billing/")
    meters.write_text(text)

    assert broken.status_code == 503
    assert "meters.toml" in broken.text
    assert client.get("/billing/").status_code == 200


def test_a_page_leads_from_an_invoice_to_the_line_of_the_raw_file_and_back(
    closed_folder: Path, airflow_users: SignIn
) -> None:
    client = browser(closed_folder, airflow_users("ada"))

    def follow(page: str, pattern: str) -> str:
        import html

        found = re.search(rf'href="(/billing/{pattern}[^"]*)"', client.get(page).text)
        assert found is not None, f"{page} has no link to {pattern}"
        return html.unescape(found[1])

    account = follow("/billing/accounts", "accounts/acct-1")
    assert follow(account, "windows/").endswith("#movers")
    document = follow(account, "documents/")
    line = follow(document, r"line\?")
    usage = follow(line, r"usage\?")
    event = follow(usage, r"event\?")
    page = client.get(event).text

    assert "ties" in client.get(usage).text
    assert "does not tie" not in client.get(usage).text
    assert "s3://raw-of-pages/usage/2026-01-30.ndjson" in page
    assert "Billed to acct-1" in page
    assert follow(event, r"line\?") == line
    assert MARKUP not in page


def test_the_estimate_of_an_account_is_json_with_exact_numbers(closed_folder: Path, airflow_users: SignIn) -> None:
    answer = browser(closed_folder, airflow_users("erin")).get("/billing/api/estimates/acct-1?period=2026-02")

    [estimate] = answer.json()["estimates"]
    assert (estimate["account_id"], estimate["period_id"], estimate["currency"]) == ("acct-1", "2026-02", "USD")
    assert isinstance(estimate["amount_to_date"], str)
    assert ORIGIN not in answer.text


def test_a_refusal_of_the_api_is_json(closed_folder: Path) -> None:
    answer = browser(closed_folder).get("/billing/api/estimates/acct-1")

    assert answer.status_code == 401
    assert set(answer.json()) == {"code", "error", "details"}
