"""Receiving from Discord: written down before it is answered, and nothing lost while away.

The gateway confirms nothing: what arrives while she is away, or after a session is lost, is gone
there. A channel's history still holds it, so that it is read on from the message last seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial

import discord

from bot.platforms.base import STOPPED, Handler, Inbox, Incoming, Notes
from bot.platforms.discord_calls import PLATFORM, call
from bot.platforms.discord_reading import Reader
from bot.platforms.lanes import Lanes, note_done
from bot.platforms.settings import DiscordSettings

log = logging.getLogger(__name__)

_SINCE = "since"
_SEEN, _SEEN_PRIVATE = "seen:", "dm:"
"""Notes: since when this bot is known, and the message last seen in a channel."""
_MARKING_SECONDS = 10.0
_LATE = 200
"""Messages of a channel, and private chats, that are looked at for what was missed."""
_GONE = 1000
_READING_AT_ONCE = 4
"""Channels whose history is read at the same time."""


class Receiver:
    """Hands on what people do, in each channel in its order."""

    def __init__(
        self,
        client: discord.AutoShardedClient,
        settings: DiscordSettings,
        inbox: Inbox,
        notes: Notes,
        reader: Reader,
        bot_id: str,
        handle: Handler,
    ) -> None:
        self._client = client
        self._settings = settings
        self._inbox = inbox
        self._notes = notes
        self._reader = reader
        self._bot_id = bot_id
        self._handle = handle
        self._lanes = Lanes()
        self._seen: dict[str, int] = {}
        self._unmarked: dict[str, int] = {}
        self._marked_at = time.monotonic()
        self._seen_before: dict[int, dict[str, int]] = {}
        """Of each shard whose session has just begun, what had been seen before it."""
        self._behind = 0
        self._catching_up: set[asyncio.Task[None]] = set()
        self._since = 0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._gone: deque[str] = deque(maxlen=_GONE)
        self._bot_turns: dict[str, int] = {}
        self._told_missed: set[str] = set()

    async def begin(self, notes: Mapping[str, str]) -> None:
        """Takes up what an earlier process wrote down and did not deal with."""
        for name, value in notes.items():
            if name.startswith((_SEEN, _SEEN_PRIVATE)):
                self._seen[name] = int(value)
        self._since = int(notes.get(_SINCE, 0))
        if not self._since:  # the first start: what was said before is nobody's business
            self._since = discord.utils.time_snowflake(discord.utils.utcnow())
            await self._write({_SINCE: str(self._since)})
        for waiting in await self._inbox.waiting(PLATFORM, self._bot_id):
            try:
                incoming = replace(Incoming(**json.loads(waiting.payload)), again=True)
            except (TypeError, ValueError):  # another version of the program wrote it
                log.error("message %d was left in a form that is not known", waiting.update_id)
                await note_done(self._inbox, PLATFORM, self._bot_id, waiting.update_id)
            else:
                self._talk(incoming, waiting.update_id)

    async def end(self, seconds: float) -> None:
        """Lets what is being done come to its end, and leaves the rest to the next start."""
        for task in self._catching_up:
            task.cancel()
        await self._lanes.drain(seconds)
        await self._mark(now=True)

    # What arrives.

    def message(self, message: discord.Message) -> None:
        """A message, as it arrives or as it is found later."""
        self._lanes.add(("in", message.channel.id), partial(self._take, message))

    def edited(self, message: discord.Message) -> None:
        """A message reads otherwise now, or something else about it has changed."""
        incoming = self._reader.message(message) if message.edited_at else None
        if incoming is not None and incoming.addressed:
            self._talk(replace(incoming, edited=True))

    def deleted(self, message_ids: Iterable[int]) -> None:
        """Messages are gone: whatever is being said to them ends."""
        for message_id in map(str, message_ids):
            self._gone.append(message_id)
            if task := self._running.get(message_id):
                task.cancel(STOPPED)

    def talk(self, incoming: Incoming) -> None:
        """Something said that cannot be asked for again after a restart: a command, a press."""
        if incoming.alone or (incoming.in_place and not incoming.text.startswith("/retry")):
            person = ("votes", incoming.chat_id, incoming.user_id)
            self._lanes.add(person, partial(self._handle, incoming))
        else:
            self._talk(incoming)

    async def _take(self, message: discord.Message) -> None:
        """Writes a message down, if it is for her, and has it answered."""
        try:
            incoming = self._reader.message(message)
        except Exception:  # what nobody foresaw must not stop the rest
            log.exception("message %d could not be read", message.id)
            incoming = None
        if incoming is not None and not message.author.bot:
            self._bot_turns.pop(incoming.chat_id, None)
        if incoming is not None and incoming.addressed:
            if not await self._keep(message.id, incoming):
                return
            if self._may_talk(message, incoming):
                self._talk(incoming, message.id)
            else:
                await note_done(self._inbox, PLATFORM, self._bot_id, message.id)
        place = _SEEN if message.guild else _SEEN_PRIVATE
        self._note_seen(f"{place}{message.channel.id}", message.id)
        await self._mark()

    async def _keep(self, message_id: int, incoming: Incoming) -> bool:
        """Whether a message is new; one that cannot be kept is answered, and seen again later."""
        payload = json.dumps(asdict(incoming), ensure_ascii=False)
        try:
            return await self._inbox.put(
                PLATFORM, self._bot_id, message_id, incoming.user_id, payload
            )
        except Exception as error:
            log.error("message %d could not be kept: %s", message_id, error)
            self._talk(incoming)
            return False

    def _may_talk(self, message: discord.Message, incoming: Incoming) -> bool:
        """Two programs could go on for ever: after a while a person has to say something."""
        if not message.author.bot:
            return True
        turns = self._bot_turns.get(incoming.chat_id, 0) + 1
        self._bot_turns[incoming.chat_id] = turns
        return turns <= self._settings.bot_turns

    def _talk(self, incoming: Incoming, update_id: int | None = None) -> None:
        self._lanes.add(incoming.chat_id, partial(self._deal, incoming, update_id))

    async def _deal(self, incoming: Incoming, update_id: int | None) -> None:
        """Deals with a message, then notes that it was; cut off before, the next start does it."""
        chosen: Incoming | None = incoming
        if self._is_old(incoming):
            log.warning("message %s is too old to be answered", incoming.message_id)
            chosen = self._missed(incoming)
        if chosen is not None and chosen.message_id not in self._gone:
            await self._answer(chosen)
        if update_id is not None:
            await note_done(self._inbox, PLATFORM, self._bot_id, update_id)

    async def _answer(self, incoming: Incoming) -> None:
        """In a task of its own, which ends where the message is deleted."""
        key = incoming.message_id or ""
        task = asyncio.ensure_future(self._run(incoming))
        self._running[key] = task
        try:
            await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if key not in self._gone or (own and own.cancelling()):
                raise
        finally:
            self._running.pop(key, None)

    async def _run(self, incoming: Incoming) -> None:
        await self._handle(incoming)

    def _is_old(self, incoming: Incoming) -> bool:
        before = discord.utils.utcnow().timestamp() - self._settings.drop_older_than
        return 0 < incoming.sent_at < before

    def _missed(self, incoming: Incoming) -> Incoming | None:
        """Tells a person once that she was away; a server is not troubled with it."""
        if incoming.is_group or incoming.in_place or incoming.chat_id in self._told_missed:
            return None
        self._told_missed.add(incoming.chat_id)
        return replace(incoming, kind="missed", text="", edited=False)

    # What arrived while she was away.

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
        oldest = discord.utils.utcnow().timestamp() - self._settings.drop_older_than
        since = max(self._since, int(oldest * 1000 - discord.utils.DISCORD_EPOCH) << 22)
        places: list[tuple[discord.abc.Messageable, int]] = []
        for channel in (place for guild in guilds for place in _readable(guild)):
            after = max(since, seen.get(f"{_SEEN}{channel.id}", 0))
            if (channel.last_message_id or 0) > after:
                places.append((channel, after))
        if private:
            known = [name for name in seen if name.startswith(_SEEN_PRIVATE)]
            for name in sorted(known, key=seen.__getitem__)[-_LATE:]:
                chat_id = int(name.removeprefix(_SEEN_PRIVATE))
                chat = self._client.get_partial_messageable(chat_id)
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

    def _note_seen(self, name: str, message_id: int) -> None:
        if message_id > self._seen.get(name, 0):
            self._seen[name] = self._unmarked[name] = message_id

    async def _mark(self, *, now: bool = False) -> None:
        """Keeps how far was read, now and then: what is read twice is still answered once."""
        if not self._unmarked or not (now or self._is_time_to_mark()):
            return
        if self._behind or self._seen_before:  # what is new stands beyond what is not read yet
            return
        self._marked_at = time.monotonic()
        written, self._unmarked = self._unmarked, {}
        if not await self._write({name: str(seen) for name, seen in written.items()}):
            self._unmarked = written | self._unmarked

    def _is_time_to_mark(self) -> bool:
        return time.monotonic() >= self._marked_at + _MARKING_SECONDS

    async def _write(self, notes: Mapping[str, str]) -> bool:
        try:
            await self._notes.write(PLATFORM, self._bot_id, notes)
        except Exception as error:
            log.error("how far was read could not be kept: %s", error)
            return False
        return True


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
