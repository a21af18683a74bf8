"""The store: conversations, turns and ratings in a database that outlives every process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from data.database import Database, open_database
from data.inbox import Inbox
from data.learning import Learning
from data.messages import Messages, Turn, link, turn_from
from data.notes import Notes
from data.people import People
from data.schema import STATES, conversations, erasures, quarantine, ratings, turns
from data.transactions import Transactions
from data.trials import Trials


@dataclass(frozen=True, slots=True)
class Conversation:
    id: int
    lang: str | None
    reset_turn: int


@dataclass(frozen=True, slots=True)
class Rating:
    """One person's judgement of one turn."""

    vote: int
    correction: str | None


class Withdrawn(Exception):
    """What was to be written down is not to be kept any more."""


def _now() -> datetime:
    return datetime.now(UTC)


class Store:
    """Everything that is remembered. Open it with `Store.open`, close it with `close`.

    `messages` knows under which ids platforms show turns; `people` holds their consents, shows them
    what is kept and erases it; `inbox` holds what a platform handed over; `notes` what one writes
    down for itself; `learning` what may be learned, and what was judged of it; `trials` counts what
    was heard of a version.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transactions = Transactions(database.engine)
        self.messages = Messages(self._transactions)
        self.people = People(self._transactions)
        self.inbox = Inbox(self._transactions)
        self.learning = Learning(self._transactions)
        self.notes = Notes(self._transactions)
        self.trials = Trials(self._transactions)

    @classmethod
    async def open(cls, url: str, *, busy_timeout: float = 10.0, exclusive: bool = True) -> Store:
        """Opens the database at a SQLAlchemy URL.

        With `exclusive`, a bot keeps other bots away, makes the database where there is none,
        brings its schema up to date, and puts a damaged one aside. Without, as the trainer opens
        it beside a bot, nothing is made or changed on the way. Raises StoreError; without
        `exclusive`, its NoDatabase where there is none yet and its OldDatabase where a bot has to
        bring the schema up to date first.
        """
        return cls(await open_database(url, busy_timeout, exclusive))

    async def close(self) -> None:
        await self._database.close()

    async def conversation(
        self, platform: str, chat_id: str, thread_id: str = "", is_group: bool | None = None
    ) -> Conversation:
        """The conversation of a chat or thread, made at its first message.

        `is_group` is whether others read along; None where that is not known.
        """
        key = dict(platform=platform, chat_id=chat_id, thread_id=thread_id)
        query = select(conversations).filter_by(**key)
        async with self._transactions.read() as connection:
            row = (await connection.execute(query)).first()
        if row is None or (row.is_group is None and is_group is not None):
            async with self._transactions.write() as connection:
                row = (await connection.execute(query)).first()  # another task may have made it
                if row is not None:
                    await connection.execute(
                        update(conversations)
                        .where(conversations.c.id == row.id, conversations.c.is_group.is_(None))
                        .values(is_group=is_group)
                    )
                else:
                    made = insert(conversations).values(**key, is_group=is_group, created_at=_now())
                    await connection.execute(made)
                    row = (await connection.execute(query)).one()
        return Conversation(row.id, row.lang, row.reset_turn)

    async def set_lang(self, conversation_id: int, lang: str) -> None:
        async with self._transactions.write() as connection:
            await connection.execute(
                update(conversations).where(conversations.c.id == conversation_id).values(lang=lang)
            )

    async def begin_turn(
        self,
        conversation_id: int,
        user_id: str,
        user_name: str,
        message: str,
        message_id: str | None = None,
        retry_of: Turn | None = None,
        withdrawn: Callable[[], bool] = lambda: False,
    ) -> int:
        """Writes a message down before it is answered; the turn is `pending` until it is closed.

        `retry_of` is an earlier turn whose message is answered again. `withdrawn` is asked last,
        when no erasure can come in between; where it says so, raises Withdrawn.
        """  # fmt: skip
        async with self._transactions.write() as connection:
            if withdrawn():
                raise Withdrawn
            made = await connection.execute(
                insert(turns).values(
                    **await _fresh_id(connection),
                    conversation_id=conversation_id,
                    first_turn=retry_of.first_turn if retry_of else None,
                    chosen=retry_of is None,
                    user_id=user_id,
                    user_name=user_name,
                    text=message,
                    state="pending",
                    created_at=_now(),
                )
            )
            turn_id = int(made.inserted_primary_key[0])  # type: ignore[index]
            if message_id is not None:
                await link(connection, turn_id, "user", [message_id])
        return turn_id

    async def close_turn(
        self,
        turn_id: int,
        state: str,
        reply: str = "",
        error: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Ends a pending turn. A done retry takes the place of the answers before it.

        `facts` are further columns of `turns`: adapter, sampling, token counts, times.
        """  # fmt: skip
        async with self._transactions.write() as connection:
            closed = await connection.execute(
                update(turns)
                .where(turns.c.id == turn_id, turns.c.state == "pending")
                .values(state=state, reply=reply, error=error, closed_at=_now(), **(facts or {}))
            )
            if not closed.rowcount or state != "done":
                return
            first = await connection.scalar(select(turns.c.first_turn).where(turns.c.id == turn_id))
            if first is not None:
                siblings = (turns.c.id == first) | (turns.c.first_turn == first)
                await connection.execute(
                    update(turns).where(siblings).values(chosen=turns.c.id == turn_id)
                )

    async def history(self, conversation: Conversation, limit: int, before: int) -> list[Turn]:
        """The last finished turns before turn `before`, oldest first."""
        query = (
            select(turns)
            .where(
                turns.c.conversation_id == conversation.id,
                turns.c.id > conversation.reset_turn,
                turns.c.id < before,
                turns.c.state == "done",
                turns.c.chosen,
                ~turns.c.undone,
            )
            .order_by(turns.c.id.desc())
            .limit(limit)
        )
        async with self._transactions.read() as connection:
            rows = (await connection.execute(query)).all()
        return [turn_from(row) for row in reversed(rows)]

    async def last_turn(self, conversation: Conversation, *states: str) -> Turn | None:
        """The newest turn that stands: chosen, not undone, after the last reset.

        With `states`, the newest of those in one of them.
        """
        query = (
            select(turns)
            .where(
                turns.c.conversation_id == conversation.id,
                turns.c.id > conversation.reset_turn,
                turns.c.chosen,
                ~turns.c.undone,
                turns.c.state.in_(states or STATES),
            )
            .order_by(turns.c.id.desc())
            .limit(1)
        )
        async with self._transactions.read() as connection:
            row = (await connection.execute(query)).first()
        return turn_from(row) if row else None

    async def begun_since(
        self,
        platform: str,
        since: datetime,
        *,
        user_id: str | None = None,
        chat_id: str | None = None,
    ) -> list[datetime]:
        """When the turns of a person, or of a chat, were begun, oldest first."""
        query = (
            select(turns.c.created_at)
            .join(conversations)
            .where(conversations.c.platform == platform, turns.c.created_at >= since)
            .order_by(turns.c.id)
        )
        if user_id is not None:
            query = query.where(turns.c.user_id == user_id)
        if chat_id is not None:
            query = query.where(conversations.c.chat_id == chat_id)
        async with self._transactions.read() as connection:
            return list((await connection.scalars(query)).all())

    async def move_chat(self, platform: str, old: str, new: str) -> None:
        """A chat has another id from now on; its conversations go on under it.

        Message ids stay with the old one: under the new, other messages have them.
        """
        place = conversations.c.platform == platform
        async with self._transactions.write() as connection:
            found = await connection.execute(
                select(conversations.c.id, conversations.c.thread_id).where(
                    place, conversations.c.chat_id == old
                )
            )
            for conversation_id, thread_id in found.all():
                begun = conversations.c.thread_id == thread_id
                there = await connection.scalar(
                    select(conversations.c.id).where(place, begun, conversations.c.chat_id == new)
                )
                if there is None:
                    await connection.execute(
                        update(conversations)
                        .where(conversations.c.id == conversation_id)
                        .values(chat_id=new)
                    )
                else:  # somebody spoke there before the move was told
                    await connection.execute(
                        update(turns)
                        .where(turns.c.conversation_id == conversation_id)
                        .values(conversation_id=there)
                    )
                    await connection.execute(
                        delete(conversations).where(conversations.c.id == conversation_id)
                    )

    async def reset(self, conversation_id: int) -> None:
        """Begins the conversation anew: earlier turns stay logged, out of the context."""
        last = (
            select(func.coalesce(func.max(turns.c.id), 0))
            .where(turns.c.conversation_id == conversation_id)
            .scalar_subquery()
        )
        async with self._transactions.write() as connection:
            await connection.execute(
                update(conversations)
                .where(conversations.c.id == conversation_id)
                .values(reset_turn=last)
            )

    async def undo(self, turn: Turn, message_id: str | None = None) -> None:
        """Takes an exchange, with all its answers, out of the history.

        `message_id` is the message that asked for it: by it, being asked twice is known.
        """
        siblings = (turns.c.id == turn.first_turn) | (turns.c.first_turn == turn.first_turn)
        async with self._transactions.write() as connection:
            await connection.execute(update(turns).where(siblings).values(undone=True))
            if message_id is not None:
                await link(connection, turn.id, "user", [message_id])

    async def rate(
        self, turn_id: int, platform: str, user_id: str, vote: int, correction: str | None = None
    ) -> None:
        """A person's one judgement of a turn; a second one replaces the first."""
        key = dict(turn_id=turn_id, platform=platform, user_id=user_id)
        async with self._transactions.write() as connection:
            # What was judged of the words before is not judged of these.
            await connection.execute(
                delete(quarantine)
                .filter_by(**key)
                .where(quarantine.c.wording != ("" if correction is None else correction))
            )
            changed = await connection.execute(
                update(ratings)
                .filter_by(**key)
                .values(vote=vote, correction=correction, updated_at=_now())
            )
            if not changed.rowcount:
                now = _now()
                made = dict(vote=vote, correction=correction, created_at=now, updated_at=now)
                await connection.execute(insert(ratings).values(**key, **made))

    async def unrate(self, turn_id: int, platform: str, user_id: str) -> None:
        """Takes a person's judgement of a turn back."""
        key = dict(turn_id=turn_id, platform=platform, user_id=user_id)
        async with self._transactions.write() as connection:
            for table in (ratings, quarantine):
                await connection.execute(delete(table).filter_by(**key))

    async def rating(self, turn_id: int, platform: str, user_id: str) -> Rating | None:
        query = select(ratings).filter_by(turn_id=turn_id, platform=platform, user_id=user_id)
        async with self._transactions.read() as connection:
            row = (await connection.execute(query)).first()
        return Rating(row.vote, row.correction) if row else None

    async def recover(self) -> int:
        """Closes what a killed process left pending; how many there were. Run once, at start."""
        async with self._transactions.write() as connection:
            result = await connection.execute(
                update(turns)
                .where(turns.c.state == "pending")
                .values(state="failed", error="the bot ended before the reply", closed_at=_now())
            )
        return int(result.rowcount)

    async def reachable(self) -> None:
        """Reads a little of the database. Raises StoreUnavailable."""
        async with self._transactions.read() as connection:
            await connection.execute(select(conversations.c.id).limit(1))

    async def counts(self) -> dict[str, int]:
        """How much there is: conversations, done turns, ratings."""
        async with self._transactions.read() as connection:
            return {
                "conversations": int(
                    await connection.scalar(select(func.count()).select_from(conversations)) or 0
                ),
                "turns": int(
                    await connection.scalar(
                        select(func.count()).select_from(turns).where(turns.c.state == "done")
                    )
                    or 0
                ),
                "ratings": int(
                    await connection.scalar(select(func.count()).select_from(ratings)) or 0
                ),
            }


async def _fresh_id(connection: AsyncConnection) -> dict[str, int]:
    """An id for a turn that no turn ever had; empty where the database sees to it itself.

    SQLite gives the last row's id anew once that row is deleted, and an erasure would name another
    turn than the one it was of.
    """
    if connection.dialect.name != "sqlite":
        return {}
    last = await connection.scalar(select(func.max(turns.c.id)))
    erased = await connection.scalar(select(func.max(erasures.c.turn_id)))
    return {"id": max(last or 0, erased or 0) + 1}
