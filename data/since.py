"""What a database knows that an older copy of it cannot: who was forgotten since, and the like.

Putting a copy back must bring back nobody who was forgotten meanwhile. So before a database is
replaced it is read for what was erased, for consents, for what still waits to be answered and for
what platforms wrote down; all of that goes into the copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    NullPool,
    Select,
    Table,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    union,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from data.backup import read_only
from data.people import erase_person, hash_of
from data.schema import (
    consents,
    conversations,
    erasures,
    forgotten,
    inbox,
    notes,
    quarantine,
    ratings,
    turns,
)

Person = tuple[str, str]
"""A platform, and the id that it gives somebody."""

_NEWEST = 200
"""Turns by which two databases are known to be of one history."""
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Since:
    """What a database knew that is about to be replaced.

    `whole`: all of it could be read. `kin`: it and the copy are of one history, so that a number
    means the same turn in both. `lost` are the turns that the copy has not. `standing` are people
    who were not forgotten since, as what was kept of them in both shows.
    """

    whole: bool
    kin: bool
    erased: dict[int, datetime]
    lost: list[int]
    forgotten: dict[bytes, tuple[bytes, datetime]]
    """By hash, the salt and when."""
    consents: dict[Person, tuple[bool, datetime]]
    standing: frozenset[Person]
    waiting: list[dict[str, Any]]
    notes: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Carried:
    """How much went into the copy."""

    people: int
    turns: int
    consents: int


async def newest_turns(connection: AsyncConnection) -> dict[int, datetime]:
    """When the newest turns of a copy were begun: what another database is compared with."""
    query = select(turns.c.id, turns.c.created_at).order_by(turns.c.id.desc()).limit(_NEWEST)
    return {row.id: row.created_at for row in (await connection.execute(query)).all()}


def read_since(path: Path, newest: dict[int, datetime]) -> Since:
    """Reads a database that is about to be replaced by a copy with these newest turns.

    Of a damaged one it reads what can be read; it raises nothing, and changes nothing.
    """
    engine = create_engine(
        "sqlite://", creator=partial(read_only, path), poolclass=NullPool, hide_parameters=True
    )
    reading = _Reading(engine.connect)
    last = max(newest, default=0)
    erased = {row.turn_id: row.erased_at for row in reading.rows(select(erasures), erasures)}
    sample = select(turns.c.id, turns.c.created_at).where(turns.c.id.in_(newest))
    same = [newest[row.id] == row.created_at for row in reading.rows(sample, turns)]
    kin = all(same) if same else not newest.keys().isdisjoint(erased)
    lost = select(turns.c.id).where(turns.c.id > last)
    standing = (
        select(conversations.c.platform, turns.c.user_id)
        .join(turns)
        .where(turns.c.id <= last)
        .distinct()
    )
    gone = {
        row.hash: (row.salt, row.forgotten_at) for row in reading.rows(select(forgotten), forgotten)
    }
    agreed = {
        (row.platform, row.user_id): (row.agreed, row.changed_at)
        for row in reading.rows(select(consents), consents)
    }
    stood = {(platform, user_id) for platform, user_id in reading.rows(standing, turns)}
    waits = select(*_without_id(inbox)).where(inbox.c.done_at.is_(None))
    waiting = [row._asdict() for row in reading.rows(waits, inbox)]
    noted = [row._asdict() for row in reading.rows(select(*_without_id(notes)), notes)]
    return Since(
        kin=kin,
        erased=erased,
        lost=[row.id for row in reading.rows(lost, turns)],
        forgotten=gone,
        consents=agreed,
        standing=frozenset(stood if kin else ()),
        waiting=waiting,
        notes=noted,
        whole=reading.is_whole(),
    )


class _Reading:
    """Reads what can be read, and knows whether that was all."""

    def __init__(self, connect: Any) -> None:
        self._connect = connect
        self._failed = False

    def rows(self, query: Select[Any], table: Table) -> list[Any]:
        try:
            with self._connect() as connection:
                if not _has(connection, table):  # from before there was such a table
                    return []
                return list(connection.execute(query).all())
        except (SQLAlchemyError, ValueError, TypeError):
            self._failed = True
            return []

    def is_whole(self) -> bool:
        if self._failed:
            return False
        try:
            with self._connect() as connection:
                found = connection.scalar(text("PRAGMA quick_check(1)"))
                return found == "ok" and _has(connection, turns)
        except SQLAlchemyError:
            return False


def _has(connection: Connection, table: Table) -> bool:
    query = text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name")
    return connection.scalar(query, {"name": table.name}) is not None


def _without_id(table: Table) -> list[Any]:
    return [column for column in table.c if column.name != "id"]


async def carry_over(connection: AsyncConnection, since: Since) -> Carried:
    """Makes a copy know it too, within the transaction of a connection to the copy."""
    # What is erased here was never in this file before, and is not to be left in its free pages.
    await connection.exec_driver_sql("PRAGMA secure_delete = ON")
    before = await connection.scalar(select(func.count()).select_from(turns)) or 0
    people = await _forget(connection, since)
    if since.kin:
        await _erase(connection, since)
        if since.whole:
            await _take_over(connection, since)
    agreed = await _keep_newer_consents(connection, since)
    after = await connection.scalar(select(func.count()).select_from(turns)) or 0
    return Carried(people, before - after, agreed)


async def _forget(connection: AsyncConnection, since: Since) -> int:
    """Erases whoever was forgotten since the copy was made."""
    found = (await connection.execute(select(forgotten))).all()
    known = {row.hash: row.forgotten_at for row in found}
    news = {
        digest: (salt, at)
        for digest, (salt, at) in since.forgotten.items()
        if digest not in known or known[digest] < at
    }
    people = await _people(connection) - since.standing if news else set()
    count = 0
    for salt in {salt for salt, _ in news.values()}:
        for person in people:
            if await hash_of(*person, salt) in news:
                await erase_person(connection, *person)
                count += 1
    for digest, (salt, at) in news.items():
        await connection.execute(delete(forgotten).filter_by(hash=digest))
        values = dict(salt=salt, hash=digest, forgotten_at=at)
        await connection.execute(insert(forgotten).values(**values))
    return count


async def _people(connection: AsyncConnection) -> set[Person]:
    """Everybody that anything is kept of."""
    spoke = select(conversations.c.platform, turns.c.user_id).join(turns)
    named = (select(t.c.platform, t.c.user_id) for t in (ratings, quarantine, consents, inbox))
    rows = (await connection.execute(union(spoke, *named))).all()
    return {(platform, user_id) for platform, user_id in rows if user_id}


async def _erase(connection: AsyncConnection, since: Since) -> None:
    """Erases the turns that were erased since, and keeps every number from being given anew."""
    now = datetime.now(UTC)
    known = set((await connection.scalars(select(erasures.c.turn_id))).all())
    gone = since.erased | dict.fromkeys(since.lost, now)
    rows = [dict(turn_id=i, erased_at=at) for i, at in gone.items() if i not in known]
    for some in _in_pieces(rows):
        await connection.execute(insert(erasures), some)
    await connection.execute(delete(turns).where(turns.c.id.in_(select(erasures.c.turn_id))))


async def _take_over(connection: AsyncConnection, since: Since) -> None:
    """What waited when the copy was made was dealt with since, but for what waits still."""
    done = dict(done_at=datetime.now(UTC), payload="")
    await connection.execute(update(inbox).filter_by(done_at=None).values(**done))
    for table, key, rows in (
        (inbox, ("platform", "bot_id", "update_id"), since.waiting),
        (notes, ("platform", "bot_id", "name"), since.notes),
    ):
        for row in rows:
            known = {name: row[name] for name in key}
            await connection.execute(delete(table).filter_by(**known))
            await connection.execute(insert(table).values(**row))


async def _keep_newer_consents(connection: AsyncConnection, since: Since) -> int:
    """A person's last word counts, whichever database heard it."""
    rows = (await connection.execute(select(consents))).all()
    known = {(row.platform, row.user_id): row.changed_at for row in rows}
    count = 0
    for (platform, user_id), (agreed, at) in since.consents.items():
        if (heard := known.get((platform, user_id))) is None or heard < at:
            key = dict(platform=platform, user_id=user_id)
            await connection.execute(delete(consents).filter_by(**key))
            await connection.execute(insert(consents).values(**key, agreed=agreed, changed_at=at))
            count += 1
    return count


def _in_pieces(rows: Collection[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    left: Iterable[dict[str, Any]] = iter(rows)
    while piece := list(islice(left, _AT_ONCE)):
        yield piece
