"""The store: what was acknowledged is there, whoever writes beside, whatever is cancelled."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from data.schema import turns
from data.store import Conversation, Rating, Store, Withdrawn
from data.transactions import StoreUnavailable

SECONDS = 10


async def said(store: Store, conversation: Conversation, text: str, reply: str = "好。") -> int:
    turn = await store.begin_turn(conversation.id, "u1", "小红", text)
    await store.close_turn(turn, "done", reply)
    return turn


async def remembered(store: Store, conversation: Conversation) -> list[tuple[str, str]]:
    fresh = await store.conversation("screen", "1")
    assert fresh.id == conversation.id
    return [(t.text, t.reply) for t in await store.history(fresh, 99, 10**9)]


def read(database: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


async def test_chat_and_thread_are_conversations_of_their_own(store: Store) -> None:
    first = await store.conversation("screen", "1")
    assert await store.conversation("screen", "1") == first
    others = [("screen", "1", "t"), ("screen", "2", ""), ("telegram", "1", "")]
    ids = {(await store.conversation(*key)).id for key in others}
    assert len(ids | {first.id}) == 4


async def test_conversation_is_made_once_by_many_at_once(store: Store) -> None:
    made = await asyncio.gather(*(store.conversation("screen", "9") for _ in range(20)))
    assert len({conversation.id for conversation in made}) == 1


async def test_what_was_withdrawn_is_not_written_down(store: Store, database: Path) -> None:
    conversation = await store.conversation("screen", "1")
    with pytest.raises(Withdrawn):
        await store.begin_turn(conversation.id, "u1", "", "甲", "m", withdrawn=lambda: True)
    assert read(database, "SELECT * FROM turns") == []
    await said(store, conversation, "乙")
    assert await remembered(store, conversation) == [("乙", "好。")]


async def test_history_is_oldest_first_and_bounded(
    store: Store, conversation: Conversation
) -> None:
    ids = [await said(store, conversation, text) for text in "甲乙丙"]
    assert [t.text for t in await store.history(conversation, 2, 99)] == ["乙", "丙"]
    assert [t.text for t in await store.history(conversation, 9, ids[2])] == ["甲", "乙"]
    assert await store.history(conversation, 0, 99) == []


@pytest.mark.parametrize("state", ["pending", "failed", "cancelled"])
async def test_unfinished_turns_stay_out_of_history(
    store: Store, conversation: Conversation, state: str
) -> None:
    turn = await store.begin_turn(conversation.id, "u1", "", "甲")
    if state != "pending":
        await store.close_turn(turn, state, "半句")
    assert await remembered(store, conversation) == []


async def test_turn_is_closed_once(store: Store, conversation: Conversation) -> None:
    turn = await said(store, conversation, "甲", "头一次。")
    await store.close_turn(turn, "failed", "再一次。", "oh")
    assert await remembered(store, conversation) == [("甲", "头一次。")]


async def test_text_is_kept_as_it_was_said(store: Store, conversation: Conversation) -> None:
    for text in ("'; DROP TABLE turns; --", "🌧️👩‍👩‍👧", "长" * 100_000, "\x01\x7f\u202e"):
        turn = await said(store, conversation, text)
        [kept] = await store.history(conversation, 1, turn + 1)
        assert kept.text == text


async def test_newest_done_answer_stands_and_the_old_one_is_kept(
    store: Store, conversation: Conversation, database: Path
) -> None:
    first = await said(store, conversation, "甲", "一。")
    for reply, state in (("二。", "done"), ("三", "failed"), ("四。", "done"), ("五", "cancelled")):
        last = await store.last_turn(conversation)
        again = await store.begin_turn(conversation.id, "u1", "", "甲", None, last)
        await store.close_turn(again, state, reply)
    assert await remembered(store, conversation) == [("甲", "四。")]
    kept = read(database, "SELECT reply, first_turn, chosen FROM turns ORDER BY id")
    assert kept == [("一。", None, 0), ("二。", 1, 0), ("三", 1, 0), ("四。", 1, 1), ("五", 1, 0)]
    last = await store.last_turn(conversation)
    assert last is not None
    assert (last.reply, last.first_turn) == ("四。", first)


async def test_retry_changes_no_other_turn(store: Store, conversation: Conversation) -> None:
    await said(store, conversation, "甲", "一。")
    await said(store, conversation, "乙", "二。")
    last = await store.last_turn(conversation)
    again = await store.begin_turn(conversation.id, "u1", "", "乙", None, last)
    await store.close_turn(again, "done", "三。")
    assert await remembered(store, conversation) == [("甲", "一。"), ("乙", "三。")]


async def test_undo_takes_all_answers_out(store: Store, conversation: Conversation) -> None:
    await said(store, conversation, "甲", "一。")
    await said(store, conversation, "乙", "二。")
    last = await store.last_turn(conversation)
    again = await store.begin_turn(conversation.id, "u1", "", "乙", None, last)
    await store.close_turn(again, "done", "三。")
    undone = await store.last_turn(conversation)
    assert undone is not None
    await store.undo(undone)
    assert await remembered(store, conversation) == [("甲", "一。")]
    left = await store.last_turn(conversation)
    assert left is not None
    assert left.text == "甲"


async def test_reset_begins_anew_and_deletes_nothing(
    store: Store, conversation: Conversation, database: Path
) -> None:
    await store.reset(conversation.id)
    await said(store, conversation, "甲")
    await store.reset(conversation.id)
    assert await remembered(store, conversation) == []
    fresh = await store.conversation("screen", "1")
    assert await store.last_turn(fresh) is None
    await said(store, conversation, "乙")
    assert await remembered(store, conversation) == [("乙", "好。")]
    assert read(database, "SELECT count(*) FROM turns") == [(2,)]


async def test_reset_of_one_chat_leaves_the_others(
    store: Store, conversation: Conversation
) -> None:
    other = await store.conversation("screen", "2")
    await said(store, conversation, "甲")
    await said(store, other, "乙")
    await store.reset(other.id)
    assert await remembered(store, conversation) == [("甲", "好。")]


async def test_recover_fails_what_was_left_pending(
    store: Store, conversation: Conversation, database: Path
) -> None:
    await said(store, conversation, "甲")
    await store.begin_turn(conversation.id, "u1", "", "乙")
    assert await store.recover() == 1
    assert await store.recover() == 0
    kept = read(database, "SELECT text, state, error IS NULL, closed_at IS NULL FROM turns")
    assert kept == [("甲", "done", 1, 0), ("乙", "failed", 0, 0)]


# Ratings.


async def test_second_vote_replaces_the_first(
    store: Store, conversation: Conversation, database: Path
) -> None:
    turn = await said(store, conversation, "甲")
    await store.rate(turn, "screen", "u1", 1)
    assert await store.rating(turn, "screen", "u1") == Rating(1, None)
    await store.rate(turn, "screen", "u1", -1, "该这样说。")
    assert await store.rating(turn, "screen", "u1") == Rating(-1, "该这样说。")
    await store.rate(turn, "screen", "u1", 1)
    assert await store.rating(turn, "screen", "u1") == Rating(1, None)
    assert read(database, "SELECT count(*) FROM ratings") == [(1,)]


async def test_same_id_on_another_platform_is_another_person(
    store: Store, conversation: Conversation
) -> None:
    turn = await said(store, conversation, "甲")
    await store.rate(turn, "screen", "u1", 1)
    await store.rate(turn, "telegram", "u1", -1)
    await store.rate(turn, "screen", "u2", -1)
    assert await store.rating(turn, "screen", "u1") == Rating(1, None)
    assert (await store.counts())["ratings"] == 3


async def test_one_person_voting_at_once_has_one_vote(
    store: Store, conversation: Conversation
) -> None:
    turn = await said(store, conversation, "甲")
    votes = (store.rate(turn, "screen", "u1", 1 if i % 2 else -1) for i in range(20))
    await asyncio.gather(*votes)
    assert (await store.counts())["ratings"] == 1


@pytest.mark.parametrize(("turn", "vote"), [(999, 1), (1, 2), (1, 0)])
async def test_impossible_rating_is_refused(
    store: Store, conversation: Conversation, turn: int, vote: int
) -> None:
    await said(store, conversation, "甲")
    with pytest.raises(StoreUnavailable):
        await store.rate(turn, "screen", "u1", vote)
    assert (await store.counts())["ratings"] == 0


async def test_message_leads_to_its_turn(store: Store, conversation: Conversation) -> None:
    turn = await store.begin_turn(conversation.id, "u1", "", "甲", "m1")
    await store.close_turn(turn, "done", "一。")
    await store.messages.link_reply(turn, ["b1", "b2"])
    for message in ("m1", "b1", "b2"):
        found = await store.messages.turn_of("screen", "1", message)
        assert found is not None
        assert found.id == turn
    assert await store.messages.turn_of("screen", "2", "b1") is None
    assert await store.messages.turn_of("telegram", "1", "b1") is None
    again = await store.begin_turn(conversation.id, "u1", "", "甲", "m1", found)
    newest = await store.messages.turn_of("screen", "1", "m1")
    assert newest is not None
    assert newest.id == again


async def test_language_is_kept(store: Store, conversation: Conversation) -> None:
    assert conversation.lang is None
    await store.set_lang(conversation.id, "en")
    assert (await store.conversation("screen", "1")).lang == "en"


# What holds under load, cancellation and a stubborn neighbour.


async def test_fifty_writers_at_once_all_succeed(store: Store, conversation: Conversation) -> None:
    async with asyncio.timeout(SECONDS * 3):
        ids = await asyncio.gather(*(said(store, conversation, f"话{i}") for i in range(50)))
    assert len(set(ids)) == 50
    assert (await store.counts())["turns"] == 50


async def test_cancelled_write_is_rolled_back_and_the_store_goes_on(
    store: Store, conversation: Conversation, database: Path
) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with store._transactions.write() as connection:
            values = dict(conversation_id=conversation.id, user_id="u1", text="半途", state="done")
            await connection.execute(insert(turns).values(**values, created_at=datetime.now(UTC)))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    async with asyncio.timeout(SECONDS):
        await inside.wait()
    task.cancel()
    await asyncio.wait([task], timeout=SECONDS)
    assert task.cancelled()
    async with asyncio.timeout(SECONDS):
        await said(store, conversation, "之后")
    assert read(database, "SELECT text FROM turns") == [("之后",)]


async def test_writes_cancelled_at_any_moment_leave_the_store_usable(
    store: Store, conversation: Conversation
) -> None:
    async with asyncio.timeout(SECONDS):  # as long as one abandoned lock would be waited for
        for moment in [*range(40)] * 4:
            task = asyncio.create_task(store.begin_turn(conversation.id, "u1", "", "甲", "m"))
            for _ in range(moment):
                await asyncio.sleep(0)
            await asyncio.sleep(moment / 20_000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await said(store, conversation, "之后")
    assert (await store.counts())["turns"] == 1
    assert store._database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_foreign_keys_hold(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="FOREIGN KEY"):
        await store.begin_turn(999, "u1", "", "甲")


async def test_deleting_a_conversation_takes_its_rows_along(
    store: Store, conversation: Conversation, database: Path
) -> None:
    turn = await said(store, conversation, "甲")
    await store.messages.link_reply(turn, ["b1"])
    await store.rate(turn, "screen", "u1", 1)
    async with store._transactions.write() as connection:
        await connection.exec_driver_sql("DELETE FROM conversations")
    for table in ("turns", "messages", "ratings"):
        assert read(database, f"SELECT count(*) FROM {table}") == [(0,)]


async def test_every_connection_is_durable_and_checks_keys(store: Store) -> None:
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(store._transactions.read()) for _ in range(8)
        ]
        for connection in connections:
            found = {
                pragma: (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one()
                for pragma in ("journal_mode", "synchronous", "foreign_keys")
            }
            assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


async def test_readers_do_not_wait_for_a_writer(store: Store, conversation: Conversation) -> None:
    await said(store, conversation, "甲")
    async with asyncio.timeout(SECONDS), store._transactions.write() as connection:
        await connection.exec_driver_sql("UPDATE turns SET text = '乙'")
        assert await remembered(store, conversation) == [("甲", "好。")]
    assert await remembered(store, conversation) == [("乙", "好。")]


async def test_lock_held_too_long_is_unavailable_for_now(url: str, database: Path) -> None:
    store = await Store.open(url, busy_timeout=0.05)
    try:
        conversation = await store.conversation("screen", "1")
        with closing(sqlite3.connect(database, isolation_level=None)) as neighbour:
            neighbour.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.begin_turn(conversation.id, "u1", "", "甲")
            assert await remembered(store, conversation) == []
            neighbour.execute("ROLLBACK")
        await said(store, conversation, "乙")
    finally:
        await store.close()


async def test_lock_released_in_time_is_waited_for(url: str, database: Path) -> None:
    store = await Store.open(url, busy_timeout=SECONDS)
    try:
        conversation = await store.conversation("screen", "1")
        with closing(sqlite3.connect(database, isolation_level=None)) as neighbour:
            neighbour.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(said(store, conversation, "甲"))
            await asyncio.sleep(0.05)
            assert not writing.done()
            neighbour.execute("ROLLBACK")
        async with asyncio.timeout(SECONDS):
            await writing
    finally:
        await store.close()


async def test_all_is_there_after_a_restart(url: str) -> None:
    store = await Store.open(url)
    await said(store, await store.conversation("screen", "1"), "甲", "一。")
    await store.close()
    store = await Store.open(url)
    assert await remembered(store, await store.conversation("screen", "1")) == [("甲", "一。")]
    await store.close()


async def test_memory_database_is_enough_for_a_trial() -> None:
    store = await Store.open("sqlite+aiosqlite:///:memory:")
    assert await store.counts() == {"conversations": 0, "turns": 0, "ratings": 0}
    await store.close()
    assert not Path(":memory:.lock").exists()  # noqa: ASYNC240 - nothing else runs here


async def test_writers_wait_for_each_other_and_never_for_the_clock(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'busy.db'}", busy_timeout=0.01)
    try:
        conversation = await store.conversation("terminal", "chat")
        async with asyncio.timeout(30):
            made = await asyncio.gather(
                *(store.begin_turn(conversation.id, "u", "", str(n)) for n in range(60))
            )
        assert len(set(made)) == 60
    finally:
        await store.close()


# Chats that move, and what was sent where.


async def answered_turn(store: Store, conversation: Conversation, name: str) -> int:
    turn = await store.begin_turn(conversation.id, "u1", "宝玉", name, f"m-{name}")
    await store.close_turn(turn, "done", f"答{name}")
    await store.messages.link_reply(turn, [f"b1-{name}", f"b2-{name}"])
    return turn


async def test_what_became_of_a_message_is_known(store: Store, conversation: Conversation) -> None:
    turn = await answered_turn(store, conversation, "一")
    found = await store.messages.answered("screen", "1", "m-一")
    assert found
    assert (found.turn.id, found.turn.reply, found.sent) == (turn, "答一", ["b1-一", "b2-一"])
    assert await store.messages.answered("screen", "1", "b1-一") is None
    assert await store.messages.answered("screen", "1", "m-二") is None


async def test_the_reply_before_is_the_last_message_of_another_turn(
    store: Store, conversation: Conversation
) -> None:
    await answered_turn(store, conversation, "一")
    first = await store.begin_turn(conversation.id, "u1", "宝玉", "二", "m-二")
    await store.messages.link_reply(first, ["b-二"])
    # Begun anew after a crash, it is shown in the same message.
    second = await store.begin_turn(conversation.id, "u1", "宝玉", "二", "m-二")
    await store.messages.link_reply(second, ["b-二"])
    assert await store.messages.reply_before(second) == "b2-一"
    assert await store.messages.reply_before(1) is None


async def test_a_chat_that_moves_takes_its_history_along(
    store: Store, conversation: Conversation
) -> None:
    await answered_turn(store, conversation, "一")
    await store.move_chat("screen", "1", "-100")
    there = await store.conversation("screen", "-100")
    assert there.id == conversation.id
    assert [turn.text for turn in await store.history(there, 9, 99)] == ["一"]
    await store.move_chat("screen", "1", "-100")  # told twice: by the old chat and by the new
    assert (await store.conversation("screen", "-100")).id == conversation.id


async def test_a_chat_that_was_spoken_in_before_it_moved_has_both_histories(
    store: Store, conversation: Conversation
) -> None:
    await answered_turn(store, conversation, "一")
    there = await store.conversation("screen", "-100")
    await answered_turn(store, there, "二")
    await store.move_chat("screen", "1", "-100")
    assert [turn.text for turn in await store.history(there, 9, 99)] == ["一", "二"]


async def test_a_vote_that_was_taken_back_is_gone(store: Store, conversation: Conversation) -> None:
    turn = await answered_turn(store, conversation, "一")
    await store.rate(turn, "screen", "u1", 1)
    await store.rate(turn, "screen", "u2", 1)
    await store.unrate(turn, "screen", "u1")
    assert await store.rating(turn, "screen", "u1") is None
    assert await store.rating(turn, "screen", "u2") is not None


async def test_turns_are_counted_by_person_and_by_chat(
    store: Store, conversation: Conversation
) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    await answered_turn(store, conversation, "一")
    assert len(await store.begun_since("screen", long_ago, user_id="u1")) == 1
    assert len(await store.begun_since("screen", long_ago, chat_id="1")) == 1
    assert await store.begun_since("screen", long_ago, user_id="u2") == []
    assert await store.begun_since("screen", datetime(2999, 1, 1, tzinfo=UTC), user_id="u1") == []
