"""The composition root: builds the parts, runs the platforms, closes them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from bot.access import Access
from bot.commands import Commands
from bot.config import Settings
from bot.conversation import Answer, Conversations
from bot.delivery import deliver
from bot.learned import Learned
from bot.logs import keep_log
from bot.platforms.base import Incoming, Platform, PlatformError, SendError, Unreachable
from bot.platforms.discord import DiscordPlatform
from bot.platforms.telegram import TelegramPlatform
from bot.platforms.terminal import TerminalPlatform
from bot.progress import StartProgress
from bot.takeover import Takeover
from bot.trial import told
from data.screen import Screen, read_forbidden
from data.store import Store
from data.transactions import StoreUnavailable
from data.triples import read_dialogues
from persona import guard
from persona.card import Card, read_persona_card
from persona.checkpoint import CheckpointError
from persona.child import Report
from persona.config import PROFILES
from persona.engines.base import Engine, EngineError
from persona.exemplars import ExemplarIndex
from persona.guard import AuthoredReplies
from persona.prompt import Exchange, PromptBuilder
from persona.registry import Registry, RegistryError
from persona.sense import Sense
from persona.service import InferenceService
from persona.serving import (
    Served,
    ServingError,
    budget,
    engine_name,
    load_engine,
    shipped,
    to_serve,
)
from persona.tokenizer import ChatTokenizer
from persona.trial import Trial
from persona.weights import Weights, WeightsError

log = logging.getLogger(__name__)

_DAY = 86400.0
_INBOX_KEPT = timedelta(days=2)
"""Longer than any platform hands the same thing over again."""


@dataclass(frozen=True, slots=True)
class Character:
    """What a persona's folder and the dialogues hold."""

    card: Card
    authored: AuthoredReplies
    exchanges: list[Exchange]
    sense: Sense


def load_character(settings: Settings) -> Character:
    """Reads card, authored replies and dialogues. Raises CardError, GuardError, TriplesError."""
    folder = settings.persona.folder
    rows = list(read_dialogues(settings.persona.dialogues))
    # A reply that leans on what was said before would stand there without it.
    exchanges = [Exchange(row.message, row.output, name) for name, row in rows if not row.history]
    return Character(
        card=read_persona_card(folder),
        authored=AuthoredReplies(folder / "guard.toml", settings.persona.help_lines),
        exchanges=exchanges,
        sense=Sense(reply for _, row in rows for reply in row.replies),
    )


def weights(settings: Settings, report: Report = lambda *_: None) -> Weights:
    return Weights(settings.paths.var / "models", list(settings.model.sources), report)


def registry(settings: Settings) -> Registry:
    return Registry(settings.paths.var / "adapters")


