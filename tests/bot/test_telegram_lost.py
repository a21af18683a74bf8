"""Nothing is lost on Telegram, and nothing said twice but where nobody can know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from on_telegram import on_telegram
from talking import eventually, full_disk, rows

from bot.texts import say
from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Chat
from tests.fakes.limits import DROP_BEFORE, html, slow


@pytest_asyncio.fixture
async def server() -> AsyncIterator[BotAPI]:
    async with BotAPI() as opened:
        yield opened


@pytest.fixture
def room(server: BotAPI) -> Chat:
    return server.private(server.user("宝玉"))


async def test_the_same_update_twice_is_answered_once(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    async with on_telegram(tmp_path, server) as on:
        await room.say(room.user, "你好")
        update = server.updates.pending[0]
        await on.settled()
        server.updates.repeat(update)
        await on.settled()
        assert [message.text for message in room.from_bot] == ["你好"]


async def test_while_telegram_gives_no_answer_she_is_not_online(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    async with on_telegram(tmp_path, server) as on:
        await server.until(lambda: server.updates.polled)
        assert on.platform.online
        server.fail("getUpdates", html(502))
        await room.say(room.user, "你好")  # which ends the poll under way
        await eventually(lambda: not on.platform.online)
        await on.say(room, room.user, "还在么")
        await eventually(lambda: on.platform.online)
        on.running.cancel()
        await asyncio.gather(on.running, return_exceptions=True)
        assert not on.platform.online


async def test_a_lower_id_than_the_last_is_answered(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    async with on_telegram(tmp_path, server) as on:
        await on.say(room, room.user, "一")
        server.updates.restart_ids(1000)
        assert await on.say(room, room.user, "二") == "二"


async def test_a_disk_that_is_full_holds_messages_back(
    tmp_path: Path, server: BotAPI, caplog: pytest.LogCaptureFixture
) -> None:
    # Long enough for no page to have room for it.
    room = server.private(server.user("宝" * 900))
    async with on_telegram(tmp_path, server) as on:
        await server.until(lambda: server.updates.polled)
        async with full_disk(on.chat.store):
            await room.say(room.user, "你好")
            await eventually(lambda: caplog.text.count("could not be kept") >= 2)
            assert "full" in caplog.text
            assert len(server.updates.pending) == 1
            assert room.from_bot == []
        await on.settled()
        assert [message.text for message in room.from_bot] == ["你好"]


async def test_what_was_not_dealt_with_is_answered_at_the_next_start(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    async with on_telegram(tmp_path, server, telegram__drain="0") as on:
        on.chat.engine.delay = 1.0
        for text in ("一", "二", "三"):
            await room.say(room.user, text)
        await server.updates.confirmed()
        await on.chat.mid_reply()
    assert room.from_bot == []
    async with on_telegram(tmp_path, server) as on:
        await on.settled()
        assert [message.text for message in room.from_bot] == ["一", "二", "三"]


async def test_a_reply_that_was_made_and_not_sent_is_sent_and_not_made_anew(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    async with on_telegram(tmp_path, server, telegram__drain="0") as on:
        on.chat.engine.replies.append("头一样。")
        plan = server.fail("sendMessage", DROP_BEFORE, times=None)
        await room.say(room.user, "你好")
        await eventually(lambda: on.chat.turns() and on.chat.last()["state"] == "done")
    plan.end()
    async with on_telegram(tmp_path, server) as on:
        await on.settled()
        assert [message.text for message in room.from_bot] == ["头一样。"]
        assert on.chat.engine.prompts == []
        assert on.last(room).buttons == ["👍", "👎", "✍️", "↻"]


async def test_what_waited_when_it_ended_is_not_turned_away_at_the_next_start(
    tmp_path: Path, server: BotAPI
) -> None:
    rooms = [server.private(server.user(name)) for name in ("宝玉", "湘云", "探春")]
    async with on_telegram(tmp_path, server, telegram__drain="0") as on:
        plan = server.fail("sendMessage", DROP_BEFORE, times=None)
        for room in rooms:
            await room.say(room.user, "你好")
        await eventually(lambda: [turn["state"] for turn in on.chat.turns()] == ["done"] * 3)
    plan.end()
    async with on_telegram(tmp_path, server, model__queue="1") as on:
        await on.settled()
        assert [[m.text for m in room.from_bot] for room in rooms] == [["你好"]] * 3
        assert on.chat.engine.prompts == []


async def test_a_message_that_had_begun_to_grow_is_edited_after_a_restart(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    off = {"telegram__drafts": "false"}
    async with on_telegram(tmp_path, server, telegram__drain="0", **off) as on:
        on.chat.engine.delay = 0.02
        on.chat.engine.replies.append("雨打芭蕉，" + "倒也好听，" * 50)
        await room.say(room.user, "今日下雨了")
        await eventually(
            lambda: rows(on.chat.database, "SELECT * FROM messages WHERE role='reply'")
        )
    [begun] = room.from_bot
    async with on_telegram(tmp_path, server, **off) as on:
        await on.settled()
        assert room.from_bot == [begun]
        assert begun.text == "今日下雨了"
        assert begun.buttons == ["👍", "👎", "✍️", "↻"]


async def test_undo_is_not_done_twice(tmp_path: Path, server: BotAPI, room: Chat) -> None:
    async with on_telegram(tmp_path, server, telegram__drain="0") as on:
        await on.say(room, room.user, "一")
        await on.say(room, room.user, "二")
        plan = server.fail("sendMessage", DROP_BEFORE, times=None)
        await room.say(room.user, "/undo")
        await eventually(lambda: [t["undone"] for t in on.chat.turns()] == [0, 1])
    plan.end()
    async with on_telegram(tmp_path, server) as on:
        await on.settled()
        assert on.last(room).text == say("zh", "undone")
        assert [turn["undone"] for turn in on.chat.turns()] == [0, 1]


async def test_what_is_too_old_is_dropped_and_said(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    async with on_telegram(tmp_path, server, telegram__drain="0") as on:
        on.chat.engine.delay = 1.0
        for text in ("一", "二"):
            await room.say(room.user, text)
        await server.updates.confirmed()
        await on.chat.mid_reply()
    await asyncio.sleep(2.1)
    async with on_telegram(tmp_path, server, telegram__drop_older_than="1") as on:
        await on.settled()
        assert [message.text for message in room.from_bot] == [say("zh", "missed")]
        assert any("2 messages" in notice for notice in on.notices)


async def test_a_server_that_fails_for_a_while_loses_nothing(
    tmp_path: Path, server: BotAPI, room: Chat
) -> None:
    async with on_telegram(tmp_path, server) as on:
        server.fail("sendMessage", html(502))
        assert await on.say(room, room.user, "一") == "一"
        server.fail("sendMessage", slow(0.5))
        assert await on.say(room, room.user, "二") == "二"
        assert [message.text for message in room.from_bot] == ["一", "二"]


async def test_stopping_lets_a_reply_end(tmp_path: Path, server: BotAPI, room: Chat) -> None:
    async with on_telegram(tmp_path, server) as on:
        on.chat.engine.delay = 0.01
        await room.say(room.user, "话说到一半")
        await on.chat.mid_reply()
    assert [message.text for message in room.from_bot] == ["话说到一半"]
