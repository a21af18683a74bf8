"""Receiving from Discord: written down before it is answered, and nothing lost while away.

The gateway confirms nothing: what arrives while she is away, or after a session is lost, is gone
there. A channel's history still holds it (discord_missed). An interaction is in no history: it is
written down with what it takes to answer it later.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import discord

from bot.platforms.base import STOPPED, Handler, Inbox, Incoming, Notes
from bot.platforms.discord_calls import PLATFORM
from bot.platforms.discord_missed import Missed
from bot.platforms.discord_reading import Reader
from bot.platforms.lanes import Lanes, note_done
from bot.platforms.settings import DiscordSettings

log = logging.getLogger(__name__)

_GONE = 1000
_TICKET = "ticket"
"""Beside an interaction: what it takes to answer it."""


@dataclass(frozen=True, slots=True)
class Left:
    """An interaction that was written down, and not dealt with."""

    number: int
    incoming: Incoming
    ticket: Mapping[str, Any]


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
        self._reader = reader
        self._bot_id = bot_id
        self._handle = handle
        self._lanes = Lanes()
        self.missed = Missed(client, settings, notes, bot_id, self._take)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._gone: deque[str] = deque(maxlen=_GONE)
        self._bot_turns: dict[str, int] = {}
        self._told_missed: set[str] = set()

    async def begin(self, notes: Mapping[str, str]) -> list[Left]:
        """Takes up what was written down and not dealt with; what was asked, others have to."""
        await self.missed.begin(notes)
        asked: list[Left] = []
        for waiting in await self._inbox.waiting(PLATFORM, self._bot_id):
            try:
                kept = json.loads(waiting.payload)
                ticket = kept.pop(_TICKET, None)
                incoming = replace(Incoming(**kept), again=True)
            except (AttributeError, TypeError, ValueError):  # another version of the program
                log.error("message %d was left in a form that is not known", waiting.update_id)
                await self.done(waiting.update_id)
            else:
                if ticket is None:
                    self._talk(incoming, waiting.update_id)
                else:
                    asked.append(Left(waiting.update_id, incoming, ticket))
        return asked

    async def end(self, seconds: float) -> None:
        """Lets what is being done come to its end, and leaves the rest to the next start."""
        self.missed.end()
        await self._lanes.drain(seconds)
        await self.missed.mark()

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

    def talk(self, incoming: Incoming, number: int | None = None) -> None:
        """A command, a press or a reaction; the number is what it was kept under."""
        if incoming.alone or (incoming.in_place and not incoming.text.startswith("/retry")):
            person = ("votes", incoming.chat_id, incoming.user_id)
            self._lanes.add(person, partial(self._vote, incoming, number))
        else:
            self._talk(incoming, number)

    async def keep(
        self, number: int, incoming: Incoming, ticket: Mapping[str, Any] | None = None
    ) -> bool | None:
        """Writes down what is meant for her. Whether it is new; None where it cannot be kept."""
        kept = asdict(incoming) | ({_TICKET: ticket} if ticket else {})
        del kept["arrived"]  # another process has another clock
        payload = json.dumps(kept, ensure_ascii=False)
        try:
            return await self._inbox.put(PLATFORM, self._bot_id, number, incoming.user_id, payload)
        except Exception as error:
            log.error("message %d could not be kept: %s", number, error)
            return None

    async def done(self, number: int | None) -> None:
        """Notes that it was dealt with; not as the library ends, since nobody may have seen it."""
        if number is not None and not self._client.is_closed():
            await note_done(self._inbox, PLATFORM, self._bot_id, number)

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
            is_new = await self.keep(message.id, incoming)
            if is_new is None:  # it is answered all the same, and seen again later
                self._talk(incoming)
            if not is_new:
                return
            if self._may_talk(message, incoming):
                self._talk(incoming, message.id)
            else:
                await self.done(message.id)
        await self.missed.saw(message)

    def _may_talk(self, message: discord.Message, incoming: Incoming) -> bool:
        """Two programs could go on for ever: after a while a person has to say something."""
        if not message.author.bot:
            return True
        turns = self._bot_turns.get(incoming.chat_id, 0) + 1
        self._bot_turns[incoming.chat_id] = turns
        return turns <= self._settings.bot_turns

    def _talk(self, incoming: Incoming, number: int | None = None) -> None:
        self._lanes.add(incoming.chat_id, partial(self._deal, incoming, number))

    async def _vote(self, incoming: Incoming, number: int | None) -> None:
        await self._handle(incoming)
        await self.done(number)

    async def _deal(self, incoming: Incoming, number: int | None) -> None:
        """Deals with a message, then notes that it was; cut off before, the next start does it."""
        chosen: Incoming | None = incoming
        if self._is_old(incoming):
            log.warning("message %s is too old to be answered", incoming.message_id)
            chosen = self._missed(incoming)
        if chosen is not None and chosen.message_id not in self._gone:
            await self._answer(chosen)
        await self.done(number)

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
        if not (incoming.message_id or "").isdigit():  # Discord itself says how long one may wait
            return False
        before = discord.utils.utcnow().timestamp() - self._settings.drop_older_than
        return 0 < incoming.sent_at < before

    def _missed(self, incoming: Incoming) -> Incoming | None:
        """Tells a person once that she was away; a server is not troubled with it."""
        if incoming.is_group or incoming.in_place or incoming.chat_id in self._told_missed:
            return None
        self._told_missed.add(incoming.chat_id)
        return replace(incoming, kind="missed", text="", edited=False)
