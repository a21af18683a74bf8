"""What came while she was away: read from the histories, from the message last seen on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial

import discord

from bot.platforms.base import Notes
from bot.platforms.discord_calls import PLATFORM, call
from bot.platforms.settings import DiscordSettings

log = logging.getLogger(__name__)

_SINCE = "since"
_SEEN, _SEEN_PRIVATE = "seen:", "dm:"
"""Notes: since when this bot is known, and the message last seen in a channel."""
_MARKING_SECONDS = 10.0
_LATE = 200
"""Messages of a channel, and private chats, that are looked at for what was missed."""
_READING_AT_ONCE = 4
"""Channels whose history is read at the same time."""
_DAY = 86400.0
"""The longest that anything counts as recent: older places tell nothing."""
_PLACES = 2000
"""Places that are remembered before the useless ones among them are looked for."""

Take = Callable[[discord.Message], Awaitable[None]]


class Missed:
    """Keeps how far every channel was read, and hands what was missed to `take`."""

    def __init__(
        self,
        client: discord.AutoShardedClient,
        settings: DiscordSettings,
        notes: Notes,
        bot_id: str,
        take: Take,
    ) -> None:
        self._client = client
        self._settings = settings
        self._notes = notes
        self._bot_id = bot_id
        self._take = take
        self._seen: dict[str, int] = {}
        self._unmarked: dict[str, int] = {}
        self._marked_at = time.monotonic()
        self._many = _PLACES
        self._seen_before: dict[int, dict[str, int]] = {}
        """Of each shard whose session has just begun, what had been seen before it."""
        self._behind = 0
        self._catching_up: set[asyncio.Task[None]] = set()
        self._since = 0

    async def begin(self, notes: Mapping[str, str]) -> None:
        for name, value in notes.items():
            if name.startswith((_SEEN, _SEEN_PRIVATE)):
                self._seen[name] = int(value)
        self._since = int(notes.get(_SINCE, 0))
        if not self._since:  # the first start: what was said before is nobody's business
            self._since = discord.utils.time_snowflake(discord.utils.utcnow())
            await self._write({_SINCE: str(self._since)})
        await self._forget_useless()

    def end(self) -> None:
        """Where it is cut off, the next start reads on from what was kept."""
        for task in self._catching_up:
            task.cancel()

    def connected(self, shard_id: int) -> None:
        """A session begins: its messages may arrive before what was missed was looked for."""
        self._seen_before.setdefault(shard_id, dict(self._seen))

    async def catch_up(
        self, shard_id: int, guilds: Iterable[discord.Guild], *, private: bool
    ) -> None:
        """Reads on in every channel from the message last seen in it, as far as it is recent."""
        seen = self._seen_before.pop(shard_id, dict(self._seen))
        places = self._places(seen, guilds, private=private)
        task = asyncio.ensure_future(self._read_all(places))
        self._catching_up.add(task)
        task.add_done_callback(self._catching_up.discard)
        await task

    def _places(
        self, seen: Mapping[str, int], guilds: Iterable[discord.Guild], *, private: bool
    ) -> list[tuple[discord.abc.Messageable, int]]:
        """Where something may have been missed, and after which message."""
        since = max(self._since, _ago(self._settings.drop_older_than))
        places: list[tuple[discord.abc.Messageable, int]] = []
        for channel in (place for guild in guilds for place in _readable(guild)):
            after = max(since, seen.get(f"{_SEEN}{channel.id}", 0))
            if (channel.last_message_id or 0) > after:
                places.append((channel, after))
        if private:
            for name in _newest_private(seen):
                chat = self._client.get_partial_messageable(int(name.removeprefix(_SEEN_PRIVATE)))
                places.append((chat, max(since, seen[name])))
        return places

    async def _read_all(self, places: Iterable[tuple[discord.abc.Messageable, int]]) -> None:
        room = asyncio.Semaphore(_READING_AT_ONCE)

        async def read(channel: discord.abc.Messageable, after: int) -> None:
            async with room:
                await self._read_on(channel, after)

        # Where this is cut off, it stays behind: the next start reads on from what was kept.
        self._behind += 1
        await asyncio.gather(*(read(*place) for place in places))
        self._behind -= 1

    async def _read_on(self, channel: discord.abc.Messageable, after: int) -> None:
        try:
            late = await call(partial(_history, channel, after))
        except Exception as error:  # one channel must not hide what was missed in others
            log.warning("what was missed could not be read: %r", error)
            return
        if late:
            log.info("%d messages had been missed in a channel", len(late))
        for message in late:
            await self._take(message)

    async def saw(self, message: discord.Message) -> None:
        """Keeps how far was read, now and then: what is read twice is still answered once."""
        name = f"{_SEEN if message.guild else _SEEN_PRIVATE}{message.channel.id}"
        if message.id > self._seen.get(name, 0):
            self._seen[name] = self._unmarked[name] = message.id
        if time.monotonic() >= self._marked_at + _MARKING_SECONDS:
            await self.mark()

    async def mark(self) -> None:
        """Keeps how far was read, but for what is not read yet: that stands before it."""
        if not self._unmarked or self._behind or self._seen_before:
            return
        self._marked_at = time.monotonic()
        written, self._unmarked = self._unmarked, {}
        if not await self._write({name: str(seen) for name, seen in written.items()}):
            self._unmarked = written | self._unmarked
        elif len(self._seen) > self._many:
            await self._forget_useless()

    async def _forget_useless(self) -> None:
        """Of threads without end, and of people who have not written for long, nothing is kept."""
        private, oldest = _newest_private(self._seen), _ago(_DAY)
        useless = {
            name
            for name, seen in self._seen.items()
            if (name not in private if name.startswith(_SEEN_PRIVATE) else seen < oldest)
        }
        self._many = 2 * (len(self._seen) - len(useless)) + _PLACES
        if not useless:
            return
        try:
            await self._notes.forget(PLATFORM, self._bot_id, useless)
        except Exception as error:
            log.warning("what is too old to be of use could not be dropped: %s", error)
        for name in useless:
            self._seen.pop(name, None)
            self._unmarked.pop(name, None)

    async def _write(self, notes: Mapping[str, str]) -> bool:
        try:
            await self._notes.write(PLATFORM, self._bot_id, notes)
        except Exception as error:
            log.error("how far was read could not be kept: %s", error)
            return False
        return True


def _ago(seconds: float) -> int:
    """What the id of a message of then is at the least."""
    then = discord.utils.utcnow().timestamp() - seconds
    return int(then * 1000 - discord.utils.DISCORD_EPOCH) << 22


def _newest_private(seen: Mapping[str, int]) -> set[str]:
    private = [name for name in seen if name.startswith(_SEEN_PRIVATE)]
    return set(sorted(private, key=seen.__getitem__)[-_LATE:])


_Channel = discord.TextChannel | discord.Thread


def _readable(guild: discord.Guild) -> Iterable[_Channel]:
    channels: list[_Channel] = [*guild.text_channels, *guild.threads]
    for channel in channels:
        try:
            has = channel.permissions_for(guild.me)
        except discord.ClientException:  # a thread of a channel that she does not see
            continue
        if has.view_channel and has.read_message_history:
            yield channel


async def _history(channel: discord.abc.Messageable, after: int) -> list[discord.Message]:
    """The newest messages after that one, oldest first."""
    found: AsyncIterator[discord.Message] = channel.history(
        limit=_LATE, after=discord.Object(after), oldest_first=False
    )
    return [message async for message in found][::-1]
