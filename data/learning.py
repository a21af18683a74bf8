"""What may be learned: the rated turns with all that decides on them, and the quarantine."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, Text, case, delete, func, insert, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from data.schema import consents, conversations, erasures, quarantine, ratings, turns
from data.transactions import Transactions

Person = tuple[str, str]
"""A platform and the id that it gives somebody."""
NOBODY = ("", "")
"""Whom a verdict names that is about the reply itself."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """An exchange as it was logged. `guarded`: the guard's words were spoken, not the model's."""

    turn_id: int
    person: Person
    text: str
    reply: str
    guarded: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """One person's rating of a turn; `at` is when it was last changed."""

    person: Person
    vote: int
    correction: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Rated:
    """A turn that was rated, with the exchanges before it, oldest first.

    `first_turn` leads the answers to the same message; None on that first one itself.
    """

    spoken: Spoken
    chat_id: str
    is_group: bool
    undone: bool
    adapter: str | None
    judgements: tuple[Judgement, ...]
    history: tuple[Spoken, ...] = ()
    first_turn: int | None = None

    @property
    def message(self) -> int:
        """The turn that first answered its message: all answers to one message have the same."""
        return self.spoken.turn_id if self.first_turn is None else self.first_turn

    @property
    def chat(self) -> tuple[str, str]:
        return self.spoken.person[0], self.chat_id


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule, and later perhaps a person, said of some words; `edited` replaces them."""

    turn_id: int
    person: Person
    wording: str
    reason: str
    state: str
    edited: str | None = None
    reviewer: str | None = None
    reviewed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """How often a correction of a turn was shown as exemplar, and how the replies were rated."""

    turn_id: int
    times: int
    good: int
    bad: int

    @property
    def flagged(self) -> bool:
        """Whether replies beside it are voted down: three times at the least, and mostly."""
        return self.bad >= 3 and self.bad > self.good


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store at one moment. `seen` is when each rater was first heard of."""

    rated: list[Rated]
    agreed: frozenset[Person] = frozenset()
    refused: frozenset[Person] = frozenset()
    erased: frozenset[int] = frozenset()
    seen: dict[Person, datetime] = field(default_factory=dict)
    verdicts: dict[tuple[int, Person], Verdict] = field(default_factory=dict)


