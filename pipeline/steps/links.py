"""What ties a window to events of other dates: first copies of its keys elsewhere, and withdrawals that name them.

Both are pinned as small files that hold only what matters to the window, so that files of other dates which change
nothing make no new revision. Each is a pure function of files named by hash; the control plane keeps what it made, so
that asking for every accepted window every night reads no event twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from itertools import chain
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import INSTANT, RAW_EVENTS
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.reason import ExclusionReason
from pipeline.core.window import EPOCH, BillingWindow
from pipeline.core.withdrawal import (
    Key,
    NamedEvent,
    SettledWithdrawals,
    Withdrawal,
    WithdrawalFault,
    WithdrawnEvent,
    settled_withdrawals,
    standing_withdrawals,
)
from pipeline.steps.publish import pin_file, read_manifest
from pipeline.steps.workspace import Workspace

LINK_QUERIES = ("file_windows", "named_events", "neighbours", "withdrawal_events")

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

WITHDRAWN_EVENT_COLUMNS = (
    ("object_id", "VARCHAR"),
    ("line_number", "BIGINT"),
    ("reason", "VARCHAR"),
    ("winner_object_id", "VARCHAR"),
    ("winner_line_number", "BIGINT"),
    ("winner_received_at", INSTANT),
)


@dataclass(frozen=True, slots=True)
class LinkInputs:
    """All that links are derived from: every collection, by the hash of its manifest, and the settings that count."""

    collections: tuple[str, ...]
    window_length: timedelta
    first_window_start: datetime
    look_back: timedelta
    future_tolerance: timedelta
    withdrawal_types: tuple[tuple[Any, ...], ...]

    @classmethod
    def of_now(cls, workspace: Workspace) -> LinkInputs:
        settings = workspace.project.settings.window
        return cls(
            tuple(workspace.control_plane.raw_event_manifests()),
            settings.length,
            settings.first_window_start,
            settings.look_back,
            settings.future_tolerance,
            tuple(tuple(rule) for rule in withdrawal_rules(workspace)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "collections": list(self.collections),
            "window_length_seconds": self.window_length // timedelta(seconds=1),
            "first_window_start": self.first_window_start.isoformat(),
            "look_back_seconds": self.look_back // timedelta(seconds=1),
            "future_tolerance_seconds": self.future_tolerance // timedelta(seconds=1),
            "withdrawal_types": [list(rule) for rule in self.withdrawal_types],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LinkInputs:
        return cls(
            tuple(fields["collections"]),
            timedelta(seconds=fields["window_length_seconds"]),
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
        self._window_numbers: dict[str, set[int]] = {}  # of the windows that have an event in a file, by its path

    @cached_property
    def inputs(self) -> LinkInputs:
        return self._recorded or LinkInputs.of_now(self._workspace)

    def rows(self, pin: str) -> list[dict[str, Any]]:
        """Return the rows of a pin that was derived here."""
        return read_pinned_rows(self._workspace, pin)

    def files_of(self, event_dates: Iterable[date]) -> list[str]:
        """Return the lake paths, which end in a hash, of every raw event file of the dates, sorted."""
        return sorted({path for day in event_dates for path in self._files.get(day.isoformat(), ())})

    def files_of_window(self, window: BillingWindow) -> list[str]:
        """Return the lake paths of every raw event file of the window's dates that may hold an event of it, sorted.

        A file is left out only if it has no event of the window.
        """
        paths = self.files_of(window.event_dates())
        length = self.inputs.window_length
        if window.start.time() == window.end.time() == time.min or window.end - window.start != length:
            return paths
        self._number_windows(paths)
        number = (window.start - EPOCH) // length
        return [path for path in paths if number in self._window_numbers[path]]

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
            "raw_events": self.files_of_window(window),
            "look_back_events": self.files_of(look_back.event_dates()),
        }
        if not files["raw_events"]:
            return self._pin([])
        return self._derived("neighbours", parameters, files)

    def withdrawn_events(self, window: BillingWindow) -> str:
        """Pin each event of the window that a withdrawal takes back, and each replacement that came too late."""
        withdrawn = {
            (event.object_id, event.line_number): WithdrawnEvent.by(event, ExclusionReason.VOIDED, withdrawal)
            for event, withdrawal in self._acted_on
            if window.start <= event.event_at < window.end
        }
        # A copy of a replacement that came too late is not billed either, whatever takes it back.
        for one in self._received_in(window):
            if one.key in self._settled.winners:
                winner = self._settled.winners[one.key]
                withdrawn[one.object_id, one.line_number] = WithdrawnEvent.by(
                    one, ExclusionReason.CONFLICTING_DUPLICATE, winner
                )
        return self._pin([withdrawn[place].to_json() for place in sorted(withdrawn)])

    def withdrawal_types(self, window: BillingWindow) -> list[list[Any]]:
        """Return, in order, each event type that withdraws and has an event of the window, and whether it replaces."""
        return [list(row) for row in sorted({(one.event_type, one.replaces) for one in self._received_in(window)})]

    def idle_withdrawals(self, window: BillingWindow) -> list[tuple[Withdrawal, WithdrawalFault]]:
        """Return the withdrawals of the window that have no effect, by object and line, each with its fault."""
        look_back = self._settled.look_back
        idle = []
        for one in self._own(window):
            events = self._named.get(one.target, ())
            if one.key in self._settled.faults:
                idle.append((one, self._settled.faults[one.key]))
            elif not any(one.acts_on(event.received_at, look_back) for event in events):
                idle.append((one, WithdrawalFault.UNMATCHED))
        return idle

    def effective_replacements(self, window: BillingWindow, cutoff_at: datetime) -> list[Withdrawal]:
        """Return the replacements of the window that take an event back, by object and line.

        One that is received at or after the cutoff does not take back what is of the window itself.
        """
        acting = {
            withdrawal.key
            for event, withdrawal in self._acted_on
            if withdrawal.received_at < cutoff_at or not window.start <= event.event_at < window.end
        }
        return [one for one in self._own(window) if one.replaces and one.key in acting]

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The paths of every raw event file, by event date."""
        paths: dict[str, list[str]] = {}
        for manifest_hash in self.inputs.collections:
            for file in read_manifest(self._workspace, manifest_hash).files:
                paths.setdefault(file.partition, []).append(file.path)
        return paths

    def _number_windows(self, paths: Sequence[str]) -> None:
        """Find which windows have an event in each of the files; a file is read for it once."""
        length = self.inputs.window_length
        derivations = {
            path: self._derivation("file_windows", [str(length), path])
            for path in paths
            if path not in self._window_numbers
        }
        pins = self._known_pins(derivations.values())
        for path, derivation in derivations.items():
            if derivation not in pins:
                with Warehouse(self._workspace.scratch, sql=self._sql) as warehouse:
                    self._view(warehouse, "raw_events", [path])
                    pins[derivation] = self._keep(
                        derivation, warehouse.select("file_windows", {"window_length": length})
                    )
            rows = read_pinned_rows(self._workspace, pins[derivation])
            self._window_numbers[path] = {row["window_number"] for row in rows}

    @cached_property
    def _received(self) -> dict[str, list[Withdrawal]]:
        """Every event of a type that withdraws, by collection; each is searched once for each set of rules."""
        rules = [list(rule) for rule in self.inputs.withdrawal_types]
        if not rules:
            return {}
        derivations = {
            manifest_hash: self._derivation("withdrawal_events", [rules, manifest_hash])
            for manifest_hash in self.inputs.collections
        }
        pins = self._known_pins(derivations.values())
        received: dict[str, list[Withdrawal]] = {}
        for manifest_hash, derivation in derivations.items():
            if derivation not in pins:
                with Warehouse(self._workspace.scratch, sql=self._sql) as warehouse:
                    self._view(warehouse, "raw_events", self._paths_in([manifest_hash]))
                    warehouse.table_rows("withdrawal_types", WITHDRAWAL_TYPE_COLUMNS, rules)
                    rows = [Withdrawal(**row).to_json() for row in warehouse.select("withdrawal_events", {})]
                pins[derivation] = self._keep(derivation, rows)
            rows = read_pinned_rows(self._workspace, pins[derivation])
            received[manifest_hash] = [Withdrawal.from_json(row) for row in rows]
        return received

    def _received_in(self, window: BillingWindow) -> list[Withdrawal]:
        """Return every copy of every withdrawal of the window."""
        every_one = chain.from_iterable(self._received.values())
        return [one for one in every_one if window.start <= one.event_at < window.end]

    @cached_property
    def _standing(self) -> list[Withdrawal]:
        return standing_withdrawals(chain.from_iterable(self._received.values()), self.inputs.future_tolerance)

    def _own(self, window: BillingWindow) -> list[Withdrawal]:
        """Return the standing withdrawals of the window, by object and line."""
        own = (one for one in self._standing if window.start <= one.event_at < window.end)
        return sorted(own, key=lambda one: (one.object_id, one.line_number))

    @cached_property
    def _settled(self) -> SettledWithdrawals:
        return settled_withdrawals(self._standing, self.inputs.look_back)

    @cached_property
    def _acted_on(self) -> list[tuple[NamedEvent, Withdrawal]]:
        """Every event that a withdrawal takes back, with the withdrawal."""
        pairs = ((event, self._settled.of_event(event)) for events in self._named.values() for event in events)
        return [(event, withdrawal) for event, withdrawal in pairs if withdrawal is not None]

    @cached_property
    def _named(self) -> dict[Key, list[NamedEvent]]:
        """Every event that a withdrawal names, whether it acts on it or not.

        Collections only grow in number, so what the first n of them came to is kept, each time as what the collections
        that are new added: old files are asked for keys that were not named before, new files for all.
        """
        rules = [list(rule) for rule in self.inputs.withdrawal_types]
        derivations = {
            count: self._derivation("named_events", [rules, count]) for count in range(1, len(self._received) + 1)
        }
        known = self._known_pins(derivations.values())
        parts = {
            count: read_pinned_rows(self._workspace, known[derivation])
            for count, derivation in derivations.items()
            if derivation in known
        }
        asked, rows = _whole_part(parts, set(self._received))
        new = sorted(set(self._received) - asked)
        if new:
            keys_before, keys = self._keys_named_in(asked), self._keys_named_in(self._received)
            found = self._events_of(self._paths_in(sorted(asked)), keys - keys_before)
            found += self._events_of(self._paths_in(new), keys)
            self._keep(derivations[len(self._received)], [{"before": len(asked), "collections": new, "events": found}])
            rows = [*rows, *found]
        named: dict[Key, list[NamedEvent]] = {}
        for event in map(NamedEvent.from_json, rows):
            named.setdefault(event.key, []).append(event)
        return named

    def _keys_named_in(self, manifests: Iterable[str]) -> set[Key]:
        return {one.target for manifest_hash in manifests for one in self._received[manifest_hash] if all(one.target)}

    def _paths_in(self, manifests: Iterable[str]) -> list[str]:
        return [file.path for name in manifests for file in read_manifest(self._workspace, name).files]

    def _events_of(self, paths: Sequence[str], keys: set[Key]) -> list[dict[str, Any]]:
        """Return the events of these keys in these files; nothing is opened where there can be none."""
        if not paths or not keys:
            return []
        with Warehouse(self._workspace.scratch, sql=self._sql) as warehouse:
            self._view(warehouse, "raw_events", paths)
            warehouse.table_rows("named_keys", NAMED_KEYS, sorted(keys))
            return [NamedEvent(**row).to_json() for row in warehouse.select("named_events", {})]

    def _derived(self, query: str, parameters: Mapping[str, Any], files: Mapping[str, Sequence[str]]) -> str:
        """Return the pin of a query's rows; the same inputs are read once and then known."""
        values = {name: str(value) for name, value in parameters.items()}
        derivation = self._derivation(query, [values, files])
        known = self._known_pins([derivation])
        if derivation in known:
            return known[derivation]
        with Warehouse(self._workspace.scratch, sql=self._sql) as warehouse:
            for name, paths in files.items():
                self._view(warehouse, name, paths)
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


