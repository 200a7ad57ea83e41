"""The tables of the control plane, and the two column types that keep instants and money exact on every database.

``migrations/`` creates them; a test compares the two. Nothing outside the control plane reads these tables.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

from pipeline.core.window import require_utc

SCHEMA_REVISION = "0006"  # the newest migration


class Instant(TypeDecorator[datetime]):
    """An aware instant, stored and returned in UTC; a naive datetime is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else require_utc(value, "a stored instant")

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DecimalText(TypeDecorator[Decimal]):
    """A decimal kept as its digits (``10.00`` stays ``10.00``): SQLite would pass NUMERIC through a float."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if type(value) is not Decimal or not value.is_finite():
            raise TypeError(f"a stored decimal is a finite Decimal, got {type(value).__name__} {value!r}")
        return f"{value:f}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

# One run of collect that was committed, also one that found nothing new: its listing moves the watermark.
collections = Table(
    "collections",
    metadata,
    Column("collection_id", String(64), primary_key=True),
    Column("listed_at", Instant, nullable=False),
    Column("object_count", BigInteger, nullable=False),
    Column("committed_at", Instant, nullable=False),
)

# One object version of the raw bucket that was collected; its lines are all accounted for (P3).
object_ledger = Table(
    "object_ledger",
    metadata,
    Column("object_id", Text, primary_key=True),
    Column("collection_id", String(64), ForeignKey("collections.collection_id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("byte_count", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("contract", Text, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("line_count", BigInteger, nullable=False),
    Column("raw_event_count", BigInteger, nullable=False),
    Column("quarantine_count", BigInteger, nullable=False),
    Column("fault", Text, nullable=True),
    CheckConstraint("line_count = raw_event_count + quarantine_count", name="lines_tie"),
    Index(None, "received_at"),
    Index(None, "contract"),
)

# The commit of a dataset's revision: the one row that makes a manifest visible to readers.
publications = Table(
    "publications",
    metadata,
    Column("dataset", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("manifest_hash", String(64), nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("collection_id", String(64), ForeignKey("collections.collection_id"), nullable=True),
    Column("published_at", Instant, nullable=False),
    Index(None, "collection_id"),
)

# Which raw_events manifests hold a file of an event date.
raw_event_partitions = Table(
    "raw_event_partitions",
    metadata,
    Column("event_date", Date, primary_key=True),
    Column("manifest_hash", String(64), primary_key=True),
)

# What a pure function made of inputs that are named by hash: kept so that it is not computed again every night.
# `derivation` is the hash of the function and its inputs, `pin` that of a pinned file; any row may be deleted.
derived_pins = Table(
    "derived_pins",
    metadata,
    Column("derivation", String(64), primary_key=True),
    Column("pin", String(64), nullable=False),
)

window_revisions = Table(
    "window_revisions",
    metadata,
    Column("window_id", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("window_start", Instant, nullable=False),
    Column("window_end", Instant, nullable=False),
    Column("cutoff_at", Instant, nullable=False),
    Column("inputs_hash", Text, nullable=False),
    Column("pins", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("decided_at", Instant, nullable=True),
    CheckConstraint("state IN ('candidate', 'accepted', 'rejected')", name="state"),
    Index(None, "window_start"),
)

# A row is a final period; a period without a row is open.
final_periods = Table(
    "final_periods",
    metadata,
    Column("period_id", Text, primary_key=True),
    Column("series", Text, nullable=False),
    Column("finalised_at", Instant, nullable=False),
)

number_series = Table(
    "number_series",
    metadata,
    Column("series", Text, primary_key=True),
    Column("last_number", BigInteger, nullable=False),
)

# A numbered document; its bytes are in a file of documents in the lake, at [bundle_start, bundle_start + byte_count).
documents = Table(
    "documents",
    metadata,
    Column("number", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("series", Text, nullable=False),
    Column("series_number", BigInteger, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("period_id", Text, ForeignKey("final_periods.period_id"), nullable=False),
    Column("currency", Text, nullable=False),
    Column("subtotal", DecimalText, nullable=False),
    Column("total", DecimalText, nullable=False),
    Column("amount_due", DecimalText, nullable=False),
    Column("line_items_manifest", String(64), nullable=False),
    Column("document_sha256", String(64), nullable=False),
    Column("bundle_sha256", String(64), nullable=False),
    Column("bundle_start", BigInteger, nullable=False),
    Column("byte_count", BigInteger, nullable=False),
    Column("corrects", Text, ForeignKey("documents.number"), nullable=True),
    Column("issued_at", Instant, nullable=False),
    UniqueConstraint("series", "series_number"),
    CheckConstraint("kind IN ('invoice', 'credit_note', 'adjustment')", name="kind"),
    Index(None, "period_id", "account_id"),
    Index(None, "account_id"),
    Index(None, "document_sha256"),
    Index(None, "corrects"),
)

# A row makes a document void; the document itself is never changed, and its number stays.
voids = Table(
    "voids",
    metadata,
    Column("number", Text, ForeignKey("documents.number"), primary_key=True),
    Column("voided_at", Instant, nullable=False),
    Column("voided_by", Text, nullable=False),
    Column("void_reason", Text, nullable=False),
)

credit_grants = Table(
    "credit_grants",
    metadata,
    Column("grant_id", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", DecimalText, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("expires_on", Date, nullable=True),
    Column("reason", Text, nullable=False),
    Column("granted_at", Instant, nullable=False),
    Column("granted_by", Text, nullable=False),
    CheckConstraint("kind IN ('prepaid', 'promotional')", name="kind"),
    Index(None, "account_id"),
)

# Append-only: the balance of a grant is its amount less all its entries.
credit_entries = Table(
    "credit_entries",
    metadata,
    Column("entry_id", BigInteger, primary_key=True, autoincrement=False),
    Column("grant_id", Text, ForeignKey("credit_grants.grant_id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", DecimalText, nullable=False),
    Column("document", Text, ForeignKey("documents.number"), nullable=True),
    Column("at", Instant, nullable=False),
    CheckConstraint("kind IN ('drawn', 'returned', 'revoked')", name="kind"),
    Index(None, "grant_id"),
    Index(None, "document"),
)

# Why an account gets no document of a period; a row changes once, when the hold is released.
holds = Table(
    "holds",
    metadata,
    Column("hold_id", BigInteger, primary_key=True, autoincrement=False),
    Column("period_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("held_at", Instant, nullable=False),
    Column("held_by", Text, nullable=False),
    Column("released_at", Instant, nullable=True),
    Column("released_by", Text, nullable=True),
    Column("release_reason", Text, nullable=True),
    Index(None, "period_id", "account_id"),
)

# A difference that a control found; open until it is resolved, then never changed. One of a key is open at most.
breaks = Table(
    "breaks",
    metadata,
    Column("break_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    Column("control", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("break_class", Text, nullable=False),
    Column("window_id", Text, nullable=True),
    Column("period_id", Text, nullable=True),
    Column("account_id", Text, nullable=True),
    Column("expected", DecimalText, nullable=False),
    Column("actual", DecimalText, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("opened_in", Text, nullable=False),
    Column("last_seen_at", Instant, nullable=False),
    Column("owner", Text, nullable=True),
    Column("note", Text, nullable=True),
    Column("resolved_at", Instant, nullable=True),
    Column("resolved_by", Text, nullable=True),
    Column("resolution", Text, nullable=True),
    CheckConstraint("(window_id IS NULL) <> (period_id IS NULL)", name="one_domain"),
    CheckConstraint(
        "(resolved_at IS NULL) = (resolved_by IS NULL) AND (resolved_at IS NULL) = (resolution IS NULL)",
        name="resolved_whole",
    ),
    Index(None, "resolved_at"),
    Index(None, "key"),
)

# That a revision may be accepted although gates failed; `failures` is a JSON list of sentences. It is approved once.
overrides = Table(
    "overrides",
    metadata,
    Column("override_id", BigInteger, primary_key=True, autoincrement=False),
    Column("window_id", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("failures", Text, nullable=False),
    Column("failures_hash", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_at", Instant, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("approved_at", Instant, nullable=True),
    Column("approved_by", Text, nullable=True),
    ForeignKeyConstraint(["window_id", "revision"], ["window_revisions.window_id", "window_revisions.revision"]),
    CheckConstraint("(approved_at IS NULL) = (approved_by IS NULL)", name="approved_whole"),
    Index(None, "window_id", "revision"),
)

# What was decided about a period that is about to close; append-only, the newest row holds. `figures` is JSON.
sign_offs = Table(
    "sign_offs",
    metadata,
    Column("sign_off_id", BigInteger, primary_key=True, autoincrement=False),
    Column("period_id", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("figures", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("signed_at", Instant, nullable=False),
    Column("signed_by", Text, nullable=False),
    CheckConstraint("decision IN ('approve', 'hold', 'reject')", name="decision"),
    Index(None, "period_id"),
)

# What an object of evidence says: a control file, a heartbeat, a manifest; committed with the object's ledger row.
evidence = Table(
    "evidence",
    metadata,
    Column("object_id", Text, ForeignKey("object_ledger.object_id"), primary_key=True),
    Column("contract", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("content", Text, nullable=False),
    Index(None, "contract"),
)

# A revision that was closed although evidence was missing; `missing` is a JSON list of sentences.
completeness_exceptions = Table(
    "completeness_exceptions",
    metadata,
    Column("exception_id", String(64), primary_key=True),
    Column("window_id", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("contract", Text, nullable=False),
    Column("missing", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Instant, nullable=False),
    ForeignKeyConstraint(["window_id", "revision"], ["window_revisions.window_id", "window_revisions.revision"]),
    Index(None, "window_id", "revision"),
)

# What the newest listing showed and no collection took; each collection replaces both tables.
pending_objects = Table(
    "pending_objects",
    metadata,
    Column("key", Text, primary_key=True),
    Column("message", Text, nullable=False),
    Column("since", Instant, nullable=False),
)

unclaimed_objects = Table(
    "unclaimed_objects",
    metadata,
    Column("key", Text, primary_key=True),
    Column("byte_count", BigInteger, nullable=False),
    Column("contract", Text, nullable=False),
    Column("first_seen_at", Instant, nullable=False),
)

# A price book that was published; its bytes are in the lake by hash. It is approved once, and else never changed.
price_book_versions = Table(
    "price_book_versions",
    metadata,
    Column("version", Text, primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("effective_from", Date, nullable=False),
    Column("author", Text, nullable=False),
    Column("published_at", Instant, nullable=False),
    Column("published_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("approved_at", Instant, nullable=True),
    Column("approved_by", Text, nullable=True),
    Column("approval_number", Integer, nullable=True),
    UniqueConstraint("sha256"),
    UniqueConstraint("approval_number"),
    CheckConstraint(
        "(approved_at IS NULL) = (approved_by IS NULL) AND (approved_at IS NULL) = (approval_number IS NULL)",
        name="approved_whole",
    ),
)

# Which book is rated in the shadow beside the live one; the highest number holds, one without a version is none.
canaries = Table(
    "canaries",
    metadata,
    Column("canary_number", Integer, primary_key=True, autoincrement=False),
    Column("version", Text, nullable=True),
    Column("sha256", String(64), nullable=True),
    Column("set_at", Instant, nullable=False),
    Column("set_by", Text, nullable=False),
)

# Append-only; each entry's hash covers the entry before it. `at` is text so that a changed byte is a changed hash.
audit_log = Table(
    "audit_log",
    metadata,
    Column("entry_number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("entry_hash", String(64), nullable=False),
)

# One row: the newest entry of the audit log. Every write locks it first, so there is one writer at a time.
audit_head = Table(
    "audit_head",
    metadata,
    Column("head_id", Integer, primary_key=True, autoincrement=False),
    Column("entry_number", BigInteger, nullable=False),
    Column("entry_hash", String(64), nullable=False),
)
