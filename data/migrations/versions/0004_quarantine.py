"""A quarantine for what is not to be learned before it was judged, and which chats are groups.

Frozen: a table is changed by the next migration, never here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # Added in place: made anew, the table would take its turns along (they cascade).
    op.add_column("conversations", sa.Column("is_group", sa.Boolean))
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("turn_id", sa.Integer, nullable=False),
        sa.Column("platform", sa.String(16), nullable=False, server_default=""),
        sa.Column("user_id", sa.String(64), nullable=False, server_default=""),
        sa.Column("wording", sa.Text, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, server_default="held"),
        sa.Column("edited", sa.Text),
        sa.Column("reviewer", sa.String(64)),
        sa.Column("reviewed_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], ondelete="CASCADE", name="fk_quarantine_turn_id"
        ),
        sa.CheckConstraint(
            "state IN ('held', 'approved', 'rejected')", name=op.f("ck_quarantine_state")
        ),
        sa.UniqueConstraint(
            "turn_id", "platform", "user_id", name="uq_quarantine_turn_id_platform_user_id"
        ),
    )
