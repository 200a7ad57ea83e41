"""What ties a window to events of other dates: first copies of its keys elsewhere, and withdrawals that name them.

Both are pinned as small files that hold only what matters to the window, so that files of other dates which change
nothing make no new revision. Each is a pure function of files named by hash; the control plane keeps what it made, so
that asking for every accepted window every night reads no event twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import INSTANT, RAW_EVENTS
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.window import EPOCH, BillingWindow
from pipeline.core.withdrawal import (
    Key,
    Withdrawal,
    WithdrawalFault,
    acting_withdrawals,
    faults,
    standing_withdrawals,
)
from pipeline.steps.publish import pin_file, read_manifest
from pipeline.steps.workspace import Workspace

END_OF_TIME = datetime.max.replace(tzinfo=EPOCH.tzinfo)

LINK_QUERIES = ("neighbours", "withdrawal_events", "withdrawn_keys")

NAMED_KEYS = (("source", "VARCHAR"), ("id", "VARCHAR"))

NEIGHBOUR_COLUMNS = (
    ("source", "VARCHAR"),
    ("id", "VARCHAR"),
    ("object_id", "VARCHAR"),
    ("line_number", "BIGINT"),
)

WITHDRAWAL_TYPE_COLUMNS = (
    ("event_type", "VARCHAR"),
    ("source_path", "VARCHAR"),
    ("id_path", "VARCHAR"),
    ("replaces", "BOOLEAN"),
)

WITHDRAWAL_COLUMNS = (
    ("target_source", "VARCHAR"),
    ("target_id", "VARCHAR"),
    ("object_id", "VARCHAR"),
    ("line_number", "BIGINT"),
    ("received_at", INSTANT),
)


@dataclass(frozen=True, slots=True)
class LinkInputs:
    """All that links are derived from: every collection, by the hash of its manifest, and the settings that count."""

    collections: tuple[str, ...]
    first_window_start: datetime
    look_back: timedelta
    future_tolerance: timedelta
    withdrawal_types: tuple[tuple[Any, ...], ...]

    @classmethod
    def of_now(cls, workspace: Workspace) -> LinkInputs:
        settings = workspace.project.settings.window
        return cls(
            tuple(workspace.control_plane.raw_event_manifests()),
            settings.first_window_start,
            settings.look_back,
            settings.future_tolerance,
            tuple(tuple(rule) for rule in withdrawal_rules(workspace)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "collections": list(self.collections),
            "first_window_start": self.first_window_start.isoformat(),
            "look_back_seconds": self.look_back // timedelta(seconds=1),
            "future_tolerance_seconds": self.future_tolerance // timedelta(seconds=1),
            "withdrawal_types": [list(rule) for rule in self.withdrawal_types],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LinkInputs:
        return cls(
            tuple(fields["collections"]),
            datetime.fromisoformat(fields["first_window_start"]),
            timedelta(seconds=fields["look_back_seconds"]),
            timedelta(seconds=fields["future_tolerance_seconds"]),
            tuple(tuple(rule) for rule in fields["withdrawal_types"]),
        )


class CollectedEvents:
    """The raw event files and the withdrawals in them, as of when they are first asked for; make one for each run.

    With ``recorded`` inputs, and the SQL of then, it is what was collected then: everything is derived from the files,
    and the control plane is neither asked for what was derived before nor written to.
    """

    def __init__(
        self, workspace: Workspace, recorded: LinkInputs | None = None, sql: Mapping[str, str] | None = None
    ) -> None:
        self._workspace = workspace
        self._recorded = recorded
        self._sql = sql

    @cached_property
    def inputs(self) -> LinkInputs:
        return self._recorded or LinkInputs.of_now(self._workspace)

    def rows(self, pin: str) -> list[dict[str, Any]]:
        """Return the rows of a pin that was derived here."""
        return read_pinned_rows(self._workspace, pin)

    def files_of(self, event_dates: Iterable[date]) -> list[str]:
        """Return the lake paths, which end in a hash, of every raw event file of the dates, sorted."""
        return sorted({path for day in event_dates for path in self._files.get(day.isoformat(), ())})

    def neighbours(self, window: BillingWindow) -> str:
        """Pin the first copies, outside the window and within the look-back, of keys of the window."""
        settings = self.inputs
        if not settings.look_back:
            return self._pin([])
        start = min(window.start, max(window.start - settings.look_back, settings.first_window_start))
        look_back = BillingWindow(start, window.end + settings.look_back)
        parameters = {
            "window_start": window.start,
            "window_end": window.end,
            "look_back_start": look_back.start,
            "look_back_end": look_back.end,
            "future_tolerance": settings.future_tolerance,
        }
        files = {
            "raw_events": self.files_of(window.event_dates()),
            "look_back_events": self.files_of(look_back.event_dates()),
        }
        if not files["raw_events"]:
            return self._pin([])
        return self._derived("neighbours", parameters, files, {})

    def withdrawals(self, window: BillingWindow) -> str:
        """Pin the first received withdrawal of each key of the window, whenever and wherever it was used."""
        found = self._withdrawn_keys(window.start, window.end, self.files_of(window.event_dates()), self._acting)
        return self._pin([self._acting[key].to_json() for key in sorted(found)])

    def idle_withdrawals(self, window: BillingWindow) -> list[tuple[Withdrawal, WithdrawalFault]]:
        """Return the withdrawals of the window that have no effect, by object and line, each with its fault."""
        without_effect = faults(self._standing)
        own = sorted(
            (one for one in self._standing if window.start <= one.event_at < window.end),
            key=lambda one: (one.object_id, one.line_number),
        )
        asked = {one.target: one for one in own if one.key not in without_effect}
        known = self._withdrawn_keys(window.start, window.end, self.files_of(window.event_dates()), asked)
        elsewhere = {key: one for key, one in asked.items() if key not in known}
        every_file = sorted(path for paths in self._files.values() for path in paths)
        known |= self._withdrawn_keys(EPOCH, END_OF_TIME, every_file, elsewhere)
        unmatched = {
            one.key: WithdrawalFault.UNMATCHED for one in own if one.target in asked and one.target not in known
        }
        idle = {**unmatched, **without_effect}
        return [(one, idle[one.key]) for one in own if one.key in idle]

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The paths of every raw event file, by event date."""
        paths: dict[str, list[str]] = {}
        for manifest_hash in self.inputs.collections:
            for file in read_manifest(self._workspace, manifest_hash).files:
                paths.setdefault(file.partition, []).append(file.path)
        return paths

    @cached_property
    def _standing(self) -> list[Withdrawal]:
        """Every withdrawal that was collected, of all dates: each collection is searched once for each set of rules."""
        rules = [list(rule) for rule in self.inputs.withdrawal_types]
        if not rules:
            return []
        derivations = {
            manifest_hash: self._derivation("withdrawal_events", [rules, manifest_hash])
            for manifest_hash in self.inputs.collections
        }
        pins = self._known_pins(derivations.values())
        received: list[Withdrawal] = []
        for manifest_hash, derivation in derivations.items():
            if derivation not in pins:
                paths = [file.path for file in read_manifest(self._workspace, manifest_hash).files]
                with Warehouse(self._workspace.scratch, sql=self._sql) as warehouse:
                    self._view(warehouse, "raw_events", paths)
                    table_withdrawal_types(warehouse, rules)
                    rows = [Withdrawal(**row).to_json() for row in warehouse.select("withdrawal_events", {})]
                pins[derivation] = self._keep(derivation, rows)
            received += [Withdrawal.from_json(row) for row in read_pinned_rows(self._workspace, pins[derivation])]
        return standing_withdrawals(received)

    @cached_property
    def _acting(self) -> dict[Key, Withdrawal]:
        return acting_withdrawals(self._standing)

    def _withdrawn_keys(
        self, start: datetime, end: datetime, paths: Sequence[str], named: Mapping[Key, Withdrawal]
    ) -> set[Key]:
        """Return which of the named keys an event of the time span has."""
        if not named or not paths:
            return set()
        keys = [list(key) for key in sorted(named)]
        pin = self._derived(
            "withdrawn_keys", {"window_start": start, "window_end": end}, {"raw_events": paths}, {"named_keys": keys}
        )
        return {(row["source"], row["id"]) for row in read_pinned_rows(self._workspace, pin)}

    def _derived(
        self,
        query: str,
        parameters: Mapping[str, Any],
        files: Mapping[str, Sequence[str]],
        keys: Mapping[str, list[list[str]]],
    ) -> str:
        """Return the pin of a query's rows; the same inputs are read once and then known."""
        values = {name: str(value) for name, value in parameters.items()}
        derivation = self._derivation(query, [values, files, keys])
        known = self._known_pins([derivation])
        if derivation in known:
            return known[derivation]
        with Warehouse(self._workspace.scratch, sql=self._sql) as warehouse:
            for name, paths in files.items():
                self._view(warehouse, name, paths)
            for name, rows in keys.items():
                warehouse.table_rows(name, NAMED_KEYS, rows)
            return self._keep(derivation, warehouse.select(query, parameters))

    def _view(self, warehouse: Warehouse, name: str, paths: Sequence[str]) -> None:
        warehouse.view_files(name, RAW_EVENTS, [self._workspace.lake.local_file(path) for path in paths])

    def _derivation(self, query: str, inputs: Any) -> str:
        return sha256_hex(canonical_json([query, Warehouse.sql_hash(query), inputs]))

    def _known_pins(self, derivations: Iterable[str]) -> dict[str, str]:
        return {} if self._recorded else self._workspace.control_plane.derived_pins(derivations)

    def _keep(self, derivation: str, rows: Sequence[Mapping[str, Any]]) -> str:
        pin = self._pin(rows)
        if not self._recorded:
            self._workspace.control_plane.keep_derived_pin(derivation, pin)
        return pin

    def _pin(self, rows: Sequence[Mapping[str, Any]]) -> str:
        return pin_file(self._workspace, canonical_json(list(rows)))


