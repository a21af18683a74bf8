"""The tables, as they are now; data/migrations holds how they came to be so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time; SQLite keeps none of the zone, so that it goes in and comes out as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

STATES = ("pending", "done", "failed", "cancelled")

conversations = Table(
    "conversations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("platform", String(16), nullable=False),
    Column("chat_id", String(64), nullable=False),
    # Forum topics and threads are conversations of their own; "" is the chat itself, since NULLs
    # would not be equal to each other in the constraint below.
    Column("thread_id", String(64), nullable=False, server_default=""),
    Column("lang", String(8)),
    # Turns up to this one are out of the context: /reset forgets nothing that was logged.
    Column("reset_turn", Integer, nullable=False, server_default="0"),
    Column("created_at", UTCDateTime, nullable=False),
    # Whether others read along; NULL on what was begun before this was asked. What may be learned
    # from a chat depends on it.
    Column("is_group", Boolean),
    UniqueConstraint("platform", "chat_id", "thread_id"),
)

turns = Table(
    "turns",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    # The first of several answers to one message; NULL on that first one itself.
    Column("first_turn", ForeignKey("turns.id", ondelete="CASCADE")),
    # Of several answers, the one that stands in the history.
    Column("chosen", Boolean, nullable=False, server_default="1"),
    Column("undone", Boolean, nullable=False, server_default="0"),
    Column("user_id", String(64), nullable=False),
    Column("user_name", Text, nullable=False, server_default=""),
    Column("text", Text, nullable=False),
    Column("reply", Text, nullable=False, server_default=""),
    Column("state", String(16), nullable=False),
    Column("error", Text),
    Column("adapter", String(64)),
    Column("engine", String(32)),
    Column("sampling", JSON),
    Column("exemplars", JSON),
    Column("guarded", String(16)),
    Column("prompt_tokens", Integer),
    Column("reply_tokens", Integer),
    Column("first_token_seconds", Float),
    Column("seconds", Float),
    Column("created_at", UTCDateTime, nullable=False),
    Column("closed_at", UTCDateTime),
    CheckConstraint(f"state IN {STATES}", name="state"),
    Index(None, "conversation_id", "id"),
    # The sweep at start looks for what a killed process left open.
    Index(None, "state"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("role", String(8), nullable=False),
    Column("platform", String(16), nullable=False),
    Column("chat_id", String(64), nullable=False),
    Column("message_id", String(64), nullable=False),
    CheckConstraint("role IN ('user', 'reply')", name="role"),
    # A retried message belongs to several turns, hence the turn in the key.
    UniqueConstraint("platform", "chat_id", "message_id", "turn_id"),
)

ratings = Table(
    "ratings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"), nullable=False),
    Column("platform", String(16), nullable=False),
    Column("user_id", String(64), nullable=False),
    # A correction says what would have been better: it counts as a vote against, and more.
    Column("vote", Integer, nullable=False),
    Column("correction", Text),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    CheckConstraint("vote IN (-1, 1)", name="vote"),
    UniqueConstraint("turn_id", "platform", "user_id"),
)

consents = Table(
    "consents",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("platform", String(16), nullable=False),
    Column("user_id", String(64), nullable=False),
    # Whether this person's turns may be trained on; without a row they were never asked.
    Column("agreed", Boolean, nullable=False),
    Column("changed_at", UTCDateTime, nullable=False),
    UniqueConstraint("platform", "user_id"),
)

# Turns that were erased, at their person's wish or by age. The id is all that is left of one: an
# adapter's lineage names the turns that it learned from, and so it is known which are concerned.
erasures = Table(
    "erasures",
    metadata,
    Column("turn_id", Integer, primary_key=True, autoincrement=False),
    Column("erased_at", UTCDateTime, nullable=False),
)

# People who had all of theirs erased: enough to tell one who asks again that it was done, and for
# nobody else to find out who they were.
forgotten = Table(
    "forgotten",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("forgotten_at", UTCDateTime, nullable=False),
    UniqueConstraint("hash"),
)

VERDICTS = ("held", "approved", "rejected")

# What may not be learned before a person has judged it, and what that person said. A row is about
# a correction, by its author, or about the reply itself, and then it names nobody.
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"), nullable=False),
    Column("platform", String(16), nullable=False, server_default=""),
    Column("user_id", String(64), nullable=False, server_default=""),
    # The words that were judged: a correction that is replaced is another one.
    Column("wording", Text, nullable=False),
    # Empty where no rule spoke against it, and a person judged it all the same.
    Column("reason", String(16), nullable=False),
    Column("state", String(16), nullable=False, server_default="held"),
    # What the reviewer made of it.
    Column("edited", Text),
    Column("reviewer", String(64)),
    Column("reviewed_at", UTCDateTime),
    Column("created_at", UTCDateTime, nullable=False),
    CheckConstraint(f"state IN {VERDICTS}", name="state"),
    UniqueConstraint("turn_id", "platform", "user_id"),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("platform", String(16), nullable=False),
    # Two bots on one database number their updates each for itself.
    Column("bot_id", String(64), nullable=False),
    Column("update_id", BigInteger, nullable=False),
    Column("user_id", String(64), nullable=False, server_default=""),
    Column("payload", Text, nullable=False),
    Column("received_at", UTCDateTime, nullable=False),
    Column("done_at", UTCDateTime),
    UniqueConstraint("platform", "bot_id", "update_id"),
    Index(None, "done_at"),
)

# What a platform writes down for itself: how far it had read a channel, what a server's admins set.
notes = Table(
    "notes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("platform", String(16), nullable=False),
    Column("bot_id", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("value", Text, nullable=False),
    UniqueConstraint("platform", "bot_id", "name"),
)
