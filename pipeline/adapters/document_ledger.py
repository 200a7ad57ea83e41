"""Documents, their numbers, and the ledger of credits: the statements inside a transaction of the control plane.

The caller holds the write lock, so what is read here does not change before it is written. Rows are only added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from pipeline.adapters import audit_log
from pipeline.adapters import control_plane_tables as t
from pipeline.adapters.audit_log import Change
from pipeline.core.credit import (
    CreditBalance,
    CreditDraw,
    CreditEntry,
    CreditGrant,
    CreditKind,
    EntryKind,
    draw_credits,
)
from pipeline.core.errors import InputError, NotReadyError, PublicationError
from pipeline.core.invoice import Bundle, DocumentKind, IssuedDocument, PreparedDocument, finish_document
from pipeline.core.manifest import sha256_hex
from pipeline.core.money import exact

DOCUMENTS_PER_BUNDLE = 1000

StoreDocuments = Callable[[Sequence[bytes]], Sequence[Bundle]]

_GRANT_COLUMNS = [t.credit_grants.c[column.name] for column in fields(CreditGrant)]
_ENTRY_COLUMNS = [t.credit_entries.c[column.name] for column in fields(CreditEntry)]


@dataclass
class _Series:
    """A series of numbers that the transaction has locked."""

    name: str
    last_number: int

    def next(self) -> tuple[int, str]:
        self.last_number += 1
        return self.last_number, f"{self.name}-{self.last_number:06d}"


@dataclass
class _Ledger:
    """The balances of all accounts that have a grant, and the entries that the transaction adds."""

    balances: dict[str, list[CreditBalance]]
    last_entry_id: int
    new_entries: list[CreditEntry] = field(default_factory=list)

    def draw(self, document: PreparedDocument, number: str, at: datetime) -> list[CreditDraw]:
        mine = self.balances.get(document.account_id)
        if not mine:
            return []
        draws = draw_credits(document.total, document.currency, document.last_date, mine)
        taken = {draw.grant_id: draw.amount for draw in draws}
        with exact():
            self.balances[document.account_id] = [
                replace(one, balance=one.balance - taken.get(one.grant.grant_id, Decimal(0))) for one in mine
            ]
        for draw in draws:
            self.add(draw.grant_id, EntryKind.DRAWN, draw.amount, number, at)
        return draws

    def add(self, grant_id: str, kind: EntryKind, amount: Decimal, number: str | None, at: datetime) -> None:
        self.last_entry_id += 1
        self.new_entries.append(CreditEntry(self.last_entry_id, grant_id, kind, amount, number, at))

    def write(self, connection: Connection) -> None:
        if self.new_entries:
            rows = [{**asdict(entry), "kind": entry.kind.value} for entry in self.new_entries]
            connection.execute(insert(t.credit_entries), rows)
            self.new_entries.clear()


def issue(
    connection: Connection,
    period_id: str,
    prepared: Iterable[PreparedDocument],
    store: StoreDocuments,
    at: datetime,
    series: str,
    credit_note_series: str | None,
) -> int:
    """Number documents, draw credits, have their bytes stored, and record them; return how many there were.

    They come in order of account, an invoice of each at most once; a held account's is not issued, nor a second
    invoice of an account.
    """
    skipped = _held(connection, period_id)
    invoiced = set(accounts_with_invoice(connection, period_id))
    locked: dict[str, _Series] = {}
    ledger = _Ledger(_balances_by_account(connection), _last_entry_id(connection))
    count = 0
    for chunk in _in_order(prepared, DOCUMENTS_PER_BUNDLE):
        wanted = [
            one
            for one in chunk
            if one.account_id not in skipped and not (one.kind is DocumentKind.INVOICE and one.account_id in invoiced)
        ]
        if wanted:
            _issue_chunk(connection, period_id, wanted, store, at, series, credit_note_series, locked, ledger)
        count += len(wanted)
    for one in locked.values():
        columns = t.number_series.c
        connection.execute(
            update(t.number_series).where(columns.series == one.name).values(last_number=one.last_number)
        )
    return count


def _issue_chunk(
    connection: Connection,
    period_id: str,
    wanted: Sequence[PreparedDocument],
    store: StoreDocuments,
    at: datetime,
    series: str,
    credit_note_series: str | None,
    locked: dict[str, _Series],
    ledger: _Ledger,
) -> None:
    rows, contents = [], []
    for document in wanted:
        is_credit_note = document.kind is DocumentKind.CREDIT_NOTE
        name = credit_note_series if is_credit_note and credit_note_series else series
        if name not in locked:
            locked[name] = _locked_series(connection, name)
            _require_later(connection, locked[name], at)
        series_number, number = locked[name].next()
        content, amount_due = finish_document(document, number, ledger.draw(document, number, at))
        contents.append(content)
        rows.append(
            {
                "number": number,
                "kind": document.kind.value,
                "series": name,
                "series_number": series_number,
                "account_id": document.account_id,
                "period_id": period_id,
                "currency": document.currency,
                "subtotal": document.subtotal,
                "total": document.total,
                "amount_due": amount_due,
                "line_items_manifest": document.line_items_manifest,
                "document_sha256": sha256_hex(content),
                "corrects": document.corrects,
                "issued_at": at,
            }
        )
    for row, bundle in zip(rows, store(contents), strict=True):
        row |= {"bundle_sha256": bundle.sha256, "bundle_start": bundle.start, "byte_count": bundle.byte_count}
    connection.execute(insert(t.documents), rows)
    ledger.write(connection)
    audit_log.append(
        connection, at, *(Change("document_issued", f"document={row['number']}", _issued_details(row)) for row in rows)
    )


def void(connection: Connection, number: str, reason: str, at: datetime, by: str) -> IssuedDocument:
    """Make a document void and give back the credits it drew; what corrects it has to be void first."""
    found = documents(connection, t.documents.c.number == number)
    if not found:
        raise InputError(
            "document.unknown", f"there is no document {number}", ["`billing invoice list` names those there are"]
        )
    [document] = found
    if document.voided_at is not None:
        raise InputError(
            "document.already_void",
            f"document {number} is void since {document.voided_at.isoformat()}: {document.void_reason}",
            ["nothing was changed"],
        )
    correcting = [
        other.number for other in documents(connection, t.documents.c.corrects == number) if other.voided_at is None
    ]
    if correcting:
        raise PublicationError(
            "document.is_corrected",
            f"document {number} is corrected by {', '.join(correcting)}, which would correct nothing",
            ["nothing was changed; void them first"],
        )
    connection.execute(insert(t.voids).values(number=number, voided_at=at, voided_by=by, void_reason=reason))
    ledger = _Ledger({}, _last_entry_id(connection))
    for entry in entries(connection, t.credit_entries.c.document == number):
        ledger.add(entry.grant_id, EntryKind.RETURNED, -entry.amount, number, at)
    ledger.write(connection)
    audit_log.append(connection, at, Change("document_voided", f"document={number}", {"reason": reason, "by": by}))
    return replace(document, voided_at=at, voided_by=by, void_reason=reason)


def documents(connection: Connection, *conditions: ColumnElement[bool]) -> list[IssuedDocument]:
    """Return documents in order of series and number."""
    columns = t.documents.c
    query = (
        select(t.documents, t.voids.c.voided_at, t.voids.c.voided_by, t.voids.c.void_reason)
        .join(t.voids, t.voids.c.number == columns.number, isouter=True)
        .where(*conditions)
        .order_by(columns.series, columns.series_number)
    )
    return [_document(row) for row in connection.execute(query)]


def accounts_with_invoice(connection: Connection, period_id: str) -> Iterator[str]:
    """Yield the accounts that have an invoice of a period which is not void."""
    columns = t.documents.c
    query = (
        select(columns.account_id)
        .join(t.voids, t.voids.c.number == columns.number, isouter=True)
        .where(columns.period_id == period_id, columns.kind == DocumentKind.INVOICE.value, t.voids.c.number.is_(None))
    )
    yield from connection.scalars(query)


def accounts_to_invoice(connection: Connection, period_id: str) -> set[str]:
    """Return the accounts that are owed an invoice of a final period: released, or theirs was voided."""
    columns = t.documents.c
    was_held = set(connection.scalars(select(t.holds.c.account_id).where(t.holds.c.period_id == period_id)))
    voided = set(
        connection.scalars(
            select(columns.account_id)
            .join(t.voids, t.voids.c.number == columns.number)
            .where(columns.period_id == period_id, columns.kind == DocumentKind.INVOICE.value)
        )
    )
    return (was_held | voided) - _held(connection, period_id) - set(accounts_with_invoice(connection, period_id))


def add_grant(
    connection: Connection,
    at: datetime,
    by: str,
    account_id: str,
    currency: str,
    kind: CreditKind,
    amount: Decimal,
    priority: int,
    expires_on: Any,
    reason: str,
) -> CreditGrant:
    """Record a grant under the next id."""
    grant_number = (connection.scalar(select(func.count()).select_from(t.credit_grants)) or 0) + 1
    grant = CreditGrant(
        f"credit-{grant_number:06d}", account_id, currency, kind, amount, priority, expires_on, reason, at, by
    )
    connection.execute(insert(t.credit_grants).values(**{**asdict(grant), "kind": grant.kind.value}))
    details = {
        "account_id": account_id,
        "amount": f"{amount:f}",
        "currency": currency,
        "kind": grant.kind.value,
        "expires_on": expires_on.isoformat() if expires_on else None,
        "reason": reason,
        "by": by,
    }
    audit_log.append(connection, at, Change("credit_granted", f"credit={grant.grant_id}", details))
    return grant


def revoke(connection: Connection, grant_id: str, reason: str, at: datetime, by: str) -> Decimal:
    """Take what is left of a grant and return it; a revoked grant is never drawn again."""
    found = balances(connection, t.credit_grants.c.grant_id == grant_id)
    if not found:
        raise InputError(
            "credit.unknown", f"there is no credit {grant_id}", ["`billing credit list` names those there are"]
        )
    [one] = found
    if one.is_revoked:
        raise InputError("credit.already_revoked", f"credit {grant_id} is revoked already", ["nothing was changed"])
    ledger = _Ledger({}, _last_entry_id(connection))
    ledger.add(grant_id, EntryKind.REVOKED, one.balance, None, at)
    ledger.write(connection)
    details = {"amount": f"{one.balance:f}", "reason": reason, "by": by}
    audit_log.append(connection, at, Change("credit_revoked", f"credit={grant_id}", details))
    return one.balance


def balances(connection: Connection, *conditions: ColumnElement[bool]) -> list[CreditBalance]:
    """Return what is left of grants, in order of id."""
    left: dict[str, Decimal] = {}
    revoked = set()
    for entry in entries(connection):
        with exact():
            left[entry.grant_id] = left.get(entry.grant_id, Decimal(0)) - entry.amount
        if entry.kind is EntryKind.REVOKED:
            revoked.add(entry.grant_id)
    query = select(*_GRANT_COLUMNS).where(*conditions).order_by(t.credit_grants.c.grant_id)
    found = []
    for row in connection.execute(query):
        grant = CreditGrant(**{**row._mapping, "kind": CreditKind(row.kind)})
        with exact():
            balance = grant.amount + left.get(grant.grant_id, Decimal(0))
        found.append(CreditBalance(grant, balance, grant.grant_id in revoked))
    return found


def entries(connection: Connection, *conditions: ColumnElement[bool]) -> list[CreditEntry]:
    """Return entries in the order they were made."""
    query = select(*_ENTRY_COLUMNS).where(*conditions).order_by(t.credit_entries.c.entry_id)
    return [CreditEntry(**{**row._mapping, "kind": EntryKind(row.kind)}) for row in connection.execute(query)]


def _balances_by_account(connection: Connection) -> dict[str, list[CreditBalance]]:
    by_account: dict[str, list[CreditBalance]] = {}
    for one in balances(connection):
        if one.balance > 0:
            by_account.setdefault(one.grant.account_id, []).append(one)
    return by_account


def _last_entry_id(connection: Connection) -> int:
    return connection.scalar(select(func.max(t.credit_entries.c.entry_id))) or 0


def _held(connection: Connection, period_id: str) -> set[str]:
    holds = t.holds.c
    query = select(holds.account_id).where(holds.period_id == period_id, holds.released_at.is_(None))
    return set(connection.scalars(query))


def _locked_series(connection: Connection, name: str) -> _Series:
    columns = t.number_series.c
    last_number = connection.scalar(select(columns.last_number).where(columns.series == name).with_for_update())
    if last_number is None:
        connection.execute(insert(t.number_series).values(series=name, last_number=0))
    return _Series(name, last_number or 0)


def _require_later(connection: Connection, series: _Series, at: datetime) -> None:
    """Refuse an issue that is before that of the last number, because dates follow numbers."""
    columns = t.documents.c
    of_last = (columns.series == series.name, columns.series_number == series.last_number)
    last = connection.scalar(select(columns.issued_at).where(*of_last))
    if last is not None and at < last:
        raise NotReadyError(
            "document.issued_earlier",
            f"the last document of series {series.name} was issued at {last.isoformat()}, which is after now",
            [f"it is {at.isoformat()} here", "no number was taken; set the clock of this machine, and run it again"],
        )


def _in_order(prepared: Iterable[PreparedDocument], count: int) -> Iterator[list[PreparedDocument]]:
    """Yield the documents by the ``count``; numbers follow the order of accounts, so another order is refused."""
    last: tuple[str, DocumentKind] | None = None
    documents = iter(prepared)
    while chunk := list(islice(documents, count)):
        for document in chunk:
            is_second = last == (document.account_id, DocumentKind.INVOICE) and document.kind is DocumentKind.INVOICE
            if last is not None and (document.account_id < last[0] or is_second):
                raise ValueError(f"documents come in order of account, got {document.account_id} after {last[0]}")
            last = document.account_id, document.kind
        yield chunk


def _issued_details(row: Mapping[str, Any]) -> dict[str, str]:
    names = ("kind", "period_id", "account_id", "currency", "document_sha256")
    return {
        **{name: row[name] for name in names},
        "total": f"{row['total']:f}",
        "amount_due": f"{row['amount_due']:f}",
    }


def _document(row: Row[Any]) -> IssuedDocument:
    return IssuedDocument(
        number=row.number,
        kind=DocumentKind(row.kind),
        account_id=row.account_id,
        period_id=row.period_id,
        currency=row.currency,
        subtotal=row.subtotal,
        total=row.total,
        amount_due=row.amount_due,
        line_items_manifest=row.line_items_manifest,
        document_sha256=row.document_sha256,
        bundle=Bundle(row.bundle_sha256, row.bundle_start, row.byte_count),
        issued_at=row.issued_at,
        corrects=row.corrects,
        voided_at=row.voided_at,
        voided_by=row.voided_by,
        void_reason=row.void_reason,
    )
