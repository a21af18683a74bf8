"""What a platform handed over waits until it was dealt with, each once."""

from __future__ import annotations

from datetime import timedelta

from data.store import Store


async def waiting(store: Store) -> list[int]:
    return [update.update_id for update in await store.inbox.waiting("telegram", "bot")]


async def test_the_same_update_is_taken_once(store: Store) -> None:
    assert await store.inbox.put("telegram", "bot", 7, "u1", "{}")
    assert not await store.inbox.put("telegram", "bot", 7, "u1", "{}")
    assert await waiting(store) == [7]


async def test_a_lower_id_than_the_last_is_taken_and_order_is_of_arrival(store: Store) -> None:
    for number in (900_000_000_000, 3, 5):
        assert await store.inbox.put("telegram", "bot", number, "u1", "{}")
    assert await waiting(store) == [900_000_000_000, 3, 5]


async def test_what_was_dealt_with_waits_no_more_and_is_still_known(store: Store) -> None:
    await store.inbox.put("telegram", "bot", 7, "u1", "原文")
    await store.inbox.done("telegram", "bot", 7)
    assert await waiting(store) == []
    assert not await store.inbox.put("telegram", "bot", 7, "u1", "原文")


async def test_each_bot_numbers_its_own(store: Store) -> None:
    assert await store.inbox.put("telegram", "bot", 7, "u1", "{}")
    assert await store.inbox.put("telegram", "another", 7, "u1", "{}")


async def test_old_ones_are_forgotten_only_once_dealt_with(store: Store) -> None:
    await store.inbox.put("telegram", "bot", 1, "u1", "{}")
    await store.inbox.put("telegram", "bot", 2, "u1", "{}")
    await store.inbox.done("telegram", "bot", 2)
    await store.inbox.forget(timedelta(0))
    assert await waiting(store) == [1]
    assert await store.inbox.put("telegram", "bot", 2, "u1", "{}")
