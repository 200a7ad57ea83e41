"""What a window revision is computed from: its pins, the hash that names them, and how SQL sees them.

*Pins* name every input by hash: the raw event files of the window's dates, ``meters.toml``, ``accounts.csv``, the SQL
files, and the settings that change a number. The same pins make the same rows, on any machine, for ever (P1).
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.account import AccountDirectory
from pipeline.core.dataset import INSTANT, RAW_EVENTS
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.meter import Meter, MeterFile
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.publish import pin_file, read_manifest
from pipeline.steps.workspace import Workspace

Pins = Mapping[str, Any]

WINDOW_QUERIES = ("event_quantities", "excluded_events", "usage_events", "usage")

METER_COLUMNS = (
    ("sku", "VARCHAR"),
    ("event_type", "VARCHAR"),
    ("aggregation", "VARCHAR"),
    ("value_path", "VARCHAR"),
    ("unit", "VARCHAR"),
    ("filters", "STRUCT(path VARCHAR, expected VARCHAR)[]"),
    ("dimensions", "VARCHAR[]"),
)

ACCOUNT_REFERENCE_COLUMNS = (
    ("reference", "VARCHAR"),
    ("account_id", "VARCHAR"),
    ("valid_from", INSTANT),
    ("valid_to", INSTANT),
)


def current_pins(workspace: Workspace, window: BillingWindow, newest: WindowRevision | None) -> dict[str, Any]:
    """Return the pins of the window as of now; the project files among them are kept in the lake, SQL when it is used.

    A directory that maps every event of the window as that of the newest revision did, keeps the pin of
    that one: a customer who joins today makes no new revision of yesterday.
    """
    project = workspace.project
    settings = project.settings.window
    accounts = pin_file(workspace, project.files["accounts.csv"])
    if newest is not None and accounts != newest.pins["accounts.csv"]:
        pinned = workspace.lake.get_bytes(f"pins/{newest.pins['accounts.csv']}")
        if _references_in(window, pinned) == _references_in(window, project.files["accounts.csv"]):
            accounts = newest.pins["accounts.csv"]
    return {
        "raw_event_files": raw_event_files(workspace, window),
        "meters.toml": pin_file(workspace, project.files["meters.toml"]),
        "accounts.csv": accounts,
        "sql": {query: Warehouse.sql_hash(query) for query in WINDOW_QUERIES},
        "grace_period_seconds": _seconds(settings.grace_period),
        "grain_seconds": _seconds(settings.grain),
        "future_tolerance_seconds": _seconds(settings.future_tolerance),
    }


def pinned_account_rows(accounts_csv: bytes) -> list[dict[str, str]]:
    """Return the rows of an ``accounts.csv`` that was checked when it was loaded, its cells without outer spaces."""
    rows = csv.DictReader(io.StringIO(accounts_csv.decode("utf-8-sig"), newline=""))
    return [{name.strip(): (cell or "").strip() for name, cell in row.items()} for row in rows]


def _references_in(window: BillingWindow, accounts_csv: bytes) -> set[tuple[str, str, datetime, datetime]]:
    """Return which account owns which subject, and when, within the window."""
    owned = set()
    for row in pinned_account_rows(accounts_csv):
        start = max(window.start, datetime.fromisoformat(row["valid_from"]))
        end = min(window.end, datetime.fromisoformat(row["valid_to"]) if row["valid_to"] else window.end)
        if start < end:
            owned |= {(name.strip(), row["account_id"], start, end) for name in row["external_references"].split(";")}
    return owned


def raw_event_files(workspace: Workspace, window: BillingWindow) -> list[str]:
    """Return the lake paths, which end in a hash, of every raw event file of the window's dates, sorted."""
    event_dates = window.event_dates()
    partitions = {event_date.isoformat() for event_date in event_dates}
    manifests = [
        read_manifest(workspace, manifest_hash)
        for manifest_hash in workspace.control_plane.raw_event_manifests(event_dates)
    ]
    return sorted({file.path for manifest in manifests for file in manifest.files if file.partition in partitions})


def inputs_hash(pins: Pins) -> str:
    """Return the one name of a set of pins."""
    return sha256_hex(canonical_json(pins))


def changed_inputs(before: Pins, after: Pins) -> str:
    """Say in words which pins differ; the empty text when none does."""
    changes = []
    files_before, files_after = set(before["raw_event_files"]), set(after["raw_event_files"])
    if files_after - files_before:
        changes.append(f"raw event files added: {len(files_after - files_before):,}")
    if files_before - files_after:
        changes.append(f"raw event files gone: {len(files_before - files_after):,}")
    changes += [f"{name} changed" for name in ("meters.toml", "accounts.csv") if before[name] != after[name]]
    changes += [
        f"sql/{query}.sql changed" for query in sorted(after["sql"]) if before["sql"].get(query) != after["sql"][query]
    ]
    changes += [
        f"{name.removesuffix('_seconds').replace('_', ' ')} changed from {before[name]} s to {after[name]} s"
        for name in sorted(after)
        if name.endswith("_seconds") and before[name] != after[name]
    ]
    return ", ".join(changes)


def pinned_meters(workspace: Workspace, revision: WindowRevision) -> tuple[Meter, ...]:
    """Return the meters that the revision pins, also when the project has others by now."""
    content = workspace.lake.get_bytes(f"pins/{revision.pins['meters.toml']}")
    return MeterFile.model_validate(tomllib.loads(content.decode(), parse_float=Decimal)).meters


def view_raw_events(warehouse: Warehouse, workspace: Workspace, pins: Pins) -> None:
    """Name the pinned raw events ``raw_events``: whole dates, of which a query takes its window."""
    view_raw_event_files(warehouse, workspace, pins["raw_event_files"])


def view_raw_event_files(warehouse: Warehouse, workspace: Workspace, paths: Sequence[str]) -> None:
    """Name the raw events of these lake paths ``raw_events``."""
    warehouse.view_files(RAW_EVENTS.name, RAW_EVENTS, [workspace.lake.local_file(path) for path in paths])


def build_event_quantities(warehouse: Warehouse, meters: Sequence[Meter], window: BillingWindow) -> None:
    """Make ``event_quantities`` of the events in ``raw_events``."""
    rows = [
        (
            meter.sku,
            meter.event_type,
            meter.aggregation.value,
            meter.value,
            meter.unit,
            [{"path": path, "expected": expected} for path, expected in meter.filter.items()],
            list(meter.dimensions),
        )
        for meter in meters
    ]
    warehouse.table_rows("meters", METER_COLUMNS, rows)
    warehouse.build("event_quantities", {"window_start": window.start, "window_end": window.end})


def table_account_references(warehouse: Warehouse, directory: AccountDirectory) -> None:
    """Make ``account_references``: which account owns a subject, and when."""
    rows = [
        (reference, row.account_id, row.valid_from, row.valid_to)
        for row in directory.rows
        for reference in row.external_references
    ]
    warehouse.table_rows("account_references", ACCOUNT_REFERENCE_COLUMNS, rows)


def _seconds(duration: timedelta) -> int:
    return duration // timedelta(seconds=1)
