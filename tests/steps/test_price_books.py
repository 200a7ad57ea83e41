"""The life of a price book: published, approved by somebody else, then it rates; final periods stay as billed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.project_files import load_project
from pipeline.core.errors import BillingError, InputError, NotReadyError, PublicationError
from pipeline.core.price_book_version import PriceBookVersion
from pipeline.steps.aggregate import aggregate
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.price_books import approve_book, check_files, find_book, list_books, publish_book
from pipeline.steps.rate import rate
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, BILLING, PRICE_BOOK, write_project
from tests.steps import night

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FOUR_EYES = {"billing.toml": BILLING.replace('approval = "files"', 'approval = "four_eyes"')}
DRAFT = Path("price_books/2025-01-01.toml")
OVERRIDE = """
[[overrides]]
account_id = "acct-1"
reason = "deal"
valid_from = {valid_from}

[overrides.charge]
sku = "requests"
description = "Requests"
model = "per_unit"
currency = "USD"
unit_price = 0.005
"""

Draft = Callable[..., Path]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose control plane is made; a test works on its own copy."""
    folder = write_project(tmp_path_factory.mktemp("four_eyes") / "project", files=FOUR_EYES)
    open_workspace(folder)
    return folder


@pytest.fixture
def folder(migrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(migrated, tmp_path / "project"))


@pytest.fixture
def ws(folder: Path) -> Workspace:
    """The project as the price commands open it; nothing is published yet."""
    return open_workspace(folder, with_price_books=False)


@pytest.fixture
def draft(folder: Path) -> Draft:
    """Write a draft that begins on another date, with something replaced or added, and return its path."""

    def write(effective_from: str = "2025-01-01", old: str = "", new: str = "", added: str = "") -> Path:
        assert old in PRICE_BOOK
        text = PRICE_BOOK.replace("2025-01-01", effective_from).replace(old, new) if old else PRICE_BOOK
        path = folder / "price_books" / "draft.toml"
        path.write_text(text.replace("2025-01-01", effective_from) + added, encoding="utf-8")
        return path

    return write


def live(ws: Workspace, path: Path = DRAFT, at: datetime = AT) -> PriceBookVersion:
    """Publish a file as ana and approve it as ben."""
    version = publish_book(ws, path, "ana", "prices", at).version
    return approve_book(ws, version.version, "ben", at + timedelta(minutes=1)).version


def refused(action: Callable[[], object]) -> BillingError:
    with pytest.raises(BillingError) as error:
        action()
    return error.value


def make_final(ws: Workspace, *period_ids: str) -> None:
    for period_id in period_ids:
        ws.control_plane.finalise_period(period_id, "TEST", [], lambda _draft, _number: "0" * 64, AT)


# ---- publish and approve ----


def test_a_book_rates_from_its_approval_on_and_not_before(folder: Path, ws: Workspace) -> None:
    published = publish_book(ws, DRAFT, "ana", "first prices", AT)
    assert open_workspace(folder).project.price_books == ()

    approve_book(ws, published.version.version, "ben", AT)

    project = open_workspace(folder).project
    assert [priced.version for priced in project.price_books] == [published.version.version]
    assert project.price_book_on(date(2026, 1, 1)) == project.price_books[0]
    assert PRICE_BOOK.encode() in project.files.values()


def test_a_draft_that_changes_after_it_was_published_changes_nothing(folder: Path, ws: Workspace) -> None:
    version = live(ws)
    (folder / DRAFT).write_text(PRICE_BOOK.replace("unit_price = 3\n", "unit_price = 4\n"))

    [priced] = open_workspace(folder).project.price_books

    assert priced.version == version.version
    assert find_book(ws, version.version).content == PRICE_BOOK.encode()


def test_the_same_bytes_again_are_already_published(ws: Workspace) -> None:
    first = publish_book(ws, DRAFT, "ana", "first prices", AT)
    again = publish_book(ws, DRAFT, "carla", "another reason", AT + timedelta(days=1))

    assert (first.is_new, again.is_new) == (True, False)
    assert again.version == first.version
    assert [entry.action for entry in ws.control_plane.audit_log()] == ["price_book_published"]