def wanted(settings: Settings) -> Served:
    """What is to be served now. Raises RegistryError."""
    return to_serve(settings.model, settings.persona, registry(settings))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is served. `instead_of` says why it is not the version that was promoted."""

    version: str
    engine: Engine
    tokenizer: ChatTokenizer
    instead_of: str | None = None


async def load(settings: Settings, served: Served, report: Report) -> Loaded:
    """Loads one version. Raises WeightsError, CheckpointError, EngineError, ServingError."""
    made = weights(settings, report)
    return Loaded(served.version, *await load_engine(served, settings.model, made, report))


async def load_wanted(settings: Settings, report: Report) -> Loaded:
    """Loads what is to be served; where that was promoted and cannot be, what ships.

    Raises what `load` does, and RegistryError.
    """
    try:
        return await load(settings, wanted(settings), report)
    except (RegistryError, ServingError, WeightsError, CheckpointError, EngineError) as error:
        if not registry(settings).pointer.exists():
            raise
        log.error("the promoted version cannot be served: %s", error)
        loaded = await load(settings, shipped(settings.model, settings.persona), report)
        return replace(loaded, instead_of=str(error))


def make_builder(
    settings: Settings, character: Character, tokenizer: ChatTokenizer
) -> PromptBuilder:
    return PromptBuilder(tokenizer, character.card, budget(settings.model, settings.persona))


def make_service(settings: Settings, character: Character, loaded: Loaded) -> InferenceService:
    persona, model = settings.persona, settings.model
    return InferenceService(
        loaded.engine,
        make_builder(settings, character, loaded.tokenizer),
        ExemplarIndex(character.exchanges),
        character.authored,
        PROFILES[model.sampling],
        exemplar_count=persona.exemplars,
        sense=character.sense,
        # What echoes has nothing to choose from.
        candidates=1 if engine_name(model) == "echo" else model.candidates,
        max_chats=model.max_chats,
        queue=model.queue,
        deadline=model.deadline,
        version=loaded.version,
    )


def make_takeover(
    settings: Settings, character: Character, service: InferenceService, store: Store
) -> Takeover:
    async def swap(served: Served) -> None:
        loaded = await load(settings, served, lambda *_: None)
        builder = make_builder(settings, character, loaded.tokenizer)
        service.swap(loaded.engine, builder, loaded.version)

    async def try_out(served: Served, trial: Trial) -> None:
        loaded = await load(settings, served, lambda *_: None)
        builder = make_builder(settings, character, loaded.tokenizer)
        service.try_out(loaded.engine, builder, loaded.version, trial.gets)

    adapters, now = registry(settings), partial(wanted, settings)
    return Takeover(adapters, service, store.trials, now, swap, try_out)


class Bot:
    """The parts at work: answers what platforms hand in."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        service: InferenceService,
        card: Card,
        takeover: Takeover,
    ) -> None:
        self.inbox = store.inbox
        self.notes = store.notes
        self._store = store
        self._service = service
        self._takeover = takeover
        self._access = Access(store, {"telegram": settings.telegram, "discord": settings.discord})
        self._conversations = Conversations(store, service, settings.bot)
        self._registry = registry(settings)
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
            self._learners,
            lambda: takeover.trouble,
            self._trial,
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

    async def handle(self, platform: Platform, incoming: Incoming) -> None:
        """Answers one message. Nothing that goes wrong with it reaches the platform."""
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

    async def _answer(self, incoming: Incoming) -> Answer | None:
        """The answer; None where there is none to be given."""
        if not incoming.addressed:
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
            await self._store.link_reply(answer.turn_id, [message_id])
        except StoreUnavailable as error:
            log.error("the id of a reply could not be kept: %s", error)

    async def _strip(self, platform: Platform, incoming: Incoming, turn_id: int) -> None:
        """Takes the buttons from under the reply before: only the last one has any."""
        before = await self._store.reply_before(turn_id)
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
            for task in (self._takeover.run(), self._learned.run(), self._tidy())
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
            _notice(f"{platform.name} has ended, the rest goes on: {error}")

    async def _tidy(self) -> None:
        """Forgets, day by day, what was dealt with and will not come again."""
        while True:
            try:
                await self._store.inbox.forget(_INBOX_KEPT)
            except StoreUnavailable as error:
                log.warning("the inbox could not be tidied: %s", error)
            await asyncio.sleep(_DAY)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[tuple[Bot, Character]]:
    """Everything built and started; closed again at the end, in reverse."""
    character = load_character(settings)
    store = await Store.open(
        settings.database_url, busy_timeout=settings.store.busy_timeout, exclusive=True
    )
    try:
        if left := await store.recover():
            log.warning("%d turns had been left open and are marked failed", left)
        with StartProgress(settings.bot.lang) as report:
            loaded = await load_wanted(settings, report)
        service = make_service(settings, character, loaded)
        takeover = make_takeover(settings, character, service, store)
        takeover.failure = loaded.instead_of
        try:
            yield Bot(settings, store, service, character.card, takeover), character
        finally:
            await service.close()
    finally:
        await store.close()


async def run(settings: Settings) -> None:
    """Runs the bot until it is left or stopped by SIGTERM."""
    keep_log(settings.paths.var / "daiyu.log", settings.secrets)
    serving = asyncio.ensure_future(_serve(settings))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await asyncio.wait([serving])
    finally:
        if not serving.done():
            serving.cancel()
            await asyncio.wait([serving])
    if not serving.cancelled():  # asked to stop, it has stopped: that is no error
        serving.result()


async def _serve(settings: Settings) -> None:
    async with opened(settings) as (bot, character):
        await bot.run(_platforms(settings, bot, character.card))


def _platforms(settings: Settings, bot: Bot, card: Card) -> list[Platform]:
    """Every platform that has a token; without one the terminal."""
    platforms: list[Platform] = []
    if token := settings.telegram_token:
        platforms.append(
            TelegramPlatform(
                settings.telegram,
                token.get_secret_value(),
                bot.inbox,
                bot.moved,
                _notice,
                settings.bot.lang,
            )
        )
    if token := settings.discord_token:
        platforms.append(
            DiscordPlatform(
                settings.discord,
                token.get_secret_value(),
                bot.inbox,
                bot.notes,
                _notice,
                settings.bot.lang,
            )
        )
    if platforms:
        return platforms
    history = settings.paths.var / "terminal_history"
    return [TerminalPlatform(card.nickname or card.name, bot.lang, history)]


def _notice(line: str) -> None:
    """Tells the person who runs the bot, in the log too."""
    log.info("%s", line)
    sys.stderr.write(f"daiyu: {line}\n")
