"""Daiyu on Discord: the real bot and the real library, against a server whose connection fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import discord
from discord.backoff import ExponentialBackoff
from discord.state import AutoShardedConnectionState
from talking import Chat, opened_chat, rows, settings

from bot.platforms.discord import DiscordPlatform
from tests.bot.discord_rest import Place
from tests.bot.discord_server import TOKEN, DiscordServer


@contextmanager
def _quick() -> Iterator[None]:
    """Within it the library waits for nothing that nobody is asked for."""

    async def at_once(*_: object, **__: object) -> None:
        """Else five seconds pass before a second session."""

    soon = property(lambda _: 0.05, lambda *_: None)
    with (
        mock.patch.object(AutoShardedConnectionState, "guild_ready_timeout", soon, create=True),
        mock.patch.object(ExponentialBackoff, "delay", return_value=0.05),
        mock.patch.object(discord.Client, "before_identify_hook", at_once),
    ):
        yield


@dataclass
class Connected:
    server: DiscordServer
    chat: Chat
    platform: DiscordPlatform
    running: asyncio.Task[None]
    notices: list[str]

    async def answered(self, place: Place, *texts: str) -> None:
        """Waits until all is dealt with; what she has said there is exactly that, once each."""
        await self.until(lambda: len(place.hers) >= len(texts) and not self.waiting())
        assert sorted(said(place)) == sorted(texts)
        assert sorted(turn["text"] for turn in self.turns(place)) == sorted(texts)

    async def until(self, true: Callable[[], object]) -> None:
        """Waits until something becomes true; the bot must not end meanwhile."""
        await self.server.until(lambda: true() or self.running.done())
        if self.running.done():
            self.running.result()

    def turns(self, place: Place) -> list[dict[str, object]]:
        query = (
            "SELECT turns.* FROM turns JOIN conversations ON conversations.id = conversation_id "
            f"WHERE chat_id = '{place.id}'"
        )
        return rows(self.chat.database, query)

    def waiting(self) -> int:
        return len(rows(self.chat.database, "SELECT 1 FROM inbox WHERE done_at IS NULL"))


def said(place: Place) -> list[str]:
    """What she has said there, without the name of whom she echoes."""
    return [text.removeprefix("宝玉：") for text in place.hers]


@asynccontextmanager
async def connected(var: Path, server: DiscordServer, **overrides: str) -> AsyncIterator[Connected]:
    """The bot on the database below `var`, signed in; it is stopped at the end."""
    chosen = {"discord__group_edit_interval": "30", "discord__edit_interval": "30"} | overrides
    async with opened_chat(var, **chosen) as chat:
        notices: list[str] = []
        platform = DiscordPlatform(
            settings(var, **chosen).discord, TOKEN, chat.store.inbox, chat.store.notes,
            notices.append,
        )  # fmt: skip
        with server.in_place(), _quick():
            running = asyncio.create_task(platform.run(partial(chat.bot.handle, platform)))
            try:
                await server.until(lambda: server.connected or running.done())
                await server.until(lambda: notices or running.done())
                yield Connected(server, chat, platform, running, notices)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
