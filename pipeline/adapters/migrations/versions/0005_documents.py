"""Documents of every kind instead of invoices alone, what makes them void, credits, and accounts that are held.

Documents, voids and the ledger of credits are append-only. Invoices of before are not taken over: no release
has issued any.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

APPEND_ONLY_TABLES = ("documents", "voids", "credit_grants", "credit_entries")
HASH = sa.String(64)
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("period_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("subtotal", sa.Text(), nullable=False),
        sa.Column("total", sa.Text(), nullable=False),
        sa.Column("amount_due", sa.Text(), nullable=False),
        sa.Column("line_items_manifest", HASH, nullable=False),
        sa.Column("document_sha256", HASH, nullable=False),
        sa.Column("bundle_sha256", HASH, nullable=False),
        sa.Column("bundle_start", sa.BigInteger(), nullable=False),
        sa.Column("byte_count", sa.BigInteger(), nullable=False),
        sa.Column("corrects", sa.Text(), nullable=True),
        sa.Column("issued_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_documents"),
        sa.UniqueConstraint("series", "series_number", name="uq_documents_series"),
        sa.ForeignKeyConstraint(["period_id"], ["final_periods.period_id"], name="fk_documents_period_id"),
        sa.ForeignKeyConstraint(["corrects"], ["documents.number"], name="fk_documents_corrects"),
        sa.CheckConstraint("kind IN ('invoice', 'credit_note', 'adjustment')", name="ck_documents_kind"),
    )
    op.create_index("ix_documents_period_id", "documents", ["period_id", "account_id"])
    op.create_index("ix_documents_document_sha256", "documents", ["document_sha256"])
    op.create_index("ix_documents_corrects", "documents", ["corrects"])
    op.drop_table("invoices")
    op.create_table(
        "voids",
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("voided_at", INSTANT, nullable=False),
        sa.Column("voided_by", sa.Text(), nullable=False),
        sa.Column("void_reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_voids"),
        sa.ForeignKeyConstraint(["number"], ["documents.number"], name="fk_voids_number"),
    )
    op.create_table(
        "credit_grants",
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("granted_at", INSTANT, nullable=False),
        sa.Column("granted_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("grant_id", name="pk_credit_grants"),
        sa.CheckConstraint("kind IN ('prepaid', 'promotional')", name="ck_credit_grants_kind"),
    )
    op.create_index("ix_credit_grants_account_id", "credit_grants", ["account_id"])
    op.create_table(
        "credit_entries",
        sa.Column("entry_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=True),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name="pk_credit_entries"),
        sa.ForeignKeyConstraint(["grant_id"], ["credit_grants.grant_id"], name="fk_credit_entries_grant_id"),
        sa.ForeignKeyConstraint(["document"], ["documents.number"], name="fk_credit_entries_document"),
        sa.CheckConstraint("kind IN ('drawn', 'returned', 'revoked')", name="ck_credit_entries_kind"),
    )
    op.create_index("ix_credit_entries_grant_id", "credit_entries", ["grant_id"])
    op.create_index("ix_credit_entries_document", "credit_entries", ["document"])
    op.create_table(
        "holds",
        sa.Column("hold_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("period_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held_at", INSTANT, nullable=False),
        sa.Column("held_by", sa.Text(), nullable=False),
        sa.Column("released_at", INSTANT, nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("release_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("hold_id", name="pk_holds"),
    )
    op.create_index("ix_holds_period_id", "holds", ["period_id", "account_id"])
    _refuse_changes()


def downgrade() -> None:
    raise NotImplementedError("this migration cannot be undone: documents, credits and holds would be lost")


def _refuse_changes() -> None:
    if op.get_context().dialect.name == "sqlite":
        for table in APPEND_ONLY_TABLES:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
    else:
        for table in APPEND_ONLY_TABLES:
            op.execute(
                f"CREATE TRIGGER {table}_refuses_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
