"""What was heard of a version, counted: whose replies and votes count, and how many of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from data import store as store_module
from data.store import Store
from data.trials import REPLIES_OF_A_CHAT, VOTES_OF_A_PERSON, Heard

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def say(
    store: Store,
    version: str | None,
    chat: str = "1",
    *,
    guarded: str | None = None,
    prompt: int | None = 90,
    state: str = "done",
) -> int:
    conversation = await store.conversation("screen", chat)
    turn = await store.begin_turn(conversation.id, f"of {chat}", "", "你好")
    facts = {"adapter": version, "guarded": guarded, "prompt_tokens": prompt}
    await store.close_turn(turn, state, "嗯。", facts=facts)
    return turn


async def heard(store: Store, version: str = "v2", since: datetime = NOON) -> Heard:
    return (await store.trials.heard(["v1", version], since))[version]


async def test_replies_guarded_ones_and_votes_are_counted_for_each_version(store: Store) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    turns = [await say(store, "v2", chat) for chat in "aab"]
    await say(store, "v2", "b", guarded="assistant")
    await say(store, "v1", "c")
    for person, turn, vote in (("p", 0, 1), ("p", 1, -1), ("q", 1, -1), ("q", 2, 1)):
        await store.rate(turns[turn], "screen", person, vote)
    counted = await store.trials.heard(["v1", "v2", "v3"], since)
    assert counted == {
        "v1": Heard(chats=1, replies=1),
        "v2": Heard(chats=2, replies=4, guarded=1, good=2, bad=2, displeased=2),
        "v3": Heard(),
    }


async def test_second_vote_of_a_person_on_a_turn_replaces_the_first(store: Store) -> None:
    turn = await say(store, "v2")
    for vote in (-1, 1):
        await store.rate(turn, "screen", "p", vote)
    counted = await heard(store, since=datetime.now(UTC) - timedelta(minutes=1))
    assert (counted.good, counted.bad, counted.displeased) == (1, 0, 0)


async def test_what_the_version_did_not_say_is_not_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_now", lambda: NOON - timedelta(seconds=1))
    before = await say(store, "v2")
    monkeypatch.setattr(store_module, "_now", lambda: NOON)
    # The guard answered the message itself; no reply came; nobody knows who said it.
    answered = await say(store, "v2", guarded="risk", prompt=0)
    await say(store, "v2", state="failed")
    await say(store, None)
    for turn in (before, answered):
        await store.rate(turn, "screen", "p", -1)
    assert await heard(store) == Heard()


async def test_one_chat_counts_with_its_newest_replies(store: Store) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    for _ in range(5):
        await say(store, "v2", "a", guarded="assistant")
    for _ in range(REPLIES_OF_A_CHAT - 2):
        await say(store, "v2", "a")
    await say(store, "v2", "b", guarded="assistant")
    counted = await heard(store, since=since)
    assert (counted.chats, counted.replies) == (2, REPLIES_OF_A_CHAT + 1)
    assert counted.guarded == 3


async def test_one_person_counts_with_few_votes_and_with_as_many_for_each_version(
    store: Store,
) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    for version in ("v1", "v2"):
        for _ in range(VOTES_OF_A_PERSON + 4):
            await store.rate(await say(store, version), "screen", "p", -1)
        await store.rate(await say(store, version), "screen", "q", -1)
    counted = await store.trials.heard(["v1", "v2"], since)
    assert {(c.bad, c.displeased) for c in counted.values()} == {(VOTES_OF_A_PERSON + 1, 2)}


async def test_active_chats_are_those_that_were_answered_lately(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await store.trials.active_chats(NOON) == 0
    monkeypatch.setattr(store_module, "_now", lambda: NOON - timedelta(days=1))
    await say(store, "v1", "old")
    monkeypatch.setattr(store_module, "_now", lambda: NOON)
    for chat in ("a", "a", "b"):
        await say(store, "v1", chat)
    await say(store, "v1", "c", state="failed")
    topic = await store.conversation("screen", "a", "topic")
    await store.close_turn(await store.begin_turn(topic.id, "p", "", "你好"), "done", "嗯。")
    assert await store.trials.active_chats(NOON) == 2
