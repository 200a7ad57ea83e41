"""What a window revision is computed from: its pins, the hash that names them, and how SQL sees them.

*Pins* name every input by hash: the raw event files of the window, what matters of other dates (links), what counts of
``meters.toml``, ``accounts.csv``, the SQL files, and the settings that change a number. The same pins make the same
rows, on any machine, for ever (P1).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.adapters.accounts_table import accounts_table
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.account import VALID_FOR_EVER, AccountDirectory, AccountRow
from pipeline.core.dataset import EXCLUDED_EVENTS, INSTANT, RAW_EVENTS, USAGE_EVENTS
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.meter import Meter, MeterFile
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.links import CollectedEvents, table_links
from pipeline.steps.publish import dataset_files, pin_file
from pipeline.steps.workspace import Workspace

Pins = Mapping[str, Any]

VERIFYING_THREADS = 2  # hashing a file leaves the interpreter to others

ACCOUNT_FALLBACK_COLUMNS = (("source", "VARCHAR"), ("account_id", "VARCHAR"))

WINDOW_QUERIES = (
    *("window_events", "window_hashes", "event_quantities", "excluded_events", "usage_events"),
    *("metered_exclusions", "usage_values", "usage_levels", "usage"),
)

METER_COLUMNS = (
    ("sku", "VARCHAR"),
    ("event_type", "VARCHAR"),
    ("aggregation", "VARCHAR"),
    ("value_path", "VARCHAR"),
    ("unit", "VARCHAR"),
    ("filters", "STRUCT(path VARCHAR, expected VARCHAR)[]"),
    ("dimensions", "VARCHAR[]"),
    ("keeps_values", "BOOLEAN"),
)

ACCOUNT_REFERENCE_COLUMNS = (
    ("reference", "VARCHAR"),
    ("account_id", "VARCHAR"),
    ("valid_from", INSTANT),
    ("valid_to", INSTANT),
)


def current_pins(
    workspace: Workspace,
    window: BillingWindow,
    newest: WindowRevision | None,
    collected: CollectedEvents | None = None,
) -> dict[str, Any]:
    """Return the pins of the window as of now; the project files among them are kept in the lake, SQL when it is used.

    Whoever asks for many windows passes one ``collected`` for all.

    What cannot change a row is no pin: of meters what counts, of the directory what owns an event of the window. A
    directory that maps every event of the window as that of the newest revision did, keeps the pin of that one: a
    customer who joins today makes no new revision of yesterday.
    """
    project = workspace.project
    settings = project.settings.window
    collected = collected or CollectedEvents(workspace)
    accounts = pin_file(workspace, project.files["accounts.csv"])
    pinned_accounts = accounts if newest is None else newest.pins.get("accounts.csv", accounts)
    if accounts != pinned_accounts:
        pinned = workspace.lake.get_bytes(f"pins/{pinned_accounts}")
        if _references_in(window, pinned) == _references_in(window, project.files["accounts.csv"]):
            accounts = pinned_accounts
    return {
        "raw_event_files": collected.files_of_window(window),
        "neighbours": collected.neighbours(window),
        "withdrawn_events": collected.withdrawn_events(window),
        "withdrawal_types": collected.withdrawal_types(window),
        "account_fallbacks": [list(rule) for rule in project.settings.accounts.fallbacks],
        "meters.toml": pin_file(workspace, _canonical_meters(project.meters)),
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


def pinned_directory(workspace: Workspace, pin: str) -> AccountDirectory:
    """Return the account directory of a pinned ``accounts.csv``, which was checked when it was loaded."""
    accounts_csv = workspace.lake.get_bytes(f"pins/{pin}")
    if accounts_csv == workspace.project.files["accounts.csv"]:
        return workspace.project.directory
    return AccountDirectory(
        tuple(
            AccountRow.model_validate(
                {**row, "valid_to": row["valid_to"] or VALID_FOR_EVER, "external_references": _references(row)}
            )
            for row in pinned_account_rows(accounts_csv)
        )
    )


def account_references(directory: AccountDirectory) -> list[tuple[str, str, datetime, datetime]]:
    """Return the rows of ``account_references``: who owned which subject, and when."""
    instants: dict[datetime, datetime] = {}  # few, so that each is looked at once
    return [
        (
            name,
            row.account_id,
            instants.setdefault(row.valid_from, row.valid_from),
            instants.setdefault(row.valid_to, row.valid_to),
        )
        for row in directory.rows
        for name in row.external_references
    ]


def _references_in(window: BillingWindow, accounts_csv: bytes) -> set[tuple[str, str, datetime, datetime]]:
    """Return which account owns which subject, and when, within the window; spans that touch are one."""
    spans: dict[tuple[str, str], list[tuple[datetime, datetime]]] = {}
    for row in pinned_account_rows(accounts_csv):
        start = max(window.start, datetime.fromisoformat(row["valid_from"]))
        end = min(window.end, datetime.fromisoformat(row["valid_to"]) if row["valid_to"] else window.end)
        if start < end:
            for name in _references(row):
                spans.setdefault((name, row["account_id"]), []).append((start, end))
    owned = set()
    for (name, account_id), found in spans.items():
        merged: list[tuple[datetime, datetime]] = []
        for start, end in sorted(found):
            touches = merged and merged[-1][1] == start
            merged.append((merged.pop()[0] if touches else start, end))
        owned |= {(name, account_id, start, end) for start, end in merged}
    return owned


def _references(row: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in row["external_references"].split(";") if name.strip()]


def inputs_hash(pins: Pins) -> str:
    """Return the one name of a set of pins."""
    return sha256_hex(canonical_json(pins))


def changed_inputs(before: Pins, after: Pins) -> str:
    """Say in words which pins differ; the empty text when none does. A version that pinned less has fewer of them."""
    changes = []
    files_before, files_after = (set(pins.get("raw_event_files", [])) for pins in (before, after))
    if files_after - files_before:
        changes.append(f"raw event files added: {len(files_after - files_before):,}")
    if files_before - files_after:
        changes.append(f"raw event files gone: {len(files_before - files_after):,}")
    shared = before.keys() & after.keys()
    changes += [words for name, words in _CHANGED_PINS.items() if name in shared and before[name] != after[name]]
    sql_before, sql_after = before.get("sql", {}), after.get("sql", {})
    changes += [
        f"sql/{query}.sql changed"
        for query in sorted({*sql_before, *sql_after})
        if sql_before.get(query) != sql_after.get(query)
    ]
    changes += [
        f"{_in_words(name)} changed from {before[name]} s to {after[name]} s"
        for name in sorted(shared)
        if name.endswith("_seconds") and before[name] != after[name]
    ]
    changes += [f"{_in_words(name)} is pinned now" for name in sorted(after.keys() - before.keys())]
    changes += [f"{_in_words(name)} is not pinned any more" for name in sorted(before.keys() - after.keys())]
    return ", ".join(changes)


def _in_words(pin: str) -> str:
    return pin.removesuffix("_seconds").replace("_", " ")


_CHANGED_PINS = {
    "neighbours": "copies of its keys in other windows changed",
    "withdrawn_events": "withdrawals of its events changed",
    "withdrawal_types": "withdrawals in sources/ changed",
    "account_fallbacks": "accounts in billing.toml changed",
    "meters.toml": "meters.toml changed",
    "accounts.csv": "accounts.csv changed",
}


def _canonical_meters(meters: Sequence[Meter]) -> bytes:
    """Return what counts of the meters as one form: no comment, description, or order of meters and keys changes it."""
    rows = []
    for meter in sorted(meters, key=lambda meter: meter.sku):
        row = meter.model_dump(mode="python", exclude={"description"}, exclude_defaults=True)
        if meter.bucket is not None:
            row["bucket"] = _seconds(meter.bucket)
        rows.append(row)
    return canonical_json(rows)


def pinned_meters(workspace: Workspace, revision: WindowRevision) -> tuple[Meter, ...]:
    """Return the meters that the revision pins, by SKU and without descriptions, whatever the project says by now."""
    rows = json.loads(workspace.lake.get_bytes(f"pins/{revision.pins['meters.toml']}"))
    for row in rows:
        if "bucket" in row:
            row["bucket"] = timedelta(seconds=row["bucket"])
    return MeterFile.model_validate({"meters": rows}).meters


def view_raw_events(warehouse: Warehouse, workspace: Workspace, pins: Pins) -> None:
    """Name the pinned raw events ``raw_events``: whole dates, of which a query takes its window."""
    view_raw_event_files(warehouse, workspace, pins["raw_event_files"])


def view_raw_event_files(
    warehouse: Warehouse, workspace: Workspace, paths: Sequence[str], name: str = RAW_EVENTS.name
) -> None:
    """Name the raw events of these lake paths ``raw_events``, or otherwise."""
    with ThreadPoolExecutor(VERIFYING_THREADS) as verifying:
        files = list(verifying.map(workspace.lake.local_file, paths))
    warehouse.view_files(name, RAW_EVENTS, files)


def view_event_quantities(warehouse: Warehouse, meters: Sequence[Meter], window: BillingWindow) -> None:
    """Name what the events of the window in ``raw_events`` add, whatever becomes of them, ``event_quantities``."""
    table_meters(warehouse, meters)
    warehouse.view("window_events", {"window_start": window.start, "window_end": window.end}, "metered_events")
    warehouse.view("event_quantities", {})


def table_meters(warehouse: Warehouse, meters: Sequence[Meter]) -> None:
    """Make ``meters``: what SQL needs to know of each."""
    rows = [
        (
            meter.sku,
            meter.event_type,
            meter.aggregation.value,
            meter.value,
            meter.unit,
            [{"path": path, "expected": expected} for path, expected in meter.filter.items()],
            list(meter.dimensions),
            meter.keep_values,
        )
        for meter in meters
    ]
    warehouse.table_rows("meters", METER_COLUMNS, rows)
    for column in ("sku", "aggregation", "unit"):
        warehouse.encode(f"meter_{column}s", (("meters", column),))


def build_excluded_events(
    warehouse: Warehouse, workspace: Workspace, pins: Pins, window: BillingWindow, cutoff_at: datetime
) -> None:
    """Make ``excluded_events`` from ``raw_events``, ``meters``, ``event_quantities`` and the pins, in no order."""
    table_accounts(warehouse, workspace, pins)
    table_links(warehouse, workspace, pins)
    parameters = {
        "window_start": window.start,
        "window_end": window.end,
        "cutoff_at": cutoff_at,
        "future_tolerance": timedelta(seconds=pins["future_tolerance_seconds"]),
    }
    table_repeated_hashes(warehouse, window)
    warehouse.build(EXCLUDED_EVENTS.name, parameters, keeps_order=True)


def table_repeated_hashes(warehouse: Warehouse, window: BillingWindow) -> None:
    """Make ``repeated_hashes``: the short hashes that more than one event of the window in ``raw_events`` has."""
    bounds = {"window_start": window.start, "window_end": window.end}
    warehouse.table_repeated("window_hashes", bounds, "repeated_hashes", RAW_EVENTS.name)


def view_usage_events(
    warehouse: Warehouse,
    workspace: Workspace,
    revision: WindowRevision,
    excluded: Sequence[Path] | None = None,
    name: str = USAGE_EVENTS.name,
) -> None:
    """Name the billed events of a published revision, beside ``raw_events`` and ``excluded_events``.

    ``excluded`` are files of excluded events to take instead of the newest published ones.
    """
    files = (
        dataset_files(workspace, EXCLUDED_EVENTS, revision.scope, revision.revision) if excluded is None else excluded
    )
    view_raw_events(warehouse, workspace, revision.pins)
    warehouse.view_files(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS, files)
    table_accounts(warehouse, workspace, revision.pins)
    encode_accounts(warehouse)
    bounds = {"window_start": revision.window_start, "window_end": revision.window_end}
    warehouse.view(USAGE_EVENTS.name, bounds, name)


def table_accounts(warehouse: Warehouse, workspace: Workspace, pins: Pins) -> None:
    """Make ``account_references`` and ``account_fallbacks`` of the directory and the rules that are pinned."""
    table = accounts_table(workspace.lake.get_bytes(f"pins/{pins['accounts.csv']}"))
    if table is not None:
        warehouse.table_arrow("account_references", ACCOUNT_REFERENCE_COLUMNS, table.references)
    else:
        references = account_references(pinned_directory(workspace, pins["accounts.csv"]))
        warehouse.table_rows("account_references", ACCOUNT_REFERENCE_COLUMNS, references)
    warehouse.table_rows("account_fallbacks", ACCOUNT_FALLBACK_COLUMNS, pins.get("account_fallbacks", []))


def encode_accounts(warehouse: Warehouse) -> None:
    """Let the rows of accounts hold numbers, where events are to be grouped by them."""
    warehouse.encode("account_ids", (("account_references", "account_id"), ("account_fallbacks", "account_id")))


def _seconds(duration: timedelta) -> int:
    return duration // timedelta(seconds=1)