class Learning:
    """Reads what may be learned, and keeps what was said about it."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def snapshot(self, history: int = 0, corrected: bool = False) -> Snapshot:
        """All rated turns, with up to `history` exchanges before each.

        `corrected` leaves out those that nobody gave a better wording for.
        """
        of = select(ratings.c.turn_id)
        if corrected:
            of = of.where(ratings.c.correction.is_not(None))
        query = (
            select(turns, conversations)
            .join(conversations)
            .where(turns.c.id.in_(of), turns.c.state == "done")
            .order_by(turns.c.id)
        )
        async with self._transactions.read() as connection:
            judged = await _judged(connection, of)
            # Both tables have an `id`: the first one is the turn's.
            found = (await connection.execute(query)).all()
            past = await _past(connection, of) if history else {}
            asked = (await connection.execute(select(consents))).all()
            return Snapshot(
                rated=[_rated(row, judged, past, history) for row in found],
                agreed=frozenset((c.platform, c.user_id) for c in asked if c.agreed),
                refused=frozenset((c.platform, c.user_id) for c in asked if not c.agreed),
                erased=frozenset(await connection.scalars(select(erasures.c.turn_id))),
                seen=await _seen(connection, of),
                verdicts=await _verdicts(connection),
            )

    async def hold(self, turn_id: int, person: Person, wording: str, reason: str) -> None:
        """Puts words aside until a person judged them; what was judged already stays so."""
        await self._put(Verdict(turn_id, person, wording, reason, "held"), judged=False)

    async def judge(self, verdict: Verdict) -> bool:
        """Notes what a person said of some words; false where the turn is gone meanwhile."""
        return await self._put(verdict, judged=True)

    async def judged(self) -> tuple[int, datetime | None]:
        """How many verdicts of people there are, and when the last one came: it tells of news."""
        query = select(func.count(), func.max(quarantine.c.reviewed_at)).where(
            quarantine.c.reviewed_at.is_not(None)
        )
        async with self._transactions.read() as connection:
            count, last = (await connection.execute(query)).one()
        return int(count), last

    async def uses(self) -> list[Use]:
        """How often each learned exchange stood before a reply, and how those were rated."""
        learned = turns.c.exemplars.cast(Text).like('%"turn:%')
        votes = (
            select(
                turns.c.id,
                turns.c.exemplars,
                func.coalesce(func.sum(case((ratings.c.vote > 0, 1), else_=0)), 0).label("good"),
                func.coalesce(func.sum(case((ratings.c.vote < 0, 1), else_=0)), 0).label("bad"),
            )
            .outerjoin(ratings)
            .where(turns.c.state == "done", learned)
            .group_by(turns.c.id)
        )
        counts: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        async with self._transactions.read() as connection:
            for row in await connection.execute(votes):
                for key in row.exemplars:
                    if key.startswith("turn:"):
                        count = counts[int(key.removeprefix("turn:"))]
                        for place, more in enumerate((1, int(row.good), int(row.bad))):
                            count[place] += more
        return [Use(turn_id, *count) for turn_id, count in sorted(counts.items())]

    async def _put(self, verdict: Verdict, judged: bool) -> bool:
        platform, user_id = verdict.person
        key = dict(turn_id=verdict.turn_id, platform=platform, user_id=user_id)
        values: dict[str, Any] = dict(
            wording=verdict.wording,
            reason=verdict.reason,
            state=verdict.state,
            edited=verdict.edited,
            reviewer=verdict.reviewer,
            reviewed_at=verdict.reviewed_at,
        )
        async with self._transactions.write() as connection:
            if not await _is_there(connection, verdict):
                return False
            row = (await connection.execute(select(quarantine).filter_by(**key))).first()
            if row is not None and row.wording == verdict.wording:
                if judged or row.state == "held":
                    await connection.execute(update(quarantine).filter_by(**key).values(**values))
                return True
            await connection.execute(delete(quarantine).filter_by(**key))
            made = dict(created_at=datetime.now(UTC))
            await connection.execute(insert(quarantine).values(**key, **values, **made))
        return True


async def _is_there(connection: AsyncConnection, verdict: Verdict) -> bool:
    """Whether the words still stand: a turn may be erased, a correction taken back."""
    platform, user_id = verdict.person
    query = select(turns.c.id).where(turns.c.id == verdict.turn_id)
    if verdict.person != NOBODY:
        query = query.join(ratings).where(
            ratings.c.platform == platform,
            ratings.c.user_id == user_id,
            ratings.c.correction == verdict.wording,
        )
    return await connection.scalar(query) is not None


async def _judged(
    connection: AsyncConnection, of: Select[tuple[int]]
) -> dict[int, list[Judgement]]:
    judged: defaultdict[int, list[Judgement]] = defaultdict(list)
    query = select(ratings).where(ratings.c.turn_id.in_(of)).order_by(ratings.c.id)
    for row in await connection.execute(query):
        judged[row.turn_id].append(
            Judgement((row.platform, row.user_id), row.vote, row.correction, row.updated_at)
        )
    return judged


async def _past(connection: AsyncConnection, of: Select[tuple[int]]) -> dict[int, list[Row[Any]]]:
    """What stands in the history of each conversation that has one of these turns."""
    past: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    concerned = select(turns.c.conversation_id).where(turns.c.id.in_(of))
    query = (
        select(turns)
        .where(turns.c.conversation_id.in_(concerned))
        .where(turns.c.state == "done", turns.c.chosen, ~turns.c.undone)
        .order_by(turns.c.id)
    )
    for row in await connection.execute(query):
        past[row.conversation_id].append(row)
    return past


async def _seen(connection: AsyncConnection, of: Select[tuple[int]]) -> dict[Person, datetime]:
    """When each person who rated one of these first said or rated something here."""
    raters = select(ratings.c.user_id).where(ratings.c.turn_id.in_(of))
    said = (
        select(conversations.c.platform, turns.c.user_id, turns.c.created_at)
        .join(conversations, turns.c.conversation_id == conversations.c.id)
        .where(turns.c.user_id.in_(raters))
    )
    voted = select(ratings.c.platform, ratings.c.user_id, ratings.c.created_at).where(
        ratings.c.user_id.in_(raters)
    )
    both = union_all(said, voted).subquery()
    query = select(both.c.platform, both.c.user_id, func.min(both.c.created_at)).group_by(
        both.c.platform, both.c.user_id
    )
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def _verdicts(connection: AsyncConnection) -> dict[tuple[int, Person], Verdict]:
    return {
        (row.turn_id, (row.platform, row.user_id)): Verdict(
            row.turn_id,
            (row.platform, row.user_id),
            row.wording,
            row.reason,
            row.state,
            row.edited,
            row.reviewer,
            row.reviewed_at,
        )
        for row in await connection.execute(select(quarantine))
    }


def _rated(
    row: Row[Any], judged: dict[int, list[Judgement]], past: dict[int, list[Row[Any]]], limit: int
) -> Rated:
    spoken = _spoken(row, row.platform)
    group = row.is_group
    if group is None:  # from before this was kept: whoever is not surely alone is among others
        group = row.platform != "terminal" and row.chat_id != row.user_id
    first = row.first_turn if row.first_turn is not None else spoken.turn_id
    # A reset later than the turn tells nothing of what stood before it then.
    start = row.reset_turn if row.reset_turn < first else 0
    before = past.get(row.conversation_id, [])
    end = bisect_left(before, first, key=lambda earlier: int(earlier.id))
    history = [e for e in before[max(0, end - limit) : end] if e.id > start]
    return Rated(
        spoken=spoken,
        chat_id=row.chat_id,
        is_group=bool(group),
        undone=bool(row.undone),
        adapter=row.adapter,
        judgements=tuple(judged.get(spoken.turn_id, ())),
        history=tuple(_spoken(earlier, row.platform) for earlier in history),
        first_turn=row.first_turn,
    )


def _spoken(row: Row[Any], platform: str) -> Spoken:
    return Spoken(row.id, (platform, row.user_id), row.text, row.reply, row.guarded is not None)
