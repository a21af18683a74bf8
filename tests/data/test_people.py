"""Consent is the person's last word; what is erased is gone, and only its turns' ids are kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from data.people import Kept
from data.store import Conversation, Store


async def said(store: Store, conversation: Conversation, user: str, text: str) -> int:
    turn = await store.begin_turn(conversation.id, user, user, text, f"m-{text}")
    await store.close_turn(turn, "done", f"答{text}")
    await store.link_reply(turn, [f"b-{text}"])
    return turn


async def test_nobody_has_agreed_before_they_were_asked(store: Store) -> None:
    assert await store.people.agreed("screen", "u1") is None


async def test_the_last_answer_counts_and_only_for_that_person(store: Store) -> None:
    await store.people.agree("screen", "u1", True)
    await store.people.agree("screen", "u1", False)
    await store.people.agree("other", "u1", True)
    assert await store.people.agreed("screen", "u1") is False
    assert await store.people.agreed("other", "u1") is True
    assert await store.people.agreed("screen", "u2") is None


async def test_erasing_leaves_no_word_of_a_person_in_the_file(
    store: Store, conversation: Conversation, database: Path
) -> None:
    turn = await said(store, conversation, "u1", "只我知道的一句话")
    await store.rate(turn, "screen", "u1", -1, "只我写过的更好说法")
    await store.people.agree("screen", "u1", True)
    await store.inbox.put("screen", "bot", 1, "u1", "只我发过的原文")
    assert await store.people.kept("screen", "u1") == Kept(turns=1, ratings=1)

    assert await store.people.erase("screen", "u1") == [turn]

    assert await store.people.kept("screen", "u1") == Kept(turns=0, ratings=0)
    assert await store.people.agreed("screen", "u1") is None
    assert await store.inbox.waiting("screen", "bot") == []
    assert await store.turn_of_message("screen", "1", "b-只我知道的一句话") is None
    with closing(sqlite3.connect(database)) as connection:
        dump = "\n".join(connection.iterdump())
    assert "只我" not in dump
    assert await store.people.erased() == {turn}


async def test_erasing_takes_others_votes_and_answers_to_those_turns_and_nothing_else(
    store: Store, conversation: Conversation
) -> None:
    mine = await said(store, conversation, "u1", "我的")
    other = await said(store, conversation, "u2", "别人的")
    await store.rate(mine, "screen", "u2", 1)
    await store.rate(other, "screen", "u1", 1)
    await store.rate(other, "screen", "u2", 1)
    [turn, _] = await store.history(conversation, 9, 99)
    again = await store.begin_turn(conversation.id, "u1", "u1", "我的", retry_of=turn)
    await store.close_turn(again, "done", "再答")

    assert await store.people.erase("screen", "u1") == [mine, again]

    assert [t.text for t in await store.history(conversation, 9, 99)] == ["别人的"]
    assert await store.rating(other, "screen", "u1") is None
    assert await store.rating(other, "screen", "u2") is not None


async def test_an_erased_turns_id_is_never_given_again(
    store: Store, conversation: Conversation
) -> None:
    await said(store, conversation, "u1", "一")
    last = await said(store, conversation, "u1", "二")
    await store.people.erase("screen", "u1")
    assert await said(store, conversation, "u1", "三") > last


async def test_same_id_on_another_platform_is_another_person(store: Store) -> None:
    here = await store.conversation("screen", "1")
    there = await store.conversation("other", "1")
    await said(store, here, "u1", "这边")
    await said(store, there, "u1", "那边")
    await store.people.erase("screen", "u1")
    assert await store.people.kept("other", "u1") == Kept(turns=1, ratings=0)


async def test_erasing_twice_is_no_error(store: Store, conversation: Conversation) -> None:
    await said(store, conversation, "u1", "一")
    await store.people.erase("screen", "u1")
    assert await store.people.erase("screen", "u1") == []
