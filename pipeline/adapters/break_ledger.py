"""Breaks in the control plane: opened, carried over and resolved inside a transaction of the control plane."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from pipeline.adapters import audit_log
from pipeline.adapters import control_plane_tables as t
from pipeline.adapters.audit_log import Change
from pipeline.core.breaks import BY_ITSELF, Break, BreakClass, Difference
from pipeline.core.errors import InputError

_COLUMNS = [t.breaks.c[column.name] for column in fields(Break)]


def find(connection: Connection, *conditions: ColumnElement[bool]) -> list[Break]:
    """Return breaks in the order they were opened."""
    query = select(*_COLUMNS).where(*conditions).order_by(t.breaks.c.break_id)
    return [_break(row) for row in connection.execute(query)]


def carry_over(
    connection: Connection,
    domain: str,
    controls: Collection[str],
    found: Sequence[Difference],
    seen_in: str,
    at: datetime,
) -> None:
    """Open a break for each difference that has none, give the others the figures of now, resolve those not found."""
    kind, _, name = domain.partition("=")
    column = t.breaks.c.window_id if kind == "window" else t.breaks.c.period_id
    known = {
        one.key: one
        for one in find(connection, column == name, t.breaks.c.resolved_at.is_(None))
        if one.control in controls
    }
    found_by_key = {one.key: one for one in found}
    if any(one.domain != domain or one.control not in controls for one in found):
        raise ValueError(f"a difference is of the domain and the controls that were reconciled, got {found}")
    next_id = (connection.scalar(select(func.max(t.breaks.c.break_id))) or 0) + 1
    rows: list[dict[str, Any]] = []
    changes: list[Change] = []
    for key, one in found_by_key.items():
        if key not in known:
            opened = _opened(next_id + len(rows), one, seen_in, at)
            rows.append({**asdict(opened), "break_class": one.break_class.value})
            changes.append(Change("break_opened", _subject(opened), {"key": key, **_digits(opened), "in": seen_in}))
            continue
        before = known[key]
        now = replace(before, expected=one.expected, actual=one.actual)
        figures = {"expected": one.expected, "actual": one.actual, "break_class": one.break_class.value}
        _set(connection, before, {**figures, "last_seen_at": max(at, before.last_seen_at)})
        if (now.expected, now.actual) != (before.expected, before.actual):
            changes.append(Change("break_changed", _subject(now), {"key": key, **_digits(now), "in": seen_in}))
    for key, before in known.items():
        if key not in found_by_key:
            resolution = f"the control passes in {seen_in}"
            _set(connection, before, {"resolved_at": at, "resolved_by": BY_ITSELF, "resolution": resolution})
            changes.append(Change("break_resolved", _subject(before), {"by": BY_ITSELF, "reason": resolution}))
    if rows:
        connection.execute(insert(t.breaks), rows)
    if changes:
        audit_log.append(connection, at, *changes)


def work(connection: Connection, break_id: int, action: str, at: datetime, by: str, values: dict[str, Any]) -> Break:
    """Change an open break as a person says, and return it."""
    found = next(iter(find(connection, t.breaks.c.break_id == break_id)), None)
    if found is None:
        raise InputError("break.unknown", f"there is no break {break_id}", ["`billing breaks` lists those there are"])
    if not found.is_open:
        raise InputError(
            "break.resolved",
            f"break {break_id} is resolved, by {found.resolved_by}: {found.resolution}",
            ["it stays as it is; a control that fails again opens another break"],
        )
    _set(connection, found, values)
    told = {name: value for name, value in values.items() if isinstance(value, str) and name != "resolved_by"}
    audit_log.append(connection, at, Change(action, _subject(found), {**told, "by": by}))
    return find(connection, t.breaks.c.break_id == break_id)[0]


def _set(connection: Connection, one: Break, values: dict[str, Any]) -> None:
    connection.execute(update(t.breaks).where(t.breaks.c.break_id == one.break_id).values(**values))


def _opened(break_id: int, one: Difference, seen_in: str, at: datetime) -> Break:
    return Break(
        *(break_id, one.key, one.control, one.scope, one.unit, one.break_class),
        *(one.window_id, one.period_id, one.account_id, one.expected, one.actual),
        opened_at=at,
        opened_in=seen_in,
        last_seen_at=at,
    )


def _digits(one: Break) -> dict[str, str]:
    return {"expected": f"{one.expected:f}", "actual": f"{one.actual:f}", "unit": one.unit}


def _subject(one: Break) -> str:
    return f"break={one.break_id}"


def _break(row: Row[Any]) -> Break:
    values = dict(row._mapping)
    return Break(**{**values, "break_class": BreakClass(values["break_class"])})
