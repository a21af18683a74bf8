"""People: what each agreed to, and how all that is kept of one is erased."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, func, insert, literal, or_, select, update

from data.schema import consents, conversations, erasures, inbox, quarantine, ratings, turns
from data.transactions import Transactions


@dataclass(frozen=True, slots=True)
class Kept:
    """How much is kept of a person."""

    turns: int
    ratings: int


class People:
    """Consent and erasure. A person is a platform and the id that it gives them."""

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

    async def erase(self, platform: str, user_id: str) -> list[int]:
        """Erases a person's turns, votes, consent and what waits of them; the turns' ids.

        The ids alone are kept, so that what was made of the turns can be told and left out.
        """
        theirs = (
            select(turns.c.id)
            .join(conversations)
            .where(conversations.c.platform == platform, turns.c.user_id == user_id)
        )
        async with self._transactions.write() as connection:
            ids = sorted((await connection.scalars(theirs)).all())
            if ids:
                now = literal(datetime.now(UTC), erasures.c.erased_at.type)
                chosen = select(turns.c.id, now).where(turns.c.id.in_(theirs))
                await connection.execute(
                    insert(erasures).from_select(["turn_id", "erased_at"], chosen)
                )
            key = dict(platform=platform, user_id=user_id)
            for table in (ratings, quarantine, consents, inbox):
                await connection.execute(delete(table).filter_by(**key))
            # Votes of others, message ids and further answers go with the turns.
            answers = select(erasures.c.turn_id).scalar_subquery()
            await connection.execute(
                delete(turns).where(or_(turns.c.id.in_(answers), turns.c.first_turn.in_(answers)))
            )
        return ids

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
