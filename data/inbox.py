"""The inbox: what a platform handed over, kept until it has been dealt with.

A platform confirms what it received, and after that never sends it again: whatever was not written
down by then is lost with the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from data.schema import inbox
from data.transactions import StoreUnavailable, Transactions


@dataclass(frozen=True, slots=True)
class Waiting:
    """An update that was not dealt with yet; `payload` is as the platform sent it."""

    update_id: int
    payload: str
    received_at: datetime


class Inbox:
    """Updates by platform and bot. Dealt with ones are kept for a while, to know them again."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def put(
        self, platform: str, bot_id: str, update_id: int, user_id: str, payload: str
    ) -> bool:
        """Writes an update down; false where it is there already. Raises StoreUnavailable."""
        row = dict(platform=platform, bot_id=bot_id, update_id=update_id, user_id=user_id)
        try:
            async with self._transactions.write() as connection:
                await connection.execute(
                    insert(inbox).values(**row, payload=payload, received_at=datetime.now(UTC))
                )
        except StoreUnavailable as failed:
            if isinstance(failed.__cause__, IntegrityError):
                return False
            raise
        return True

    async def done(self, platform: str, bot_id: str, update_id: int) -> None:
        """Notes that an update was dealt with; what it said is not kept any longer."""
        key = dict(platform=platform, bot_id=bot_id, update_id=update_id)
        async with self._transactions.write() as connection:
            await connection.execute(
                update(inbox).filter_by(**key).values(done_at=datetime.now(UTC), payload="")
            )

    async def waiting(self, platform: str, bot_id: str) -> list[Waiting]:
        """What was not dealt with, in the order in which it came."""
        query = (
            select(inbox.c.update_id, inbox.c.payload, inbox.c.received_at)
            .filter_by(platform=platform, bot_id=bot_id, done_at=None)
            .order_by(inbox.c.id)
        )
        async with self._transactions.read() as connection:
            return [Waiting(*row) for row in (await connection.execute(query)).all()]

    async def forget(self, age: timedelta) -> None:
        """Drops what was dealt with longer ago than `age`: the platform will not send it again."""
        before = datetime.now(UTC) - age
        async with self._transactions.write() as connection:
            await connection.execute(delete(inbox).where(inbox.c.done_at < before))
