"""What was heard of a version, counted: replies, the guard's hits among them, votes. No words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select

from data.schema import conversations, ratings, turns
from data.transactions import Transactions

REPLIES_OF_A_CHAT = 20
VOTES_OF_A_PERSON = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """`guarded` of the `replies` were not let pass by the guard, and authored ones spoken instead.

    A chat counts with its newest twenty replies and a person with their newest three votes, so that
    nobody speaks for all. `displeased` are the people who voted any of them bad.
    """

    chats: int = 0
    replies: int = 0
    guarded: int = 0
    good: int = 0
    bad: int = 0
    displeased: int = 0


class Trials:
    """Counts what chats heard of a version on trial and of the one beside it."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def heard(self, versions: Collection[str], since: datetime) -> dict[str, Heard]:
        """What was heard of each of these versions, in turns that were begun since then."""
        guarded = case((turns.c.guarded.is_not(None), 1), else_=0).label("guarded")
        chat_of = (turns.c.adapter, conversations.c.platform, conversations.c.chat_id)
        spoken = (
            select(turns.c.id, *chat_of, guarded)
            .join(conversations, turns.c.conversation_id == conversations.c.id)
            .where(turns.c.adapter.in_(versions), turns.c.created_at >= since)
            # Without a prompt no model was asked: the guard had answered the message itself.
            .where(turns.c.state == "done", turns.c.prompt_tokens > 0)
            .subquery()
        )
        chat = (spoken.c.adapter, spoken.c.platform, spoken.c.chat_id)
        nth = func.row_number().over(partition_by=chat, order_by=spoken.c.id.desc()).label("nth")
        newest = select(*chat, spoken.c.guarded, nth).subquery()
        replies = (
            select(newest.c.adapter, func.count(), func.sum(newest.c.guarded))
            .where(newest.c.nth <= REPLIES_OF_A_CHAT)
            .group_by(newest.c.adapter, newest.c.platform, newest.c.chat_id)
        )
        rater = (spoken.c.adapter, ratings.c.platform, ratings.c.user_id)
        nth = func.row_number().over(partition_by=rater, order_by=ratings.c.id.desc()).label("nth")
        cast = (
            select(*rater, ratings.c.vote, nth)
            .join(spoken, ratings.c.turn_id == spoken.c.id)
            .subquery()
        )
        votes = (
            select(
                cast.c.adapter,
                func.sum(case((cast.c.vote > 0, 1), else_=0)),
                func.sum(case((cast.c.vote < 0, 1), else_=0)),
            )
            .where(cast.c.nth <= VOTES_OF_A_PERSON)
            .group_by(cast.c.adapter, cast.c.platform, cast.c.user_id)
        )
        async with self._transactions.read() as connection:
            chats = [tuple(row) for row in await connection.execute(replies)]
            people = [tuple(row) for row in await connection.execute(votes)]
        return {version: _heard(version, chats, people) for version in versions}

    async def active_chats(self, since: datetime) -> int:
        """In how many chats somebody was answered since then."""
        active = (
            select(conversations.c.platform, conversations.c.chat_id)
            .join(turns, turns.c.conversation_id == conversations.c.id)
            .where(turns.c.created_at >= since, turns.c.state == "done")
            .distinct()
            .subquery()
        )
        async with self._transactions.read() as connection:
            return int(await connection.scalar(select(func.count()).select_from(active)) or 0)


def _heard(version: str, chats: list[tuple[Any, ...]], people: list[tuple[Any, ...]]) -> Heard:
    """Of rows per chat (replies, guarded ones) and per person (good, bad)."""
    told = [(replies, guarded) for name, replies, guarded in chats if name == version]
    rated = [(good, bad) for name, good, bad in people if name == version]
    return Heard(
        chats=len(told),
        replies=sum(replies for replies, _ in told),
        guarded=sum(guarded for _, guarded in told),
        good=sum(good for good, _ in rated),
        bad=sum(bad for _, bad in rated),
        displeased=sum(bad > 0 for _, bad in rated),
    )
