"""Nothing lost on Discord: what came while she was away, and what an earlier process left."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest_asyncio
from on_discord import OnDiscord, on_discord

from bot.platforms.base import Incoming
from bot.texts import say


@pytest_asyncio.fixture
async def on(tmp_path: Path) -> AsyncIterator[OnDiscord]:
    async with on_discord(tmp_path) as opened:
        yield opened


async def test_what_was_missed_is_answered_once(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 头一句")
    async with on.away():
        await on.member.send(on.room, f"{on.mention} 第二句")
        await on.member.send(on.room, "不是同她说的")
        assert on.texts() == ["头一句"]
    await on.until(lambda: len(on.hers()) == 2 and not on.waiting())
    async with on.away():
        pass
    await on.say_here(f"{on.mention} 第三句")
    assert on.texts() == ["头一句", "第二句", "第三句"]


async def test_what_was_missed_in_private_and_in_threads_is_answered(on: OnDiscord) -> None:
    on.env.backend.create_thread(on.room.id, "诗社", on.member.id)
    await on.env.settle()
    [thread] = on.room.threads
    await on.say("头一句")
    async with on.away():
        await on.person.send_dm("第二句")
        await on.member.send(thread, f"{on.mention} 诗社的话")
    await on.until(lambda: len(on.hers(on.person.dm_channel)) == 2 and on.hers(thread))
    await on.answered()
    assert on.texts(on.person.dm_channel) == ["头一句", "第二句"]
    assert on.texts(thread) == ["诗社的话"]


async def test_what_is_no_longer_recent_is_not_answered(tmp_path: Path) -> None:
    async with on_discord(tmp_path, discord__drop_older_than="60") as on:
        await on.say_here(f"{on.mention} 头一句")
        async with on.away():
            await on.member.send(on.room, f"{on.mention} 第二句")
            await on.env.advance_time(120)
            await on.member.send(on.room, f"{on.mention} 第三句")
        await on.until(lambda: len(on.hers()) == 2 and not on.waiting())
        assert on.texts() == ["头一句", "第三句"]


async def test_what_came_between_two_starts_is_answered(tmp_path: Path) -> None:
    async with on_discord(tmp_path) as on:
        await on.say_here(f"{on.mention} 头一句")
        await on.platform.end()
        await on.member.send(on.room, f"{on.mention} 第二句")  # ending, she takes up nothing more
        assert on.texts() == ["头一句"]
        await on.restart()
        await on.env.settle()
        assert on.texts() == ["头一句", "第二句"]


async def test_what_an_earlier_process_wrote_down_is_answered(on: OnDiscord) -> None:
    message = await on.member.send(on.room, "话说到一半")
    left = Incoming(
        "discord", str(on.room.id), str(on.member.id), "话说到一半", message_id=str(message.id),
        user_name="宝玉", is_group=True, server_id=str(on.guild.id),
    )  # fmt: skip
    payload = json.dumps(asdict(left))
    await on.chat.store.inbox.put("discord", on.bot_id, message.id, left.user_id, payload)
    await on.restart()
    await on.env.settle()
    assert on.texts() == ["话说到一半"]
    assert on.waiting() == 0


async def test_what_was_too_old_is_told_of_once_in_private(tmp_path: Path) -> None:
    async with on_discord(tmp_path, discord__drop_older_than="60") as on:
        chat_id = str(on.person.dm_channel.id)
        for number in (1, 2):
            left = Incoming("discord", chat_id, "7", "旧话", message_id=str(number), sent_at=1.0)
            payload = json.dumps(asdict(left))
            await on.chat.store.inbox.put("discord", on.bot_id, number, "7", payload)
        await on.restart()
        await on.env.settle()
        assert on.texts(on.person.dm_channel) == [say("zh", "missed")]


async def test_what_arrives_twice_is_answered_once(on: OnDiscord) -> None:
    message = await on.member.send(on.room, f"{on.mention} 你好")
    on.env.backend.announce_message_create(on.env.backend.get_message(on.room.id, message.id))
    await on.env.settle()
    assert on.texts() == ["你好"]


async def test_of_places_that_tell_nothing_any_more_nothing_is_kept(on: OnDiscord) -> None:
    await on.say("你好")
    now = on.last(on.person.dm_channel).id
    places = {"seen:1": "1", "seen:2": str(now)} | {f"dm:{n}": str(n) for n in range(1, 300)}
    await on.chat.store.notes.write("discord", on.bot_id, places)
    await on.restart()
    notes = await on.chat.store.notes.read("discord", on.bot_id)
    assert "seen:1" not in notes
    assert "seen:2" in notes
    assert sum(name.startswith("dm:") for name in notes) == 200
    assert f"dm:{on.person.dm_channel.id}" in notes
    assert "dm:299" in notes
    assert "dm:1" not in notes


async def test_what_cannot_be_written_down_is_answered_all_the_same(on: OnDiscord) -> None:
    class Full:
        async def put(self, *_: object) -> bool:
            raise OSError("no space left")

    on.platform._of_receiver._inbox = Full()  # type: ignore[assignment]
    assert await on.say("你好") == "你好"


async def test_a_reply_of_hers_that_is_gone_breaks_nothing(on: OnDiscord) -> None:
    await on.say("头一句")
    on.env.backend.delete_message(on.person.dm_channel.id, on.last(on.person.dm_channel).id)
    assert await on.say("第二句") == "第二句"
    assert [turn["state"] for turn in on.chat.turns()] == ["done", "done"]


async def test_only_what_is_meant_for_her_is_written_down(on: OnDiscord) -> None:
    await on.say_here("旁人的私话")
    await on.say_here(f"{on.mention} 你好")
    content = on.chat.database.read_bytes()
    wal = on.chat.database.with_name("daiyu.db-wal")
    content += wal.read_bytes() if wal.exists() else b""
    assert "旁人的私话".encode() not in content
