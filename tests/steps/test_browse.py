"""Browsing leads from every row of usage to exactly its events, by pages, and from every event back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import USAGE
from pipeline.core.errors import InputError
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps import browse
from pipeline.steps.aggregate import aggregate
from pipeline.steps.browse import Place
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.publish import dataset_files
from pipeline.steps.run import run_window
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, BILLING, METERS, put_events, usage_event, write_project
from tests.steps.night import AT, START, WINDOW, revision_of

MANY_METERS = METERS + "".join(
    f"""
[[meters]]
sku = "by-{aggregation}"
event_type = "request.completed"
aggregation = "{aggregation}"
value = "data.input_tokens"
unit = "tokens"
dimensions = ["region"]
"""
    for aggregation in ("max", "average", "latest", "unique_count")
)


def all_pages(fetch: Callable[[Place], browse.RowPage]) -> list[browse.Row]:
    rows, place = [], Place()
    while True:
        page = fetch(place)
        rows += page.rows
        if page.after is None:
            return rows
        place = Place(page.after["after_object"], page.after["after_line"])


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, s3_server: object) -> Workspace:
    """A counted window: meters of many kinds, an account billed for what nobody owns, a subject that changed hands."""
    raw = ObjectStore("raw-of-browse", s3_server.url)  # type: ignore[attr-defined]
    raw.create_bucket()
    moved = (
        "acct-1,First Customer,USD,UTC,standard,2026-01-01T00:00:00Z,2026-01-15T12:30:00Z,customer-1\n"
        "acct-4,Next Customer,USD,UTC,standard,2026-01-15T12:30:00Z,,customer-1\n"
    )
    files = {
        "billing.toml": BILLING.replace("first_window = 2026-01-01", "first_window = 2026-01-15")
        + '\n[accounts]\nfallback = "acct-2"\n',
        "accounts.csv": ACCOUNTS.replace(ACCOUNTS.splitlines(keepends=True)[1], moved),
        "meters.toml": MANY_METERS,
    }
    ws = open_workspace(write_project(tmp_path_factory.mktemp("browse") / "project", raw, files))
    events = [
        usage_event(
            id=f"{subject}-{minute}",
            subject=subject,
            time=(START + timedelta(hours=12, minutes=minute)).isoformat(),
            data={"input_tokens": minute + 1, "region": ["eu", "us"][minute % 2]},
        )
        for subject in ("customer-1", "customer-2", "customer-404")
        for minute in range(0, 90, 7)
    ]
    put_events(ws.raw, "usage/a.ndjson", [*events, events[0], events[1]], START + timedelta(hours=14))
    collect(ws, AT, lambda _: None)
    revision = deduplicate(ws, WINDOW, AT)
    aggregate(ws, revision.window_id, revision.revision, AT)
    return ws


def usage_rows(ws: Workspace) -> tuple[str, list[browse.Row]]:
    receipt = ws.control_plane.publication(USAGE.name, f"window={WINDOW.window_id}")
    assert receipt is not None
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(USAGE.name, USAGE, dataset_files(ws, receipt))
        rows = [dict(zip(USAGE.column_names, row, strict=True)) for row in warehouse.rows(USAGE.name)]
    return receipt.manifest_hash, rows


def test_the_events_behind_every_row_of_usage_are_as_many_and_as_much_as_it_says(counted: Workspace) -> None:
    manifest, rows = usage_rows(counted)
    assert {row["aggregation"] for row in rows} == {"sum", "count", "max", "average", "latest", "unique_count"}
    assert {row["account_id"] for row in rows} == {"acct-1", "acct-2", "acct-4"}, "the fallback, and both owners"

    for row in rows:
        key = (row["account_id"], row["sku"], row["dimensions"], row["grain_start"])
        detail = browse.usage_detail(counted, manifest, *key, Place())
        assert (detail.page.row_count, detail.page.totals["quantity"]) == (row["event_count"], row["value_sum"]), key
        assert len(detail.page.rows) == row["event_count"]


def test_pages_of_events_have_each_event_once_in_order(counted: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, rows = usage_rows(counted)
    row = max(rows, key=lambda row: row["event_count"])
    key = (row["account_id"], row["sku"], row["dimensions"], row["grain_start"])
    whole = browse.usage_detail(counted, manifest, *key, Place()).page.rows
    monkeypatch.setattr(browse, "ROWS_PER_PAGE", 2)

    paged = all_pages(lambda place: browse.usage_detail(counted, manifest, *key, place).page)

    assert len(whole) > 4
    assert [row["id"] for row in paged] == [row["id"] for row in whole]


def test_every_billed_event_leads_back_to_the_usage_it_is_part_of(counted: Workspace) -> None:
    manifest, rows = usage_rows(counted)
    behind: dict[tuple[str, int], set[tuple[str, ...]]] = {}
    for row in rows:
        key = (row["account_id"], row["sku"], row["dimensions"], row["grain_start"])
        for event in browse.usage_detail(counted, manifest, *key, Place()).page.rows:
            behind.setdefault((event["object_id"], event["line_number"]), set()).add(key)

    for place, keys in list(behind.items())[::5]:
        detail = browse.event_detail(counted, Place(*place))
        assert detail.exclusion is None
        assert {
            (one["account_id"], one["sku"], one["dimensions"], one["grain_start"]) for one in detail.counted
        } == keys
        assert {one["usage_manifest"] for one in detail.counted} == {manifest}


def test_an_excluded_event_says_why_and_which_copy_stands(counted: Workspace) -> None:
    [copy, _] = browse.excluded_page(counted, WINDOW.window_id, 1, "exact_duplicate", Place()).rows

    detail = browse.event_detail(counted, Place(copy["object_id"], copy["line_number"]))

    assert detail.exclusion is not None
    assert detail.exclusion["reason"] == "exact_duplicate"
    assert detail.counted == []
    stands = browse.event_detail(
        counted, Place(detail.exclusion["winner_object_id"], detail.exclusion["winner_line_number"])
    )
    assert stands.exclusion is None
    assert stands.event["id"] == detail.event["id"]


def test_every_excluded_event_and_quarantined_line_of_a_night_is_on_its_pages(
    night: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "ROWS_PER_PAGE", 1)
    counts = browse.window_detail(night, WINDOW.window_id).excluded_counts

    excluded = {
        reason: len(
            all_pages(
                lambda place, reason=reason: browse.excluded_page(night, WINDOW.window_id, 1, reason, place)  # type: ignore[misc]
            )
        )
        for reason in counts
    }
    quarantined = all_pages(lambda place: browse.quarantine_page(night, WINDOW.window_id, 1, place))

    assert excluded == counts
    assert sum(counts.values()) == 5
    assert [row["line_number"] for row in quarantined] == [1, 0]  # the torn line, and an object without any


def test_an_event_of_a_window_that_was_not_computed_says_so(night: Workspace) -> None:
    ledger = {known.key: known.object_id for known in night.control_plane.ledger()}
    detail = browse.event_detail(night, Place(ledger["usage/b.ndjson"], 2))

    assert browse.event_detail(night, Place(ledger["usage/b.ndjson"], 1)).revision == revision_of(night)
    assert detail.event["id"] == "next-day"
    assert (detail.revision, detail.counted) == (None, [])


def test_accounts_come_by_pages_in_order_and_are_found_by_id_and_name(
    tmp_path: Path, raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ",2026-01-01T00:00:00Z,2027-01-01T00:00:00Z,customer-1\n"
    accounts = ACCOUNTS.replace(",2026-01-01T00:00:00Z,,customer-1\n", ended)
    accounts += "acct-1,First Customer,USD,UTC,standard,2027-01-01T00:00:00Z,,customer-1b\n"
    ws = open_workspace(write_project(tmp_path / "project", raw_bucket, {"accounts.csv": accounts}))
    monkeypatch.setattr(browse, "ROWS_PER_PAGE", 2)

    first = browse.account_page(ws)
    second = browse.account_page(ws, after=first.after["after"] if first.after else "")
    found = browse.account_page(ws, search="FIRST")

    assert [row["account_id"] for row in first.rows] == ["acct-1", "acct-2"]
    assert ([row["account_id"] for row in second.rows], second.after) == (["acct-3"], None)
    assert first.row_count == 3
    assert [row["name"] for row in found.rows] == ["First Customer"], "once, although it has two rows"
    assert browse.account_page(ws, search="acct-3").row_count == 1
    assert browse.account_page(ws, search="nobody").rows == []


def test_windows_come_newest_first_by_pages(
    tmp_path: Path, raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BILLING.replace("first_window = 2026-01-01", "first_window = 2026-01-13")
    ws = open_workspace(write_project(tmp_path / "project", raw_bucket, {"billing.toml": settings}))
    assert browse.window_page(ws).rows == []
    collect(ws, AT, lambda _: None)
    for window_id in ("2026-01-13", "2026-01-14", "2026-01-15"):
        run_window(ws, parse_window(window_id, ONE_DAY), AT, lambda _: None)
    monkeypatch.setattr(browse, "WINDOWS_PER_PAGE", 2)

    first = browse.window_page(ws)
    second = browse.window_page(ws, first.before)

    assert [one.revision.window_id for one in first.rows] == ["2026-01-15", "2026-01-14"]
    assert ([one.revision.window_id for one in second.rows], second.before) == (["2026-01-13"], None)
    assert {one.verdict for one in (*first.rows, *second.rows)} == {"reconciled"}
    assert first.watermark_at == AT


def test_a_manifest_of_another_dataset_is_not_taken_for_usage(counted: Workspace) -> None:
    excluded = counted.control_plane.publication("excluded_events", f"window={WINDOW.window_id}")
    assert excluded is not None

    with pytest.raises(InputError, match=r"browse\.unknown"):
        browse.usage_detail(counted, excluded.manifest_hash, "acct-1", "requests", "{}", START, Place())
