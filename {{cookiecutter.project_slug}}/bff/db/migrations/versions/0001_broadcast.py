"""Broadcasts, and who did what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of broadcasts and of audit entries."""
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
    op.create_table(
        "bff_audit",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("actor_id", sa.String(length=128), nullable=True),
        sa.Column("user_id", sa.String(length=128), nullable=True),
        sa.Column("session_id", sa.String(length=128), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bff_audit"),
    )
    op.create_index("ix_bff_audit_at_id", "bff_audit", ["at", "id"])
    op.create_index("ix_bff_audit_user_id_at", "bff_audit", ["user_id", "at"])
    op.create_index("ix_bff_audit_actor_id_at", "bff_audit", ["actor_id", "at"])


def downgrade() -> None:
    """Drop the tables of broadcasts and of audit entries."""
    op.drop_table("bff_audit")
    op.drop_table("bff_broadcast")
