"""The audit log of the control plane: append-only, each entry's hash covers the entry before it.

A change of any byte of any entry breaks the chain from there on; the head, kept apart, shows when the newest
entries were cut off. Entries are written inside the transaction of the change they tell of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from pipeline.adapters import control_plane_tables as t
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.window import require_utc

FIRST_PREVIOUS_HASH = "0" * 64


class Change(NamedTuple):
    """One change of state, in words and names."""

    action: str
    subject: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit log. ``entry_hash`` covers the entry and ``previous_hash``."""

    entry_number: int
    at: str
    action: str
    subject: str
    details: str
    previous_hash: str
    entry_hash: str

    def expected_hash(self) -> str:
        """Return the hash that the entry has if nobody changed it."""
        content = {"entry_number": self.entry_number, "at": self.at, "action": self.action, "subject": self.subject}
        return sha256_hex(self.previous_hash.encode() + canonical_json({**content, "details": self.details}))


def lock(connection: Connection) -> None:
    """Make the writers of a database take turns: each holds the head of the log until its transaction ends."""
    connection.execute(select(t.audit_head.c.entry_number).with_for_update())


def append(connection: Connection, at: datetime, *changes: Change) -> None:
    """Add an entry for each change, in order, to the log whose head the transaction has locked."""
    head = connection.execute(select(t.audit_head.c.entry_number, t.audit_head.c.entry_hash)).one()
    entry_number, previous_hash = head.entry_number, head.entry_hash
    rows, columns = [], [column.name for column in fields(AuditEntry)]
    for change in changes:
        entry_number += 1
        unhashed = AuditEntry(
            entry_number=entry_number,
            at=require_utc(at, "at").isoformat(timespec="microseconds"),
            action=change.action,
            subject=change.subject,
            details=canonical_json(change.details).decode(),
            previous_hash=previous_hash,
            entry_hash="",
        )
        previous_hash = unhashed.expected_hash()
        rows.append({**{name: getattr(unhashed, name) for name in columns}, "entry_hash": previous_hash})
    connection.execute(insert(t.audit_log), rows)
    connection.execute(update(t.audit_head).values(entry_number=entry_number, entry_hash=previous_hash))


def newest_entries(connection: Connection, count: int, before: int | None) -> list[AuditEntry]:
    """Return so many entries, newest first; ``before`` a number, or from the newest one on."""
    number = t.audit_log.c.entry_number
    columns = [t.audit_log.c[column.name] for column in fields(AuditEntry)]
    query = select(*columns).order_by(number.desc()).limit(count)
    query = query if before is None else query.where(number < before)
    return [AuditEntry(*row) for row in connection.execute(query)]


def entries(connection: Connection, subject: str | None = None) -> list[AuditEntry]:
    """Return every entry, or those about a subject, oldest first."""
    columns = [t.audit_log.c[column.name] for column in fields(AuditEntry)]
    query = select(*columns).order_by(t.audit_log.c.entry_number)
    query = query if subject is None else query.where(t.audit_log.c.subject == subject)
    return [AuditEntry(*row) for row in connection.execute(query)]


def records(connection: Connection, *actions: str) -> Counter[tuple[str, str, str]]:
    """Return how often the log has each (action, subject, details) of these actions."""
    columns = (t.audit_log.c.action, t.audit_log.c.subject, t.audit_log.c.details)
    return Counter(tuple(row) for row in connection.execute(select(*columns).where(columns[0].in_(actions))))


def verify(connection: Connection) -> None:
    """Recompute the chain; the first entry that does not hold raises ``PublicationError``."""
    head = connection.execute(select(t.audit_head.c.entry_number, t.audit_head.c.entry_hash)).one()
    found = entries(connection)
    previous_hash = FIRST_PREVIOUS_HASH
    for expected_number, entry in enumerate(found, start=1):
        if entry.entry_number != expected_number:
            raise _broken(expected_number, f"it is missing; the next one found is {entry.entry_number}")
        if entry.previous_hash != previous_hash:
            raise _broken(expected_number, "it does not follow from the entry before it")
        if entry.entry_hash != entry.expected_hash():
            raise _broken(expected_number, f"its content is not what was written ({entry.action} {entry.subject})")
        previous_hash = entry.entry_hash
    if (head.entry_number, head.entry_hash) != (len(found), previous_hash):
        raise _broken(
            len(found) + 1, f"the head of the log names entry {head.entry_number}, the newest is {len(found)}"
        )


def _broken(entry_number: int, why: str) -> PublicationError:
    return PublicationError(
        "audit.chain_broken",
        f"the audit log is not what was written: entry {entry_number} is the first that does not hold",
        [why, "every entry before it holds; restore the control plane from a backup and compare"],
    )
