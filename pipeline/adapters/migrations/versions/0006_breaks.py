"""Breaks, overrides of gates, and sign-offs of periods."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HASH = sa.String(64)
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "breaks",
        sa.Column("break_id", sa.BigInteger(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("key", "control", "scope", "unit", "break_class")),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("window_id", "period_id", "account_id")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("expected", "actual")),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("opened_in", sa.Text(), nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("owner", "note")),
        sa.Column("resolved_at", INSTANT, nullable=True),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("resolved_by", "resolution")),
        sa.PrimaryKeyConstraint("break_id", name="pk_breaks"),
        sa.CheckConstraint("(window_id IS NULL) <> (period_id IS NULL)", name="ck_breaks_one_domain"),
        sa.CheckConstraint(
            "(resolved_at IS NULL) = (resolved_by IS NULL) AND (resolved_at IS NULL) = (resolution IS NULL)",
            name="ck_breaks_resolved_whole",
        ),
    )
    op.create_index("ix_breaks_resolved_at", "breaks", ["resolved_at"])
    op.create_index("ix_breaks_key", "breaks", ["key"])
    op.create_table(
        "overrides",
        sa.Column("override_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("window_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Text(), nullable=False),
        sa.Column("failures_hash", HASH, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_at", INSTANT, nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("approved_at", INSTANT, nullable=True),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("override_id", name="pk_overrides"),
        sa.ForeignKeyConstraint(
            ["window_id", "revision"],
            ["window_revisions.window_id", "window_revisions.revision"],
            name="fk_overrides_window_id",
        ),
        sa.CheckConstraint("(approved_at IS NULL) = (approved_by IS NULL)", name="ck_overrides_approved_whole"),
    )
    op.create_index("ix_overrides_window_id", "overrides", ["window_id", "revision"])
    op.create_table(
        "sign_offs",
        sa.Column("sign_off_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("period_id", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("content_hash", HASH, nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("signed_at", INSTANT, nullable=False),
        sa.Column("signed_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sign_off_id", name="pk_sign_offs"),
        sa.CheckConstraint("decision IN ('approve', 'hold', 'reject')", name="ck_sign_offs_decision"),
    )
    op.create_index("ix_sign_offs_period_id", "sign_offs", ["period_id"])
    op.create_index("ix_documents_account_id", "documents", ["account_id"])
    _refuse_changes()


def downgrade() -> None:
    raise NotImplementedError("this migration cannot be undone: breaks, overrides and sign-offs would be lost")


def _refuse_changes() -> None:
    """Make sign-offs append-only."""
    if op.get_context().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER sign_offs_refuses_{change.lower()} BEFORE {change} ON sign_offs "
                "BEGIN SELECT RAISE(ABORT, 'sign_offs is append-only'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER sign_offs_refuses_change BEFORE UPDATE OR DELETE OR TRUNCATE ON sign_offs "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