@pytest.mark.parametrize("by", ["ana", " ANA ", "ａｎａ", "an\u200ba", "finance@example.com", "Finance@Example.com"])
def test_who_wrote_or_published_a_book_cannot_approve_it(ws: Workspace, by: str) -> None:
    version = publish_book(ws, DRAFT, "ana", "first prices", AT).version.version

    assert refused(lambda: approve_book(ws, version, by, AT)).code == "price.same_person"
    [stored] = ws.control_plane.price_book_versions()
    assert stored.approved_by is None


def test_an_approval_again_changes_nothing(ws: Workspace) -> None:
    approved = live(ws)

    again = approve_book(ws, approved.version, "carla", AT + timedelta(days=1))

    assert not again.is_new
    assert again.version == approved


def test_every_step_is_in_the_audit_log_with_who_and_why(ws: Workspace) -> None:
    version = live(ws)

    entries = ws.control_plane.audit_log()

    assert [(entry.action, entry.subject) for entry in entries] == [
        ("price_book_published", f"price_book={version.version}"),
        ("price_book_approved", f"price_book={version.version}"),
    ]
    assert '"by":"ana"' in entries[0].details
    assert '"reason":"prices"' in entries[0].details
    assert '"by":"ben"' in entries[1].details
    ws.control_plane.verify_audit_log()


def test_a_draft_with_a_problem_is_not_published(ws: Workspace, draft: Draft) -> None:
    path = draft(old='sku = "requests"', new='sku = "request"')

    error = refused(lambda: publish_book(ws, path, "ana", "prices", AT))

    assert error.code == "price.invalid_book"
    assert len(error.details) == 2
    assert error.details[0] == (
        "price_books/draft.toml line 25: plans.standard.charges.#3.sku: found 'request', "
        "accepted requests, tokens-input (meters.toml)"
    )
    assert ws.control_plane.price_book_versions() == []


def test_a_book_is_published_with_a_reason(ws: Workspace) -> None:
    assert refused(lambda: publish_book(ws, DRAFT, "ana", " ", AT)).code == "price.no_reason"


def test_the_first_book_covers_the_first_month_that_is_billed(ws: Workspace, draft: Draft) -> None:
    error = refused(lambda: publish_book(ws, draft("2026-02-01"), "ana", "prices", AT))
    assert "accepted 2025-12-01 or before, the month in which the first window begins" in error.details[0]

    live(ws)
    assert publish_book(ws, draft("2026-02-01"), "ana", "prices", AT).is_new


def test_published_bytes_that_changed_in_the_lake_are_not_rated_with(folder: Path, ws: Workspace) -> None:
    version = live(ws)
    path = folder / "lake" / "pins" / version.sha256
    path.chmod(0o644)
    path.write_bytes(PRICE_BOOK.replace("unit_price = 3\n", "unit_price = 4\n").encode())

    assert refused(lambda: open_workspace(folder)).code == "lake.content_changed"


# ---- final periods ----


def test_a_book_that_would_change_a_final_period_is_refused_with_the_periods(ws: Workspace, draft: Draft) -> None:
    live(ws)
    make_final(ws, "2026-01")

    error = refused(lambda: publish_book(ws, draft("2026-01-31"), "ana", "prices", AT))

    assert isinstance(error, PublicationError)
    assert error.code == "price.final_period"
    assert error.details[0] == (
        "price_books/draft.toml line 4: effective_from: found 2026-01-31, accepted 2026-02-01 or later: "
        "final and never rated again: 2026-01"
    )
    assert publish_book(ws, draft("2026-02-01"), "ana", "prices", AT).is_new


def test_a_period_that_became_final_since_publication_stops_the_approval(ws: Workspace, draft: Draft) -> None:
    live(ws)
    version = publish_book(ws, draft("2026-01-15"), "ana", "prices", AT).version.version
    make_final(ws, "2026-01")

    assert refused(lambda: approve_book(ws, version, "ben", AT)).code == "price.final_period"
    assert [one.state for one in list_books(ws)] == ["approved", "published"]


