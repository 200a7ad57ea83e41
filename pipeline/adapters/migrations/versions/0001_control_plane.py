"""The control plane of the first release.

Rows of the append-only tables can be added, never changed or removed: triggers refuse it, for every client.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY_TABLES = ("audit_log", "collections", "final_periods", "invoices", "object_ledger", "publications")
INSTANT = sa.DateTime(timezone=True)
HASH = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("collection_id", HASH, nullable=False),
        sa.Column("listed_at", INSTANT, nullable=False),
        sa.Column("object_count", sa.BigInteger(), nullable=False),
        sa.Column("committed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("collection_id", name="pk_collections"),
    )
    op.create_table(
        "object_ledger",
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("collection_id", HASH, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("byte_count", sa.BigInteger(), nullable=False),
        sa.Column("sha256", HASH, nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("line_count", sa.BigInteger(), nullable=False),
        sa.Column("raw_event_count", sa.BigInteger(), nullable=False),
        sa.Column("quarantine_count", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("line_count = raw_event_count + quarantine_count", name=op.f("ck_object_ledger_lines_tie")),
        sa.PrimaryKeyConstraint("object_id", name="pk_object_ledger"),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.collection_id"], name="fk_object_ledger_collection_id"
        ),
    )
    op.create_index("ix_object_ledger_received_at", "object_ledger", ["received_at"])
    op.create_table(
        "publications",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("manifest_hash", HASH, nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("collection_id", HASH, nullable=True),
        sa.Column("published_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("dataset", "scope", "revision", name="pk_publications"),
        sa.ForeignKeyConstraint(["collection_id"], ["collections.collection_id"], name="fk_publications_collection_id"),
    )
    op.create_index("ix_publications_collection_id", "publications", ["collection_id"])
    op.create_table(
        "raw_event_partitions",
        sa.Column("event_date", sa.Date(), nullable=False),
        sa.Column("manifest_hash", HASH, nullable=False),
        sa.PrimaryKeyConstraint("event_date", "manifest_hash", name="pk_raw_event_partitions"),
    )
    op.create_table(
        "window_revisions",
        sa.Column("window_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT, nullable=False),
        sa.Column("cutoff_at", INSTANT, nullable=False),
        sa.Column("inputs_hash", sa.Text(), nullable=False),
        sa.Column("pins", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("decided_at", INSTANT, nullable=True),
        sa.CheckConstraint("state IN ('candidate', 'accepted', 'rejected')", name=op.f("ck_window_revisions_state")),
        sa.PrimaryKeyConstraint("window_id", "revision", name="pk_window_revisions"),
    )
    op.create_index("ix_window_revisions_window_start", "window_revisions", ["window_start"])
    op.create_table(
        "final_periods",
        sa.Column("period_id", sa.Text(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("finalised_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("period_id", name="pk_final_periods"),
    )
    op.create_table(
        "number_series",
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("series", name="pk_number_series"),
    )
    op.create_table(
        "invoices",
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("period_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total", sa.Text(), nullable=False),
        sa.Column("document_sha256", HASH, nullable=False),
        sa.Column("issued_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_invoices"),
        sa.UniqueConstraint("series", "series_number", name="uq_invoices_series"),
        sa.UniqueConstraint("period_id", "account_id", "currency", name="uq_invoices_period_id"),
        sa.ForeignKeyConstraint(["period_id"], ["final_periods.period_id"], name="fk_invoices_period_id"),
    )
    op.create_table(
        "audit_log",
        sa.Column("entry_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("previous_hash", HASH, nullable=False),
        sa.Column("entry_hash", HASH, nullable=False),
        sa.PrimaryKeyConstraint("entry_number", name="pk_audit_log"),
    )
    audit_head = op.create_table(
        "audit_head",
        sa.Column("head_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entry_number", sa.BigInteger(), nullable=False),
        sa.Column("entry_hash", HASH, nullable=False),
        sa.PrimaryKeyConstraint("head_id", name="pk_audit_head"),
    )
    op.bulk_insert(audit_head, [{"head_id": 1, "entry_number": 0, "entry_hash": "0" * 64}])
    _refuse_changes()


def downgrade() -> None:
    raise NotImplementedError("the first migration cannot be undone: the audit log and the invoices would be lost")


def _refuse_changes() -> None:
    """Triggers are the one thing that each database spells in its own way."""
    if op.get_context().dialect.name == "sqlite":
        for table in APPEND_ONLY_TABLES:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
    else:
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        )
        for table in APPEND_ONLY_TABLES:
            op.execute(
                f"CREATE TRIGGER {table}_refuses_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
