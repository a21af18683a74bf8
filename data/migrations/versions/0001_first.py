"""Conversations, turns, the platforms' message ids, ratings.

Frozen: a table is changed by the next migration, never here. Times are written as UTC.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("platform", sa.String(16), nullable=False),
        sa.Column("chat_id", sa.String(64), nullable=False),
        sa.Column("thread_id", sa.String(64), nullable=False, server_default=""),
        sa.Column("lang", sa.String(8)),
        sa.Column("reset_turn", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
        sa.UniqueConstraint(
            "platform", "chat_id", "thread_id",
            name="uq_conversations_platform_chat_id_thread_id",
        ),
    )  # fmt: skip
    op.create_table(
        "turns",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("conversation_id", sa.Integer, nullable=False),
        sa.Column("first_turn", sa.Integer),
        sa.Column("chosen", sa.Boolean, nullable=False, server_default="1"),
        sa.Column("undone", sa.Boolean, nullable=False, server_default="0"),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("user_name", sa.Text, nullable=False, server_default=""),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("reply", sa.Text, nullable=False, server_default=""),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("adapter", sa.String(64)),
        sa.Column("engine", sa.String(32)),
        sa.Column("sampling", sa.JSON),
        sa.Column("exemplars", sa.JSON),
        sa.Column("guarded", sa.String(16)),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("reply_tokens", sa.Integer),
        sa.Column("first_token_seconds", sa.Float),
        sa.Column("seconds", sa.Float),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], ondelete="CASCADE",
            name="fk_turns_conversation_id",
        ),
        sa.ForeignKeyConstraint(
            ["first_turn"], ["turns.id"], ondelete="CASCADE", name="fk_turns_first_turn"
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'done', 'failed', 'cancelled')", name=op.f("ck_turns_state")
        ),
    )  # fmt: skip
    op.create_index("ix_turns_conversation_id_id", "turns", ["conversation_id", "id"])
    op.create_index("ix_turns_state", "turns", ["state"])
    op.create_table(
        "messages",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("turn_id", sa.Integer, nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("platform", sa.String(16), nullable=False),
        sa.Column("chat_id", sa.String(64), nullable=False),
        sa.Column("message_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], ondelete="CASCADE", name="fk_messages_turn_id"
        ),
        sa.CheckConstraint("role IN ('user', 'reply')", name=op.f("ck_messages_role")),
        sa.UniqueConstraint(
            "platform", "chat_id", "message_id", "turn_id",
            name="uq_messages_platform_chat_id_message_id_turn_id",
        ),
    )  # fmt: skip
    op.create_index("ix_messages_turn_id", "messages", ["turn_id"])
    op.create_table(
        "ratings",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("turn_id", sa.Integer, nullable=False),
        sa.Column("platform", sa.String(16), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("vote", sa.Integer, nullable=False),
        sa.Column("correction", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ratings"),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], ondelete="CASCADE", name="fk_ratings_turn_id"
        ),
        sa.CheckConstraint("vote IN (-1, 1)", name=op.f("ck_ratings_vote")),
        sa.UniqueConstraint(
            "turn_id", "platform", "user_id", name="uq_ratings_turn_id_platform_user_id"
        ),
    )