def test_an_override_that_reaches_back_into_a_final_period_is_refused(ws: Workspace, draft: Draft) -> None:
    live(ws)
    make_final(ws, "2026-01")

    back = draft("2026-02-01", added=OVERRIDE.format(valid_from="2026-01-31"))
    error = refused(lambda: publish_book(ws, back, "ana", "prices", AT))
    assert "overrides.#1.valid_from: found 2026-01-31, accepted 2026-02-01 or later" in error.details[0]

    on = draft("2026-02-01", added=OVERRIDE.format(valid_from="2026-02-01"))
    assert publish_book(ws, on, "ana", "prices", AT).is_new


def test_an_override_that_was_billed_is_carried_into_the_next_book(folder: Path, ws: Workspace, draft: Draft) -> None:
    live(ws, draft("2025-01-01", added=OVERRIDE.format(valid_from="2026-01-10")))
    make_final(ws, "2026-01")

    path = draft("2026-02-01", added=OVERRIDE.format(valid_from="2026-01-10"))

    assert publish_book(ws, path, "ana", "prices", AT).is_new


# ---- which books rate ----


def test_of_two_approved_books_of_one_date_the_later_approved_rates(folder: Path, ws: Workspace, draft: Draft) -> None:
    first = live(ws)
    second = publish_book(ws, draft(old="unit_price = 3\n", new="unit_price = 4\n"), "ana", "mended", AT).version
    assert [one.version for one in open_workspace(folder).project.price_books] == [first.version]

    approved = approve_book(ws, second.version, "ben", AT)

    assert approved.replaces == first.version
    assert [one.version for one in open_workspace(folder).project.price_books] == [second.version]
    states = {one.version: one.state for one in list_books(ws)}
    assert states == {first.version: f"replaced by {second.version}", second.version: "approved"}


def test_the_order_of_approval_decides_and_not_that_of_publication(folder: Path, ws: Workspace, draft: Draft) -> None:
    first = publish_book(ws, DRAFT, "ana", "first", AT).version
    second = publish_book(ws, draft(old="unit_price = 3\n", new="unit_price = 4\n"), "ana", "second", AT).version

    approve_book(ws, second.version, "ben", AT)
    approve_book(ws, first.version, "ben", AT)

    assert [one.version for one in open_workspace(folder).project.price_books] == [first.version]


def test_books_of_other_dates_rate_side_by_side(folder: Path, ws: Workspace, draft: Draft) -> None:
    old, new = live(ws), live(ws, draft("2026-02-01"))

    project = open_workspace(folder).project

    assert [one.version for one in project.price_books] == [old.version, new.version]
    on_days = [project.price_book_on(day) for day in (date(2026, 1, 31), date(2026, 2, 1))]
    assert [one and one.version for one in on_days] == [old.version, new.version]


