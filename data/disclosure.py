"""What is kept of a person, all of it, in the form in which they are given it."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from data.schema import consents, conversations, inbox, messages, quarantine, ratings, turns

# Numbers of rows that lead nowhere, and who read it: that is somebody else.
_LEFT_OUT = frozenset(("id", "turn_id", "conversation_id", "platform", "user_id", "reviewer"))


async def disclose(connection: AsyncConnection, platform: str, user_id: str) -> dict[str, Any]:
    """Turns, ratings with their corrections, consent and what waits, as values of JSON.

    Every column is given, so that one that is added later is not forgotten here.
    """
    key = dict(platform=platform, user_id=user_id)
    theirs = (
        select(turns.c.id)
        .join(conversations)
        .where(conversations.c.platform == platform, turns.c.user_id == user_id)
    )
    said = (
        select(turns, conversations.c.chat_id, conversations.c.thread_id, conversations.c.lang)
        .join(conversations)
        .where(turns.c.id.in_(theirs))
        .order_by(turns.c.id)
    )
    shown = await _by_turn(connection, select(messages).where(messages.c.turn_id.in_(theirs)))
    of_replies = select(quarantine).where(
        quarantine.c.turn_id.in_(theirs), quarantine.c.user_id == ""
    )
    held = await _by_turn(connection, of_replies)
    of_theirs = await _by_turn(connection, select(quarantine).filter_by(**key))
    consent = (await connection.execute(select(consents).filter_by(**key))).first()
    return {
        "person": key,
        "as_of": datetime.now(UTC).isoformat(),
        "consent": _plain(consent) if consent else None,
        "turns": [
            {"turn": row.id} | _plain(row) | {"messages": shown[row.id], "review": held[row.id]}
            for row in await connection.execute(said)
        ],
        "ratings": [
            {"turn": row.turn_id} | _plain(row) | {"review": of_theirs[row.turn_id]}
            for row in await connection.execute(
                select(ratings).filter_by(**key).order_by(ratings.c.id)
            )
        ],
        "waiting": [
            _plain(row)
            for row in await connection.execute(select(inbox).filter_by(**key).order_by(inbox.c.id))
        ],
    }


async def _by_turn(
    connection: AsyncConnection, query: Select[Any]
) -> defaultdict[int, list[dict[str, Any]]]:
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in await connection.execute(query):
        found[row.turn_id].append(_plain(row))
    return found


def _plain(row: Row[Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row._mapping.items()
        if name not in _LEFT_OUT
    }
