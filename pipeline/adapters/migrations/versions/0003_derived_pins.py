"""What was derived from pinned inputs before: a window is not compared with its neighbours again every night."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "derived_pins",
        sa.Column("derivation", sa.String(64), nullable=False),
        sa.Column("pin", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("derivation", name="pk_derived_pins"),
    )


def downgrade() -> None:
    op.drop_table("derived_pins")
