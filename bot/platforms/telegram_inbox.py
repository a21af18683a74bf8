"""What Telegram handed over: written down before it is confirmed."""

from __future__ import annotations

import asyncio

from telegram import Update
from telegram.error import NetworkError

from bot.platforms.base import Inbox

PLATFORM = "telegram"


class InboxQueue(asyncio.Queue[object]):
    """The updater's queue: takes an update only once it is committed, and each only once.

    The updater confirms to Telegram what it has put here. Where the commit fails it must not: of
    all exceptions NetworkError alone makes it fetch the update again.
    """

    def __init__(self, inbox: Inbox, bot_id: str) -> None:
        super().__init__()
        self._inbox = inbox
        self._bot_id = bot_id

    async def put(self, item: object) -> None:
        assert isinstance(item, Update)
        user = item.effective_user
        try:
            new = await self._inbox.put(
                PLATFORM, self._bot_id, item.update_id, str(user.id) if user else "", item.to_json()
            )
        except Exception as error:
            raise NetworkError(f"update {item.update_id} could not be kept: {error}") from error
        if new:
            await super().put(item)
