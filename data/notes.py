"""Notes: what a platform writes down for itself, to know it again after a restart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import delete, insert, select, update

from data.schema import notes
from data.transactions import Transactions


class Notes:
    """Texts by platform, bot and name. Every method raises StoreUnavailable."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def read(self, platform: str, bot_id: str) -> dict[str, str]:
        """All notes of a bot by their names."""
        query = select(notes.c.name, notes.c.value).filter_by(platform=platform, bot_id=bot_id)
        async with self._transactions.read() as connection:
            return {row.name: row.value for row in (await connection.execute(query)).all()}

    async def write(self, platform: str, bot_id: str, written: Mapping[str, str]) -> None:
        """Writes notes down, all or none; one of the same name is replaced."""
        async with self._transactions.write() as connection:
            for name, value in written.items():
                key = dict(platform=platform, bot_id=bot_id, name=name)
                changed = await connection.execute(
                    update(notes).filter_by(**key).values(value=value)
                )
                if not changed.rowcount:
                    await connection.execute(insert(notes).values(**key, value=value))

    async def forget(self, platform: str, bot_id: str, names: Iterable[str]) -> None:
        """Drops notes, all or none."""
        async with self._transactions.write() as connection:
            for name in names:
                key = dict(platform=platform, bot_id=bot_id, name=name)
                await connection.execute(delete(notes).filter_by(**key))
