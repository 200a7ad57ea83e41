"""An auditor's re-run: the same rows from the pinned inputs alone, whatever happened to the project since."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import create_engine, text

import pipeline.adapters.warehouse as warehouse_module
from pipeline.adapters.lake import S3Lake
from pipeline.adapters.object_store import ObjectStore
from pipeline.core.dataset import LINE_ITEMS, RECONCILIATION, USAGE
from pipeline.core.errors import NotReadyError, PublicationError
from pipeline.steps.collect import collect
from pipeline.steps.control_totals import pins_of_reconciliation
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.publish import dataset_files, read_manifest, store_manifest
from pipeline.steps.rate import rate_period
from pipeline.steps.rerun import require_identical, rerun
from pipeline.steps.run import run_window
from pipeline.steps.run_manifest import run_manifest
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, BILLING, METERS, PRICE_BOOK, put_events, usage_event, write_project
from tests.steps.night import AT, CUTOFF, START, WINDOW, forged_file, revision_of

COMPARED = ["excluded_events", "line_items", "reconciliation", "usage"]


@pytest.fixture(scope="module")
def accepted_project(computed_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose night is accepted; a test works on its own copy."""
    folder = Path(shutil.copytree(computed_project, tmp_path_factory.mktemp("accepted") / "project"))
    run_window(open_workspace(folder), WINDOW, AT, lambda _: None)
    return folder


@pytest.fixture
def accepted(accepted_project: Path, tmp_path: Path) -> Workspace:
    return open_workspace(Path(shutil.copytree(accepted_project, tmp_path / "project")))


def files_of(ws: Workspace) -> dict[Path, bytes]:
    """Return what is kept: every file of the lake, and the control plane."""
    kept = [*(ws.project.folder / "lake").rglob("*"), ws.project.folder / "control_plane.db"]
    return {path: path.read_bytes() for path in kept if path.is_file()}


def rewrite(ws: Workspace, **files: str) -> Workspace:
    """Write other project files, and return the project opened again."""
    names = {"meters": "meters.toml", "accounts": "accounts.csv", "book": "price_books/2025-01-01.toml"}
    for name, content in files.items():
        (ws.project.folder / names[name]).write_text(content, encoding="utf-8")
    return open_workspace(ws.project.folder)


def test_an_accepted_revision_is_identical_and_nothing_is_written(accepted: Workspace) -> None:
    before = files_of(accepted)

    result = rerun(accepted, WINDOW.window_id)

    assert result.is_identical
    assert sorted({one.dataset for one in result.datasets} & set(COMPARED)) == COMPARED
    published = accepted.control_plane.publication(USAGE.name, f"window={WINDOW.window_id}", 1)
    assert published is not None
    hashes = {one.dataset: one.content_hash_computed for one in result.datasets}
    assert hashes["usage"] == published.content_hash
    assert all(one.row_count_computed == one.row_count_published for one in result.datasets)
    assert all(one.row_count_published > 0 for one in result.datasets if one.dataset in COMPARED)
    assert require_identical(result)[f"usage window={WINDOW.window_id}"] == published.content_hash
    assert files_of(accepted) == before


