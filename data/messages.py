"""Turns, and under which ids the platforms show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from data.schema import conversations, messages, turns
from data.transactions import Transactions


@dataclass(frozen=True, slots=True)
class Turn:
    """One message and one answer to it. `first_turn` leads the answers to the same message."""

    id: int
    first_turn: int
    user_id: str
    user_name: str
    text: str
    reply: str
    state: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The newest turn that a message led to, and the ids of what was sent of its reply."""

    turn: Turn
    sent: list[str]


class Messages:
    """Finds turns by messages, and the messages of turns."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def link_reply(self, turn_id: int, message_ids: Iterable[str]) -> None:
        """Notes under which ids a platform shows the reply."""
        async with self._transactions.write() as connection:
            await link(connection, turn_id, "reply", message_ids)

    async def turn_of(
        self, platform: str, chat_id: str, message_id: str, role: str | None = None
    ) -> Turn | None:
        """The turn that a message on a platform belongs to; the newest, if it was retried.

        `role` is whether only a `user`'s message is meant, or only a `reply`.
        """
        key = dict(platform=platform, chat_id=chat_id, message_id=message_id)
        key |= {} if role is None else {"role": role}
        query = (
            select(turns)
            .join(messages, messages.c.turn_id == turns.c.id)
            .where(*_is(key))
            .order_by(turns.c.id.desc())
            .limit(1)
        )
        async with self._transactions.read() as connection:
            row = (await connection.execute(query)).first()
        return turn_from(row) if row else None

    async def answered(self, platform: str, chat_id: str, message_id: str) -> Answered | None:
        """What became of a person's message; None where no turn was begun for it."""
        place = dict(platform=platform, chat_id=chat_id)
        query = (
            select(turns)
            .join(messages, messages.c.turn_id == turns.c.id)
            .where(*_is(place | dict(message_id=message_id, role="user")))
            .order_by(turns.c.id.desc())
            .limit(1)
        )
        async with self._transactions.read() as connection:
            row = (await connection.execute(query)).first()
            if row is None:
                return None
            sent = (
                select(messages.c.message_id)
                .where(*_is(place | dict(turn_id=row.id, role="reply")))
                .order_by(messages.c.id)
            )
            return Answered(turn_from(row), list((await connection.scalars(sent)).all()))

    async def reply_before(self, turn_id: int) -> str | None:
        """The id of the last message of the reply before that turn's, in its conversation."""
        of_it = select(turns.c.conversation_id).where(turns.c.id == turn_id).scalar_subquery()
        # An answer that was begun twice may be shown in the messages of the first try.
        own = select(messages.c.message_id).where(messages.c.turn_id == turn_id)
        query = (
            select(messages.c.message_id)
            .join(turns, messages.c.turn_id == turns.c.id)
            .where(
                turns.c.conversation_id == of_it,
                turns.c.id < turn_id,
                messages.c.role == "reply",
                messages.c.message_id.not_in(own),
            )
            .order_by(turns.c.id.desc(), messages.c.id.desc())
            .limit(1)
        )
        async with self._transactions.read() as connection:
            found = await connection.scalar(query)
        return None if found is None else str(found)


async def link(
    connection: AsyncConnection, turn_id: int, role: str, message_ids: Iterable[str]
) -> None:
    """Notes under which ids a person's message, or the reply, stands; of an erased turn nothing."""
    place = (
        select(conversations.c.platform, conversations.c.chat_id)
        .join(turns, turns.c.conversation_id == conversations.c.id)
        .where(turns.c.id == turn_id)
    )
    row = (await connection.execute(place)).first()
    if row is None:  # erased while it was being answered
        return
    values = [
        dict(turn_id=turn_id, role=role, platform=row.platform, chat_id=row.chat_id,
             message_id=message_id)
        for message_id in message_ids
    ]  # fmt: skip
    if values:
        await connection.execute(insert(messages), values)


def turn_from(row: Row[Any]) -> Turn:
    first = row.first_turn if row.first_turn is not None else row.id
    return Turn(row.id, first, row.user_id, row.user_name, row.text, row.reply, row.state)


def _is(key: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    return [messages.c[column] == value for column, value in key.items()]
