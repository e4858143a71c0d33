"""Broadcasts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of broadcasts."""
    op.create_table(
        "bff_broadcast",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("audience", sa.String(length=16), nullable=False),
        sa.Column("recipients", sa.JSON(), nullable=False),
        sa.Column("topic", sa.String(length=255), nullable=False),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("message_ids", sa.JSON(), nullable=False),
        sa.Column("addressed", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_bff_broadcast"),
    )
    op.create_index("ix_bff_broadcast_created_at_id", "bff_broadcast", ["created_at", "id"])
    op.create_index("ix_bff_broadcast_expires_at", "bff_broadcast", ["expires_at"])


def downgrade() -> None:
    """Drop the table of broadcasts."""
    op.drop_table("bff_broadcast")