def withdrawal_rules(workspace: Workspace) -> list[list[Any]]:
    """Return what is pinned of the rules of withdrawals: the rows of ``withdrawal_types``, in order of type."""
    rules = workspace.project.withdrawal_rules()
    return [[rule.event_type, rule.source, rule.id, rule.replaces] for rule in rules]


def table_withdrawal_types(warehouse: Warehouse, rules: Sequence[Sequence[Any]]) -> None:
    """Make ``withdrawal_types``: the event types that withdraw, and where they say what."""
    warehouse.table_rows("withdrawal_types", WITHDRAWAL_TYPE_COLUMNS, rules)


def pinned_withdrawals(workspace: Workspace, pin: str) -> list[Withdrawal]:
    """Return the withdrawals of a pinned file, in order of the key they name."""
    return [Withdrawal.from_json(row) for row in read_pinned_rows(workspace, pin)]


def read_pinned_rows(workspace: Workspace, pin: str) -> list[dict[str, Any]]:
    """Return the rows of a pinned JSON file, verified."""
    rows: list[dict[str, Any]] = json.loads(workspace.lake.get_bytes(f"pins/{pin}"))
    return rows


def table_links(warehouse: Warehouse, workspace: Workspace, pins: Mapping[str, Any]) -> None:
    """Make ``neighbours``, ``withdrawals`` and ``withdrawal_types`` of a window from its pins."""
    neighbours = read_pinned_rows(workspace, pins["neighbours"])
    warehouse.table_rows(
        "neighbours", NEIGHBOUR_COLUMNS, [[row[name] for name, _ in NEIGHBOUR_COLUMNS] for row in neighbours]
    )
    withdrawals = pinned_withdrawals(workspace, pins["withdrawals"])
    warehouse.table_rows(
        "withdrawals",
        WITHDRAWAL_COLUMNS,
        [[getattr(one, name) for name, _ in WITHDRAWAL_COLUMNS] for one in withdrawals],
    )
    table_withdrawal_types(warehouse, pins["withdrawal_types"])
