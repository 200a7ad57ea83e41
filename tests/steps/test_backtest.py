"""A backtest: whole past months under a new book, with figures that are worked out by hand."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipeline.adapters import warehouse
from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.price_book_files import PriceBookFile, read_price_book
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.cli_price import price_app
from pipeline.core.errors import NotReadyError
from pipeline.core.price_comparison import AmountChange
from pipeline.steps.backtest import Backtest, backtest, periods_between
from pipeline.steps.close import close
from pipeline.steps.documents import store_documents
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import PRICE_BOOK, write_project
from tests.steps.test_rate import AT, LAST_NIGHTS, bill, receive, tokens

NIGHTS = ("2026-01-30", "2026-01-31", "2026-02-01")
MONTHS = ("2025-12", "2026-01", "2026-02")
DEARER = (
    PRICE_BOOK.replace(
        'model = "per_unit"\ncurrency = "USD"\nunit_price = 3\nper_units = 1_000_000\n',
        'model = "graduated"\ncurrency = "USD"\nper_units = 1_000_000\n'
        "tiers = [{ up_to = 1_000_000, unit_price = 3 }, { unit_price = 5 }]\n",
    )
    .replace("unit_price = 2.8", "unit_price = 2")
    .replace("2025-01-01", "2027-01-01")
)


@pytest.fixture(scope="module")
def closed_folder(s3_server: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two closed months: January, closed with its invoices, and February, of which one night was used.

    acct-1 used 2,000,001 tokens and then 4,000,000; acct-2 700,000 in January; acct-3 (EUR) 250,000 and 1,000,000.
    """
    raw = ObjectStore("raw-of-backtest", s3_server.url)
    raw.create_bucket()
    folder = write_project(tmp_path_factory.mktemp("backtest") / "project", raw, {"billing.toml": LAST_NIGHTS})
    workspace = open_workspace(folder)
    receive(
        workspace,
        tokens(1_500_000, "2026-01-30T10:00:00Z"),
        tokens(500_001, "2026-01-31T10:00:00Z"),
        tokens(700_000, "2026-02-01T04:00:00Z", "customer-2"),  # still January in New York
        tokens(250_000, "2026-01-30T12:00:00Z", "customer-3"),
        tokens(4_000_000, "2026-02-01T10:00:00Z"),
        tokens(1_000_000, "2026-02-01T10:00:00Z", "customer-3"),
    )
    for night in NIGHTS:
        bill(workspace, night)
    close(workspace, "2026-01", AT)
    workspace.control_plane.finalise_period("2026-02", "TEST", [], store_documents(workspace), AT)
    return folder


@pytest.fixture
def closed(closed_folder: Path, tmp_path: Path) -> Workspace:
    return open_workspace(Path(shutil.copytree(closed_folder, tmp_path / "project")), with_price_books=False)


def book(text: str) -> PriceBookFile:
    file = read_price_book("draft.toml", text.encode())
    assert file.problems == []
    return file


def run(workspace: Workspace, text: str, period_ids: tuple[str, ...] = MONTHS[1:]) -> Backtest:
    return backtest(workspace, book(text), period_ids, workspace.out)


def rows_of(result: Backtest) -> list[tuple[Any, ...]]:
    table = pq.read_table(result.changes)
    return [tuple(row.values()) for row in table.to_pylist()]


def changes(rows: tuple[AmountChange, ...]) -> list[tuple[str, str, str]]:
    return [(one.name, f"{one.amount_now:.2f}", f"{one.amount_then:.2f}") for one in rows]


