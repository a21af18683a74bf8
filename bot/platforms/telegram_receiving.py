"""Receiving from Telegram: what an earlier process left, then polling or the webhook."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from telegram import Update
from telegram.error import Conflict, InvalidToken, TelegramError
from telegram.ext import ExtBot, Updater

from bot.platforms.base import Handler, Inbox, Incoming, Moved, Notice, PlatformError
from bot.platforms.lanes import Lanes, note_done
from bot.platforms.settings import TelegramSettings
from bot.platforms.telegram_calls import polled_well, refused
from bot.platforms.telegram_inbox import PLATFORM, InboxQueue
from bot.platforms.telegram_updates import Reader

log = logging.getLogger(__name__)

_UPDATES = ["message", "edited_message", "callback_query", "message_reaction"]
_POLLING = "Updater:start_polling:polling_task"
"""What the library calls the task that it hands out nowhere."""
_CONFLICTS, _CONFLICT_SECONDS = 3, 60.0
"""So many in so many seconds tell of another poller; one may be a poll of an earlier process."""
_LEAVING_SECONDS = 5.0


class Receiver:
    """Hands on what people do, in each chat in its order, until it is cancelled."""

    def __init__(
        self,
        bot: ExtBot[str],
        settings: TelegramSettings,
        inbox: Inbox,
        moved: Moved,
        notice: Notice,
    ) -> None:
        self._bot = bot
        self._bot_id = str(bot.bot.id)
        self._settings = settings
        self._inbox = inbox
        self._moved = moved
        self._notice = notice
        self._reader = Reader(bot.bot, settings.names)
        self._lanes = Lanes()
        self._open_for_updates = False
        self._told_missed: set[str] = set()
        self._conflicts: deque[float] = deque(maxlen=_CONFLICTS)
        self._conflict: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def online(self) -> bool:
        """Whether it polls and was answered, or Telegram was told of the webhook."""
        return self._open_for_updates and polled_well(self._bot)

    async def run(self, handle: Handler) -> None:
        """Raises PlatformError where Telegram will hand over nothing more."""
        queue = InboxQueue(self._inbox, self._bot_id)
        try:
            await self._replay(handle)
            async with self._open(Updater(self._bot, queue)) as polling:
                taking = asyncio.create_task(self._take(queue, handle))
                self._open_for_updates = True
                try:
                    ends = {taking, self._conflict, *polling}
                    ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    await ended.pop()
                except InvalidToken:
                    raise refused() from None
                finally:
                    self._open_for_updates = False
                    taking.cancel()
                    await asyncio.gather(taking, return_exceptions=True)
        finally:
            await self._lanes.drain(self._settings.drain)

    async def _replay(self, handle: Handler) -> None:
        """Takes up what an earlier process wrote down and did not deal with."""
        old = 0
        for waiting in await self._inbox.waiting(PLATFORM, self._bot_id):
            update = Update.de_json(json.loads(waiting.payload), self._bot)
            incoming = self._read(update)
            if incoming is not None:
                since = incoming.sent_at or waiting.received_at.timestamp()
                incoming = replace(incoming, again=True, sent_at=since)
                old += self._is_old(incoming)
            self._add(handle, update, incoming)
        if old:
            hours = self._settings.drop_older_than / 3600
            self._notice(f"{old} messages older than {hours:g} hours are not answered any more")

    @asynccontextmanager
    async def _open(self, updater: Updater) -> AsyncIterator[set[asyncio.Task[Any]]]:
        """Polls, or serves the webhook; gives the tasks whose end is the end of it."""
        await updater.initialize()
        before = asyncio.all_tasks()
        try:
            await (self._serve if self._settings.webhook_url else self._poll)(updater)
        except InvalidToken:
            raise refused() from None
        except TelegramError as error:
            raise PlatformError(f"[telegram] webhook_url: {error.message}") from None
        except OSError as error:
            settings = self._settings
            where = f"{settings.webhook_listen}:{settings.webhook_port}"
            raise PlatformError(f"[telegram] webhook_port: {where}: {error.strerror}") from None
        try:
            yield {task for task in asyncio.all_tasks() - before if task.get_name() == _POLLING}
        finally:
            # Confirms what was taken, if it can be done soon; if not, it is known when it returns.
            with contextlib.suppress(TimeoutError, TelegramError, RuntimeError):
                async with asyncio.timeout(_LEAVING_SECONDS):
                    await updater.stop()

    async def _poll(self, updater: Updater) -> None:
        await updater.start_polling(
            allowed_updates=_UPDATES, bootstrap_retries=-1, error_callback=self._note_error
        )

    async def _serve(self, updater: Updater) -> None:
        settings = self._settings
        await updater.start_webhook(
            listen=settings.webhook_listen,
            port=settings.webhook_port,
            url_path=settings.webhook_path,
            webhook_url=settings.webhook_url,
            secret_token=settings.webhook_secret or secrets.token_urlsafe(32),
            allowed_updates=_UPDATES,
            bootstrap_retries=3,
        )

    def _note_error(self, error: TelegramError) -> None:
        if not isinstance(error, Conflict):
            log.warning("no updates: %s", error)
            return
        now = time.monotonic()
        self._conflicts.append(now)
        many = len(self._conflicts) == _CONFLICTS and now - self._conflicts[0] < _CONFLICT_SECONDS
        if many and not self._conflict.done():
            self._conflict.set_exception(
                PlatformError(
                    "another program receives this bot's messages from Telegram; stop it, or give "
                    "this one a token of its own"
                )
            )

    async def _take(self, queue: InboxQueue, handle: Handler) -> None:
        while True:
            update = await queue.get()
            assert isinstance(update, Update)
            self._add(handle, update, self._read(update))

    def _read(self, update: Update) -> Incoming | None:
        try:
            return self._reader.read(update)
        except Exception:  # what nobody foresaw must not stop the rest
            log.exception("update %d could not be read", update.update_id)
            return None

    def _add(self, handle: Handler, update: Update, incoming: Incoming | None) -> None:
        self._lanes.add(_lane(update, incoming), partial(self._deal, handle, update, incoming))

    async def _deal(self, handle: Handler, update: Update, incoming: Incoming | None) -> None:
        """Deals with an update, then notes that it was; cut off before, the next start does it."""
        message = update.message
        if message and message.migrate_to_chat_id:
            await self._moved(PLATFORM, str(message.chat.id), str(message.migrate_to_chat_id))
        elif message and message.migrate_from_chat_id:
            await self._moved(PLATFORM, str(message.migrate_from_chat_id), str(message.chat.id))
        if incoming is not None and self._is_old(incoming):
            log.warning("update %d is too old to be answered", update.update_id)
            incoming = self._missed(incoming)
        if incoming is not None and incoming.addressed:
            await handle(incoming)
        await note_done(self._inbox, PLATFORM, self._bot_id, update.update_id)

    def _is_old(self, incoming: Incoming) -> bool:
        return 0 < incoming.sent_at < time.time() - self._settings.drop_older_than

    def _missed(self, incoming: Incoming) -> Incoming | None:
        """Tells a person once that she was away; a group is not troubled with it."""
        if incoming.is_group or incoming.in_place or incoming.chat_id in self._told_missed:
            return None
        self._told_missed.add(incoming.chat_id)
        return replace(incoming, kind="missed", text="", edited=False)


def _lane(update: Update, incoming: Incoming | None) -> Hashable:
    """What must keep its order: the talk of a conversation, and each person's votes."""
    if incoming is None:
        return update.update_id
    if incoming.in_place and not incoming.text.startswith("/retry"):
        return ("votes", incoming.chat_id, incoming.user_id)
    return (incoming.chat_id, incoming.thread_id)
