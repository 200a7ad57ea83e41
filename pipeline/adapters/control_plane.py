"""The control plane: the state of billing that needs transactions, in a relational database.

SQLite by default, PostgreSQL in production; the same SQLAlchemy statements run on both. A write is one
transaction that first locks the head of the audit log, so writers take turns on either database, and that
adds an entry to the audit log for each change of state. Two tasks that do the same work at the
same time therefore get the same result, or the second one a ``PublicationError``.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from time import sleep
from typing import Any, Literal, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    Text,
    cast,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from pipeline.adapters import approvals, audit_log, break_ledger, document_ledger
from pipeline.adapters import control_plane_tables as t
from pipeline.adapters.audit_log import AuditEntry, Change
from pipeline.adapters.document_ledger import StoreDocuments
from pipeline.adapters.optional_imports import without
from pipeline.core.access import Action, Roles, require_allowed
from pipeline.core.approval import Decision, Override, SignOff
from pipeline.core.breaks import BY_ITSELF, Break, Difference
from pipeline.core.completeness import (
    CollectedEvidence,
    CollectedObject,
    Evidence,
    EvidenceKind,
    PendingObject,
    SourceException,
    UnclaimedKey,
    UnclaimedObject,
)
from pipeline.core.credit import CreditBalance, CreditEntry, CreditGrant, CreditKind
from pipeline.core.dataset import LINE_ITEMS, QUARANTINE, RAW_EVENTS
from pipeline.core.errors import InputError, NotReadyError, PublicationError
from pipeline.core.hold import Hold
from pipeline.core.invoice import DocumentKind, IssuedDocument, PreparedDocument
from pipeline.core.manifest import Manifest, Receipt, canonical_json, sha256_hex
from pipeline.core.plain_text import hidden_characters
from pipeline.core.price_book_version import Canary, PriceBookVersion, is_same_person
from pipeline.core.revision import Collection, LedgerObject, RevisionState, WindowRevision
from pipeline.core.window import require_utc

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_TIMEOUT_SECONDS = 60
SWITCH_ATTEMPT_MILLISECONDS = 50
IDS_PER_STATEMENT = 10_000  # below the bound-parameter limits of SQLite and PostgreSQL

Item = TypeVar("Item")

_EXCEPTION_COLUMNS = [t.completeness_exceptions.c[column.name] for column in fields(SourceException)]
_HOLD_COLUMNS = [t.holds.c[column.name] for column in fields(Hold)]
_LEDGER_COLUMNS = [t.object_ledger.c[column.name] for column in fields(LedgerObject)]
_PRICE_BOOK_COLUMNS = [t.price_book_versions.c[column.name] for column in fields(PriceBookVersion)]
_CANARY_COLUMNS = [t.canaries.c[column.name] for column in fields(Canary)]
_RECEIPT_COLUMNS = [t.publications.c[column.name] for column in fields(Receipt)]
_REVISION_COLUMNS = [t.window_revisions.c[column.name] for column in fields(WindowRevision)]


class ControlPlane:
    """The state of one billing project. Each method is one transaction; none leaves a part of its work behind.

    What a person asks for is refused (``access.denied``) when ``roles`` do not allow it; without roles everybody may.
    """

    def __init__(self, url: str, roles: Roles | None = None) -> None:
        self.roles = roles
        # Tasks fork and live for minutes: a pool would share connections between processes and save nothing.
        try:
            self._engine = create_engine(make_url(url), poolclass=NullPool)
        except ModuleNotFoundError as error:
            raise InputError(
                "control_plane.no_driver",
                f"the driver of the control plane's database is not installed: {error}",
                [f"install the Python package {error.name}, or use an SQLite database"],
            ) from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writer = self._engine.execution_options(writes=True)

    def migrate(self) -> None:
        """Bring the schema to the newest migration; processes that do so at once take turns.

        A schema that is up to date is only looked at. One that a newer release made is refused.
        """
        with self._read() as connection:
            current = _schema_revision(connection)
        if current == t.SCHEMA_REVISION:
            return
        # Here, because most of the time there is nothing to migrate, and Alembic takes a tenth of a second to start.
        with without("pygments"):
            from alembic import command
            from alembic.config import Config
            from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in known:
            raise InputError(
                "control_plane.newer_schema",
                f"the control plane database was made by a newer release (migration {current})",
                [f"this release knows migrations up to {t.SCHEMA_REVISION}; install the newer one"],
            )
        with self._explained(), self._writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(7285140)"))
            config.attributes["connection"] = connection
            command.upgrade(config, t.SCHEMA_REVISION)

    # ---- collections ----

    def object_ids(self) -> set[str]:
        """Return the id of every object version that was collected."""
        with self._read() as connection:
            return set(connection.scalars(select(t.object_ledger.c.object_id)))

    def ledger(self, object_ids: Iterable[str] | None = None) -> list[LedgerObject]:
        """Return ledger objects in order of id: all of them, or those named that are there."""
        query = select(*_LEDGER_COLUMNS)
        with self._read() as connection:
            if object_ids is None:
                rows = list(connection.execute(query))
            else:
                rows = [
                    row
                    for ids in _chunks(set(object_ids))
                    for row in connection.execute(query.where(t.object_ledger.c.object_id.in_(ids)))
                ]
        return sorted((LedgerObject(*row) for row in rows), key=lambda ledger_object: ledger_object.object_id)

    def objects_received(self, start: datetime | None, end: datetime) -> list[LedgerObject]:
        """Return the objects received in ``[start, end)``, or before ``end``, in order of id."""
        query = select(*_LEDGER_COLUMNS).where(t.object_ledger.c.received_at < end)
        if start is not None:
            query = query.where(t.object_ledger.c.received_at >= start)
        with self._read() as connection:
            return [LedgerObject(*row) for row in connection.execute(query.order_by(t.object_ledger.c.object_id))]

    def commit_collection(
        self,
        collection: Collection,
        manifests: Sequence[Manifest],
        at: datetime,
        evidence: Mapping[str, Evidence] | None = None,
        pending: Mapping[str, str] | None = None,
        unclaimed: Iterable[UnclaimedKey] = (),
    ) -> None:
        """Commit a collection, its ledger objects, its evidence and its manifests together, or nothing of it.

        ``evidence`` is named by object id and each of these objects is in the collection. ``pending`` (a message by
        key) and ``unclaimed`` replace what the listing before showed. A collection without objects is recorded too: it
        moves the watermark. The same collection again adds nothing. Refused: an object that another collection
        committed, counts that do not tie (P3).
        """
        _require_tied_counts(collection, manifests)
        evidence_rows = _evidence_rows(collection, evidence or {})
        hashes = sorted(manifest.manifest_hash for manifest in manifests)
        object_ids = sorted(ledger_object.object_id for ledger_object in collection.objects)
        listed_at = require_utc(collection.listed_at, "listed_at")
        identity = {"listed_at": listed_at.isoformat(), "objects": object_ids, "manifests": hashes}
        collection_id = sha256_hex(canonical_json(identity))
        with self._write() as connection:
            _replace_not_taken(connection, at, pending or {}, unclaimed)
            if _exists(connection, t.collections.c.collection_id == collection_id):
                return
            known = [
                object_id
                for ids in _chunks(object_ids)
                for object_id in connection.scalars(
                    select(t.object_ledger.c.object_id).where(t.object_ledger.c.object_id.in_(ids))
                )
            ]
            if known:
                raise PublicationError(
                    "collect.objects_already_collected",
                    f"another collection committed {len(known):,} of these {len(object_ids):,} objects first",
                    [f"first of them: {min(known)}", "nothing was committed; collect again to take what is still new"],
                )
            connection.execute(
                insert(t.collections).values(
                    collection_id=collection_id, listed_at=listed_at, object_count=len(object_ids), committed_at=at
                )
            )
            if collection.objects:
                connection.execute(
                    insert(t.object_ledger),
                    [{**_ledger_row(one), "collection_id": collection_id} for one in collection.objects],
                )
            if evidence_rows:
                connection.execute(insert(t.evidence), evidence_rows)
            audit_log.append(
                connection,
                at,
                Change(
                    "collection_committed",
                    f"collection={collection_id}",
                    {"listed_at": listed_at.isoformat(), "object_count": len(object_ids), "manifests": hashes},
                ),
            )
            for manifest in manifests:
                _publish(connection, manifest, at, collection_id)
                dates = {file.partition for file in manifest.files} if manifest.dataset == RAW_EVENTS.name else set()
                for event_date in sorted(dates):
                    connection.execute(
                        insert(t.raw_event_partitions).values(
                            event_date=date.fromisoformat(event_date), manifest_hash=manifest.manifest_hash
                        )
                    )

    def watermark_at(self) -> datetime | None:
        """Return the instant up to which everything in the bucket was collected, or None before the first collection.

        The newest collection says it, also when it says less than the one before: an object with an older receipt time
        may have appeared since and could not be fetched.
        """
        collections = t.collections.c
        newest = select(collections.listed_at).order_by(collections.committed_at.desc(), collections.listed_at.desc())
        with self._read() as connection:
            reached: datetime | None = connection.scalar(newest.limit(1))
            return reached

    def collected_objects(self, contract: str) -> list[CollectedObject]:
        """Return the newest version of each object of usage data that was collected for a contract, by key."""
        ledger = t.object_ledger.c
        columns = [ledger[name] for name in CollectedObject._fields]
        is_evidence = exists().where(t.evidence.c.object_id == ledger.object_id)
        query = select(*columns).where(ledger.contract == contract, ~is_evidence)
        with self._read() as connection:
            rows = connection.execute(query.order_by(ledger.key, ledger.received_at, ledger.object_id))
            return list({row.key: CollectedObject(*row) for row in rows}.values())

    def evidence(self, contract: str | None = None) -> list[CollectedEvidence]:
        """Return every version of each object of evidence, of one contract or of all, in order of receipt."""
        columns = t.evidence.c
        query = select(t.evidence).order_by(columns.received_at, columns.object_id)
        if contract is not None:
            query = query.where(columns.contract == contract)
        with self._read() as connection:
            return [
                CollectedEvidence(
                    row.object_id,
                    row.received_at,
                    Evidence(row.contract, EvidenceKind(row.kind), row.key, row.content),
                )
                for row in connection.execute(query)
            ]

    def pending_objects(self) -> list[PendingObject]:
        """Return the objects that the newest collection could not fetch, in order of key."""
        with self._read() as connection:
            return [PendingObject(*row) for row in connection.execute(select(t.pending_objects).order_by("key"))]

    def unclaimed_objects(self) -> list[UnclaimedObject]:
        """Return the objects that the newest collection saw and nobody claims, in order of key."""
        with self._read() as connection:
            return [UnclaimedObject(*row) for row in connection.execute(select(t.unclaimed_objects).order_by("key"))]

    def raw_event_manifests(self, event_dates: Sequence[date] | None = None) -> list[str]:
        """Return the hashes of the raw_events manifests that hold a file, of one of the dates if given, sorted."""
        partitions = t.raw_event_partitions.c
        with self._read() as connection:
            if event_dates is None:
                return sorted(set(connection.scalars(select(partitions.manifest_hash))))
            found = {
                manifest_hash
                for dates in _chunks(event_dates)
                for manifest_hash in connection.scalars(
                    select(partitions.manifest_hash).where(partitions.event_date.in_(dates))
                )
            }
        return sorted(found)

    def derived_pins(self, derivations: Iterable[str]) -> dict[str, str]:
        """Return the pins that were made from these derivations before; what was never made is left out."""
        columns = t.derived_pins.c
        with self._read() as connection:
            return {
                row.derivation: row.pin
                for names in _chunks(set(derivations))
                for row in connection.execute(select(t.derived_pins).where(columns.derivation.in_(names)))
            }

    def keep_derived_pin(self, derivation: str, pin: str) -> None:
        """Keep what a derivation made; one that is kept already stays as it is."""
        with self._write() as connection:
            if not _exists(connection, t.derived_pins.c.derivation == derivation):
                connection.execute(insert(t.derived_pins).values(derivation=derivation, pin=pin))

    def collections_of(self, object_ids: Iterable[str]) -> dict[str, list[str]]:
        """Return the ``raw_events`` and ``quarantine`` manifest hashes of the collections that took these objects."""
        ledger, published = t.object_ledger.c, t.publications.c
        with self._read() as connection:
            collection_ids = {
                collection_id
                for ids in _chunks(set(object_ids))
                for collection_id in connection.scalars(
                    select(ledger.collection_id).where(ledger.object_id.in_(ids)).distinct()
                )
            }
            rows = [
                row
                for ids in _chunks(collection_ids)
                for row in connection.execute(
                    select(published.dataset, published.manifest_hash).where(published.collection_id.in_(ids))
                )
            ]
        return {
            name: sorted(manifest_hash for dataset, manifest_hash in rows if dataset == name)
            for name in (RAW_EVENTS.name, QUARANTINE.name)
        }

    # ---- publications ----

    def publish(self, manifest: Manifest, at: datetime) -> Receipt:
        """Make a revision of a dataset visible. The same manifest again is a no-op; another one is refused."""
        with self._write() as connection:
            return _publish(connection, manifest, at, None)

    def publication(self, dataset: str, scope: str, revision: int | None = None) -> Receipt | None:
        """Return one published revision, or the newest one, if there is any."""
        with self._read() as connection:
            return _publication(connection, dataset, scope, revision)

    def published_scopes(self, dataset: str) -> list[str]:
        """Return the scopes of which a dataset has a revision, in order."""
        published = t.publications.c
        query = select(published.scope).where(published.dataset == dataset).distinct().order_by(published.scope)
        with self._read() as connection:
            return list(connection.scalars(query))

    def publications(self, scope: str) -> list[Receipt]:
        """Return every published revision of every dataset of a scope, in order of dataset and revision."""
        published = t.publications.c
        query = select(*_RECEIPT_COLUMNS).where(published.scope == scope)
        with self._read() as connection:
            rows = connection.execute(query.order_by(published.dataset, published.revision))
            return [Receipt(*row) for row in rows]

    # ---- window revisions ----

    def latest_revision(self, window_id: str) -> WindowRevision | None:
        """Return the newest revision of a window, in whatever state."""
        with self._read() as connection:
            return _newest_revision(connection, t.window_revisions.c.window_id == window_id)

    def accepted_revision(self, window_id: str) -> WindowRevision | None:
        """Return the newest accepted revision of a window."""
        revisions = t.window_revisions.c
        with self._read() as connection:
            return _newest_revision(
                connection, revisions.window_id == window_id, revisions.state == RevisionState.ACCEPTED.value
            )

    def accepted_revisions(self) -> dict[str, WindowRevision]:
        """Return the newest accepted revision of each window that has one, by window, in order."""
        return {
            revision.window_id: revision
            for revision in self.window_revisions()
            if revision.state is RevisionState.ACCEPTED
        }

    def window_revisions(self, start: datetime | None = None, end: datetime | None = None) -> list[WindowRevision]:
        """Return every revision of each window that shares an instant with ``[start, end)``, by window and revision."""
        revisions = t.window_revisions.c
        query = select(*_REVISION_COLUMNS).order_by(revisions.window_start, revisions.window_id, revisions.revision)
        if start is not None:
            query = query.where(revisions.window_end > start)
        if end is not None:
            query = query.where(revisions.window_start < end)
        with self._read() as connection:
            return [_revision(row) for row in connection.execute(query)]

    def newest_window_end(self) -> datetime | None:
        """Return the end of the last window that has a revision, if there is any."""
        with self._read() as connection:
            end: datetime | None = connection.scalar(select(func.max(t.window_revisions.c.window_end)))
            return end

    def open_revision(
        self, revision: WindowRevision, at: datetime, exceptions: Sequence[SourceException] = ()
    ) -> WindowRevision:
        """Record a candidate, or return it as it stands if it is there already; record exceptions of it with it.

        Refused: the same number with other inputs, a number that leaves a gap, a state other than candidate.
        """
        if revision.state is not RevisionState.CANDIDATE:
            raise ValueError(f"a revision is opened as a candidate, got {revision.state}")
        name = f"revision {revision.revision} of window {revision.window_id}"
        with self._write() as connection:
            existing = _find_revision(connection, revision.window_id, revision.revision)
            if existing is not None and existing.inputs_hash == revision.inputs_hash:
                _record_exceptions(connection, exceptions, at)
                return existing
            if existing is not None:
                raise PublicationError(
                    "revision.other_inputs",
                    f"{name} exists with other inputs",
                    [
                        f"expected inputs {existing.inputs_hash}, got {revision.inputs_hash}",
                        "it stands unchanged; run the window again to open the next revision",
                    ],
                )
            _refuse_overlap(connection, revision)
            newest = _newest_revision(connection, t.window_revisions.c.window_id == revision.window_id)
            expected = 1 if newest is None else newest.revision + 1
            if revision.revision != expected:
                raise PublicationError("revision.gap", f"{name} would leave a gap; the next revision is {expected}")
            row = {column.name: getattr(revision, column.name) for column in fields(revision)}
            row["pins"] = canonical_json(revision.pins).decode()
            row["state"] = revision.state.value
            connection.execute(insert(t.window_revisions).values(**row, opened_at=at))
            audit_log.append(
                connection,
                at,
                Change(
                    "revision_opened",
                    revision.document_scope,
                    {
                        "inputs_hash": revision.inputs_hash,
                        "cutoff_at": require_utc(revision.cutoff_at, "cutoff_at").isoformat(),
                        "reason": revision.reason,
                    },
                ),
            )
            _record_exceptions(connection, exceptions, at)
            return revision

    def exceptions(self, window_id: str | None = None, revision: int | None = None) -> list[SourceException]:
        """Return the recorded exceptions, of one revision, of one window or all, in the order they were recorded."""
        columns = t.completeness_exceptions.c
        query = select(*_EXCEPTION_COLUMNS).order_by(columns.at, columns.window_id, columns.contract)
        if window_id is not None:
            query = query.where(columns.window_id == window_id)
        if revision is not None:
            query = query.where(columns.revision == revision)
        with self._read() as connection:
            return [
                SourceException(**{**row._mapping, "missing": tuple(json.loads(row.missing))})
                for row in connection.execute(query)
            ]

    def decide_revision(self, window_id: str, revision: int, state: RevisionState, at: datetime, why: str) -> None:
        """Accept or reject a revision. The same decision again is a no-op.

        A rejected revision may be accepted later, when its gates were run again and passed. Refused: a
        revision that is unknown, and any change of an accepted one (invoices may rest on it).
        """
        if state is RevisionState.CANDIDATE:
            raise ValueError("a revision is decided as accepted or rejected")
        name = f"revision {revision} of window {window_id}"
        revisions = t.window_revisions.c
        with self._write() as connection:
            existing = _find_revision(connection, window_id, revision)
            if existing is None:
                raise PublicationError("revision.unknown", f"there is no {name}")
            if existing.state is state:
                return
            if existing.state is RevisionState.ACCEPTED:
                raise PublicationError(
                    "revision.already_accepted",
                    f"{name} is accepted and cannot be {state.value}",
                    ["invoices may rest on it; correct the window by a new revision"],
                )
            connection.execute(
                update(t.window_revisions)
                .where(revisions.window_id == window_id, revisions.revision == revision)
                .values(state=state.value, decided_at=at)
            )
            audit_log.append(
                connection,
                at,
                Change(
                    f"revision_{state.value}",
                    f"window={window_id}/revision={revision}",
                    {"from": existing.state.value, "why": why},
                ),
            )

    # ---- periods and invoices ----

    def period_state(self, period_id: str) -> Literal["open", "final"]:
        return "final" if period_id in self.final_periods() else "open"

    def final_periods(self) -> set[str]:
        with self._read() as connection:
            return set(connection.scalars(select(t.final_periods.c.period_id)))

    def finalise_period(
        self,
        period_id: str,
        series: str,
        prepared: Iterable[PreparedDocument],
        store: StoreDocuments,
        at: datetime,
        revisions: Mapping[str, int] | None = None,
    ) -> list[IssuedDocument]:
        """Make a period final and issue its invoices, all in one transaction; return all documents of the period.

        ``prepared`` come in order of account, which numbers follow without a gap: whatever fails, also ``store``
        (which keeps the bytes of documents and says where), takes back every number with it. A held account gets
        none. Of a period that is final already only those are issued that are owed one: of accounts that were
        released, or whose invoice was voided. ``revisions`` names, by window, the accepted revision that was rated; a
        newer one accepted meanwhile is refused.
        """
        with self._write() as connection:
            is_final = _exists(connection, t.final_periods.c.period_id == period_id)
            owed = document_ledger.accounts_to_invoice(connection, period_id) if is_final else None
            if owed != set():
                _require_newest(connection, revisions or {})
                if not is_final:
                    row = {"period_id": period_id, "series": series, "finalised_at": at}
                    connection.execute(insert(t.final_periods).values(**row))
                wanted = (one for one in prepared if owed is None or one.account_id in owed)
                count = document_ledger.issue(connection, period_id, wanted, store, at, series, None)
                if not is_final:
                    finalised = {"series": series, "invoice_count": count}
                    audit_log.append(connection, at, Change("period_finalised", f"period={period_id}", finalised))
            return document_ledger.documents(connection, t.documents.c.period_id == period_id)

    def issue_documents(
        self,
        period_id: str,
        series: str,
        prepared: Iterable[PreparedDocument],
        store: StoreDocuments,
        at: datetime,
        credit_note_series: str | None,
        document_counts: Mapping[str, int],
    ) -> int:
        """Issue documents beside the invoices of a final period, in one transaction, and return how many.

        They come in order of account; those of a held account are not issued. Credit notes have numbers of
        ``series``, unless they have a series of their own. ``document_counts`` is how many documents each account had
        when these were made: if another was issued since, they would settle the same usage twice, and are refused.
        """
        with self._write() as connection:
            if not _exists(connection, t.final_periods.c.period_id == period_id):
                raise PublicationError(
                    "document.period_is_open",
                    f"period {period_id} is open: what changes goes into its invoices",
                    ["no number was taken; close the period first"],
                )
            found = document_ledger.documents(connection, t.documents.c.period_id == period_id)
            counts = Counter(document.account_id for document in found)
            overtaken = sorted(
                account_id for account_id, count in document_counts.items() if counts[account_id] != count
            )
            if overtaken:
                raise PublicationError(
                    "document.issued_meanwhile",
                    f"documents of period {period_id} were issued meanwhile ({len(overtaken)} accounts)",
                    [f"account {overtaken[0]} has {counts[overtaken[0]]} by now", "no number was taken; run it again"],
                )
            return document_ledger.issue(connection, period_id, prepared, store, at, series, credit_note_series)

    def void_document(self, number: str, reason: str, at: datetime, by: str) -> IssuedDocument:
        """Make a document void: its number stays, and credits that it drew are given back."""
        require_allowed(self.roles, by, Action.VOID)
        _require_words(number=number, reason=reason, by=by)
        with self._write() as connection:
            return document_ledger.void(connection, number, reason, at, by)

    def documents(self, period_id: str | None = None, account_id: str | None = None) -> list[IssuedDocument]:
        """Return the documents of a period, of an account, or all, in order of series and number, void ones too."""
        columns = t.documents.c
        conditions = [] if period_id is None else [columns.period_id == period_id]
        conditions += [] if account_id is None else [columns.account_id == account_id]
        with self._read() as connection:
            return document_ledger.documents(connection, *conditions)

    def adjusting_documents(self, after: datetime | None, until: datetime) -> list[IssuedDocument]:
        """Return the adjustments and credit notes issued in ``(after, until]``, in order of series and number."""
        columns = t.documents.c
        conditions = [columns.kind != DocumentKind.INVOICE.value, columns.issued_at <= until]
        conditions += [] if after is None else [columns.issued_at > after]
        with self._read() as connection:
            return document_ledger.documents(connection, *conditions)

    def document(self, number: str) -> IssuedDocument | None:
        """Return the document of a number, if there is one."""
        with self._read() as connection:
            return next(iter(document_ledger.documents(connection, t.documents.c.number == number)), None)

    def accounts_to_invoice(self, period_id: str) -> set[str]:
        """Return the accounts that are owed an invoice of a final period: released, or theirs was voided."""
        with self._read() as connection:
            return document_ledger.accounts_to_invoice(connection, period_id)

    def last_numbers(self) -> dict[str, int]:
        """Return the last number of each series."""
        columns = t.number_series.c
        with self._read() as connection:
            rows = connection.execute(select(columns.series, columns.last_number).order_by(columns.series))
            return {row.series: row.last_number for row in rows}

    def document_counts(self) -> dict[str, int]:
        """Return how many documents have a number of each series, the void ones too."""
        columns = t.documents.c
        query = select(columns.series, func.count()).group_by(columns.series).order_by(columns.series)
        with self._read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    # ---- credits ----

    def grant_credit(
        self,
        account_id: str,
        currency: str,
        kind: CreditKind,
        amount: Decimal,
        reason: str,
        at: datetime,
        by: str,
        *,
        priority: int = 0,
        expires_on: date | None = None,
    ) -> CreditGrant:
        """Grant a credit; smaller priorities are drawn first, and nothing after ``expires_on``."""
        require_allowed(self.roles, by, Action.CREDIT)
        _require_words(account_id=account_id, reason=reason, by=by)
        with self._write() as connection:
            return document_ledger.add_grant(
                connection, at, by, account_id, currency, kind, amount, priority, expires_on, reason
            )

    def revoke_credit(self, grant_id: str, reason: str, at: datetime, by: str) -> Decimal:
        """Take what is left of a credit and return how much that was; it is never drawn again."""
        require_allowed(self.roles, by, Action.CREDIT)
        _require_words(grant_id=grant_id, reason=reason, by=by)
        with self._write() as connection:
            return document_ledger.revoke(connection, grant_id, reason, at, by)

    def credit_balances(self, account_id: str | None = None) -> list[CreditBalance]:
        """Return what is left of the credits of an account, or of all, in order of id."""
        conditions = [] if account_id is None else [t.credit_grants.c.account_id == account_id]
        with self._read() as connection:
            return document_ledger.balances(connection, *conditions)

    def credit_entries(self) -> list[CreditEntry]:
        """Return every entry of the ledger of credits, in the order they were made."""
        with self._read() as connection:
            return document_ledger.entries(connection)

    # ---- price books ----

    def publish_price_book(
        self, book: PriceBookVersion, at: datetime, refuse: Callable[[set[str]], None]
    ) -> PriceBookVersion:
        """Keep a version for ever and return it; the same content again returns what was published first.

        ``refuse`` raises when the book would change one of the final periods it is given.
        """
        require_allowed(self.roles, book.published_by, Action.AUTHOR_BOOK)
        with self._write() as connection:
            existing = _price_book(connection, book.version)
            if existing is not None and existing.sha256 == book.sha256:
                return existing
            if existing is not None:
                raise PublicationError(
                    "price.version_exists",
                    f"another price book is published as {book.version}",
                    [f"expected SHA-256 {existing.sha256}, got {book.sha256}", "change any byte of the new one"],
                )
            refuse(set(connection.scalars(select(t.final_periods.c.period_id))))
            unapproved = dict.fromkeys(("approved_at", "approved_by", "approval_number"))
            row = {**asdict(book), "published_at": at, **unapproved}
            connection.execute(insert(t.price_book_versions).values(**row))
            details = {
                "sha256": book.sha256,
                "effective_from": book.effective_from.isoformat(),
                "author": book.author,
                "by": book.published_by,
                "reason": book.reason,
            }
            audit_log.append(connection, at, Change("price_book_published", f"price_book={book.version}", details))
            return _require_price_book(connection, book.version)

    def approve_price_book(
        self, version: str, by: str, at: datetime, refuse: Callable[[set[str]], None]
    ) -> PriceBookVersion:
        """Put a published version into force and return it; one that is approved stays as it is.

        Refused: approval by its author or its publisher, and what ``refuse`` raises as in publish_price_book.
        """
        require_allowed(self.roles, by, Action.APPROVE_BOOK)
        with self._write() as connection:
            book = _require_price_book(connection, version)
            if book.approval_number is not None:
                return book
            for role, name in (("author", book.author), ("publisher", book.published_by)):
                if is_same_person(by, name):
                    raise PublicationError(
                        "price.same_person",
                        f"{by} is the {role} of {version} and cannot approve it",
                        [f"author {book.author}, published by {book.published_by}; somebody else looks at the prices"],
                    )
            refuse(set(connection.scalars(select(t.final_periods.c.period_id))))
            columns = t.price_book_versions.c
            number = (connection.scalar(select(func.max(columns.approval_number))) or 0) + 1
            connection.execute(
                update(t.price_book_versions)
                .where(columns.version == version)
                .values(approved_at=at, approved_by=by, approval_number=number)
            )
            details = {"by": by, "effective_from": book.effective_from.isoformat()}
            audit_log.append(connection, at, Change("price_book_approved", f"price_book={version}", details))
            return _require_price_book(connection, version)

    def price_book_versions(self) -> list[PriceBookVersion]:
        """Return every published version, by effective date and when it was published."""
        columns = t.price_book_versions.c
        query = select(*_PRICE_BOOK_COLUMNS).order_by(columns.effective_from, columns.published_at, columns.version)
        with self._read() as connection:
            return [PriceBookVersion(*row) for row in connection.execute(query)]

    def set_canary(self, version: str | None, sha256: str | None, by: str, at: datetime) -> Canary:
        """Make a book the canary, or none; the same again changes nothing."""
        require_allowed(self.roles, by, Action.SET_CANARY)
        with self._write() as connection:
            newest = _canary(connection)
            if newest is not None and newest.sha256 == sha256:
                return newest
            number = 1 if newest is None else newest.canary_number + 1
            canary = Canary(number, version, sha256, require_utc(at, "at"), by)
            connection.execute(insert(t.canaries).values(**asdict(canary)))
            details = {"by": by, "sha256": sha256}
            audit_log.append(connection, at, Change("canary_set", f"price_book={version or 'none'}", details))
            return canary

    def canary(self) -> Canary | None:
        """Return the canary that was set last and not taken off."""
        with self._read() as connection:
            newest = _canary(connection)
            return newest if newest is not None and newest.version is not None else None

    # ---- holds ----

    def hold_account(self, period_id: str, account_id: str, reason: str, at: datetime, by: str) -> Hold:
        """Give an account no document of a period until it is released; the same hold again is a no-op.

        An account may be held for several reasons. One that has its invoice gets no adjustment.
        """
        require_allowed(self.roles, by, Action.HOLD)
        _require_words(account_id=account_id, reason=reason, by=by)
        return self._hold(period_id, account_id, reason, at, by)

    def hold_for_control(self, period_id: str, account_id: str, control: str, reason: str, at: datetime) -> Hold:
        """Hold an account because a control that names it failed; no person asks for this one, a person releases it."""
        return self._hold(period_id, account_id, reason, at, f"control {control}")

    def release_for_control(self, period_id: str, account_id: str, control: str, reason: str, at: datetime) -> int:
        """End the holds of an account that this control set, because it passes; return how many there were."""
        return self._release(period_id, account_id, reason, at, BY_ITSELF, t.holds.c.held_by == f"control {control}")

    def _hold(self, period_id: str, account_id: str, reason: str, at: datetime, by: str) -> Hold:
        holds = t.holds.c
        same = (holds.period_id == period_id, holds.account_id == account_id, holds.reason == reason)
        with self._write() as connection:
            query = select(*_HOLD_COLUMNS).where(*same, holds.held_by == by, holds.released_at.is_(None))
            existing = connection.execute(query).first()
            if existing is not None:
                return Hold(*existing)
            hold_id = (connection.scalar(select(func.max(holds.hold_id))) or 0) + 1
            hold = Hold(hold_id, period_id, account_id, reason, at, by)
            connection.execute(insert(t.holds).values(**asdict(hold)))
            audit_log.append(connection, at, approvals.hold_made(period_id, account_id, reason, by))
            return hold

    def release_account(self, period_id: str, account_id: str, reason: str, at: datetime, by: str) -> int:
        """End every hold of an account in a period, and return how many there were."""
        require_allowed(self.roles, by, Action.RELEASE)
        return self._release(period_id, account_id, reason, at, by)

    def _release(
        self, period_id: str, account_id: str, reason: str, at: datetime, by: str, *conditions: ColumnElement[bool]
    ) -> int:
        _require_words(account_id=account_id, reason=reason, by=by)
        holds = t.holds.c
        of_account = (holds.period_id == period_id, holds.account_id == account_id, holds.released_at.is_(None))
        is_meant = (*of_account, *conditions)
        with self._write() as connection:
            released = connection.execute(
                update(t.holds).where(*is_meant).values(released_at=at, released_by=by, release_reason=reason)
            ).rowcount
            if released:
                subject = f"period={period_id}/account={account_id}"
                audit_log.append(connection, at, Change("account_released", subject, {"reason": reason, "by": by}))
            return released

    def held_accounts(self, period_id: str) -> dict[str, str]:
        """Return the accounts that are held in a period with the reasons, in order of account."""
        reasons: dict[str, list[str]] = {}
        for hold in self.holds(period_id):
            if hold.released_at is None:
                reasons.setdefault(hold.account_id, []).append(hold.reason)
        return {account_id: "; ".join(dict.fromkeys(reasons[account_id])) for account_id in sorted(reasons)}

    def holds(self, period_id: str | None = None) -> list[Hold]:
        """Return the holds of a period, or all, also those that were released, in the order they were made."""
        query = select(*_HOLD_COLUMNS).order_by(t.holds.c.hold_id)
        if period_id is not None:
            query = query.where(t.holds.c.period_id == period_id)
        with self._read() as connection:
            return [Hold(*row) for row in connection.execute(query)]

    # ---- service levels ----

    def newest_publications(self, dataset: str) -> list[Receipt]:
        """Return the newest revision of each scope of a dataset, in order of scope."""
        published = t.publications.c
        query = select(*_RECEIPT_COLUMNS).where(published.dataset == dataset)
        with self._read() as connection:
            rows = connection.execute(query.order_by(published.scope, published.revision))
            return list({row.scope: Receipt(*row) for row in rows}.values())

    def first_accepted_at(self, window_id: str) -> datetime | None:
        """Return when a revision of the window was accepted first, or None if none is."""
        columns = t.window_revisions.c
        decided = select(func.min(columns.decided_at, type_=t.Instant)).where(
            columns.window_id == window_id, columns.state == RevisionState.ACCEPTED.value
        )
        with self._read() as connection:
            accepted_at: datetime | None = connection.scalar(decided)
            return accepted_at

    def issued_at(self, period_id: str) -> dict[str, datetime]:
        """Return when each document of a period was issued, by number."""
        columns = t.documents.c
        with self._read() as connection:
            rows = connection.execute(select(columns.number, columns.issued_at).where(columns.period_id == period_id))
            return {row.number: row.issued_at for row in rows}

    def audited_counts(self) -> tuple[int, int]:
        """Return how many publications, decisions and documents have an entry in the audit log, and how many there are.

        A chain of entries that was broken proves nothing: then none has.
        """
        published, revisions, documents = t.publications.c, t.window_revisions.c, t.documents.c
        scope = published.dataset + "/" + published.scope + "/revision=" + cast(published.revision, Text)
        revision = "window=" + revisions.window_id + "/revision=" + cast(revisions.revision, Text)
        changes = (
            (t.publications, "published", scope, true()),
            (t.window_revisions, "revision_opened", revision, true()),
            (t.window_revisions, "revision_accepted", revision, revisions.state == RevisionState.ACCEPTED.value),
            (t.window_revisions, "revision_rejected", revision, revisions.state == RevisionState.REJECTED.value),
            (t.documents, "document_issued", "document=" + documents.number, true()),
            (t.final_periods, "period_finalised", "period=" + t.final_periods.c.period_id, true()),
        )
        audited_count = change_count = 0
        log = t.audit_log.c
        with self._read() as connection:
            for table, action, subject, condition in changes:
                told = select(log.subject).where(log.action == action)
                rows = select(func.count()).select_from(table).where(condition)
                change_count += connection.scalar(rows) or 0
                audited_count += connection.scalar(rows.where(subject.in_(told))) or 0
            try:
                audit_log.verify(connection)
            except PublicationError:
                audited_count = 0
        return audited_count, change_count

    # ---- breaks ----

    def carry_breaks(
        self, domain: str, controls: Iterable[str], found: Sequence[Difference], seen_in: str, at: datetime
    ) -> list[Break]:
        """Open, carry over and resolve the breaks of what was reconciled; return those that are open now.

        ``domain`` is ``window=...`` or ``period=...``, ``controls`` names every control that was looked at in it: an
        open break of these that is not among ``found`` is resolved by itself. ``seen_in`` says where, such as
        ``window 2026-01-15 revision 2``.
        """
        with self._write() as connection:
            break_ledger.carry_over(connection, domain, frozenset(controls), found, seen_in, at)
        return self.breaks(domain=domain)

    def breaks(self, *, domain: str | None = None, include_resolved: bool = False) -> list[Break]:
        """Return the open breaks, of a ``window=...``, of a ``period=...`` or all, in the order they were opened."""
        columns = t.breaks.c
        conditions: list[ColumnElement[bool]] = [] if include_resolved else [columns.resolved_at.is_(None)]
        if domain is not None:
            kind, _, name = domain.partition("=")
            conditions.append((columns.window_id if kind == "window" else columns.period_id) == name)
        with self._read() as connection:
            return break_ledger.find(connection, *conditions)

    def assign_break(self, break_id: int, owner: str, at: datetime, by: str) -> Break:
        """Say who looks into an open break."""
        require_allowed(self.roles, by, Action.WORK_BREAK)
        _require_words(owner=owner, by=by)
        with self._write() as connection:
            return break_ledger.work(connection, break_id, "break_assigned", at, by, {"owner": owner})

    def note_break(self, break_id: int, note: str, at: datetime, by: str) -> Break:
        """Say what is known of an open break; the note before stays in the audit log."""
        require_allowed(self.roles, by, Action.WORK_BREAK)
        _require_words(note=note, by=by)
        with self._write() as connection:
            return break_ledger.work(connection, break_id, "break_noted", at, by, {"note": note})

    def resolve_break(self, break_id: int, reason: str, at: datetime, by: str) -> Break:
        """Settle an open break with a reason; if its control fails again, another one is opened."""
        require_allowed(self.roles, by, Action.WORK_BREAK)
        _require_words(reason=reason, by=by)
        values = {"resolved_at": at, "resolved_by": by, "resolution": reason}
        with self._write() as connection:
            return break_ledger.work(connection, break_id, "break_resolved", at, by, values)

    # ---- overrides and sign-offs ----

    def request_override(
        self, window_id: str, revision: int, failures: Sequence[str], reason: str, at: datetime, by: str
    ) -> Override:
        """Ask that a revision be accepted in spite of these failures; somebody else has to approve it."""
        require_allowed(self.roles, by, Action.REQUEST_OVERRIDE)
        _require_words(reason=reason, by=by)
        if not failures:
            raise ValueError("an override names what failed")
        with self._write() as connection:
            return approvals.request_override(connection, window_id, revision, failures, reason, at, by)

    def approve_override(self, window_id: str, revision: int, failures_hash: str, at: datetime, by: str) -> Override:
        """Approve an override of exactly these failures; refused by the person who asked for it (four eyes)."""
        require_allowed(self.roles, by, Action.APPROVE_OVERRIDE)
        _require_words(by=by)
        with self._write() as connection:
            return approvals.approve_override(connection, window_id, revision, failures_hash, at, by)

    def overrides(self, window_id: str | None = None, revision: int | None = None) -> list[Override]:
        """Return the overrides of a revision, of a window or all, in the order they were asked for."""
        columns = t.overrides.c
        conditions = [] if window_id is None else [columns.window_id == window_id]
        conditions += [] if revision is None else [columns.revision == revision]
        with self._read() as connection:
            return approvals.overrides(connection, *conditions)

    def sign_off(
        self,
        period_id: str,
        decision: Decision,
        content_hash: str,
        figures: Mapping[str, Any],
        reason: str,
        at: datetime,
        by: str,
    ) -> SignOff:
        """Record a decision about the figures of a period; the newest one holds."""
        require_allowed(self.roles, by, Action.SIGN_OFF)
        _require_words(reason=reason, by=by)
        with self._write() as connection:
            return approvals.sign_off(connection, period_id, decision, content_hash, figures, reason, at, by)

    def sign_offs(self, period_id: str | None = None) -> list[SignOff]:
        """Return the decisions about a period, or all, oldest first."""
        conditions = [] if period_id is None else [t.sign_offs.c.period_id == period_id]
        with self._read() as connection:
            return approvals.sign_offs(connection, *conditions)

    # ---- audit log ----

    def audit_log(self, subject: str | None = None) -> list[AuditEntry]:
        """Return every entry, or those about a subject, oldest first."""
        with self._read() as connection:
            return audit_log.entries(connection, subject)

    def newest_audit_entries(self, count: int, before: int | None = None) -> list[AuditEntry]:
        """Return so many entries, newest first, of those before a number if it is given."""
        with self._read() as connection:
            return audit_log.newest_entries(connection, count, before)

    def verify_audit_log(self) -> None:
        """Recompute the chain; the first entry that was changed, removed or put in raises ``PublicationError``.

        So does an approval, a sign-off or a hold that the log does not tell of, or tells of and is gone.
        """
        with self._read() as connection:
            audit_log.verify(connection)
            approvals.verify(connection)

    # ---- transactions ----

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._explained(), self._writer.begin() as connection:
            audit_log.lock(connection)
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise NotReadyError(
                "control_plane.unavailable",
                f"the control plane database cannot be used now: {str(error.orig).partition(chr(10))[0]}",
                [
                    f"database {self._engine.url.render_as_string(hide_password=True)}",
                    "nothing was changed; the same call may succeed when the database answers again",
                ],
            ) from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                "control_plane.not_a_database",
                f"the control plane's file cannot be used: {error}",
                [f"database {self._engine.url.render_as_string(hide_password=True)}", "correct control_plane.url"],
            ) from error


# SQLite is set up here and nowhere else.


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
    _use_write_ahead_log(connection)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch a new database over; SQLite does not wait for another process that is doing the same, so this does."""
    connection.execute(f"PRAGMA busy_timeout = {SWITCH_ATTEMPT_MILLISECONDS}")
    for attempts_left in reversed(range(max(1, BUSY_TIMEOUT_SECONDS * 1000 // (2 * SWITCH_ATTEMPT_MILLISECONDS)))):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if not attempts_left:
                raise
            sleep(SWITCH_ATTEMPT_MILLISECONDS / 1000)


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start: a transaction that reads first and writes later could not get it."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


# Statements inside a transaction of the caller.


def _schema_revision(connection: Connection) -> str | None:
    """Return the migration that the schema is at, or None if there is no schema yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _ledger_row(ledger_object: LedgerObject) -> dict[str, Any]:
    return {column.name: getattr(ledger_object, column.name) for column in _LEDGER_COLUMNS}


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, IDS_PER_STATEMENT)):
        yield chunk


def _refuse_overlap(connection: Connection, revision: WindowRevision) -> None:
    """Refuse a window that shares an instant with another one: their usage would be billed twice."""
    columns = t.window_revisions.c
    other = connection.scalar(
        select(columns.window_id).where(
            columns.window_id != revision.window_id,
            columns.window_start < revision.window_end,
            columns.window_end > revision.window_start,
        )
    )
    if other is not None:
        raise PublicationError(
            "revision.overlapping_window",
            f"window {revision.window_id} overlaps window {other}",
            ["window.length was changed after windows were computed; usage of both would be billed twice"],
        )


def _require_newest(connection: Connection, revisions: Mapping[str, int]) -> None:
    """Refuse to close with a revision that is no longer the newest accepted one of its window."""
    columns = t.window_revisions.c
    newest = connection.execute(
        select(columns.window_id, func.max(columns.revision))
        .where(columns.state == RevisionState.ACCEPTED.value)
        .group_by(columns.window_id)
    )
    overtaken = [
        f"window {window_id}: revision {revisions[window_id]} was rated, revision {revision} is accepted now"
        for window_id, revision in sorted(tuple(row) for row in newest)
        if window_id in revisions and revision != revisions[window_id]
    ]
    if overtaken:
        raise PublicationError(
            "close.revision_overtaken",
            "a window got a new revision while the period was being closed",
            [*overtaken, "no invoice was issued and no number was taken; close the period again"],
        )


def _require_words(**words: str) -> None:
    """Refuse an action that nobody stands behind, or that has no reason or subject."""
    for name, word in words.items():
        if not word.strip():
            raise InputError("control_plane.no_reason", f"{name} is empty", ["say who does this, to what, and why"])
        hidden = hidden_characters(word)
        if hidden:
            raise InputError(
                "control_plane.hidden_characters",
                f"{name} holds characters that nobody can see: {', '.join(hidden[:5])}",
                ["expected one line of readable text; write it again without them; nothing was changed"],
            )


def _exists(connection: Connection, condition: ColumnElement[bool]) -> bool:
    return bool(connection.scalar(select(exists().where(condition))))


def _require_tied_counts(collection: Collection, manifests: Sequence[Manifest]) -> None:
    untied = [
        f"{ledger_object.object_id}: {ledger_object.line_count:,} lines, but "
        f"{ledger_object.raw_event_count:,} raw events and {ledger_object.quarantine_count:,} quarantined"
        for ledger_object in collection.objects
        if ledger_object.line_count != ledger_object.raw_event_count + ledger_object.quarantine_count
    ]
    counted = {
        RAW_EVENTS.name: sum(ledger_object.raw_event_count for ledger_object in collection.objects),
        QUARANTINE.name: sum(ledger_object.quarantine_count for ledger_object in collection.objects),
    }
    for name, expected in counted.items():
        actual = sum(manifest.row_count for manifest in manifests if manifest.dataset == name)
        if actual != expected:
            untied.append(f"{name}: expected {expected:,} rows by the objects' counts, the manifests hold {actual:,}")
    if untied:
        raise PublicationError(
            "collect.counts_do_not_tie",
            "lines would appear or vanish with this collection",
            [*untied, "nothing was committed; this is a defect of the collection, not of the data"],
        )


def _evidence_rows(collection: Collection, evidence: Mapping[str, Evidence]) -> list[dict[str, Any]]:
    objects = {ledger_object.object_id: ledger_object for ledger_object in collection.objects}
    rows = []
    for object_id, said in sorted(evidence.items()):
        known = objects.get(object_id)
        if known is None or (known.key, known.contract, known.line_count) != (said.key, said.contract, 0):
            raise ValueError(f"evidence is of an object of the collection that has no lines, got {object_id}")
        rows.append({"object_id": object_id, "received_at": known.received_at, **asdict(said)})
    return rows


def _replace_not_taken(
    connection: Connection, at: datetime, pending: Mapping[str, str], unclaimed: Iterable[UnclaimedKey]
) -> None:
    """Keep what the newest listing showed and nobody took, with the instant it was first seen; forget the rest."""
    newest = connection.scalar(select(func.max(t.collections.c.committed_at, type_=t.Instant)))
    if newest is not None and at < newest:
        return
    _replace(connection, t.pending_objects, "since", at, [{"key": k, "message": pending[k]} for k in sorted(pending)])
    _replace(connection, t.unclaimed_objects, "first_seen_at", at, [one._asdict() for one in sorted(set(unclaimed))])


def _replace(connection: Connection, table: Table, seen: str, at: datetime, rows: Sequence[dict[str, Any]]) -> None:
    known = {row.key: dict(row._mapping) for row in connection.execute(select(table))}
    kept = {row["key"]: {**row, seen: known[row["key"]][seen] if row["key"] in known else at} for row in rows}
    outdated = [key for key, row in known.items() if kept.get(key) != row]
    for keys in _chunks(outdated):
        connection.execute(delete(table).where(table.c.key.in_(keys)))
    added = [row for key, row in kept.items() if known.get(key) != row]
    if added:
        connection.execute(insert(table), added)


def _record_exceptions(connection: Connection, exceptions: Sequence[SourceException], at: datetime) -> None:
    for exception in exceptions:
        missing = canonical_json(list(exception.missing)).decode()
        identity = [exception.window_id, exception.revision, exception.contract, missing]
        exception_id = sha256_hex(canonical_json(identity))
        if _exists(connection, t.completeness_exceptions.c.exception_id == exception_id):
            continue
        row = {**asdict(exception), "missing": missing}
        connection.execute(insert(t.completeness_exceptions).values(exception_id=exception_id, **row))
        audit_log.append(
            connection,
            at,
            Change(
                "completeness_exception_recorded",
                f"window={exception.window_id}/revision={exception.revision}",
                {
                    "contract": exception.contract,
                    "missing": list(exception.missing),
                    "reason": exception.reason,
                },
            ),
        )


def _publication(connection: Connection, dataset: str, scope: str, revision: int | None) -> Receipt | None:
    published = t.publications.c
    query = select(*_RECEIPT_COLUMNS).where(published.dataset == dataset, published.scope == scope)
    if revision is not None:
        query = query.where(published.revision == revision)
    row = connection.execute(query.order_by(published.revision.desc()).limit(1)).first()
    return None if row is None else Receipt(*row)


def _publish(connection: Connection, manifest: Manifest, at: datetime, collection_id: str | None) -> Receipt:
    receipt = Receipt(
        manifest.dataset,
        manifest.scope,
        manifest.revision,
        manifest.manifest_hash,
        manifest.row_count,
        manifest.content_hash,
    )
    name = f"{manifest.dataset} {manifest.scope} revision {manifest.revision}"
    existing = _publication(connection, manifest.dataset, manifest.scope, manifest.revision)
    if existing == receipt:
        return existing
    if existing is not None:
        same_content = existing.content_hash == receipt.content_hash
        raise PublicationError(
            "publish.revision_exists",
            f"{name} is published with other {'pins' if same_content else 'content'}",
            [
                f"expected manifest {existing.manifest_hash}: {existing.row_count:,} rows, {existing.content_hash}",
                f"got      manifest {receipt.manifest_hash}: {receipt.row_count:,} rows, {receipt.content_hash}",
                "the published revision stands; a change of inputs needs the next revision",
            ],
        )
    _refuse_draft_of_final_period(connection, manifest)
    connection.execute(insert(t.publications).values(**asdict(receipt), collection_id=collection_id, published_at=at))
    audit_log.append(
        connection,
        at,
        Change(
            "published",
            f"{manifest.dataset}/{manifest.scope}/revision={manifest.revision}",
            {
                "manifest_hash": receipt.manifest_hash,
                "row_count": receipt.row_count,
                "content_hash": receipt.content_hash,
            },
        ),
    )
    return receipt


def _refuse_draft_of_final_period(connection: Connection, manifest: Manifest) -> None:
    """Refuse other line items for a final period: the ones its invoices rest on are the newest for ever."""
    period_id = manifest.scope.removeprefix("period=")
    if manifest.dataset == LINE_ITEMS.name and _exists(connection, t.final_periods.c.period_id == period_id):
        raise PublicationError(
            "rate.period_is_final",
            f"period {period_id} is final and is never rated again",
            ["its invoices rest on the line items it was closed with; nothing was published"],
        )


def _revision(row: Row[Any]) -> WindowRevision:
    values = dict(row._mapping)
    return WindowRevision(**{**values, "pins": json.loads(values["pins"]), "state": RevisionState(values["state"])})


def _newest_revision(connection: Connection, *conditions: ColumnElement[bool]) -> WindowRevision | None:
    query = select(*_REVISION_COLUMNS).where(*conditions).order_by(t.window_revisions.c.revision.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else _revision(row)


def _find_revision(connection: Connection, window_id: str, revision: int) -> WindowRevision | None:
    revisions = t.window_revisions.c
    return _newest_revision(connection, revisions.window_id == window_id, revisions.revision == revision)


def _price_book(connection: Connection, version: str) -> PriceBookVersion | None:
    query = select(*_PRICE_BOOK_COLUMNS).where(t.price_book_versions.c.version == version)
    row = connection.execute(query).first()
    return None if row is None else PriceBookVersion(*row)


def _require_price_book(connection: Connection, version: str) -> PriceBookVersion:
    found = _price_book(connection, version)
    if found is None:
        raise InputError(
            "price.unknown_version", f"no price book is published as {version}", ["see: billing price list"]
        )
    return found


def _canary(connection: Connection) -> Canary | None:
    row = connection.execute(select(*_CANARY_COLUMNS).order_by(t.canaries.c.canary_number.desc()).limit(1)).first()
    return None if row is None else Canary(*row)
