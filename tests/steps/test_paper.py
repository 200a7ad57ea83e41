"""From raw events to the paper: every figure of the page and the PDF is that of the control plane."""

import re
from decimal import Decimal
from html import unescape
from pathlib import Path

from pypdf import PdfReader

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.credit import CreditKind
from pipeline.steps.close import close
from pipeline.steps.credits import grant_credit
from pipeline.steps.documents import billed_lines, verify_documents
from pipeline.steps.workspace import open_workspace
from tests.fixtures_project import ACCOUNTS, PRICE_BOOK, write_project
from tests.steps.test_close import NIGHTS, TAXES
from tests.steps.test_rate import AT, LAST_NIGHTS, bill, receive, tokens

GRADUATED = PRICE_BOOK.replace(
    """model = "per_unit"
currency = "USD"
unit_price = 3
per_units = 1_000_000
""",
    """model = "graduated"
currency = "USD"
per_units = 1_000_000
tiers = [{ up_to = 1_000_000, unit_price = 0 }, { up_to = 3_000_000, unit_price = 2.5 }, { unit_price = 2 }]
discounts = [{ description = "Launch", percent = 10 }]
""",
)
FORMATS = '\n[documents]\nformats = ["html", "pdf"]\n'


def test_amounts_of_page_and_pdf_are_those_of_the_control_plane(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    header, first, *_ = ACCOUNTS.splitlines()
    files = {
        "billing.toml": LAST_NIGHTS + FORMATS,
        "accounts.csv": f"{header},tax_region\n{first},IE\n",
        "price_books/2025-01-01.toml": GRADUATED,
        "taxes.toml": TAXES,
    }
    workspace = open_workspace(write_project(tmp_path / "project", raw_bucket, files))
    receive(workspace, tokens(1_500_000, "2026-01-30T10:00:00Z"), tokens(2_500_001, "2026-01-31T10:00:00Z"))
    for night in NIGHTS:
        bill(workspace, night)
    grant_credit(workspace, "acct-1", "USD", CreditKind.PREPAID, Decimal(5), "order 4711", AT, "ana")

    result = close(workspace, "2026-01", AT)

    # 1,000,000 free; 2,000,000 at 2.50 are 5.00; 1,000,001 at 2 are 2.00; 10 % off 7.00; 23 % of 6.30; 5 paid before
    [invoice] = result.invoices
    assert (invoice.total, invoice.amount_due) == (Decimal("7.75"), Decimal("2.75"))
    lines = billed_lines(workspace, "2026-01", "acct-1")
    assert sorted(line.amount for line in lines) == [Decimal("-0.7"), 0, 0, 2, 5]
    [balance] = workspace.control_plane.credit_balances("acct-1")
    assert balance.balance == 0
    assert verify_documents(workspace).problems == ()
    page = result.folder / "TEST-000xxx/TEST-000001_acct-1.html"
    for text in (words_of_page(page), words_of_pdf(page.with_suffix(".pdf"))):
        for words in (
            *("First 1,000,000 tokens", "1,000,000 tokens 0.00", "1,000,001 to 3,000,000 tokens", "at 2.50 USD"),
            *("2,000,000 tokens 5.00", "3,000,001 tokens and above", "1,000,001 tokens 2.00", "10 % off -0.70"),
            *("VAT 23 % on 6.30 1.45", "Total 7.75", "order 4711 (prepaid credit) -5.00", "Amount due 2.75 USD"),
            "By day, most 2,500,001 tokens on 31 January",
        ):
            assert words in text


def words_of_page(path: Path) -> str:
    body = path.read_text(encoding="utf-8").partition("<body>")[2]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def words_of_pdf(path: Path) -> str:
    return " ".join(" ".join(page.extract_text() for page in PdfReader(path).pages).split())
