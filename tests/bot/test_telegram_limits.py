"""Telegram's limits: kept, and where Telegram says no all the same, obeyed chat by chat."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from on_telegram import on_telegram
from talking import eventually

from bot.texts import say
from tests.fakes.bot_api import BotAPI
from tests.fakes.limits import Rates, flood

SCALE = 20.0


async def test_many_messages_in_a_chat_are_all_answered_without_a_refusal(tmp_path: Path) -> None:
    async with (
        BotAPI(rates=Rates(scale=SCALE)) as server,
        on_telegram(tmp_path, server, scale=SCALE, telegram__flood="0") as on,
    ):
        room = server.private(server.user("宝玉"))
        for number in range(8):
            await room.say(room.user, f"第{number}句")
        await on.settled()
        assert [message.text for message in room.from_bot] == [f"第{n}句" for n in range(8)]
        assert [request for request in server.requests if request.status == 429] == []


async def test_a_group_gets_its_final_texts_within_twenty_calls_a_minute(tmp_path: Path) -> None:
    async with (
        BotAPI(privacy=False, rates=Rates(scale=SCALE)) as server,
        on_telegram(tmp_path, server, scale=SCALE, telegram__flood="0") as on,
    ):
        person = server.user("宝玉")
        group = server.supergroup("大观园", person)
        on.chat.engine.delay = 0.005
        for number in range(12):
            await group.say(person, f"黛玉，第{number}句，听见么")
        await on.settled()
        assert [m.text for m in group.from_bot] == [
            f"宝玉：黛玉，第{number}句，听见么" for number in range(12)
        ]
        assert [request for request in server.requests if request.status == 429] == []


async def test_being_told_to_wait_holds_only_that_chat(tmp_path: Path) -> None:
    async with BotAPI() as server, on_telegram(tmp_path, server, scale=1.0) as on:
        slow = server.private(server.user("宝玉"))
        quick = server.private(server.user("湘云"))
        server.fail("sendMessage", flood(3), chat=slow)
        await slow.say(slow.user, "等等我")
        await slow.until(lambda _: server.calls("sendMessage", slow))
        asked = asyncio.get_running_loop().time()
        await quick.say(quick.user, "我先说")
        await quick.until(lambda place: place.from_bot)
        assert slow.from_bot == []
        await on.settled()
        assert asyncio.get_running_loop().time() - asked > 1.0
        assert [message.text for message in slow.from_bot] == ["等等我"]


async def test_a_refused_edit_costs_no_last_text(tmp_path: Path) -> None:
    off = {"telegram__drafts": "false"}
    async with BotAPI() as server, on_telegram(tmp_path, server, **off) as on:
        room = server.private(server.user("宝玉"))
        on.chat.engine.delay = 0.01
        on.chat.engine.replies.append("雨打芭蕉，倒也好听，只是听久了，叫人睡不着。")
        server.fail("editMessageText", flood(1), times=2)
        assert await on.say(room, room.user, "今日下雨了") == (
            "雨打芭蕉，倒也好听，只是听久了，叫人睡不着。"
        )
        assert len(room.from_bot) == 1


@pytest.mark.parametrize("lang", ["zh", "en"])
async def test_beyond_64_waiting_chats_people_are_asked_to_come_back(
    tmp_path: Path, lang: str
) -> None:
    async with BotAPI() as server, on_telegram(tmp_path, server, bot__lang=lang) as on:
        rooms = [server.private(server.user(f"客{number}")) for number in range(70)]
        on.chat.engine.delay = 0.5
        for number, room in enumerate(rooms):
            await room.say(room.user, f"第{number}位客，有一肚子的话要慢慢说来给你听")
        await eventually(lambda: sum(bool(room.from_bot) for room in rooms) == 6)
        away = [room for room in rooms if room.from_bot]
        told = say(lang, "busy", waiting=64, seconds=5)
        assert [message.text for room in away for message in room.from_bot] == [told] * 6
        on.chat.engine.delay = 0.0
        await on.settled()
        assert all(len(room.from_bot) == 1 for room in rooms)
        assert len(on.chat.turns()) == 64
        for room in away:
            assert await on.say(room, room.user, "我又来了") == "我又来了"
        assert {turn["state"] for turn in on.chat.turns()} == {"done"}