def test_usage_is_collected_and_counted_while_no_book_prices_an_account_and_rated_once_one_does(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    folder = write_project(tmp_path / "project", raw_bucket, FOUR_EYES)
    live(open_workspace(folder, with_price_books=False))
    accounts = folder / "accounts.csv"
    sound = accounts.read_text()
    accounts.write_text(sound.replace("UTC,standard", "UTC,gold"))
    ws = open_workspace(folder)
    night.put_night(ws.raw)
    collect(ws, night.AT, lambda _: None)
    revision = deduplicate(ws, night.WINDOW, night.AT)
    aggregate(ws, revision.window_id, revision.revision, night.AT)

    error = refused(lambda: rate(ws, revision.window_id, revision.revision, night.AT))

    assert error.code == "project.invalid"
    assert error.details == (
        "accounts.csv: plan of account acct-1: found 'gold', accepted standard (plans of the price books)",
    )
    assert ws.control_plane.publication("line_items", "period=2026-01") is None
    accounts.write_text(sound)
    [receipt] = rate(open_workspace(folder), revision.window_id, revision.revision, night.AT)
    assert receipt.row_count > 0


def test_usage_is_collected_and_counted_without_a_book_and_rated_once_one_is_approved(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    folder = write_project(tmp_path / "project", raw_bucket, FOUR_EYES)
    ws = open_workspace(folder)
    night.put_night(ws.raw)
    collect(ws, night.AT, lambda _: None)
    revision = deduplicate(ws, night.WINDOW, night.AT)
    aggregate(ws, revision.window_id, revision.revision, night.AT)

    with pytest.raises(NotReadyError, match=r"rate\.no_price_book(.|\n)*billing price approve") as error:
        rate(ws, revision.window_id, revision.revision, night.AT)
    assert error.value.exit_code == 1

    version = live(open_workspace(folder, with_price_books=False))
    [receipt] = rate(open_workspace(folder), revision.window_id, revision.revision, night.AT)
    assert receipt.row_count > 0
    assert [(one.version, one.rated_periods) for one in list_books(ws)] == [(version.version, ["2026-01"])]


# ---- where files are live ----


def test_files_that_are_live_are_not_published(tmp_path: Path) -> None:
    ws = open_workspace(write_project(tmp_path / "project"))

    assert refused(lambda: publish_book(ws, DRAFT, "ana", "prices", AT)).code == "price.files_are_live"
    assert refused(lambda: approve_book(ws, "standard", "ben", AT)).code == "price.files_are_live"
    [listed] = list_books(ws)
    assert (listed.state, listed.version) == ("live file", ws.project.price_books[0].version)
    assert find_book(ws, listed.version).content == PRICE_BOOK.encode()


# ---- check and find ----


def test_all_drafts_are_checked_when_none_is_named(folder: Path, draft: Draft) -> None:
    draft("2026-02-01")

    checked = check_files(load_project(folder), [], folder)

    assert [(one.file, one.effective_from) for one in checked] == [
        ("price_books/2025-01-01.toml", date(2025, 1, 1)),
        ("price_books/draft.toml", date(2026, 2, 1)),
    ]
    assert (checked[0].plan_count, checked[0].charge_count, checked[0].override_count) == (1, 4, 0)


def test_the_problems_of_all_files_are_shown_together_and_an_account_with_its_line(folder: Path, draft: Draft) -> None:
    draft(old="[plans.standard]", new="[plans.standard]\ndiscounts = [{ amount = 5, currency = 'GBP' }]")
    (folder / "accounts.csv").write_text(ACCOUNTS.replace("America/New_York,standard", "America/New_York,gold"))

    error = refused(lambda: check_files(load_project(folder), [], folder))

    assert isinstance(error, InputError)
    assert list(error.details) == [
        "accounts.csv line 3: plan of account acct-2: found 'gold', accepted standard "
        "(plans of price_books/2025-01-01.toml)",
        "price_books/draft.toml line 7: plans.standard.discounts.#1.currency: found GBP, "
        "accepted EUR, USD (charges of plan 'standard')",
        "accounts.csv line 3: plan of account acct-2: found 'gold', accepted standard "
        "(plans of price_books/draft.toml)",
    ]


def test_an_account_needs_a_plan_only_in_the_books_of_its_own_time(folder: Path, draft: Draft) -> None:
    """acct-1 has the new plan from the day on that the new book begins: the old book need not know it."""
    gone = "acct-1,First Customer,USD,UTC,gold,2026-02-01T00:00:00Z,,customer-1"
    rows = ACCOUNTS.replace("acct-1,First Customer,USD,UTC,standard,2026-01-01T00:00:00Z,,customer-1", gone)
    (folder / "accounts.csv").write_text(rows)
    gold = PRICE_BOOK.split("[plans.standard]")[1].replace("plans.standard", "plans.gold")

    draft("2026-02-01", added=f"\n[plans.gold]\n{gold}")
    assert len(check_files(load_project(folder), [], folder)) == 2

    draft("2026-02-02", added=f"\n[plans.gold]\n{gold}")
    error = refused(lambda: check_files(load_project(folder), [], folder))
    assert error.details[0].endswith("(plans of price_books/2025-01-01.toml)")


def test_a_version_is_found_by_its_beginning_if_no_other_begins_so(ws: Workspace, draft: Draft) -> None:
    first = publish_book(ws, DRAFT, "ana", "first", AT).version
    assert find_book(ws, "standard").priced.version == first.version
    second = publish_book(ws, draft(old="unit_price = 3\n", new="unit_price = 4\n"), "ana", "second", AT).version

    assert refused(lambda: find_book(ws, "standard")).code == "price.unknown_version"
    assert find_book(ws, second.version[:-3]).priced.version == second.version
    assert refused(lambda: find_book(ws, "price_books/nothing.toml")).code == "price.no_file"
