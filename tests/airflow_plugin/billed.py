"""A billing project with roles: three nights billed, January ready to close, and one of everything a page shows.

Names that customers choose hold markup, so that a page which does not escape one is found.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.core.approval import Decision
from pipeline.core.breaks import BreakClass, Difference
from pipeline.core.credit import CreditKind
from pipeline.core.errors import BillingError
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.check import check
from pipeline.steps.close import close
from pipeline.steps.collect import collect
from pipeline.steps.credits import grant_credit
from pipeline.steps.holds import hold_account
from pipeline.steps.price_books import approve_book, publish_book
from pipeline.steps.reconcile import reconcile
from pipeline.steps.run import run_window
from pipeline.steps.sign_off import figures_to_sign, sign_off
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import (
    ACCOUNTS,
    BILLING,
    METERS,
    PRICE_BOOK,
    put_events,
    put_object,
    usage_event,
    write_project,
)
from tests.steps.night import forged_revision

AT = datetime(2026, 2, 3, 12, tzinfo=UTC)
NIGHTS = ("2026-01-30", "2026-01-31", "2026-02-01")
MARKUP = '<img src=x onerror="alert(1)">'
ROLES = """
[roles]
engineer = ["erin"]
finance = ["fred", "fiona"]
pricing = ["pia"]
auditor = ["ada"]
"""
SETTINGS = (
    BILLING.replace("first_window = 2026-01-01", "first_window = 2026-01-30")
    .replace('approval = "files"', 'approval = "four_eyes"')
    .replace('sign_off = "none"', 'sign_off = "required"')
    .replace("estimates = false", "estimates = true")
) + ROLES
NEXT_BOOK = PRICE_BOOK.replace("effective_from = 2025-01-01", "effective_from = 2026-03-01").replace(
    "unit_price = 3\n", "unit_price = 4\n"
)


@pytest.fixture(scope="session")
def billed_folder(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Endpoint) -> Path:
    """The folder of the project; a test that changes something works on a copy."""
    raw = ObjectStore("raw-of-pages", s3_server.url)
    raw.create_bucket()
    accounts = ACCOUNTS.replace("First Customer", MARKUP.replace('"', "'").replace(",", ""))
    files = {
        "billing.toml": SETTINGS,
        "accounts.csv": accounts,
        "meters.toml": METERS,
        "price_books/2026-03-01.toml": NEXT_BOOK,
    }
    folder = write_project(tmp_path_factory.mktemp("pages") / "project", raw, files)
    _bill(open_workspace(folder))
    return folder


@pytest.fixture(scope="session")
def closed_folder(billed_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project with its January closed and one invoice void: what the pages are read from."""
    folder = Path(shutil.copytree(billed_folder, tmp_path_factory.mktemp("closed") / "project"))
    ws = open_workspace(folder)
    figures = figures_to_sign(ws, "2026-01", AT)
    sign_off(ws, "2026-01", Decision.APPROVE, "as expected", AT, "fiona", content_hash=figures.content_hash)
    close(ws, "2026-01", AT)
    ws.control_plane.void_document("TEST-000001", f"wrong address {MARKUP}", AT, "fred")
    return folder


def _bill(ws: Workspace) -> None:
    first = publish_book(ws, Path("price_books/2025-01-01.toml"), "pia", f"prices {MARKUP}", AT).version
    approve_book(ws, first.version, "fiona", AT)
    publish_book(ws, Path("price_books/2026-03-01.toml"), "pia", f"dearer {MARKUP}", AT)
    ws = open_workspace(ws.project.folder)
    events = [
        usage_event(id="a", time="2026-01-30T10:00:00Z", data={"input_tokens": 1_500_000}),
        usage_event(id="a", time="2026-01-30T10:00:00Z", data={"input_tokens": 1_500_000}),
        usage_event(id=MARKUP, time="2026-01-30T10:05:00Z", data={"input_tokens": 250_000, "note": MARKUP}),
        usage_event(id="c", time="2026-01-31T10:00:00Z", subject="customer-2", data={"input_tokens": "0.5"}),
        usage_event(id="d", time="2026-01-31T10:00:00Z", subject="customer-3", data={"input_tokens": 700_000}),
        usage_event(id="e", time="2026-02-01T10:00:00Z", data={"input_tokens": 40}),
    ]
    received_at = datetime(2026, 2, 1, 11, tzinfo=UTC)
    for night in NIGHTS:
        of_night = [event for event in events if event["time"].startswith(night)]
        put_events(ws.raw, f"usage/{night}.ndjson", of_night, datetime.fromisoformat(f"{night}T11:00:00Z"))
    put_object(ws.raw, "usage/torn.ndjson", b'{"source": "' + MARKUP.encode(), received_at)
    collect(ws, AT, lambda _: None)
    for night in NIGHTS:
        run_window(ws, parse_window(night, ONE_DAY), AT, lambda _: None)
    refused = forged_revision(
        ws,
        ws.control_plane.window_revisions()[-1],
        {"usage": "SELECT * REPLACE (CAST(quantity + 1 AS DECIMAL(38, 9)) AS quantity) FROM usage"},
    )
    for gate in (check, reconcile):
        try:
            gate(ws, refused.window_id, refused.revision, AT)
        except BillingError:  # published before it refuses
            continue
    ws.control_plane.request_override(
        refused.window_id, refused.revision, (f"usage is one too many {MARKUP}",), f"known {MARKUP}", AT, "erin"
    )
    hold_account(ws, "2026-01", "acct-2", f"disputed {MARKUP}", AT, "fred")
    grant_credit(ws, "acct-1", "USD", CreditKind.PROMOTIONAL, Decimal(1), f"sorry {MARKUP}", AT, "fred")
    difference = Difference(
        *("external_usage", f"provider {MARKUP}", "tokens", BreakClass.AMOUNT, Decimal(10), Decimal(12)),
        window_id="2026-01-30",
        account_id="acct-1",
    )
    ws.control_plane.carry_breaks(
        "window=2026-01-30", ["external_usage"], [difference], "window 2026-01-30 revision 1", AT - timedelta(days=40)
    )
