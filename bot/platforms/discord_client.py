"""The library's client: what arrives on Discord, and who deals with it."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import discord
from discord import app_commands

from bot.platforms.discord_calls import watched

log = logging.getLogger(__name__)


class Events(Protocol):
    """Deals with what arrives."""

    async def begin(self) -> None:
        """Signed in, and not connected yet."""

    def connected(self, shard_id: int) -> None:
        """A new session: what comes from here on must not hide what was missed before it."""

    async def ready(self, shard_id: int, guilds: list[discord.Guild], *, private: bool) -> None:
        """All is known of these servers: whatever came while nobody heard has to be looked for."""

    def message(self, message: discord.Message) -> None: ...

    def edited(self, message: discord.Message) -> None: ...

    def deleted(self, message_ids: list[int]) -> None: ...

    def reacted(self, change: discord.RawReactionActionEvent) -> None: ...

    async def interacted(self, interaction: discord.Interaction) -> None: ...


class Client(discord.AutoShardedClient):
    """Connected with no more than she needs. `hears`: with the text of what is not meant for her,
    which Discord has to grant."""

    tree: app_commands.CommandTree[Any] | None = None

    def __init__(self, events: Events, *, hears: bool, proxy: str = "") -> None:
        intents = discord.Intents.none()
        for name in ("guilds", "guild_messages", "dm_messages", "guild_reactions", "dm_reactions"):
            setattr(intents, name, True)
        intents.message_content = hears
        super().__init__(
            intents=intents,
            proxy=proxy or None,
            http_trace=watched(),
            allowed_mentions=discord.AllowedMentions.none(),
            member_cache_flags=discord.MemberCacheFlags.none(),
            max_messages=None,
            chunk_guilds_at_startup=False,
        )
        self._events = events
        self._ready_shards: set[int] = set()

    @property
    def online(self) -> bool:
        """Whether each shard's connection stands."""
        lost = (shard.is_closed() for shard in self.shards.values())
        return self.is_ready() and not self.is_closed() and not any(lost)

    async def setup_hook(self) -> None:
        await self._events.begin()

    async def on_shard_connect(self, shard_id: int) -> None:
        self._ready_shards.discard(shard_id)
        self._events.connected(shard_id)

    async def on_shard_ready(self, shard_id: int) -> None:
        self._ready_shards.add(shard_id)
        guilds = [guild for guild in self.guilds if guild.shard_id == shard_id]
        await self._events.ready(shard_id, guilds, private=shard_id == 0)

    async def on_guild_available(self, guild: discord.Guild) -> None:
        if guild.shard_id in self._ready_shards:  # back after an outage
            await self._events.ready(guild.shard_id, [guild], private=False)

    async def on_message(self, message: discord.Message) -> None:
        self._events.message(message)

    async def on_raw_message_edit(self, change: discord.RawMessageUpdateEvent) -> None:
        self._events.edited(change.message)

    async def on_raw_message_delete(self, gone: discord.RawMessageDeleteEvent) -> None:
        self._events.deleted([gone.message_id])

    async def on_raw_bulk_message_delete(self, gone: discord.RawBulkMessageDeleteEvent) -> None:
        self._events.deleted(list(gone.message_ids))

    async def on_raw_reaction_add(self, change: discord.RawReactionActionEvent) -> None:
        self._events.reacted(change)

    async def on_raw_reaction_remove(self, change: discord.RawReactionActionEvent) -> None:
        self._events.reacted(change)

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        await self._events.interacted(interaction)

    async def on_error(self, event_method: str, /, *_: Any, **__: Any) -> None:
        log.exception("%s could not be dealt with", event_method)
