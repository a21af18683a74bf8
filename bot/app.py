"""The composition root: builds the parts, runs the platforms, closes them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from logging.handlers import RotatingFileHandler
from pathlib import Path

from bot.commands import Commands
from bot.config import Settings
from bot.conversation import Conversations
from bot.delivery import deliver
from bot.platforms.base import Incoming, Platform
from bot.platforms.terminal import TerminalPlatform
from bot.progress import StartProgress
from data.store import Store, StoreUnavailable
from data.triples import read_folder
from persona.card import Card, load_card
from persona.child import Report
from persona.config import PROFILES
from persona.engines.base import Engine
from persona.engines.echo import EchoEngine, byte_tokenizer
from persona.engines.openvino import OpenVINOEngine
from persona.engines.transformers import TransformersEngine
from persona.exemplars import ExemplarIndex
from persona.guard import AuthoredReplies
from persona.prompt import Budget, Exchange, PromptBuilder
from persona.service import InferenceService
from persona.tokenizer import ChatTokenizer
from persona.weights import Weights

log = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Character:
    """What a persona's folder and the dialogues hold."""

    card: Card
    authored: AuthoredReplies
    exchanges: list[Exchange]
    adapter: Path | None


def load_character(settings: Settings) -> Character:
    """Reads card, authored replies and dialogues. Raises CardError, GuardError, TriplesError."""
    folder = settings.persona.folder
    card = folder / "card.json"
    # A reply that leans on what was said before would stand there without it.
    exchanges = [
        Exchange(triple.message, triple.output, name)
        for name, triple in read_folder(settings.persona.dialogues)
        if not triple.history
    ]
    adapter = folder / "adapter"
    return Character(
        card=load_card(card if card.exists() else folder / "card.png"),
        authored=AuthoredReplies(folder / "guard.toml", settings.persona.help_lines),
        exchanges=exchanges,
        adapter=adapter if (adapter / ADAPTER_FILE).is_file() else None,
    )


def engine_name(settings: Settings) -> str:
    """Which engine serves: `auto` is transformers on an NVIDIA GPU with torch, else openvino."""
    if settings.model.engine != "auto":
        return settings.model.engine
    return "transformers" if shutil.which("nvidia-smi") and find_spec("torch") else "openvino"


def weights(settings: Settings, report: Report = lambda *_: None) -> Weights:
    return Weights(settings.paths.var / "models", list(settings.model.sources), report)


async def load_engine(
    settings: Settings, character: Character, report: Report
) -> tuple[Engine, ChatTokenizer]:
    """The engine, ready, and its tokenizer. Raises WeightsError, CheckpointError, EngineError."""
    name, model = engine_name(settings), settings.model
    if name == "echo":
        return EchoEngine(), byte_tokenizer()
    made = weights(settings, report)
    base = await asyncio.to_thread(made.base, model.base)
    engine: OpenVINOEngine | TransformersEngine
    adapter: Path | None = None
    if name == "openvino":
        folder = await asyncio.to_thread(made.for_openvino, base, character.adapter)
        engine = OpenVINOEngine(model.cache_tokens, model.max_chats)
    else:
        folder = await asyncio.to_thread(made.for_transformers, base)
        engine = TransformersEngine(model.device, model.cache_tokens, model.max_chats)
        adapter = character.adapter
    report("load", 0.0)
    await engine.load(folder, adapter)
    report("load", 1.0)
    assert engine.tokenizer is not None
    return engine, engine.tokenizer


def make_service(
    settings: Settings, character: Character, engine: Engine, tokenizer: ChatTokenizer
) -> InferenceService:
    persona, model = settings.persona, settings.model
    # Every byte is a token of the echo engine's: its budget is wider, so that it shows the same.
    scale = 4 if engine_name(settings) == "echo" else 1
    budget = Budget(
        model.context * scale,
        persona.lore_tokens * scale,
        persona.exemplar_tokens * scale,
        160 * scale,
    )
    return InferenceService(
        engine,
        PromptBuilder(tokenizer, character.card, budget),
        ExemplarIndex(character.exchanges),
        character.authored,
        PROFILES[model.sampling],
        exemplar_count=persona.exemplars,
        max_chats=model.max_chats,
        queue=model.queue,
        deadline=model.deadline,
        version="shipped" if character.adapter else "untrained",
    )


class Bot:
    """The parts at work: answers what platforms hand in."""

    def __init__(
        self, settings: Settings, store: Store, service: InferenceService, card: Card
    ) -> None:
        self._store = store
        self._conversations = Conversations(store, service, settings.bot)
        self._commands = Commands(store, service, self._conversations, card)

    async def handle(self, platform: Platform, incoming: Incoming) -> None:
        """Answers one message. Nothing that goes wrong with it reaches the platform."""
        answer = self._commands.answer(incoming) or self._conversations.reply(incoming)
        try:
            sent = await deliver(platform, incoming, aiter(answer))
            if answer.turn_id is not None:
                await self._store.link_reply(answer.turn_id, sent)
        except StoreUnavailable as error:
            log.error("the ids of a reply could not be kept: %s", error)
        except Exception:
            log.exception("a message could not be answered")

    async def run(self, platforms: list[Platform]) -> None:
        """Runs until every platform has ended."""
        async with asyncio.TaskGroup() as group:
            for platform in platforms:
                group.create_task(platform.run(partial(self.handle, platform)))


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
            engine, tokenizer = await load_engine(settings, character, report)
        service = make_service(settings, character, engine, tokenizer)
        try:
            yield Bot(settings, store, service, character.card), character
        finally:
            await service.close()
    finally:
        await store.close()


async def run(settings: Settings) -> None:
    """Runs the bot until it is left or stopped by SIGTERM."""
    keep_log(settings.paths.var / "daiyu.log")
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
        card = character.card
        terminal = TerminalPlatform(
            card.nickname or card.name, settings.bot.lang, settings.paths.var / "terminal_history"
        )
        await bot.run([terminal])


def keep_log(path: Path) -> None:
    """Sends the log to a file: at a terminal the screen belongs to the conversation."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = RotatingFileHandler(path, maxBytes=5_000_000, backupCount=3)
    except OSError:
        handler = logging.StreamHandler()  # the store says what is wrong with the folder
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "alembic", "aiosqlite", "modelscope"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
