"""`python -m bot --check`: what the bot would do with these settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from bot.app import Character, load_character, wanted, weights
from bot.config import Settings
from bot.platforms import telegram_calls
from bot.platforms.base import PlatformError
from data.backup import BackupError
from data.config import SettingsError
from data.database import NoDatabase, OldDatabase, StoreError
from data.store import Store
from data.transactions import StoreUnavailable
from data.triples import TriplesError
from persona.card import CardError
from persona.checkpoint import CheckpointError, GGUFCheckpoint, open_checkpoint
from persona.engines.base import EngineError, without_engine
from persona.gguf import Adapter
from persona.guard import GuardError
from persona.registry import RegistryError
from persona.serving import ServingError, engine_name
from persona.tokenizer import ChatTokenizer, tokenizer_from_gguf
from persona.weights import WeightsError

MISTAKES = (
    SettingsError,
    StoreError,
    StoreUnavailable,
    TriplesError,
    CardError,
    GuardError,
    CheckpointError,
    EngineError,
    WeightsError,
    RegistryError,
    ServingError,
    PlatformError,
    BackupError,
    PermissionError,
)
"""What a person can mend: each is told in one line, without a traceback."""

_LIBRARIES = {
    "openvino": ("openvino_genai", "openvino-genai", "chat"),
    "transformers": ("transformers", "transformers", "test"),
}
"""Of each engine the module and the package that it needs, and the target that installs it."""


def check(settings: Settings, say: Callable[[str], None]) -> bool:
    """Looks at persona, model and database, says of each what is found; whether all is well.

    It fetches, makes and changes nothing, asks the platforms about their tokens, and a bot may run
    beside it.
    """
    well = True

    def part(name: str, look: Callable[[], str]) -> None:
        nonlocal well
        try:
            say(f"{name:9} {look()}")
        except MISTAKES as mistake:
            well = False
            say(f"{name:9} NOT WELL: {mistake}")

    found: list[Character] = []

    def persona() -> str:
        found.append(load_character(settings))
        card = found[0].card
        lore = len(card.character_book.entries) if card.character_book else 0
        exchanges = len(found[0].exchanges)
        return f"{card.name}, {lore} lore entries, {exchanges} dialogues to choose exemplars from"

    part("persona", persona)
    part("model", lambda: _model(settings))
    part("database", lambda: asyncio.run(_database(settings)))
    if token := settings.telegram_token:
        told = partial(telegram_calls.check, token.get_secret_value(), settings.telegram.base_url)
        part("telegram", lambda: asyncio.run(told()))
    if token := settings.discord_token:
        from bot.platforms import discord_calls

        told = partial(discord_calls.check, token.get_secret_value(), settings.discord.proxy)
        part("discord", lambda: asyncio.run(told()))
    having = {"telegram": settings.telegram_token, "discord": settings.discord_token}
    names = [name for name, token in having.items() if token]
    say(f"platforms {', '.join(names) or 'terminal'}")
    return well


def _model(settings: Settings) -> str:
    """Opens base, tokenizer and adapter where the base is on this disk."""
    engine = engine_name(settings.model)
    if engine == "echo":
        return "none: the echo engine repeats what is said"
    module, package, target = _LIBRARIES[engine]
    if not find_spec(module):
        raise without_engine(package, target)
    served = wanted(settings)
    told = f"{served.base}, version {served.version}"
    if not weights(settings).has(served.base):
        return f"{told}, would be fetched from {settings.model.sources}; engine {engine}"
    path = weights(settings).base(served.base).path
    try:
        checkpoint = open_checkpoint(path)
        if isinstance(checkpoint, GGUFCheckpoint):
            ChatTokenizer.of(tokenizer_from_gguf(checkpoint))
        else:
            ChatTokenizer.load(path / "tokenizer.json")
        if served.adapter:
            Adapter(served.adapter).check(checkpoint)
    except MISTAKES:
        raise
    except Exception as error:  # a malformed model fails in ways of its own
        raise CheckpointError(f"{path} cannot be read: {error!r}") from error
    return f"{told}, is on this disk and opens; engine {engine}"


async def _database(settings: Settings) -> str:
    try:
        store = await Store.open(
            settings.database_url, busy_timeout=settings.store.busy_timeout, exclusive=False
        )
    except NoDatabase:
        return "none yet, will be made"
    except OldDatabase as old:
        return f"would be brought up to date: {old}"
    try:
        counts = await store.counts()
    finally:
        await store.close()
    return "up to date, {turns} turns in {conversations} conversations".format(**counts)
