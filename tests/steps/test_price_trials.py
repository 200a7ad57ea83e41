"""Trials of a book: cases gate it, a quote and the canary show what it would cost, and nothing is published."""

from __future__ import annotations

import json
import shutil
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.price_book_files import PriceBookFile, read_price_book
from pipeline.adapters.project_files import load_project
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.adapters.warehouse import sql_text
from pipeline.core.errors import CheckFailed, InputError, PricingError
from pipeline.core.price_cases import parse_cases
from pipeline.core.revision import RevisionState
from pipeline.steps.aggregate import aggregate
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.price_books import check_files, publish_book
from pipeline.steps.price_trials import canary_of, case_failures, quote, require_cases, run_canary, set_canary
from pipeline.steps.rate import COMPARE_QUERIES, rate
from pipeline.steps.report import report
from pipeline.steps.sql_rater import SQL_RATER_QUERIES
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import BILLING, PRICE_BOOK, write_project
from tests.steps.night import AT, WINDOW, put_night, revision_of

FOUR_EYES = {"billing.toml": BILLING.replace('approval = "files"', 'approval = "four_eyes"')}
TWICE = PRICE_BOOK.replace("unit_price = 3\n", "unit_price = 6\n").replace("2025-01-01", "2027-01-01")
NO_TOKENS = PRICE_BOOK.replace('sku = "tokens-input"\ndescription = "Input tokens"', 'sku = "x"\ndescription = "X"')


def case(**keys: Any) -> str:
    given = {"id": "one", "usage": {"quantity": "1000000"}, "currency": "USD", "expected": {"amount": "3.00"}}
    return json.dumps({**given, **keys}) + "\n"


def of_plan(**keys: Any) -> str:
    return case(plan="standard", sku="tokens-input", **keys)


def book(text: str, name: str = "draft.toml") -> PriceBookFile:
    file = read_price_book(name, text.encode())
    assert file.problems == []
    return file


# ---- cases ----


def test_cases_that_come_to_their_amounts_pass_under_both_engines(tmp_path: Path) -> None:
    charge = {"model": "graduated", "tiers": [{"up_to": 10, "unit_price": "1"}, {"unit_price": "0.5", "flat_fee": "2"}]}
    cases = tmp_path / "cases.jsonl"
    cases.write_text(
        case(id="in", charge=charge, usage={"quantity": "10"}, expected={"amount_exact": "10"})
        + case(id="above", charge=charge, usage={"quantity": "11"}, expected={"amount": "12.50"})
    )

    assert require_cases([cases], None, tmp_path) == 2


