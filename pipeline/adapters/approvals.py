"""Overrides of gates and sign-offs of periods, inside a transaction of the control plane."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from pipeline.adapters import audit_log
from pipeline.adapters import control_plane_tables as t
from pipeline.adapters.audit_log import Change
from pipeline.core.approval import Decision, Override, SignOff, failures_hash_of
from pipeline.core.errors import InputError, PublicationError
from pipeline.core.manifest import canonical_json
from pipeline.core.price_book_version import is_same_person

_OVERRIDE_COLUMNS = [t.overrides.c[column.name] for column in fields(Override)]
_HELD_COLUMNS = [t.holds.c[name] for name in ("period_id", "account_id", "reason", "held_by")]
_SIGN_OFF_COLUMNS = [t.sign_offs.c[column.name] for column in fields(SignOff)]


def overrides(connection: Connection, *conditions: ColumnElement[bool]) -> list[Override]:
    """Return overrides in the order they were asked for."""
    query = select(*_OVERRIDE_COLUMNS).where(*conditions).order_by(t.overrides.c.override_id)
    rows = connection.execute(query)
    return [Override(**{**row._mapping, "failures": tuple(json.loads(row.failures))}) for row in rows]


def request_override(
    connection: Connection, window_id: str, revision: int, failures: Sequence[str], reason: str, at: datetime, by: str
) -> Override:
    """Record that somebody asks for an override of these failures; asking again returns what was asked first."""
    failures_hash = failures_hash_of(failures)
    columns = t.overrides.c
    same = (columns.window_id == window_id, columns.revision == revision, columns.failures_hash == failures_hash)
    existing = overrides(connection, *same)
    if existing:
        return existing[-1]
    number = (connection.scalar(select(func.max(columns.override_id))) or 0) + 1
    override = Override(number, window_id, revision, tuple(failures), failures_hash, reason, at, by)
    row = {**asdict(override), "failures": canonical_json(list(failures)).decode()}
    connection.execute(insert(t.overrides).values(**row))
    details = {"by": by, "reason": reason, "failures": list(failures)}
    audit_log.append(connection, at, Change("override_requested", _subject(window_id, revision), details))
    return override


def approve_override(
    connection: Connection, window_id: str, revision: int, failures_hash: str, at: datetime, by: str
) -> Override:
    """Approve what was asked for by somebody else; one that is approved stays as it is."""
    columns = t.overrides.c
    of_revision = overrides(connection, columns.window_id == window_id, columns.revision == revision)
    asked = [one for one in of_revision if one.failures_hash == failures_hash]
    if not asked:
        raise InputError(
            "override.not_requested",
            f"nobody asked to override what fails in revision {revision} of window {window_id}",
            [
                "something else failed when it was asked for" if of_revision else "nothing was asked for",
                f'billing override request --window {window_id} --revision {revision} --reason "why" --by NAME',
            ],
        )
    override = asked[-1]
    if override.approved_at is not None:
        return override
    if is_same_person(by, override.requested_by):
        raise PublicationError(
            "override.same_person",
            f"{by} asked for the override of window {window_id} revision {revision} and cannot approve it",
            ["somebody else looks at what failed; nothing was changed"],
        )
    connection.execute(
        update(t.overrides).where(columns.override_id == override.override_id).values(approved_at=at, approved_by=by)
    )
    [approved] = overrides(connection, columns.override_id == override.override_id)
    audit_log.append(connection, at, _approval(approved))
    return approved


def sign_offs(connection: Connection, *conditions: ColumnElement[bool]) -> list[SignOff]:
    """Return decisions in the order they were made."""
    query = select(*_SIGN_OFF_COLUMNS).where(*conditions).order_by(t.sign_offs.c.sign_off_id)
    return [
        SignOff(**{**row._mapping, "decision": Decision(row.decision), "figures": json.loads(row.figures)})
        for row in connection.execute(query)
    ]


def sign_off(
    connection: Connection,
    period_id: str,
    decision: Decision,
    content_hash: str,
    figures: Mapping[str, Any],
    reason: str,
    at: datetime,
    by: str,
) -> SignOff:
    """Record a decision; the same one about the same figures by the same person again is a no-op."""
    newest = next(iter(sign_offs(connection, t.sign_offs.c.period_id == period_id)[::-1]), None)
    number = (connection.scalar(select(func.max(t.sign_offs.c.sign_off_id))) or 0) + 1
    made = SignOff(number, period_id, decision, content_hash, dict(figures), reason, at, by)
    if newest is not None and _said(newest) == _said(made):
        return newest
    row = {**asdict(made), "decision": decision.value, "figures": canonical_json(dict(figures)).decode()}
    connection.execute(insert(t.sign_offs).values(**row))
    audit_log.append(connection, at, _decision(made))
    return made


def verify(connection: Connection) -> None:
    """Hold every approval, sign-off and hold against the audit log, both ways; what only one has raises."""
    changes = [
        *(_approval(one) for one in overrides(connection, t.overrides.c.approved_at.is_not(None))),
        *(_decision(one) for one in sign_offs(connection)),
        *(hold_made(*row) for row in connection.execute(select(*_HELD_COLUMNS))),
    ]
    found = Counter((one.action, one.subject, canonical_json(one.details).decode()) for one in changes)
    logged = audit_log.records(connection, "override_approved", "period_signed_off", "account_held")
    if found != logged:
        action, subject, details = min((found - logged) + (logged - found))
        where = "but the audit log does not" if (found - logged) else "and its table does not"
        raise PublicationError(
            "audit.record_changed",
            f"an approval, a sign-off or a hold is not what was recorded ({action} {subject})",
            [f"one has {details[:200]}, {where}", "restore the control plane from a backup and compare"],
        )


def hold_made(period_id: str, account_id: str, reason: str, by: str) -> Change:
    """Return what the audit log says of a hold."""
    return Change("account_held", f"period={period_id}/account={account_id}", {"reason": reason, "by": by})


def _approval(one: Override) -> Change:
    details = {"by": one.approved_by, "requested_by": one.requested_by, "failures_hash": one.failures_hash}
    return Change("override_approved", _subject(one.window_id, one.revision), details)


def _decision(one: SignOff) -> Change:
    said = {"decision": one.decision.value, "content_hash": one.content_hash, "reason": one.reason, "by": one.signed_by}
    return Change("period_signed_off", f"period={one.period_id}", said)


def _said(one: SignOff) -> tuple[str, ...]:
    return one.decision.value, one.content_hash, one.reason, one.signed_by, *sorted(one.figures.get("held", {}))


def _subject(window_id: str, revision: int) -> str:
    return f"window={window_id}/revision={revision}"