def test_two_closed_months_under_a_dearer_tier(closed: Workspace) -> None:
    """acct-1: 3 USD for the first million, 5 for each one above: 3 + 5 in January, 3 + 15 in February."""
    published = closed.control_plane.publications("period=2026-01")

    result = run(closed, DEARER, MONTHS)

    assert [(one.period_id, one.state) for one in result.periods] == [("2026-01", "final"), ("2026-02", "final")]
    assert (result.left_out, result.unpriced, result.disagreements) == (("2025-12",), (), ())
    used = [(*row[:3], row[4], *map(str, row[5:])) for row in rows_of(result) if row[4] == "tokens-input"]
    assert used == [
        ("2026-01", "acct-1", "USD", "tokens-input", "6.0000", "8.0000", "2.0000"),
        ("2026-01", "acct-2", "USD", "tokens-input", "2.1000", "2.1000", "0.0000"),
        ("2026-01", "acct-3", "EUR", "tokens-input", "0.7000", "0.5000", "-0.2000"),
        ("2026-02", "acct-1", "USD", "tokens-input", "12.0000", "18.0000", "6.0000"),
        ("2026-02", "acct-3", "EUR", "tokens-input", "2.8000", "2.0000", "-0.8000"),
    ]
    euro, dollar = result.currencies
    assert changes((euro.total, dollar.total)) == [("", "3.50", "2.50"), ("", "20.10", "28.10")]
    assert (dollar.total.accounts, dollar.total.changed_accounts) == (2, 1)
    assert (euro.total.percent, dollar.total.percent) == (Decimal("-28.6"), Decimal("39.8"))
    assert changes(dollar.by_plan) == [("standard", "20.10", "28.10")]
    assert changes(dollar.by_sku) == [("requests", "0.00", "0.00"), ("tokens-input", "20.10", "28.10")]
    assert (changes(dollar.pay_more), dollar.pay_less) == ([("acct-1", "18.00", "26.00")], ())
    assert (euro.pay_more, changes(euro.pay_less)) == ((), [("acct-3", "3.50", "2.50")])
    assert closed.control_plane.publications("period=2026-01") == published, "nothing is published"
    assert closed.control_plane.publications("period=2026-02") != []


def test_the_page_says_it_for_people_and_is_made_again_to_the_byte(closed: Workspace) -> None:
    first = run(closed, DEARER, MONTHS)
    files = [first.page.read_bytes(), first.changes.read_bytes()]

    again = run(closed, DEARER, MONTHS)

    assert first.page == closed.out / "backtests" / first.version / "2025-12_2026-02.html"
    assert [again.page.read_bytes(), again.changes.read_bytes()] == files
    assert again == first
    page = files[0].decode()
    for text in ("-1.00 EUR (-28.6 %), +8.00 USD (+39.8 %)", "2026-01 to 2026-02", "Left out", first.content_hash):
        assert text in page


def test_the_book_that_rated_changes_nothing(closed: Workspace) -> None:
    result = run(closed, PRICE_BOOK)

    assert result.is_sound
    assert len(rows_of(result)) == 10
    assert {row[7] for row in rows_of(result)} == {Decimal(0)}
    assert [one.total.changed_accounts for one in result.currencies] == [0, 0]


