"""The pages in a real browser, in a real Airflow: signed in by its login page, found in its navigation, used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.steps.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

CHROMIUM = Path("/usr/bin/chromium")
SECONDS_TO_START = 180
USERS = {"erin": "viewer", "fred": "user", "fiona": "user", "ada": "viewer"}
_SESSIONS: dict[str, Any] = {}  # cookies of a user, as the login page has set them
SCREENS = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}


@dataclass(frozen=True)
class Airflow:
    """A running Airflow with the plugin, installed by its entry point; and the project that it shows."""

    url: str
    passwords: dict[str, str]
    project: Path

    @property
    def workspace(self) -> Workspace:
        return open_workspace(self.project)


@pytest.fixture(scope="module")
def airflow(billed_folder: Path, tmp_path_factory: pytest.TempPathFactory, s3_server: object) -> Iterator[Airflow]:
    from pipeline.airflow_plugin.standalone import configuration, free_ports, passwords, start, stop

    home = tmp_path_factory.mktemp("airflow")
    project = Path(shutil.copytree(billed_folder, home / "project"))
    port, *log_ports = free_ports(3)
    (home / "no_dags").mkdir()
    environment = {
        **os.environ,
        **configuration(home, port, (log_ports[0], log_ports[1]), USERS),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "no_dags"),
        "BILLING_PROJECT": str(project),
    }
    known = passwords(home, USERS)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    server = start("api-server", home, environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/api/v2/version", server, home / "api-server.log")
        yield Airflow(url, known, project)
    finally:
        stop({"api-server": server})


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < give_up_at and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"the api-server of Airflow did not answer: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing; install it: apt-get install --yes --no-install-recommends chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def sign_in(chromium: Browser, airflow: Airflow, user: str, **options: Any) -> Page:
    """Sign in with Airflow's own login page, once for each user, and return a page; another host is not asked."""
    if user in _SESSIONS:
        options["storage_state"] = _SESSIONS[user]
    context = chromium.new_context(viewport=SCREENS["wide"], **options)
    context.route(
        "**/*", lambda route: route.continue_() if route.request.url.startswith(airflow.url) else route.abort()
    )
    page = context.new_page()
    if user in _SESSIONS:
        return page
    page.goto(f"{airflow.url}/auth/login")
    page.locator("input[name=username]").fill(user)
    page.locator("input[name=password]").fill(airflow.passwords[user])
    page.locator("button[type=submit]").click()
    page.wait_for_url(lambda url: "/login" not in url, timeout=60_000)
    _SESSIONS[user] = context.storage_state()
    return page


def test_billing_is_in_the_navigation_of_airflow_and_shows_the_windows(chromium: Browser, airflow: Airflow) -> None:
    page = sign_in(chromium, airflow, "ada")
    page.goto(airflow.url)

    page.get_by_role("link", name="Billing").first.click()
    frame = page.frame_locator("iframe")

    frame.get_by_role("heading", name="Windows").wait_for(timeout=60_000)
    assert "ada, auditor" in frame.locator("header").inner_text()
    assert frame.get_by_role("link", name="2026-01-30", exact=True).is_visible()
    frame.get_by_role("link", name="2026-01-30", exact=True).click()
    frame.get_by_role("heading", name="Window 2026-01-30, revision 1").wait_for()


def test_who_is_not_signed_in_is_told_where_to_sign_in(chromium: Browser, airflow: Airflow) -> None:
    page = chromium.new_context().new_page()

    answer = page.goto(f"{airflow.url}/billing/")

    assert answer is not None
    assert answer.status == 401
    page.get_by_role("link", name="Sign in to Airflow").click()
    page.wait_for_url(re.compile("/auth/login"), timeout=60_000)


def test_an_auditor_follows_a_line_down_to_the_raw_event_and_reads_no_form(chromium: Browser, airflow: Airflow) -> None:
    page = sign_in(chromium, airflow, "ada")
    page.goto(f"{airflow.url}/billing/accounts")

    page.get_by_role("link", name="acct-1").click()
    page.get_by_role("link", name="2026-01", exact=True).click()
    page.get_by_role("link", name="Input tokens").click()
    page.locator("tbody a").first.click()
    assert page.get_by_text("ties", exact=True).is_visible()
    page.locator("tbody a").first.click()

    assert "usage/2026-01-30.ndjson" in page.locator("main").inner_text()
    assert "Billed to acct-1" in page.locator(".verdict").inner_text()
    page.goto(f"{airflow.url}/billing/holds")
    assert page.locator("form").count() == 0