def _whole_part(
    parts: Mapping[int, Sequence[Mapping[str, Any]]], collections: set[str]
) -> tuple[set[str], list[dict[str, Any]]]:
    """Return the most collections that were asked before, with their events; a part whose beginning is gone is none."""
    for count in sorted(parts, reverse=True):
        asked: set[str] = set()
        events: list[dict[str, Any]] = []
        at = count
        while at in parts:
            [part] = parts[at]
            asked.update(part["collections"])
            events += part["events"]
            at = part["before"]
        if at == 0 and len(asked) == count and asked <= collections:
            return asked, events
    return set(), []


def withdrawal_rules(workspace: Workspace) -> list[list[Any]]:
    """Return the rows of ``withdrawal_types`` as the project has them now, in order of type."""
    rules = workspace.project.withdrawal_rules()
    return [[rule.event_type, rule.source, rule.id, rule.replaces] for rule in rules]


def pinned_withdrawn_events(workspace: Workspace, pins: Mapping[str, Any]) -> list[WithdrawnEvent]:
    """Return the withdrawn events that a revision pins, by object and line."""
    return [WithdrawnEvent.from_json(row) for row in _rows_of(workspace, pins, "withdrawn_events")]


def read_pinned_rows(workspace: Workspace, pin: str) -> list[dict[str, Any]]:
    """Return the rows of a pinned JSON file, verified."""
    rows: list[dict[str, Any]] = json.loads(workspace.lake.get_bytes(f"pins/{pin}"))
    return rows


def table_links(warehouse: Warehouse, workspace: Workspace, pins: Mapping[str, Any]) -> None:
    """Make ``neighbours``, ``withdrawn_events`` and ``withdrawal_types`` of a window from its pins.

    A revision of a version that did not pin one of them has none.
    """
    neighbours = _rows_of(workspace, pins, "neighbours")
    warehouse.table_rows(
        "neighbours", NEIGHBOUR_COLUMNS, [[row[name] for name, _ in NEIGHBOUR_COLUMNS] for row in neighbours]
    )
    withdrawn = pinned_withdrawn_events(workspace, pins)
    warehouse.table_rows(
        "withdrawn_events",
        WITHDRAWN_EVENT_COLUMNS,
        [[getattr(one, name) for name, _ in WITHDRAWN_EVENT_COLUMNS] for one in withdrawn],
    )
    types = [[event_type, None, None, replaces] for event_type, replaces in pins.get("withdrawal_types", [])]
    warehouse.table_rows("withdrawal_types", WITHDRAWAL_TYPE_COLUMNS, types)


def _rows_of(workspace: Workspace, pins: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return read_pinned_rows(workspace, pins[name]) if name in pins else []
