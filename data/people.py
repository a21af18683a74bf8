"""People: what each agreed to, what is kept of one, and how all of it is erased."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from data.disclosure import disclose
from data.schema import (
    consents,
    conversations,
    erasures,
    forgotten,
    inbox,
    quarantine,
    ratings,
    turns,
)
from data.transactions import Transactions


@dataclass(frozen=True, slots=True)
class Kept:
    """How much is kept of a person."""

    turns: int
    ratings: int


class People:
    """Consent, disclosure and erasure. A person is a platform and the id that it gives them."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def agreed(self, platform: str, user_id: str) -> bool | None:
        """Whether their turns may be trained on; None where they were never asked."""
        query = select(consents.c.agreed).filter_by(platform=platform, user_id=user_id)
        async with self._transactions.read() as connection:
            found = (await connection.execute(query)).first()
        return None if found is None else bool(found.agreed)

    async def agree(self, platform: str, user_id: str, agreed: bool) -> None:
        """Notes their answer; a later one replaces it."""
        key = dict(platform=platform, user_id=user_id)
        values = dict(agreed=agreed, changed_at=datetime.now(UTC))
        async with self._transactions.write() as connection:
            changed = await connection.execute(update(consents).filter_by(**key).values(**values))
            if not changed.rowcount:
                await connection.execute(insert(consents).values(**key, **values))

    async def undecided(self, turn_id: int) -> bool:
        """Whether anybody who rated a turn has not said yet whether they may be learned from."""
        query = (
            select(ratings.c.id)
            .outerjoin(
                consents,
                (consents.c.platform == ratings.c.platform)
                & (consents.c.user_id == ratings.c.user_id),
            )
            .where(ratings.c.turn_id == turn_id, consents.c.id.is_(None))
            .limit(1)
        )
        async with self._transactions.read() as connection:
            return (await connection.execute(query)).first() is not None

    async def kept(self, platform: str, user_id: str) -> Kept:
        """What there is of a person."""
        theirs = select(func.count()).select_from(turns.join(conversations)).where(
            conversations.c.platform == platform, turns.c.user_id == user_id
        )  # fmt: skip
        rated = select(func.count()).where(
            ratings.c.platform == platform, ratings.c.user_id == user_id
        )
        async with self._transactions.read() as connection:
            return Kept(
                int(await connection.scalar(theirs) or 0), int(await connection.scalar(rated) or 0)
            )

    async def disclosed(self, platform: str, user_id: str) -> dict[str, Any]:
        """All that is kept of a person, as values of JSON."""
        async with self._transactions.read() as connection:
            return await disclose(connection, platform, user_id)

    async def erase(self, platform: str, user_id: str) -> list[int]:
        """Erases a person's turns, votes, consent and what waits of them; the turns' ids.

        Kept are the ids, so that what was made of the turns can be told and left out, and a salted
        hash of the person.
        """
        async with self._transactions.write() as connection:
            gone = await erase_person(connection, platform, user_id)
            await _note_forgotten(connection, platform, user_id)
        return gone

    async def expire(self, age: timedelta) -> int:
        """Erases what was said longer ago than `age`, with all that hangs on it; how many turns.

        A message goes with all its answers, however late these were asked for.
        """
        before = datetime.now(UTC) - age
        old = select(turns.c.id).where(turns.c.first_turn.is_(None), turns.c.created_at < before)
        async with self._transactions.write() as connection:
            gone, _ = await _erase_turns(connection, old)
            await connection.execute(
                delete(conversations).where(conversations.c.created_at < before, _is_empty())
            )
        return len(gone)

    async def corrected(self, platform: str, user_id: str) -> list[int]:
        """The turns that they gave a better wording for."""
        query = (
            select(ratings.c.turn_id)
            .filter_by(platform=platform, user_id=user_id)
            .where(ratings.c.correction.is_not(None))
        )
        async with self._transactions.read() as connection:
            return sorted((await connection.scalars(query)).all())

    async def erased(self) -> set[int]:
        """The ids of all turns that were erased: whatever was made of them is to leave them out."""
        async with self._transactions.read() as connection:
            return set((await connection.scalars(select(erasures.c.turn_id))).all())

    async def forgotten(self, platform: str, user_id: str) -> datetime | None:
        """When they last had all of theirs erased; None where they never did."""
        async with self._transactions.read() as connection:
            found = await _find_forgotten(connection, platform, user_id)
        return found.forgotten_at if found else None


async def erase_person(connection: AsyncConnection, platform: str, user_id: str) -> list[int]:
    """Erases all of a person's; all that is left are the ids of the turns, which it gives."""
    theirs = (
        select(turns.c.id)
        .join(conversations)
        .where(conversations.c.platform == platform, turns.c.user_id == user_id)
    )
    key = dict(platform=platform, user_id=user_id)
    gone, places = await _erase_turns(connection, theirs)
    for table in (ratings, quarantine, consents, inbox):
        await connection.execute(delete(table).filter_by(**key))
    # The id of a private chat is the person's, or leads to them.
    private = conversations.c.is_group.is_(False) & conversations.c.id.in_(places)
    theirs_alone = or_(private, conversations.c.chat_id == user_id)
    await connection.execute(
        delete(conversations).where(conversations.c.platform == platform, theirs_alone, _is_empty())
    )
    return gone


async def _erase_turns(
    connection: AsyncConnection, chosen: Select[tuple[int]]
) -> tuple[list[int], set[int]]:
    """Erases turns with every answer to the same message; their ids, and their conversations'.

    Votes, message ids and what was put aside of them go with them (they cascade).
    """
    concerned = or_(turns.c.id.in_(chosen), turns.c.first_turn.in_(chosen))
    found = (
        await connection.execute(select(turns.c.id, turns.c.conversation_id).where(concerned))
    ).all()
    if found:
        now = literal(datetime.now(UTC), erasures.c.erased_at.type)
        await connection.execute(
            insert(erasures).from_select(
                ["turn_id", "erased_at"], select(turns.c.id, now).where(concerned)
            )
        )
        await connection.execute(delete(turns).where(turns.c.id.in_(select(erasures.c.turn_id))))
    return sorted(row.id for row in found), {row.conversation_id for row in found}


def _is_empty() -> ColumnElement[bool]:
    """Whether nothing was said in a conversation, or nothing is left of it."""
    return ~exists().where(turns.c.conversation_id == conversations.c.id)


async def _note_forgotten(connection: AsyncConnection, platform: str, user_id: str) -> None:
    values = dict(forgotten_at=datetime.now(UTC))
    if found := await _find_forgotten(connection, platform, user_id):
        await connection.execute(update(forgotten).filter_by(id=found.id).values(**values))
        return
    salt = await connection.scalar(select(forgotten.c.salt).limit(1)) or secrets.token_bytes(16)
    digest = await hash_of(platform, user_id, salt)
    await connection.execute(insert(forgotten).values(salt=salt, hash=digest, **values))


async def _find_forgotten(
    connection: AsyncConnection, platform: str, user_id: str
) -> Row[Any] | None:
    # One salt for a database: with one for each row, all would have to be tried.
    for salt in (await connection.scalars(select(forgotten.c.salt).distinct())).all():
        query = select(forgotten).filter_by(hash=await hash_of(platform, user_id, salt))
        if found := (await connection.execute(query)).first():
            return found
    return None


async def hash_of(platform: str, user_id: str, salt: bytes) -> bytes:
    """Slow on purpose, some 50 ms: ids are numbers, of which all could be tried."""
    person = f"{platform}:{user_id}".encode()
    return await asyncio.to_thread(hashlib.scrypt, person, salt=salt, n=2**14, r=8, p=1)
