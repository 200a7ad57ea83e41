"""Price books that were published and approved, and the canary: a version is approved once and else never changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
HASH = sa.String(64)
FIXED_COLUMNS = (
    *("version", "sha256", "name", "effective_from", "author"),
    *("published_at", "published_by", "reason"),
)


def upgrade() -> None:
    op.create_table(
        "price_book_versions",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("sha256", HASH, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("effective_from", sa.Date(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("published_at", INSTANT, nullable=False),
        sa.Column("published_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("approved_at", INSTANT, nullable=True),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.Column("approval_number", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("version", name="pk_price_book_versions"),
        sa.UniqueConstraint("sha256", name="uq_price_book_versions_sha256"),
        sa.UniqueConstraint("approval_number", name="uq_price_book_versions_approval_number"),
        sa.CheckConstraint(
            "(approved_at IS NULL) = (approved_by IS NULL) AND (approved_at IS NULL) = (approval_number IS NULL)",
            name="ck_price_book_versions_approved_whole",
        ),
    )
    op.create_table(
        "canaries",
        sa.Column("canary_number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("sha256", HASH, nullable=True),
        sa.Column("set_at", INSTANT, nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("canary_number", name="pk_canaries"),
    )
    _refuse_changes()


def downgrade() -> None:
    raise NotImplementedError("this migration cannot be undone: invoices name the price books that it keeps")


def _refuse_changes() -> None:
    if op.get_context().dialect.name == "sqlite":
        changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in FIXED_COLUMNS)
        op.execute(
            "CREATE TRIGGER price_book_versions_refuses_update BEFORE UPDATE ON price_book_versions "
            f"WHEN OLD.approved_at IS NOT NULL OR {changed} "
            "BEGIN SELECT RAISE(ABORT, 'price_book_versions is append-only'); END"
        )
        for table, change in (("price_book_versions", "DELETE"), ("canaries", "UPDATE"), ("canaries", "DELETE")):
            op.execute(
                f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    else:
        changed = " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in FIXED_COLUMNS)
        op.execute(
            "CREATE TRIGGER price_book_versions_refuses_update BEFORE UPDATE ON price_book_versions "
            f"FOR EACH ROW WHEN (OLD.approved_at IS NOT NULL OR {changed}) EXECUTE FUNCTION refuse_change()"
        )
        for table, changes in (
            ("price_book_versions", "DELETE OR TRUNCATE"),
            ("canaries", "UPDATE OR DELETE OR TRUNCATE"),
        ):
            op.execute(
                f"CREATE TRIGGER {table}_refuses_change BEFORE {changes} ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
