"""`python -m bot --check`: what the bot would do with these settings."""

from __future__ import annotations

from bot.app import engine_name, load_character, weights
from bot.config import Settings
from data.store import Store


async def check(settings: Settings) -> int:
    """Validates persona, model and database and prints what would be done; fetches nothing.

    A model's files are looked for and not opened; all else raises what starting would.
    """
    character = load_character(settings)
    book = character.card.character_book
    print(f"persona   {character.card.name}, {len(book.entries) if book else 0} lore entries")
    print(f"dialogues {len(character.exchanges)} to choose exemplars from")
    engine = engine_name(settings)
    if engine == "echo":
        print("model     none: the echo engine repeats what is said")
    else:
        base = settings.model.base
        there = weights(settings).has(base)
        state = "is on this disk" if there else f"would be fetched from {settings.model.sources}"
        adapter = "with the adapter of the persona" if character.adapter else "untrained"
        print(f"model     {base}, {adapter}, {state}; engine {engine}")
    store = await Store.open(settings.database_url, busy_timeout=settings.store.busy_timeout)
    try:
        counts = await store.counts()
    finally:
        await store.close()
    print(f"database  {counts['turns']} turns in {counts['conversations']} conversations")
    print("platforms terminal")
    return 0