def test_the_report_is_beside_the_pages(chromium: Browser, airflow: Airflow) -> None:
    page = sign_in(chromium, airflow, "ada")

    page.goto(f"{airflow.url}/billing/reports?window_id=2026-01-30")

    report = page.frame_locator("iframe")
    report.get_by_role("heading", name=re.compile("Nightly reconciliation")).wait_for(timeout=60_000)
    assert "2026-01-30" in report.locator("h1").inner_text()


def test_finance_holds_an_account_and_releases_it(chromium: Browser, airflow: Airflow) -> None:
    page = sign_in(chromium, airflow, "fred")
    page.goto(f"{airflow.url}/billing/holds")

    page.locator("form").first.get_by_label("Account").fill("acct-3")
    page.locator("form").first.get_by_label("Period").fill("2026-01")
    page.locator("form").first.get_by_label("Reason").fill("looks too low")
    page.get_by_role("button", name="Hold").click()
    assert page.get_by_role("status").inner_text().startswith("The account is held")
    assert airflow.workspace.control_plane.held_accounts("2026-01")["acct-3"] == "looks too low"
    row = page.get_by_role("row").filter(has_text="acct-3")
    row.get_by_label("Reason").fill("was right")
    row.get_by_role("button", name="Release").click()

    assert page.get_by_role("status").inner_text().startswith("The account is released")
    assert "acct-3" not in airflow.workspace.control_plane.held_accounts("2026-01")
    entry = airflow.workspace.control_plane.audit_log()[-1]
    assert (entry.action, json.loads(entry.details)) == ("account_released", {"by": "fred", "reason": "was right"})


def test_finance_sees_what_a_price_book_changes_and_approves_it(chromium: Browser, airflow: Airflow) -> None:
    page = sign_in(chromium, airflow, "fred")
    page.goto(f"{airflow.url}/billing/prices")

    page.get_by_role("row").filter(has_text="waits for approval").get_by_role("link").click()
    assert "4" in page.get_by_role("region", name="What changes").inner_text()
    page.get_by_role("button", name="Approve").click()

    assert page.get_by_role("status").inner_text().startswith("The price book is approved")
    assert [one.approved_by for one in airflow.workspace.control_plane.price_book_versions()] == ["fiona", "fred"]


def test_an_engineer_is_offered_no_approval_and_gets_none(chromium: Browser, airflow: Airflow) -> None:
    page = sign_in(chromium, airflow, "erin")
    page.goto(f"{airflow.url}/billing/sign-off/2026-01")

    assert page.get_by_role("heading", name="Sign-off of 2026-01").is_visible()
    assert page.get_by_role("button", name="Record the decision").count() == 0
    answer = page.request.post(
        f"{airflow.url}/billing/sign-off/2026-01", form={"decision": "approve", "content_hash": "x", "reason": "y"}
    )
    assert answer.status == 403


def test_finance_signs_the_figures_that_the_page_shows(chromium: Browser, airflow: Airflow) -> None:
    page = sign_in(chromium, airflow, "fiona")
    page.goto(f"{airflow.url}/billing/sign-off/2026-01")
    page.get_by_role("button", name="Prepare figures").click()

    page.get_by_label("Approve", exact=True).check()
    page.get_by_label("Reason").fill("as expected")
    page.get_by_role("button", name="Record the decision").click()

    assert page.get_by_role("status").inner_text() == "The decision is recorded."
    [signed] = airflow.workspace.control_plane.sign_offs("2026-01")
    assert (signed.decision.value, signed.signed_by, signed.reason) == ("approve", "fiona", "as expected")


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_screen_or_asks_another_host(
    screen: str, scheme: str, chromium: Browser, airflow: Airflow, tmp_path: Path
) -> None:
    page = sign_in(chromium, airflow, "fred", color_scheme=scheme)
    page.set_viewport_size(SCREENS[screen])  # type: ignore[arg-type]
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    folder = Path(os.environ.get("BILLING_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    for path in (
        *("", "windows/2026-02-01", "reports", "breaks", "holds", "accounts", "accounts/acct-1"),
        *("accounts/acct-1/periods/2026-01", "prices", "estimates", "sign-off", "sign-off/2026-01", "audit"),
    ):
        page.goto(f"{airflow.url}/billing/{path}")
        page.screenshot(path=folder / f"{path.replace('/', '-') or 'windows'}-{screen}-{scheme}.png", full_page=True)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= SCREENS[screen]["width"], f"{path} is {width} wide"
    assert problems == []
