"""Consent is the person's last word; they see all that is kept, and what is erased is gone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from data.people import Kept
from data.schema import metadata
from data.store import Conversation, Store


async def said(store: Store, conversation: Conversation, user: str, text: str) -> int:
    turn = await store.begin_turn(conversation.id, user, user, text, f"m-{text}")
    await store.close_turn(turn, "done", f"答{text}")
    await store.messages.link_reply(turn, [f"b-{text}"])
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
    assert await store.messages.turn_of("screen", "1", "b-只我知道的一句话") is None
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


# Disclosure.


async def test_all_that_is_kept_of_a_person_is_disclosed_and_nothing_of_others(
    store: Store, conversation: Conversation
) -> None:
    mine = await said(store, conversation, "u1", "我的话")
    other = await said(store, conversation, "u2", "别人的话")
    await store.rate(other, "screen", "u1", -1, "更好的说法")
    await store.rate(mine, "screen", "u2", -1, "别人给的说法")
    await store.learning.hold(other, ("screen", "u1"), "更好的说法", "link")
    await store.people.agree("screen", "u1", True)
    await store.inbox.put("screen", "bot", 1, "u1", "还没答的话")

    kept = json.loads(json.dumps(await store.people.disclosed("screen", "u1")))

    [turn] = kept["turns"]
    assert (turn["turn"], turn["text"], turn["reply"]) == (mine, "我的话", "答我的话")
    assert [m["message_id"] for m in turn["messages"]] == ["m-我的话", "b-我的话"]
    [rating] = kept["ratings"]
    assert (rating["turn"], rating["vote"], rating["correction"]) == (other, -1, "更好的说法")
    assert [review["reason"] for review in rating["review"]] == ["link"]
    assert kept["consent"]["agreed"] is True
    assert [waiting["payload"] for waiting in kept["waiting"]] == ["还没答的话"]
    assert "别人" not in json.dumps(kept, ensure_ascii=False)


async def test_of_a_stranger_nothing_is_disclosed(store: Store) -> None:
    kept = await store.people.disclosed("screen", "u1")
    assert (kept["turns"], kept["ratings"], kept["waiting"]) == ([], [], [])
    assert kept["consent"] is None


async def test_no_table_that_knows_people_is_left_out_of_erasure_and_disclosure() -> None:
    known = {table.name for table in metadata.tables.values() if "user_id" in table.c}
    assert known == {"turns", "ratings", "quarantine", "consents", "inbox"}


# What is left of whoever was forgotten.


async def test_who_was_forgotten_is_known_again_by_a_hash_alone(
    store: Store, conversation: Conversation, database: Path
) -> None:
    await said(store, conversation, "31415926", "一")
    await store.people.erase("screen", "31415926")
    await store.people.erase("screen", "27182818")
    first = await store.people.forgotten("screen", "31415926")
    assert first is not None
    assert await store.people.forgotten("screen", "u2") is None
    assert await store.people.forgotten("other", "31415926") is None
    await store.people.erase("screen", "31415926")
    again = await store.people.forgotten("screen", "31415926")
    assert again is not None
    assert again > first
    with closing(sqlite3.connect(database)) as connection:
        dump = "\n".join(connection.iterdump())
        assert len(connection.execute("SELECT * FROM forgotten").fetchall()) == 2
    assert "31415926" not in dump
    assert "27182818" not in dump


async def test_erasing_leaves_no_private_chat_and_every_group(store: Store) -> None:
    alone = await store.conversation("screen", "d1", is_group=False)
    silent = await store.conversation("screen", "u1", is_group=False)
    group = await store.conversation("screen", "g1", is_group=True)
    shared = await store.conversation("screen", "d2", is_group=False)
    for place in (alone, group, shared):
        await said(store, place, "u1", f"我的{place.id}")
    await said(store, shared, "u2", "别人的")
    await store.people.erase("screen", "u1")
    assert (await store.conversation("screen", "g1")).id == group.id
    assert (await store.conversation("screen", "d2")).id == shared.id
    kept = await store.counts()
    assert kept["conversations"] == 2
    assert silent.id != alone.id


async def test_what_is_erased_while_it_is_answered_breaks_nothing(
    store: Store, conversation: Conversation
) -> None:
    turn = await store.begin_turn(conversation.id, "u1", "u1", "一")
    await store.people.erase("screen", "u1")
    await store.close_turn(turn, "done", "答")
    await store.messages.link_reply(turn, ["b1"])
    assert await store.messages.turn_of("screen", "1", "b1") is None


# Retention.


def age(database: Path, turn: int, days: int) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "UPDATE turns SET created_at = datetime(created_at, ?) WHERE id = ?",
            (f"-{days} days", turn),
        )
        connection.commit()


async def test_what_is_too_old_goes_with_all_that_hangs_on_it(
    store: Store, conversation: Conversation, database: Path
) -> None:
    old = await said(store, conversation, "u1", "旧话")
    new = await said(store, conversation, "u1", "新话")
    for turn in (old, new):
        await store.rate(turn, "screen", "u2", -1, f"说法{turn}")
        await store.learning.hold(turn, ("screen", "u2"), f"说法{turn}", "link")
    age(database, old, 31)
    age(database, new, 29)

    assert await store.people.expire(timedelta(days=30)) == 1
    assert await store.people.expire(timedelta(days=30)) == 0

    assert [t.text for t in await store.history(conversation, 9, 99)] == ["新话"]
    assert await store.rating(old, "screen", "u2") is None
    assert await store.rating(new, "screen", "u2") is not None
    assert await store.messages.turn_of("screen", "1", "b-旧话") is None
    assert set(await verdicts(store)) == {new}
    assert await store.people.erased() == {old}
    with closing(sqlite3.connect(database)) as connection:
        dump = "\n".join(connection.iterdump())
    assert "旧话" not in dump
    assert f"说法{old}" not in dump


async def verdicts(store: Store) -> list[int]:
    return [turn for turn, _ in (await store.learning.snapshot()).verdicts]


async def test_a_message_goes_with_every_answer_to_it(
    store: Store, conversation: Conversation, database: Path
) -> None:
    first = await said(store, conversation, "u1", "一")
    [turn] = await store.history(conversation, 9, 99)
    again = await store.begin_turn(conversation.id, "u1", "u1", "一", retry_of=turn)
    await store.close_turn(again, "done", "再答")
    age(database, first, 2)
    assert await store.people.expire(timedelta(days=1)) == 2
    assert await store.people.erased() == {first, again}


async def test_a_chat_in_which_nothing_is_left_goes_too_and_a_new_one_stays(
    store: Store, conversation: Conversation, database: Path
) -> None:
    age(database, await said(store, conversation, "u1", "一"), 2)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE conversations SET created_at = datetime(created_at, '-2 days')")
        connection.commit()
    fresh = await store.conversation("screen", "2")
    await store.people.expire(timedelta(days=1))
    assert (await store.counts())["conversations"] == 1
    assert (await store.conversation("screen", "2")).id == fresh.id
