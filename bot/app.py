"""The composition root: builds the parts, runs the platforms, closes them."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from bot.bot import Bot
from bot.config import Settings
from bot.logs import keep_log, notice
from bot.metrics import Metrics
from bot.platforms.base import Platform
from bot.progress import StartProgress
from bot.readiness import Readiness
from bot.takeover import Takeover
from data.store import Store
from data.triples import read_dialogues
from persona.card import Card, read_persona_card
from persona.checkpoint import CheckpointError
from persona.child import Report
from persona.config import PROFILES
from persona.engines.base import Engine, EngineError
from persona.exemplars import ExemplarIndex
from persona.guard import AuthoredReplies
from persona.memory import give_back
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
    async def ready(served: Served) -> tuple[Engine, PromptBuilder, str]:
        loaded = await load(settings, served, lambda *_: None)
        return loaded.engine, make_builder(settings, character, loaded.tokenizer), loaded.version

    async def swap(served: Served) -> None:
        service.swap(*await ready(served))

    async def try_out(served: Served, trial: Trial) -> None:
        service.try_out(*await ready(served), trial.gets)

    adapters, now = registry(settings), partial(wanted, settings)
    return Takeover(adapters, service, store.trials, now, swap, try_out)


@asynccontextmanager
async def opened(
    settings: Settings, metrics: Metrics | None = None
) -> AsyncGenerator[tuple[Bot, Character]]:
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
        give_back()  # what was only needed to build all this
        try:
            metrics = metrics or Metrics()
            metrics.follow(service)
            yield Bot(settings, store, service, character.card, takeover, metrics), character
        finally:
            await service.close()
    finally:
        await store.close()


async def run(settings: Settings) -> None:
    """Runs the bot until it is left or stopped by SIGTERM."""
    keep_log(settings.paths.var / "daiyu.log", settings.secrets, settings.bot.log)
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
    metrics, readiness = Metrics(), Readiness()
    async with (
        # First, so that a port that is taken is told before a model is loaded.
        _port(settings, metrics, readiness),
        opened(settings, metrics) as (bot, character),
    ):
        platforms = _platforms(settings, bot, character.card)
        with readiness.serving(bot.reachable, platforms):
            await bot.run(platforms)


def _port(
    settings: Settings, metrics: Metrics, readiness: Readiness
) -> AbstractAsyncContextManager[None]:
    """The port for operations, where one is set; only then is its library loaded."""
    if not settings.operations.port:
        return nullcontext()
    from bot.operations import listening

    return listening(settings.operations, metrics, readiness)


def _platforms(settings: Settings, bot: Bot, card: Card) -> list[Platform]:
    """Every platform that has a token; without one the terminal.

    Their libraries are loaded only where they are wanted: each takes a good part of a start.
    """
    platforms: list[Platform] = []
    if token := settings.telegram_token:
        from bot.platforms.telegram import TelegramPlatform

        platforms.append(
            TelegramPlatform(
                settings.telegram,
                token.get_secret_value(),
                bot.inbox,
                bot.moved,
                notice,
                settings.bot.lang,
            )
        )
    if token := settings.discord_token:
        from bot.platforms.discord import DiscordPlatform

        platforms.append(
            DiscordPlatform(
                settings.discord,
                token.get_secret_value(),
                bot.inbox,
                bot.notes,
                notice,
                settings.bot.lang,
            )
        )
    if platforms:
        return platforms
    from bot.platforms.terminal import TerminalPlatform

    var, name = settings.paths.var, card.nickname or card.name
    return [TerminalPlatform(name, bot.lang, var / "terminal_history", var / "privacy")]