def test_an_open_month_is_one_too(closed_folder: Path, tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = open_workspace(write_project(tmp_path / "open", raw_bucket, {"billing.toml": LAST_NIGHTS}))
    receive(workspace, tokens(2_000_000, "2026-01-30T10:00:00Z"))
    bill(workspace, "2026-01-30")

    result = run(workspace, DEARER, ("2026-01",))

    assert [one.state for one in result.periods] == ["open"]
    assert result.page.name == "2026-01.html"
    assert changes((result.currencies[0].total,)) == [("", "6.00", "8.00")]


def test_usage_without_a_price_is_named_counts_as_zero_and_leaves_the_rest_as_it_is(closed: Workspace) -> None:
    """The new book has no tokens in USD, and a fee that the old one did not have."""
    text = PRICE_BOOK.replace(
        'sku = "tokens-input"\ndescription = "Input tokens"\nmodel = "per_unit"\ncurrency = "USD"\nunit_price = 3\n'
        "per_units = 1_000_000\n",
        'sku = "seat"\ndescription = "Seat"\nmodel = "flat_fee"\ncurrency = "USD"\namount = 31\nprorated = false\n',
    )

    result = run(closed, text, ("2026-01",))

    assert not result.is_sound
    assert result.disagreements == ()
    assert [sentence.split(":")[0:2] for sentence in result.unpriced] == [
        ["2026-01", " account acct-1, SKU tokens-input, 2000001 tokens"],
        ["2026-01", " account acct-2, SKU tokens-input, 700000 tokens"],
    ]
    dollar = result.currencies[1]
    assert changes(dollar.by_sku) == [
        ("requests", "0.00", "0.00"),
        ("seat", "0.00", "62.00"),
        ("tokens-input", "8.10", "0.00"),
    ]
    assert changes(result.currencies[0].by_sku)[1] == ("tokens-input", "0.70", "0.70")
    assert "Usage that the book does not price" in result.page.read_text()


def test_accounts_whose_plan_the_book_does_not_have_are_named_once_each(closed: Workspace) -> None:
    result = run(closed, PRICE_BOOK.replace("plans.standard", "plans.basic"), ("2026-01",))

    assert result.unpriced == tuple(
        f"2026-01: account acct-{number}: price book {result.version} has no plan 'standard'" for number in (1, 2, 3)
    )
    assert changes(tuple(one.total for one in result.currencies)) == [("", "0.70", "0.00"), ("", "8.10", "0.00")]


def test_raters_that_disagree_are_told(closed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SQL that rates is a copy in which each line costs a cent more."""
    folder = Path(shutil.copytree(warehouse.sql_files()[0].parent, tmp_path / "sql"))
    query = folder / "line_items.sql"
    text = query.read_text()
    query.write_text(
        text.replace("rated_lines.amount,\n", "CAST(rated_lines.amount + 0.01 AS DECIMAL(28, 4)) AS amount,\n", 1)
    )
    assert query.read_text() != text
    monkeypatch.setattr(warehouse, "_sql_folder", lambda: folder)

    result = run(closed, PRICE_BOOK, ("2026-01",))

    assert not result.is_sound
    assert any("2026-01: line acct-1/tokens-input/2026-01/per_unit/1: SQL rater" in one for one in result.disagreements)
    assert "the two raters do not agree" in result.page.read_text()


def test_what_the_project_says_by_now_plays_no_part(closed: Workspace) -> None:
    """The accounts are those that the draft pins: acct-3 paid in euros, whatever its row says today."""
    before = run(closed, DEARER)
    accounts = closed.project.folder / "accounts.csv"
    accounts.write_text(accounts.read_text().replace("acct-3,Dritte Kundin,EUR", "acct-3,Dritte Kundin,USD"))

    after = run(open_workspace(closed.project.folder, with_price_books=False), DEARER)

    assert after.content_hash == before.content_hash


def test_months_that_nobody_rated_are_refused(closed: Workspace) -> None:
    with pytest.raises(NotReadyError, match=r"backtest\.not_rated"):
        run(closed, DEARER, ("2025-11", "2025-12"))
    assert not (closed.out / "backtests").exists()


@pytest.mark.parametrize(("first", "last"), [("2026-02", "2026-01"), ("2026-1", "2026-02"), ("2026-01", "2026-13")])
def test_a_range_that_is_none_is_refused(first: str, last: str) -> None:
    with pytest.raises(ValueError, match=r"2026-"):
        periods_between(first, last)


def typed(closed: Workspace, draft: str, *options: str) -> Result:
    path = closed.project.folder / "next.toml"
    path.write_text(draft)
    return CliRunner().invoke(price_app, ["backtest", str(path), "--project", str(closed.project.folder), *options])


def test_finance_types_a_command_and_reads_what_changes(closed: Workspace, tmp_path: Path) -> None:
    done = typed(closed, DEARER, "--from", "2025-12", "--to", "2026-02", "--out", str(tmp_path / "for-finance"))

    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        f"{book(DEARER).priced.version} over 2026-01 (final), 2026-02 (final)",
        "left out, without line items: 2025-12",
        "total 2 1 20.10 28.10 +8.00 +39.8",
        "SKU tokens-input 1 1 3.50 2.50 -1.00 -28.6",
        "acct-1 18.00 26.00 +8.00 +44.4",
    ):
        assert line in lines
    assert (tmp_path / "for-finance" / "backtests" / book(DEARER).priced.version / "2025-12_2026-02.html").is_file()


def test_the_exit_code_says_that_usage_has_no_price_and_json_has_every_sentence(closed: Workspace) -> None:
    done = typed(closed, PRICE_BOOK.replace("plans.standard", "plans.basic"), "--from", "2026-01", "--json")

    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert len(document["unpriced"]) == 3
    assert [one["total"]["amount_then"] for one in document["currencies"]] == ["0.0000", "0.0000"]


@pytest.mark.parametrize("options", [("--from", "2026-02", "--to", "2026-01"), ("--from", "January")])
def test_a_wrong_range_is_named(closed: Workspace, options: tuple[str, ...]) -> None:
    assert "cli.wrong_option" in str(typed(closed, DEARER, *options).exception)
