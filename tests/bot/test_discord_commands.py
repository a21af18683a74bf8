"""Commands on Discord, and what a server's administrators set."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import discord
import pytest
import pytest_asyncio
from on_discord import OnDiscord, on_discord
from simcord.actors import MemberActor
from simcord.backend.errors import SetupError

from bot.platforms.discord_servers import names_in
from bot.texts import menu, say


@pytest_asyncio.fixture
async def on(tmp_path: Path) -> AsyncIterator[OnDiscord]:
    async with on_discord(tmp_path) as opened:
        yield opened


def registered(on: OnDiscord) -> dict[str, dict[str, Any]]:
    return {name: command for (name, _), command in on.env.backend.commands[None].items()}


def admin(on: OnDiscord) -> MemberActor:
    role = on.guild.create_role("管家", permissions=discord.Permissions(manage_guild=True))
    return on.guild.add_member(on.env.create_user("fengjie"), roles=[role])


async def test_the_commands_speak_both_languages(on: OnDiscord) -> None:
    commands = registered(on)
    assert set(commands) == {
        "chat", "feedback", "reset", "retry", "undo", "privacy", "forget", "lang", "status",
        "help", "settings", say("zh", "rate_menu"),
    }  # fmt: skip
    for name in ("reset", "feedback", "lang"):
        told = commands[name]["description_localizations"]
        assert told["zh-CN"] == menu("zh")[name]
        assert told["en-US"] == menu("en")[name]
    [rating, better] = commands["feedback"]["options"]
    assert [c["name_localizations"]["en-US"] for c in rating["choices"]] == [
        "good", "bad", "take it back", "what became of mine",
    ]  # fmt: skip
    assert better["description_localizations"]["zh-CN"] == say("zh", "slash_feedback_better")
    assert commands[say("zh", "rate_menu")]["name_localizations"]["en-US"] == "Rate this reply"


async def test_commands_are_told_once_until_they_change(tmp_path: Path) -> None:
    async with on_discord(tmp_path) as on:
        assert len(on.calls("PUT", "/commands")) == 1
        await on.restart()
        assert len(on.calls("PUT", "/commands")) == 1
        await on.chat.store.notes.write("discord", on.bot_id, {"commands": "others"})
        await on.restart()
        assert len(on.calls("PUT", "/commands")) == 2


async def test_she_talks_though_the_commands_cannot_be_set(tmp_path: Path) -> None:
    async with on_discord(tmp_path) as on:
        await on.chat.store.notes.write("discord", on.bot_id, {"commands": "others"})
        on.env.inject_error("PUT", "/applications/*", status=400, code=50035, times=None)
        await on.restart()
        assert await on.say("你好") == "你好"


async def test_a_link_in_the_answer_to_a_command_shows_no_page(on: OnDiscord) -> None:
    on.chat.engine.replies.append("可看 https://example.org/雨 去")
    await on.member.slash(on.room, "chat", message="哪里有雨")
    assert on.texts() == ["可看 <https://example.org/雨> 去"]


async def test_chat_is_answered_for_all_to_see(on: OnDiscord) -> None:
    result = await on.member.slash(on.room, "chat", message="今日雨大")
    assert result.acknowledged
    assert result.response
    assert not result.response.ephemeral
    assert on.texts() == ["今日雨大"]
    assert on.chat.last()["text"] == "今日雨大"


async def test_chat_is_no_way_to_a_command(on: OnDiscord) -> None:
    await on.member.slash(on.room, "chat", message=" /forget yes")
    assert on.chat.last()["text"] == "//forget yes"


async def test_a_reply_to_chat_can_be_rated_and_asked_for_again(on: OnDiscord) -> None:
    on.chat.engine.replies.extend(["头一句。", "第二句。"])
    await on.member.slash(on.room, "chat", message="今日雨大")
    await on.member.react(on.last(), "👍")
    assert on.ratings() == [(1, None)]
    result = await on.member.slash(on.room, "retry")
    assert result.response
    assert result.response.content == "第二句。"


@pytest.mark.parametrize("name", ["help", "status", "privacy", "forget"])
async def test_what_only_the_person_needs_is_for_them_alone(on: OnDiscord, name: str) -> None:
    result = await on.member.slash(on.room, name)
    assert result.response
    assert result.response.ephemeral
    assert result.response.content
    assert on.hers() == []


async def test_privacy_says_that_nothing_from_here_teaches_her(on: OnDiscord) -> None:
    result = await on.member.slash(on.room, "privacy")
    assert result.response
    assert say("en", "privacy_discord") in result.response.content
    await on.member.slash(on.room, "privacy", answer="no")
    assert await on.chat.store.people.agreed("discord", str(on.member.id)) is False


async def test_privacy_gives_the_person_alone_all_that_is_kept(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 我叫阿宁")
    result = await on.member.slash(on.room, "privacy")
    assert result.response
    assert say("en", "privacy_file") in result.response.content
    [given] = result.followups
    assert given.ephemeral
    [attached] = given.attachments
    kept = json.loads(await attached.read())
    assert [turn["text"] for turn in kept["turns"]] == ["我叫阿宁"]


async def test_privacy_said_in_private_is_answered_with_the_file_too(on: OnDiscord) -> None:
    await on.say("我叫阿宁")
    await on.say("/privacy")
    [attached] = on.last(on.person.dm_channel).attachments
    assert "阿宁" in (await attached.read()).decode("utf-8")


async def test_privacy_said_in_a_channel_gives_nobody_a_file(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} /privacy")
    assert on.last().attachments == []


async def test_feedback_is_about_the_last_reply(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    result = await on.member.slash(on.room, "feedback", rating="good")
    assert on.ratings() == [(1, None)]
    assert result.response
    assert result.response.ephemeral
    await on.member.slash(on.room, "feedback", better="你来了，坐罢。")
    assert on.ratings() == [(-1, "你来了，坐罢。")]
    await on.member.slash(on.room, "feedback", rating="none")
    assert on.ratings() == []


async def test_undo_and_reset_are_said_to_all(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    await on.member.slash(on.room, "undo")
    assert on.chat.last()["undone"]
    await on.member.slash(on.room, "reset")
    assert [m.content for m in on.hers()][1:] == [say("zh", "undone"), say("zh", "reset")]


async def test_commands_work_in_private(on: OnDiscord) -> None:
    await on.say("你好")
    result = await on.person.slash("feedback", rating="bad")
    assert on.ratings() == [(-1, None)]
    assert result.response
    result = await on.person.slash("lang", language="en")
    assert result.response
    assert result.response.content == say("en", "lang_set")


async def test_who_is_not_let_in_is_told_so_alone(tmp_path: Path) -> None:
    async with on_discord(tmp_path, discord__allow="[1]") as on:
        result = await on.member.slash(on.room, "help")
        assert result.response
        assert result.response.ephemeral
        assert result.response.content == say("en", "not_allowed")
        # For all to see nothing is said, and nothing is left that would wait for ever.
        result = await on.member.slash(on.room, "chat", message="你好")
        assert result.response is None
        assert on.hers() == []


async def test_a_command_pressed_too_late_is_not_answered(on: OnDiscord) -> None:
    on.env.inject_error("POST", "/interactions/*/callback", status=404, code=10062, times=1)
    await on.member.slash(on.room, "chat", message="你好")
    assert on.hers() == []
    assert await on.say_here(f"{on.mention} 在么") == "在么"


# A server's settings.


async def test_settings_are_for_those_who_run_the_server(on: OnDiscord) -> None:
    with pytest.raises(SetupError):
        await on.member.slash(on.room, "settings")
    result = await admin(on).slash(on.room, "settings")
    assert result.response
    assert result.response.ephemeral
    assert "林姑娘" in result.response.content


async def test_in_a_chosen_channel_she_answers_everything(on: OnDiscord) -> None:
    boss = admin(on)
    await boss.slash(on.room, "settings", channel=on.room)
    assert await on.say_here("今日雨大") == "今日雨大"
    on.env.backend.create_thread(on.room.id, "诗社", on.member.id)
    await on.env.settle()
    assert await on.say_here("可有好诗", on.room.threads[0]) == "可有好诗"
    await boss.slash(on.room, "settings", channel=on.room)
    assert await on.say_here("还在么") == ""


async def test_a_server_names_her_as_it_likes(on: OnDiscord) -> None:
    boss = admin(on)
    await boss.slash(on.room, "settings", names="颦儿，颦颦")
    assert await on.say_here("颦儿，你好") == "颦儿，你好"
    assert await on.say_here("黛玉，你好") == ""
    result = await boss.slash(on.room, "settings", names=" ".join(map(str, range(11))))
    assert result.response
    assert result.response.content == say("en", "settings_refused", count=10, limit=32)
    await boss.slash(on.room, "settings", names="-")
    assert await on.say_here("黛玉，你好") == "黛玉，你好"


async def test_where_it_is_quiet_she_answers_mentions_and_rings_nobody(on: OnDiscord) -> None:
    await admin(on).slash(on.room, "settings", channel=on.room, quiet=True)
    assert await on.say_here("黛玉，你好") == ""
    assert await on.say_here(f"{on.mention} 你好") == "你好"
    assert on.last().flags.suppress_notifications


async def test_a_servers_language_holds_until_a_channel_chooses(on: OnDiscord) -> None:
    await admin(on).slash(on.room, "settings", language="en")
    assert await on.say_here(f"{on.mention}") == say("en", "empty")
    await on.member.slash(on.room, "lang", language="zh")
    assert await on.say_here(f"{on.mention}") == say("zh", "empty")


async def test_settings_are_kept(tmp_path: Path) -> None:
    async with on_discord(tmp_path) as on:
        await admin(on).slash(on.room, "settings", channel=on.room)
        await on.restart()
        assert await on.say_here("今日雨大") == "今日雨大"


async def test_without_the_intent_settings_say_what_is_not_heard(tmp_path: Path) -> None:
    async with on_discord(tmp_path, hears=False) as on:
        result = await admin(on).slash(on.room, "settings")
        assert result.response
        assert say("en", "settings_unheard") in result.response.content


def test_names_are_read_as_people_write_them() -> None:
    assert names_in("颦儿、颦颦, 林姑娘") == ("颦儿", "颦颦", "林姑娘")
    assert names_in("-") == ()
    assert names_in("  ") is None
    assert names_in("长" * 33) is None
