"""What a platform writes down for itself is there after a restart."""

from __future__ import annotations

from data.store import Store


async def test_notes_are_kept_and_replaced_by_name(store: Store, url: str) -> None:
    await store.notes.write("discord", "bot", {"seen:1": "5", "commands": "abc"})
    await store.notes.write("discord", "bot", {"seen:1": "7"})
    await store.close()
    again = await Store.open(url)
    try:
        assert await again.notes.read("discord", "bot") == {"seen:1": "7", "commands": "abc"}
    finally:
        await again.close()


async def test_each_bot_has_its_own(store: Store) -> None:
    await store.notes.write("discord", "bot", {"seen:1": "5"})
    assert await store.notes.read("discord", "another") == {}
    assert await store.notes.read("telegram", "bot") == {}


async def test_notes_are_forgotten_by_name(store: Store) -> None:
    await store.notes.write("discord", "bot", {"seen:1": "5", "seen:2": "6"})
    await store.notes.write("discord", "other", {"seen:1": "7"})
    await store.notes.forget("discord", "bot", {"seen:1", "seen:3"})
    assert await store.notes.read("discord", "bot") == {"seen:2": "6"}
    assert await store.notes.read("discord", "other") == {"seen:1": "7"}
