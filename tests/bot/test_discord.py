"""Talk on Discord: private chats, servers, channels, threads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import discord
import pytest
import pytest_asyncio
from on_discord import OnDiscord, custom_id, labels, on_discord

from bot.delivery import deliver, split
from bot.feedback import RATING
from bot.platforms.base import Incoming, Said, utf16
from bot.texts import say

REPLY = "雨打芭蕉，倒也好听，只是听久了，叫人睡不着。"
BUTTONS = ["👍", "👎", "✍️", "↻"]


@pytest_asyncio.fixture
async def on(tmp_path: Path) -> AsyncIterator[OnDiscord]:
    async with on_discord(tmp_path) as opened:
        yield opened


async def test_a_person_is_answered_and_the_turn_is_kept(on: OnDiscord) -> None:
    assert await on.say("你好") == "你好"
    turn = on.chat.last()
    assert (turn["text"], turn["state"], turn["user_name"]) == ("你好", "done", "宝玉")
    assert on.calls("POST", "/typing")
    assert labels(on.last(on.person.dm_channel)) == BUTTONS
    assert on.waiting() == 0


async def test_turns_carry_their_platform(on: OnDiscord) -> None:
    await on.say("你好")
    conversation = await on.chat.store.conversation("discord", str(on.person.dm_channel.id))
    assert on.chat.last()["conversation_id"] == conversation.id


async def test_only_the_last_reply_has_buttons(on: OnDiscord) -> None:
    await on.say("你好")
    await on.say("再说")
    assert [labels(message) for message in on.hers(on.person.dm_channel)] == [[], BUTTONS]


async def test_in_a_server_she_answers_what_is_meant_for_her(on: OnDiscord) -> None:
    assert await on.say_here("今日雨大") == ""
    assert await on.say_here(f"{on.mention} 今日雨大") == "今日雨大"
    assert await on.say_here("黛玉，今日雨大") == "黛玉，今日雨大"
    assert await on.say_here("可不是", reply_to=on.last()) == "可不是"
    assert on.last().reference is not None
    assert on.chat.engine.prompts
    assert len(on.chat.turns()) == 3


@pytest.mark.parametrize(("interval", "least", "most"), [("0.05", 2, 40), ("30", 1, 1)])
async def test_the_growing_reply_is_edited_within_limits(
    tmp_path: Path, interval: str, least: int, most: int
) -> None:
    async with on_discord(tmp_path, apart=True, discord__edit_interval=interval) as on:
        on.chat.engine.delay = 0.01
        on.chat.engine.replies.append(REPLY)
        await on.ask("今日下雨了")
        await on.answered()
        assert on.texts(on.person.dm_channel) == [REPLY]
        edits = [call.json["content"] for call in on.calls("PATCH", "/messages/")]
        assert least <= len(edits) <= most
        assert all(REPLY.startswith(edit) for edit in edits)


async def test_long_replies_are_split(on: OnDiscord) -> None:
    text = "".join(f"第{number}句，说的是雨打芭蕉。" for number in range(200))

    async def texts() -> AsyncIterator[Said]:
        yield Said(text, choices=RATING)

    to = Incoming("discord", str(on.person.dm_channel.id), str(on.person.id), "说罢")
    sent = await deliver(on.platform, to, texts())
    shown = on.hers(on.person.dm_channel)
    assert [str(message.id) for message in shown] == sent
    assert "".join(message.content for message in shown) == text
    assert [len(message.content) <= 2000 for message in shown] == [True, True]
    assert [labels(message) for message in shown] == [[], BUTTONS]
    assert all(utf16(piece) <= 2000 for piece in split("🌸" * 3000, 2000, utf16))


async def test_nobody_is_mentioned_and_nothing_is_embedded(on: OnDiscord) -> None:
    said = f"诸位 @everyone @here {on.member.mention} https://example.org"
    on.chat.engine.replies.append(said)
    await on.say_here(f"{on.mention} 叫大家来")
    message = on.last()
    assert not message.mention_everyone
    kept = on.env.backend.get_message(on.room.id, message.id)
    assert not kept.ping_user_ids  # shown as a name, and not rung
    assert message.flags.suppress_embeds
    sent = on.calls("POST", f"/channels/{on.room.id}/messages")
    assert sent
    assert all(call.json["allowed_mentions"]["parse"] == [] for call in sent)
    assert not any(call.json["allowed_mentions"].get("replied_user") for call in sent)


async def test_every_message_is_sent_with_a_nonce_of_its_own(on: OnDiscord) -> None:
    for text in ("一", "二"):
        await on.say(text)
    sent = on.calls("POST", f"/channels/{on.person.dm_channel.id}/messages")
    assert all(call.json["enforce_nonce"] for call in sent)
    assert len({call.json["nonce"] for call in sent}) == len(sent) == 2


async def test_threads_and_posts_are_talks_of_their_own(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 园里的话")
    on.env.backend.create_thread(on.room.id, "诗社", on.member.id)
    await on.env.settle()
    [place] = on.room.threads
    assert await on.say_here(f"{on.mention} 诗社的话", place) == "诗社的话"
    assert "园里的话" not in on.chat.engine.prompts[-1]


async def test_voices_webhooks_and_other_bots_are_ignored(on: OnDiscord) -> None:
    voice = on.guild.create_voice_channel("听雨")
    assert await on.say_here(f"{on.mention} 听得见么", voice) == ""
    await on.guild.create_webhook(on.room).send(f"{on.mention} 我是钩子")
    other = on.guild.add_member(on.env.create_user("robot", bot=True))
    await other.send(on.room, f"{on.mention} 我是机器")
    assert on.hers() == []


async def test_bots_that_are_let_in_do_not_go_on_for_ever(tmp_path: Path) -> None:
    async with on_discord(tmp_path, discord__bot_turns="2") as on:
        robot = on.env.create_user("robot", bot=True)
        on.platform._reader._bots.add(str(robot.id))
        other = on.guild.add_member(robot)
        for number in range(4):
            await other.send(on.room, f"{on.mention} 第{number}句")
        assert on.texts() == ["第0句", "第1句"]
        await on.say_here("你们说得热闹")
        await other.send(on.room, f"{on.mention} 又一句")
        assert on.texts()[-1] == "又一句"


async def test_what_she_cannot_see_is_answered_in_her_words(on: OnDiscord) -> None:
    await on.member.send(on.room, on.mention, attachments=[("a.png", b"x")])
    assert on.last().content == say("zh", "unseen_picture")
    assert on.chat.turns() == []


async def test_mentions_are_read_as_names(on: OnDiscord) -> None:
    other = on.guild.add_member(on.env.create_user("chai", global_name="宝钗"))
    await on.say_here(f"{on.mention} 你看{other.mention}如何 <:hua:123>")
    assert on.chat.last()["text"] == "你看@宝钗如何 :hua:"


async def test_where_she_may_not_write_nothing_is_generated(on: OnDiscord) -> None:
    deaf = discord.PermissionOverwrite(send_messages=False)
    me = on.guild.me
    assert me is not None
    room = on.guild.create_text_channel("议事", overwrites={me: deaf})
    assert await on.say_here(f"{on.mention} 在么", room) == ""
    assert on.chat.turns() == []


async def test_being_refused_stops_nothing(on: OnDiscord) -> None:
    path = f"/channels/{on.room.id}/messages"
    on.env.inject_error("POST", path, status=403, code=50013, times=None)
    assert await on.say_here(f"{on.mention} 一") == ""
    on.env.backend.faults.clear()
    assert await on.say_here(f"{on.mention} 二") == "二"
    assert on.waiting() == 0


async def test_a_reply_is_sent_though_nothing_may_be_quoted(on: OnDiscord) -> None:
    path = f"/channels/{on.room.id}/messages"
    on.env.inject_error("POST", path, status=403, code=160002, times=1)
    assert await on.say_here(f"{on.mention} 一") == "一"
    assert on.last().reference is None


@pytest.mark.parametrize("status", [500, 429])
async def test_a_server_in_trouble_is_waited_for(tmp_path: Path, status: int) -> None:
    async with on_discord(tmp_path, apart=True) as on:
        on.env.inject_error("POST", "/channels/*/messages", status=status, times=2)
        await on.ask("你好")
        await on.answered()
        assert on.texts(on.person.dm_channel) == ["你好"]
        sent = on.calls("POST", f"/channels/{on.person.dm_channel.id}/messages")
        assert len({call.json["nonce"] for call in sent}) == 1


async def test_a_reply_that_was_deleted_in_the_making_is_sent_anew(on: OnDiscord) -> None:
    on.env.inject_error("PATCH", "/channels/*/messages/*", status=404, code=10008, times=None)
    on.chat.engine.replies.append(REPLY)
    assert (await on.say("今日下雨了")).endswith(REPLY)
    assert on.chat.last()["state"] == "done"


async def test_a_deleted_message_stops_the_reply(tmp_path: Path) -> None:
    async with on_discord(tmp_path, apart=True) as on:
        on.chat.engine.delay = 0.05
        on.chat.engine.replies.append(REPLY)
        message = await on.ask("今日下雨了")
        await on.until(lambda: on.hers(on.person.dm_channel))
        on.env.backend.delete_message(message.channel_id, message.id)
        await on.until(lambda: not on.waiting())
        assert on.chat.engine.running == 0
        assert on.chat.last()["state"] == "cancelled"
        assert on.hers(on.person.dm_channel) == []


async def test_an_edited_message_is_answered_anew_only_if_asked(on: OnDiscord) -> None:
    message = await on.person.send_dm("今日下学")
    await on.person.edit(message, "今日下雪")
    asked = on.last(on.person.dm_channel)
    assert asked.content == say("zh", "edited")
    assert len(on.chat.engine.prompts) == 1
    await on.person.click(asked, custom_id=custom_id(f"/retry {message.id}"))
    assert on.last(on.person.dm_channel).content == "今日下雪"


async def test_without_the_intent_she_hears_what_is_meant_for_her(tmp_path: Path) -> None:
    async with on_discord(tmp_path, hears=False) as on:
        assert "Message Content Intent" in on.notices[0]
        assert await on.say_here("黛玉，你好") == ""
        assert await on.say_here(f"{on.mention} 你好") == "你好"
        assert await on.say("私下里说") == "私下里说"


async def test_who_is_not_let_in_is_told_so_in_private_alone(tmp_path: Path) -> None:
    async with on_discord(tmp_path, discord__allow="[1]") as on:
        assert await on.say("你好") == say("zh", "not_allowed")
        assert await on.say_here(f"{on.mention} 你好") == ""


async def test_a_whole_server_can_be_blocked(on: OnDiscord) -> None:
    on.chat.bot._access._platforms["discord"].block.append(on.guild.id)  # type: ignore[index]
    assert await on.say_here(f"{on.mention} 你好") == ""
    assert await on.say("你好") == "你好"


async def test_many_at_once_are_answered_in_their_order(on: OnDiscord) -> None:
    backend, channel = on.env.backend, on.person.dm_channel.id
    for number in range(5):
        backend.create_message(channel, on.person.id, f"第{number}句")
    await on.env.settle()
    assert [m.content for m in on.hers(on.person.dm_channel)] == [f"第{n}句" for n in range(5)]