def test_a_case_that_comes_to_another_amount_is_named_with_both(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(of_plan() + of_plan(id="two", expected={"amount": "3.01"}))

    with pytest.raises(CheckFailed) as refused:
        require_cases([cases], book(PRICE_BOOK).book, tmp_path)

    assert refused.value.code == "price.cases_failed"
    assert refused.value.details[0] == f"{cases}, line 2, case two: amount: expected 3.01 USD, actual 3 USD"


def test_cases_of_a_plan_need_a_book(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(of_plan())

    with pytest.raises(InputError, match="names a plan, and no price book is named"):
        require_cases([cases], None, tmp_path)


def test_a_number_that_no_column_holds_fails_its_own_case_and_no_other(tmp_path: Path) -> None:
    charge = {"model": "per_unit", "unit_price": "999999"}
    cases = tmp_path / "cases.jsonl"
    cases.write_text(
        case(id="huge", charge=charge, usage={"quantity": "9" * 29}, expected={"amount": "1"})
        + case(id="small", charge=charge, usage={"quantity": "1"}, expected={"amount": "999999.00"})
    )

    with pytest.raises(CheckFailed) as refused:
        require_cases([cases], None, tmp_path)

    assert [line.split(":")[0].rpartition(" ")[2] for line in refused.value.details[:-1]] == ["huge"]


def test_engines_that_disagree_fail_a_case_although_the_reference_is_right(tmp_path: Path) -> None:
    """The SQL that rates is another one: half a cent more for each unit."""
    charge = {"model": "per_unit", "unit_price": "0.5"}
    [parsed] = parse_cases(case(charge=charge, usage={"quantity": "3"}, expected={"amount": "1.50"}), "c.jsonl")
    texts = {query: sql_text(query) for query in (*SQL_RATER_QUERIES, *COMPARE_QUERIES)}
    texts["line_items"] = texts["line_items"].replace(
        "rated_lines.amount,\n", "CAST(rated_lines.amount + 0.01 AS DECIMAL(28, 4)) AS amount,\n", 1
    )
    assert texts["line_items"] != sql_text("line_items")

    [failure] = [one for one in case_failures([parsed], tmp_path, texts) if "SQL rater" in one]

    assert (
        "line case-1/case/2026-01/per_unit/1: SQL rater quantity 3, exact amount 1.5, amount 1.51; "
        "reference rater quantity 3, exact amount 1.5, amount 1.5; "
    ) in failure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_project(tmp_path / "project", files=FOUR_EYES)
    (folder / "price_books" / "cases").mkdir()
    return folder


def test_cases_beside_a_book_gate_its_publication(folder: Path) -> None:
    workspace = open_workspace(folder, with_price_books=False)
    cases = folder / "price_books" / "cases" / "customers.jsonl"
    draft = Path("price_books/2025-01-01.toml")

    cases.write_text(of_plan(expected={"amount": "2.99"}))
    with pytest.raises(CheckFailed, match=r"price\.cases_failed"):
        publish_book(workspace, draft, "ana", "prices", AT)
    assert workspace.control_plane.price_book_versions() == []

    cases.write_text(of_plan())
    assert publish_book(workspace, draft, "ana", "prices", AT).is_new


def test_cases_named_like_a_book_are_about_that_book_alone(folder: Path) -> None:
    """The next book has another price and cases of its own; those that any other file holds are about both."""
    (folder / "price_books" / "next.toml").write_text(TWICE)
    cases = folder / "price_books" / "cases"
    (cases / "2025-01-01.jsonl").write_text(of_plan())
    (cases / "next.jsonl").write_text(of_plan(expected={"amount": "6.00"}))
    (cases / "free.jsonl").write_text(of_plan(usage={"quantity": "0"}, expected={"amount": "0"}))
    project = load_project(folder)

    assert [one.case_count for one in check_files(project, [], folder)] == [2, 2]

    (cases / "free.jsonl").write_text(of_plan())
    with pytest.raises(CheckFailed, match=r"free\.jsonl, line 1, case one: amount: expected 3 USD, actual 6 USD"):
        check_files(project, [], folder)


# ---- a quote ----


@pytest.fixture(scope="module")
def counted_project(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Endpoint) -> Path:
    """The folder of a project whose night is counted, not rated; a test works on its own copy."""
    raw = ObjectStore("counted-night", s3_server.url)
    raw.create_bucket()
    folder = write_project(tmp_path_factory.mktemp("counted") / "project", raw)
    ws = open_workspace(folder)
    put_night(raw)
    collect(ws, AT, lambda _: None)
    revision = deduplicate(ws, WINDOW, AT)
    aggregate(ws, revision.window_id, revision.revision, AT)
    return folder


@pytest.fixture
def night(counted_project: Path, tmp_path: Path) -> Workspace:
    """An open copy of the project, its window accepted."""
    ws = open_workspace(Path(shutil.copytree(counted_project, tmp_path / "night")))
    revision = revision_of(ws)
    ws.control_plane.decide_revision(revision.window_id, revision.revision, RevisionState.ACCEPTED, AT, "counted")
    return ws


def test_a_quote_says_line_by_line_what_the_period_would_cost_under_a_draft(night: Workspace) -> None:
    """acct-3 has used 2,000,001 tokens at 2.8 EUR a million and one request; the draft begins only next year."""
    draft = book(PRICE_BOOK.replace("unit_price = 2.8", "unit_price = 5.6").replace("2025-01-01", "2027-01-01"))
    published = night.control_plane.publications("period=2026-01")
    pins = sorted(path.name for path in (night.project.folder / "lake" / "pins").iterdir())

    quoted = quote(night, "acct-3", draft, "2026-01", None)

    assert (str(quoted.live_total), str(quoted.new_total), quoted.currency) == ("5.60", "11.20", "EUR")
    assert quoted.usage_until == revision_of(night).window_end
    assert [(line.line_item_id, line.live_amount, line.new_amount) for line in quoted.lines] == [
        ("acct-3/requests/2026-01/graduated/1", Decimal("0.00"), Decimal("0.00")),
        ("acct-3/tokens-input/2026-01/per_unit/1", Decimal("5.60"), Decimal("11.20")),
    ]
    assert quoted.new_version == draft.priced.version
    assert quoted.live_versions == [night.project.price_books[0].version]
    assert night.control_plane.publications("period=2026-01") == published
    assert sorted(path.name for path in (night.project.folder / "lake" / "pins").iterdir()) == pins


@pytest.mark.parametrize(("as_of", "total"), [(date(2026, 1, 14), "0"), (date(2026, 1, 15), "11.20")])
def test_a_quote_counts_the_usage_up_to_the_end_of_a_day(night: Workspace, as_of: date, total: str) -> None:
    draft = book(PRICE_BOOK.replace("unit_price = 2.8", "unit_price = 5.6"))

    assert quote(night, "acct-3", draft, "2026-01", as_of).new_total == Decimal(total)


@pytest.mark.parametrize(("as_of", "line_count"), [(date(2026, 1, 14), 0), (date(2026, 1, 15), 2)])
def test_a_window_that_begins_where_the_day_ends_takes_no_part(night: Workspace, as_of: date, line_count: int) -> None:
    """The days of acct-1 are those of UTC, as the windows are."""
    assert len(quote(night, "acct-1", book(PRICE_BOOK), "2026-01", as_of).lines) == line_count


def test_a_quote_of_a_final_period_is_of_the_draft_beside_the_books_it_was_closed_with(night: Workspace) -> None:
    """The live books have changed since; the draft is tried all the same."""
    revision = revision_of(night)
    rate(night, revision.window_id, revision.revision, AT)
    night.control_plane.finalise_period("2026-01", "TEST", [], lambda _draft, _number: "", AT)
    file = night.project.folder / "price_books" / "2025-01-01.toml"
    file.write_text(PRICE_BOOK.replace("unit_price = 2.8", "unit_price = 28"))
    draft = book(PRICE_BOOK.replace("unit_price = 2.8", "unit_price = 5.6"))

    quoted = quote(open_workspace(night.project.folder), "acct-3", draft, "2026-01", None)

    assert (quoted.live_total, quoted.new_total) == (Decimal("5.60"), Decimal("11.20"))
    assert quoted.live_versions == [night.project.price_books[0].version]
    assert quoted.new_version == draft.priced.version


@pytest.mark.parametrize(("period_id", "as_of"), [("2026-03", None), ("2026-01", date(2025, 12, 31))])
def test_a_quote_without_a_counted_window_says_that_no_usage_is_known(
    night: Workspace, period_id: str, as_of: date | None
) -> None:
    quoted = quote(night, "acct-3", book(PRICE_BOOK), period_id, as_of)

    assert (quoted.usage_until, quoted.lines) == (None, [])


def test_usage_that_a_draft_has_no_price_for_is_named_and_not_quoted(night: Workspace) -> None:

    with pytest.raises(PricingError, match="tokens-input"):
        quote(night, "acct-3", book(NO_TOKENS), "2026-01", None)


def test_an_account_that_is_not_there_is_not_quoted(night: Workspace) -> None:
    with pytest.raises(InputError, match=r"account\.unknown"):
        quote(night, "acct-9", book(PRICE_BOOK), "2026-01", None)


# ---- the canary ----


def canary_night(ws: Workspace, text: str, percent: str) -> dict[str, Any]:
    """Set a canary, run it on the night, and return what it kept."""
    billing = ws.project.folder / "billing.toml"
    billing.write_text(
        billing.read_text().replace('approval = "files"', f'approval = "files"\ncanary_percent = {percent}')
    )
    ws = open_workspace(ws.project.folder)
    set_canary(ws, book(text), "ana", AT)
    revision = revision_of(ws)
    assert run_canary(ws, revision.window_id, revision.revision)
    kept = canary_of(ws, revision)
    assert kept is not None
    return kept


def test_the_canary_shows_in_the_report_what_accounts_would_pay_and_publishes_no_line(night: Workspace) -> None:
    published = night.control_plane.publications("period=2026-01")

    kept = canary_night(night, PRICE_BOOK.replace("unit_price = 2.8", "unit_price = 5.6"), "100")

    [period] = kept["periods"]
    assert (kept["account_count"], kept["all_account_count"], period["problems"]) == (3, 3, [])
    assert [(one["currency"], one["total"]) for one in period["currencies"]] == [
        ("EUR", ["", "5.6", "11.2", 1, 1]),
        ("USD", ["", "0", "0", 2, 0]),
    ]
    assert [one["pay_more"] for one in period["currencies"]] == [[["acct-3", "5.6", "11.2", 1, 1]], []]
    revision = revision_of(night)
    page = report(night, revision.window_id, revision.revision, AT).read_text()
    assert "Canary price book" in page
    assert "3 of 3 accounts" in page
    assert night.control_plane.publications("period=2026-01") == published


def test_what_the_canary_cannot_price_is_told_and_stops_nothing(night: Workspace) -> None:
    kept = canary_night(night, NO_TOKENS, "100")

    [period] = kept["periods"]
    assert any(problem.startswith("account acct-3: ") and "tokens-input" in problem for problem in period["problems"])
    assert [one["currency"] for one in period["currencies"]] == []


def test_an_account_outside_of_the_sample_is_not_rated(night: Workspace) -> None:
    kept = canary_night(night, TWICE, "0.0001")

    assert kept["account_count"] == 0
    assert kept["periods"][0]["currencies"] == []


def test_without_a_canary_the_report_says_nothing_of_one(night: Workspace) -> None:
    revision = revision_of(night)
    assert not run_canary(night, revision.window_id, revision.revision)

    assert canary_of(night, revision) is None
    assert "Canary" not in report(night, revision.window_id, revision.revision, AT).read_text()


def test_a_canary_that_was_taken_off_rates_no_more(night: Workspace) -> None:
    set_canary(night, book(TWICE), "ana", AT)
    set_canary(night, None, "ana", AT)
    revision = revision_of(night)

    assert not run_canary(night, revision.window_id, revision.revision)
