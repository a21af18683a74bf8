"""The bot: answers what the platforms hand in, and looks after what it keeps meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from datetime import timedelta
from functools import partial

from bot.access import Access
from bot.commands import Commands
from bot.config import Settings
from bot.conversation import Answer, Conversations
from bot.delivery import deliver
from bot.forgetting import Forgetting
from bot.learned import Learned
from bot.logs import notice
from bot.metrics import Metrics
from bot.platforms.base import Incoming, Platform, PlatformError, SendError, Unreachable
from bot.takeover import Takeover
from bot.trial import told
from bot.watch import Watch, resident_memory
from data.screen import Screen, read_forbidden
from data.store import Store
from data.transactions import StoreUnavailable
from persona import guard
from persona.card import Card
from persona.registry import Registry, RegistryError
from persona.service import InferenceService

log = logging.getLogger(__name__)

_DAY = 86400.0
_INBOX_KEPT = timedelta(days=2)
"""Longer than any platform hands the same thing over again."""


class Bot:
    """The parts at work: answers what platforms hand in."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        service: InferenceService,
        card: Card,
        takeover: Takeover,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        self.inbox = store.inbox
        self.notes = store.notes
        self._store = store
        self._service = service
        self._takeover = takeover
        self.watch = watch = Watch(settings.operations, settings.folders)
        metrics.gauge("daiyu_disk_free_bytes", "Free disk", lambda: watch.free or math.nan)
        metrics.gauge(
            "daiyu_memory_bytes", "Memory of the bot and its engines' processes", resident_memory
        )
        metrics.gauge("daiyu_memory_share", "Share of the memory in use", lambda: watch.share)
        self._retention = timedelta(days=settings.store.retention_days)
        self._access = Access(store, {"telegram": settings.telegram, "discord": settings.discord})
        self._forgetting = Forgetting()
        self._conversations = Conversations(store, service, settings.bot, self._forgetting, metrics)
        self._registry = Registry(settings.paths.var / "adapters")
        self._learned = Learned(
            store,
            service,
            Screen(guard, read_forbidden(settings.persona.dialogues)),
            limit=settings.bot.learned,
            agreement=settings.store.agreement,
            discord=bool(settings.store.discord_permission.strip()),
        )
        self._commands = Commands(
            store,
            service,
            self._conversations,
            card,
            self._access,
            self._learned,
            self._forgetting,
            self._learners,
            lambda: takeover.trouble,
            self._trial,
            settings.store.retention_days,
            self.watch.told,
            metrics.vote,
        )

    async def _learners(self, turns: list[int]) -> list[str]:
        """The versions that learned from any of these turns."""
        try:
            found = await asyncio.to_thread(self._registry.trained_on, turns)
        except RegistryError as error:
            log.error("the versions cannot be read: %s", error)
            return []
        return [version.name for version in found]

    async def _trial(self, lang: str) -> str:
        """What there is to say of trials."""
        try:
            return await told(self._registry, self._store.trials, self._service.version, lang)
        except RegistryError as error:
            log.error("the trial cannot be read: %s", error)
            return ""

    async def reachable(self) -> None:
        """Raises StoreUnavailable where the store does not answer."""
        await self._store.reachable()

    async def handle(self, platform: Platform, incoming: Incoming) -> None:
        """Answers one message. Nothing that goes wrong with it reaches the platform."""
        answer = None
        try:
            answer = await self._answer(incoming)
            if answer is None:
                return
            link = partial(self._link, answer)
            sent = await deliver(platform, incoming, aiter(answer), answer.sent, link)
            if answer.turn_id is not None and sent:
                await self._strip(platform, incoming, answer.turn_id)
        except Unreachable as unreachable:
            log.info("%s %s: %s", incoming.platform, incoming.chat_id, unreachable)
        except SendError as error:
            log.warning("%s %s: %s", incoming.platform, incoming.chat_id, error)
        except StoreUnavailable as error:
            log.error("the store failed: %s", error)
        except Exception:
            log.exception("a message could not be answered")
        finally:
            if answer is not None and answer.turned_away:
                self._access.give_back(incoming)

    async def _answer(self, incoming: Incoming) -> Answer | None:
        """The answer; None where there is none to be given."""
        # What had waited while its person was forgotten is dealt with by nobody.
        if not incoming.addressed or self._forgetting.covers(incoming):
            return None
        refusal = await self._access.refusal(incoming)
        if refusal is not None:
            return self._conversations.remark(incoming, refusal) if refusal else None
        return self._commands.answer(incoming) or self._conversations.reply(incoming)

    async def _link(self, answer: Answer, message_id: str) -> None:
        """Notes a message of a reply as soon as it exists: after a crash it is edited."""
        if answer.turn_id is None:
            return
        try:
            await self._store.messages.link_reply(answer.turn_id, [message_id])
        except StoreUnavailable as error:
            log.error("the id of a reply could not be kept: %s", error)

    async def _strip(self, platform: Platform, incoming: Incoming, turn_id: int) -> None:
        """Takes the buttons from under the reply before: only the last one has any."""
        before = await self._store.messages.reply_before(turn_id)
        if before is not None:
            with contextlib.suppress(SendError):  # deleted, or too old to be changed
                await platform.strip(incoming, before)

    async def moved(self, platform: str, old: str, new: str) -> None:
        """A chat has another id from now on."""
        try:
            await self._store.move_chat(platform, old, new)
            await self._learned.refresh()  # what serves in a chat alone has to find it again
        except StoreUnavailable as error:
            log.error("chat %s could not be moved: %s", old, error)

    async def lang(self, incoming: Incoming) -> str:
        """The interface's language where a message comes from."""
        return await self._conversations.lang(incoming)

    async def run(self, platforms: list[Platform]) -> None:
        """Runs until every platform has ended; one that fails takes no other with it.

        Where all have failed, raises what the last of them did.
        """
        beside = [
            asyncio.create_task(task)
            for task in (
                self._takeover.run(),
                self._learned.run(),
                self._tidy_daily(),
                self.watch.run(),
            )
        ]
        try:
            async with asyncio.TaskGroup() as group:
                left = set(platforms)
                for platform in platforms:
                    group.create_task(self._run(platform, left))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _run(self, platform: Platform, left: set[Platform]) -> None:
        """Runs one of them; `left` are those that have not failed."""
        try:
            await platform.run(partial(self.handle, platform))
        except Exception as error:
            left.discard(platform)
            if not left:
                raise
            if not isinstance(error, PlatformError):
                log.exception("%s broke", platform.name)
                error = PlatformError(f"it broke ({type(error).__name__}); the log says how")
            notice(f"{platform.name} has ended, the rest goes on: {error}")

    async def tidy(self) -> None:
        """Forgets what will not come again, and what was kept for as long as it may be."""
        try:
            await self._store.inbox.forget(_INBOX_KEPT)
            if self._retention and (gone := await self._store.people.expire(self._retention)):
                log.info("%d turns were erased: they were of %s and more", gone, self._retention)
                await self._learned.refresh()
        except StoreUnavailable as error:
            log.warning("the store could not be tidied: %s", error)

    async def _tidy_daily(self) -> None:
        while True:
            await self.tidy()
            await asyncio.sleep(_DAY)
