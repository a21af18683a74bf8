"""The bot's store and screen, as the trainer takes them; the bot may be running meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from data.screen import Screen, read_forbidden
from data.store import Store
from persona import guard
from trainer.config import Settings


def screen(settings: Settings) -> Screen:
    """The screen that the bot has too. Raises TriplesError."""
    return Screen(guard, read_forbidden(settings.persona.dialogues))


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Store]:
    """The store, beside a bot that may be running. Raises StoreError."""
    store = await Store.open(
        settings.database_url, busy_timeout=settings.store.busy_timeout, exclusive=False
    )
    try:
        yield store
    finally:
        await store.close()