def test_the_first_revision_stays_identical_when_everything_of_the_project_moved_on(
    accepted: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing_toml = (accepted.project.folder / "billing.toml").read_text()
    (accepted.project.folder / "billing.toml").write_text(
        billing_toml.replace('grain = "1h"', 'grain = "30m"\nfuture_tolerance = "1h"')
        .replace('grace_period = "6h"', 'grace_period = "5h"')
        .replace(accepted.raw.endpoint_url or "", "http://127.0.0.1:9")  # the raw bucket is gone
    )
    moved_on = rewrite(
        accepted,
        meters=METERS.replace('aggregation = "count"', 'aggregation = "sum"\nvalue = "data.input_tokens"'),
        accounts=ACCOUNTS.replace("customer-1\n", "customer-9\n").replace("Europe/Berlin", "Asia/Tokyo"),
        book=PRICE_BOOK.replace("unit_price = 3\n", "unit_price = 4\n"),
    )
    sql = Path(shutil.copytree(warehouse_module._sql_folder(), tmp_path / "sql"))
    monkeypatch.setattr(warehouse_module, "_sql_folder", lambda: sql)
    for query, old, new in (
        ("usage", "SUM(quantity) AS value_sum", "2 * SUM(quantity) AS value_sum"),
        ("excluded_events", "received_at >= $cutoff_at", "received_at > $cutoff_at"),
        ("event_quantities", "THEN CAST(1 AS", "THEN CAST(3 AS"),
        ("period_usage", "* 0.000000001", "* 0.000000003"),
        ("usage_totals", "SUM(", "5 * SUM("),
    ):
        changed = (sql / f"{query}.sql").read_text().replace(old, new)
        assert changed != (sql / f"{query}.sql").read_text(), query
        (sql / f"{query}.sql").write_text(changed)

    result = rerun(moved_on, WINDOW.window_id, 1)

    assert result.is_identical
    assert {one.dataset for one in result.datasets} >= set(COMPARED)


def test_each_revision_is_identical_after_the_next_one_took_in_late_events_and_a_corrected_meter(
    accepted: Workspace,
) -> None:
    corrected = rewrite(accepted, meters=METERS.replace('unit = "tokens"', 'unit = "token"'))
    run_window(corrected, WINDOW, AT, lambda _: None, include_late=True)

    results = [rerun(corrected, WINDOW.window_id, number) for number in (1, 2)]

    assert [result.is_identical for result in results] == [True, True]
    usage = [{one.dataset: one.content_hash_computed for one in result.datasets}["usage"] for result in results]
    assert usage[0] != usage[1]


def test_the_draft_that_invoices_rest_on_is_compared_beside_that_of_the_night(accepted: Workspace) -> None:
    repriced = rewrite(accepted, book=PRICE_BOOK.replace("unit_price = 3\n", "unit_price = 4\n"))
    scope = "period=2026-01"
    rate_period(repriced, "2026-01", AT, None)
    repriced.control_plane.finalise_period("2026-01", "TEST", [], lambda draft, number: "", AT)

    result = rerun(repriced, WINDOW.window_id, 1)

    drafts = [one for one in result.datasets if one.dataset == LINE_ITEMS.name]
    assert [(one.scope, one.revision, one.is_identical) for one in drafts] == [(scope, 1, True), (scope, 2, True)]
    assert drafts[0].content_hash_computed != drafts[1].content_hash_computed


@pytest.mark.parametrize("pinned", ["meters.toml", "accounts.csv", "usage.sql", "price book", "raw events", "usage"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_file_of_the_lake_that_is_missing_or_damaged_is_refused_by_name(
    accepted: Workspace, pinned: str, damage: str
) -> None:
    revision = revision_of(accepted)
    scope = f"window={WINDOW.window_id}"
    draft = accepted.control_plane.publication(LINE_ITEMS.name, "period=2026-01")
    assert draft is not None
    (book,) = read_manifest(accepted, draft.manifest_hash).pins["price_books"].values()
    (usage,) = dataset_files(accepted, USAGE, scope, 1)
    path = {
        "meters.toml": f"pins/{revision.pins['meters.toml']}",
        "accounts.csv": f"pins/{revision.pins['accounts.csv']}",
        "usage.sql": f"pins/{revision.pins['sql']['usage']}",
        "price book": f"pins/{book}",
        "raw events": revision.pins["raw_event_files"][0],
        "usage": f"data/usage/{usage.name}",
    }[pinned]
    file = accepted.project.folder / "lake" / path
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    with pytest.raises(PublicationError) as refused:
        rerun(accepted, WINDOW.window_id)

    assert refused.value.code == {"missing": "lake.file_missing", "damaged": "lake.content_changed"}[damage]
    assert path in refused.value.summary
    assert file.name.removesuffix(".parquet") in str(refused.value)


def forge_usage(ws: Workspace, query: str) -> None:
    """Replace the published usage, consistently: another file, another manifest, another row of the control plane."""
    scope = f"window={WINDOW.window_id}"
    published = ws.control_plane.publication(USAGE.name, scope, 1)
    assert published is not None
    pins = read_manifest(ws, published.manifest_hash).pins
    with TemporaryDirectory(dir=ws.scratch) as folder:
        file = forged_file(ws, USAGE, dataset_files(ws, published), query, Path(folder))
        forged = store_manifest(ws, USAGE, scope, 1, [(file, "")], pins)
    database = create_engine(f"sqlite:///{ws.project.folder / 'control_plane.db'}")
    with database.begin() as connection:
        of_table = "type = 'trigger' AND tbl_name = 'publications'"
        for trigger in connection.scalars(text(f"SELECT name FROM sqlite_master WHERE {of_table}")).all():
            connection.execute(text(f"DROP TRIGGER {trigger}"))  # the table is append-only, a forger stops at nothing
        connection.execute(
            text(
                "UPDATE publications SET manifest_hash = :manifest, row_count = :rows, content_hash = :content "
                "WHERE dataset = 'usage'"
            ),
            {"manifest": forged.manifest_hash, "rows": forged.row_count, "content": forged.content_hash},
        )


def test_usage_that_was_forged_with_its_manifest_differs_row_by_row(accepted: Workspace) -> None:
    forge_usage(
        accepted,
        "SELECT * REPLACE (CASE WHEN sku = 'requests' THEN quantity + 1 ELSE quantity END AS quantity) FROM usage "
        "WHERE account_id != 'acct-3'",
    )

    result = rerun(accepted, WINDOW.window_id)

    assert not result.is_identical
    (usage,) = [one for one in result.datasets if one.dataset == "usage"]
    assert not usage.is_identical
    assert usage.row_count_computed == usage.row_count_published + 2
    sides = [
        (
            None if one.published is None else (one.published["account_id"], str(one.published["quantity"])),
            None if one.computed is None else (one.computed["account_id"], str(one.computed["quantity"])),
        )
        for one in usage.differences
    ]
    assert ("acct-1", "2.000000000") in [published for published, _ in sides]
    assert [published for published, computed in sides if computed and computed[0] == "acct-3"] == [None, None]
    with pytest.raises(PublicationError) as refused:
        require_identical(result)
    assert refused.value.code == "rerun.not_identical"


def test_at_most_ten_differing_rows_are_shown_in_the_order_of_their_keys(accepted: Workspace) -> None:
    forge_usage(
        accepted,
        "SELECT * REPLACE (account_id || '-' || n AS account_id) FROM usage CROSS JOIN range(20) AS numbers(n)",
    )

    result = rerun(accepted, WINDOW.window_id)

    (usage,) = [one for one in result.datasets if one.dataset == "usage"]
    shown = [(one.published or one.computed or {})["account_id"] for one in usage.differences]
    assert len(shown) == 10
    assert shown == sorted(shown)
    assert shown[0] == "acct-1"


def test_a_revision_that_has_published_no_usage_and_one_that_was_never_opened_are_refused(workspace: Workspace) -> None:
    put_events(workspace.raw, "usage/a.ndjson", [usage_event()], START + timedelta(hours=13))
    collect(workspace, AT, lambda _: None)
    deduplicate(workspace, WINDOW, AT)

    with pytest.raises(NotReadyError) as not_computed:
        rerun(workspace, WINDOW.window_id)
    with pytest.raises(PublicationError) as unknown:
        rerun(workspace, WINDOW.window_id, 7)

    assert not_computed.value.code == "rerun.not_computed"
    assert unknown.value.code == "revision.unknown"


def test_pins_that_somebody_changed_in_the_database_are_refused(accepted: Workspace) -> None:
    database = create_engine(f"sqlite:///{accepted.project.folder / 'control_plane.db'}")
    with database.begin() as connection:
        for trigger in connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            connection.execute(text(f"DROP TRIGGER {trigger}"))
        changed = "UPDATE window_revisions SET pins = REPLACE(pins, :old, :new)"
        bound = {"old": '"grain_seconds":3600', "new": '"grain_seconds":1800'}
        assert connection.execute(text(changed), bound).rowcount
    database.dispose()

    with pytest.raises(PublicationError) as refused:
        rerun(accepted, WINDOW.window_id)

    assert refused.value.code == "rerun.pins_changed"


def test_a_lake_in_a_bucket_is_read_from_the_bucket_and_not_from_staged_copies(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    lake = ObjectStore(f"{raw_bucket.bucket}-lake", raw_bucket.endpoint_url)
    lake.create_bucket()
    files = {"billing.toml": BILLING.replace("[raw]", f'[lake]\nurl = "s3://{lake.bucket}/a"\n\n[raw]')}
    ws = open_workspace(write_project(tmp_path / "project", raw_bucket, files))
    assert isinstance(ws.lake, S3Lake)
    put_events(raw_bucket, "usage/a.ndjson", [usage_event()], CUTOFF - timedelta(hours=1))
    collect(ws, AT, lambda _: None)
    run_window(ws, WINDOW, AT, lambda _: None)
    assert rerun(ws, WINDOW.window_id).is_identical

    path = f"a/pins/{revision_of(ws).pins['meters.toml']}"
    lake.put_bytes(path, b"damaged")

    with pytest.raises(PublicationError) as refused:
        rerun(ws, WINDOW.window_id)
    assert refused.value.code == "lake.content_changed"


def test_a_reconciliation_meters_events_by_the_sql_of_the_revision(
    night: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = Path(shutil.copytree(warehouse_module._sql_folder(), tmp_path / "sql"))
    for query in ("event_quantities", "usage_totals"):
        (sql / f"{query}.sql").write_text((sql / f"{query}.sql").read_text() + "-- newer\n")
    monkeypatch.setattr(warehouse_module, "_sql_folder", lambda: sql)
    revision = revision_of(night)

    pinned = pins_of_reconciliation(night, revision)["sql"]

    assert pinned["event_quantities"] == revision.pins["sql"]["event_quantities"]
    assert pinned["usage_totals"] == warehouse_module.Warehouse.sql_hash("usage_totals")


# ---- the run manifest ----


def test_the_run_manifest_names_every_input_and_every_dataset(accepted: Workspace) -> None:
    revision = revision_of(accepted)

    manifest = run_manifest(accepted, revision)

    assert manifest is not None
    assert manifest["inputs_hash"] == revision.inputs_hash
    assert manifest["inputs"] == revision.pins
    assert set(manifest["versions"]) == {
        *("duckdb", "great-expectations", "pipeline", "pyarrow", "python", "time_zone_data")
    }
    assert set(manifest["project_files"]) == {
        *("accounts.csv", "meters.toml", "price_books/2025-01-01.toml", "sources/usage.toml")
    }
    assert {(one["dataset"], one["scope"], one["revision"]) for one in manifest["datasets"]} >= {
        ("excluded_events", "window=2026-01-15", 1),
        ("usage", "window=2026-01-15", 1),
        ("line_items", "period=2026-01", 1),
        (RECONCILIATION.name, "window=2026-01-15", 1),
        ("check_results", "window=2026-01-15/revision=1", 1),
    }
    assert all(one["content_hash"] for one in manifest["datasets"])
    pins = [manifest["objects"], *manifest["project_files"].values(), *manifest["expectations"].values()]
    pins += [*manifest["controls"].values(), *manifest["inputs"]["sql"].values()]
    for sha256 in pins:
        assert accepted.lake.get_bytes(f"pins/{sha256}")


def test_another_version_of_an_engine_makes_no_new_revision_and_is_named_by_a_rerun(
    accepted: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.adapters.versions.__version__", "9.9.9")
    before = files_of(accepted)

    current = run_window(accepted, WINDOW, AT, lambda _: None)

    assert (current.revision, current.is_new) == (1, False)
    assert rate_period(accepted, "2026-01", AT, None).revision == 1
    assert files_of(accepted) == before
    result = rerun(accepted, WINDOW.window_id)
    assert result.is_identical
    assert result.changed_versions == {"pipeline": ("0.1.0", "9.9.9")}
