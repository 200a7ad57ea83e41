"""Evidence of completeness, exceptions from it, and what a collection saw and did not take (P9).

Evidence and exceptions are append-only like what they speak about; pending and unclaimed objects are replaced by each
collection.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APPEND_ONLY_TABLES = ("completeness_exceptions", "evidence")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("object_ledger", sa.Column("fault", sa.Text(), nullable=True))
    op.create_index("ix_object_ledger_contract", "object_ledger", ["contract"])
    op.create_table(
        "evidence",
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("object_id", name="pk_evidence"),
        sa.ForeignKeyConstraint(["object_id"], ["object_ledger.object_id"], name="fk_evidence_object_id"),
    )
    op.create_index("ix_evidence_contract", "evidence", ["contract"])
    op.create_table(
        "completeness_exceptions",
        sa.Column("exception_id", sa.String(64), nullable=False),
        sa.Column("window_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("missing", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("exception_id", name="pk_completeness_exceptions"),
        sa.ForeignKeyConstraint(
            ["window_id", "revision"],
            ["window_revisions.window_id", "window_revisions.revision"],
            name="fk_completeness_exceptions_window_id",
        ),
    )
    op.create_index("ix_completeness_exceptions_window_id", "completeness_exceptions", ["window_id", "revision"])
    op.create_table(
        "pending_objects",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_pending_objects"),
    )
    op.create_table(
        "unclaimed_objects",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("byte_count", sa.BigInteger(), nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_unclaimed_objects"),
    )
    _refuse_changes()


def downgrade() -> None:
    raise NotImplementedError("this migration cannot be undone: exceptions that were recorded would be lost")


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
