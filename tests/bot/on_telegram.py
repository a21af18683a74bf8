"""Daiyu on Telegram: the real bot and the real library, against the fake server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from talking import Chat, eventually, opened_chat, rows, settings

from bot.platforms.telegram import TelegramPlatform
from bot.platforms.telegram_limits import RateLimiter
from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Place
from tests.fakes.messages import Message, User

SCALE = 50.0
"""How much shorter than Telegram's a second is here."""


@dataclass
class OnTelegram:
    """A bot that runs on the fake server: `await on.say(place, user, "你好")` gives the answer."""

    server: BotAPI
    chat: Chat
    platform: TelegramPlatform
    running: asyncio.Task[None]
    notices: list[str] = field(default_factory=list)

    async def say(self, place: Place, user: User, text: str, **how: Any) -> str:
        """Says something; what the bot has sent there in the end that was not there before."""
        before = {message.id for message in place.from_bot}
        await place.say(user, text, **how)
        await self.settled()
        return "\n".join(m.text for m in place.from_bot if m.id not in before)

    async def settled(self) -> None:
        """Waits until everything that was handed over was dealt with."""
        await self.server.updates.confirmed()
        await eventually(lambda: not self.waiting())

    def waiting(self) -> list[dict[str, Any]]:
        query = "SELECT update_id, payload FROM inbox WHERE done_at IS NULL ORDER BY id"
        return rows(self.chat.database, query)

    def ratings(self) -> list[tuple[int, str | None]]:
        """Votes and corrections, as they stand."""
        query = "SELECT vote, correction FROM ratings ORDER BY id"
        return [(row["vote"], row["correction"]) for row in rows(self.chat.database, query)]

    def last(self, place: Place) -> Message:
        return place.from_bot[-1]


@asynccontextmanager
async def on_telegram(
    var: Path, server: BotAPI, *, scale: float = SCALE, **overrides: str
) -> AsyncIterator[OnTelegram]:
    """A bot on the database below `var`, new or as it was left; it is stopped at the end."""
    quick = {
        "telegram__base_url": server.base_url.removesuffix("/bot"),
        "telegram__edit_interval": str(1 / scale),
        "telegram__group_edit_interval": str(3 / scale),
        "telegram__drain": "2",
    }
    chosen = quick | overrides
    async with opened_chat(var, **chosen) as chat:
        notices: list[str] = []
        platform = TelegramPlatform(
            settings(var, **chosen).telegram, server.token, chat.store.inbox, chat.bot.moved,
            notices.append, limiter=RateLimiter(scale),
        )  # fmt: skip
        running = asyncio.create_task(platform.run(partial(chat.bot.handle, platform)))
        try:
            yield OnTelegram(server, chat, platform, running, notices)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
