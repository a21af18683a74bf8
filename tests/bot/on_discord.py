"""Daiyu on Discord: the real bot and the real library, against simcord."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import discord
from simcord.actors import MemberActor
from simcord.builders import ChannelHandle, GuildHandle, UserHandle
from simcord.env import Env
from talking import Chat, opened_chat, rows, settings

from bot.platforms.base import Incoming
from bot.platforms.discord import DiscordPlatform

SECONDS_TO_SETTLE = 60.0
_SPEAKER = re.compile(r"^\w+：")
CALM = {"discord__edit_interval": "5", "discord__group_edit_interval": "5"}


@dataclass
class OnDiscord:
    """A bot in a world of its own: `await on.say("你好")` says it in private."""

    env: Env
    chat: Chat
    platform: DiscordPlatform
    notices: list[str]
    make: Callable[[], discord.Client]
    guild: GuildHandle = field(init=False)
    room: ChannelHandle = field(init=False)
    person: UserHandle = field(init=False)
    member: MemberActor = field(init=False)

    def __post_init__(self) -> None:
        self.guild = self.env.create_guild("大观园")
        self.room = self.guild.create_text_channel("潇湘馆")
        self.person = self.env.create_user("baoyu", global_name="宝玉")
        self.member = self.guild.add_member(self.person)

    @property
    def mention(self) -> str:
        assert self.env.bot.user
        return self.env.bot.user.mention

    @property
    def bot_id(self) -> str:
        assert self.env.bot.user
        return str(self.env.bot.user.id)

    async def restart(self) -> None:
        """Ends the program and starts it anew; the world goes on."""
        await self.platform.end()
        made = self.make()
        self.platform = made._events  # type: ignore[attr-defined]
        await self.env.restart_bot(made)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Nothing arrives within it, and after it there is a new session, as op 9 makes one."""
        assert isinstance(self.env.bot, discord.AutoShardedClient)
        shard = self.env.bot.get_shard(0)
        assert shard
        await shard.disconnect()
        yield
        with self.env.time_context():
            await shard.reconnect()

    async def say(self, text: str) -> str:
        """Says something in private; what she has said to it."""
        before = len(self.hers(self.person.dm_channel))
        await self.person.send_dm(text)
        return "\n".join(m.content for m in self.hers(self.person.dm_channel)[before:])

    async def ask(self, text: str) -> Any:
        """Says something in private and waits for nothing."""
        return self.env.backend.create_message(self.person.dm_channel.id, self.person.id, text)

    async def answered(self) -> None:
        """Waits until what was said has got its answer."""
        await self.until(lambda: self.chat.turns() and not self.waiting())

    async def until(self, true: Callable[[], object]) -> None:
        """Waits patiently: what is asked may be a question to the database."""
        async with asyncio.timeout(SECONDS_TO_SETTLE):
            while not true():  # noqa: ASYNC110 - what is waited for knows nothing of the tests
                await asyncio.sleep(0.02)

    async def say_here(self, text: str, channel: ChannelHandle | None = None, **how: Any) -> str:
        """The same in a channel of the server."""
        channel = channel or self.room
        before = len(self.hers(channel))
        await self.member.send(channel, text, **how)
        return "\n".join(self.texts(channel)[before:])

    def texts(self, channel: ChannelHandle | None = None) -> list[str]:
        """The same without the name of whom she echoes: in a group she is told who speaks."""
        return [_SPEAKER.sub("", message.content) for message in self.hers(channel)]

    def hers(self, channel: ChannelHandle | None = None) -> list[discord.Message]:
        """What the bot has said in a channel, as it stands."""
        assert self.env.bot.user
        me = self.env.bot.user.id
        return [m for m in (channel or self.room).history() if m.author.id == me]

    def last(self, channel: ChannelHandle | None = None) -> discord.Message:
        return self.hers(channel)[-1]

    def calls(self, method: str, part: str) -> list[Any]:
        """What the bot asked of Discord."""
        return [c for c in self.env.http_requests if c.method == method and part in c.path]

    def ratings(self) -> list[tuple[int, str | None]]:
        """Votes and corrections, as they stand."""
        query = "SELECT vote, correction FROM ratings ORDER BY id"
        return [(row["vote"], row["correction"]) for row in rows(self.chat.database, query)]

    def waiting(self) -> int:
        return len(rows(self.chat.database, "SELECT 1 FROM inbox WHERE done_at IS NULL"))


def labels(message: discord.Message) -> list[str | None]:
    """What the buttons under a message say."""
    rows_of = [row for row in message.components if isinstance(row, discord.ActionRow)]
    return [b.label for row in rows_of for b in row.children if isinstance(b, discord.Button)]


def custom_id(action: str, about: str = "") -> str:
    return f"daiyu:{about}:{action}"


@asynccontextmanager
async def on_discord(
    var: Path, *, hears: bool = True, apart: bool = False, **overrides: str
) -> AsyncIterator[OnDiscord]:
    """A bot on the database below `var`, new or as it was left; it is stopped at the end.

    simcord waits for all that the bot does, in a time of its own. `apart`, her replies are made
    in real time and not waited for: for those that grow.
    """
    overrides = ({} if apart else CALM) | overrides
    chosen = settings(var, **overrides).discord
    async with opened_chat(var, **overrides) as chat:
        notices: list[str] = []

        def make() -> discord.Client:
            inbox, notes = chat.store.inbox, chat.store.notes
            platform = DiscordPlatform(chosen, "a token", inbox, notes, notices.append)

            async def handle(incoming: Incoming) -> None:
                handling = chat.bot.handle(platform, incoming)
                if apart:
                    loop = asyncio.get_running_loop()
                    await contextvars.Context().run(loop.create_task, handling)
                else:
                    await handling

            return platform.make_client(handle, hears=hears)

        made = make()
        env = Env(made, shard_count=1, settle_timeout=SECONDS_TO_SETTLE)
        await env.start()
        on = OnDiscord(env, chat, made._events, notices, make)  # type: ignore[attr-defined]
        try:
            yield on
            await on.platform.end()
        finally:
            await env.shutdown()
        env.raise_errors()
