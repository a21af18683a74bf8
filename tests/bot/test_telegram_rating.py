"""Buttons and reactions on Telegram: a vote counts once, and is acknowledged where it was given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from on_telegram import OnTelegram, on_telegram

from bot.texts import say
from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Chat

RATING = ["👍", "👎", "✍️", "↻"]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[BotAPI]:
    async with BotAPI() as opened:
        yield opened


@pytest_asyncio.fixture
async def on(tmp_path: Path, server: BotAPI) -> AsyncIterator[OnTelegram]:
    async with on_telegram(tmp_path, server) as opened:
        yield opened


@pytest.fixture
def room(server: BotAPI) -> Chat:
    return server.private(server.user("宝玉"))


async def test_only_the_last_reply_has_buttons(on: OnTelegram, room: Chat) -> None:
    await on.say(room, room.user, "一")
    assert on.last(room).buttons == RATING
    await on.say(room, room.user, "二")
    assert [message.buttons for message in room.from_bot] == [[], RATING]
    await on.say(room, room.user, "/help")
    assert [message.buttons for message in room.from_bot] == [[], RATING, []]


async def test_a_vote_is_acknowledged_where_it_was_given(on: OnTelegram, room: Chat) -> None:
    await on.say(room, room.user, "你好")
    press = await room.press(on.last(room), "👍")
    await on.settled()
    assert press.answer
    assert press.answer["text"].startswith(say("zh", "rated_good"))
    assert say("zh", "consent") in press.answer["text"]
    assert on.ratings() == [(1, None)]
    assert on.last(room).buttons == [*RATING, say("zh", "agree"), say("zh", "refuse")]
    agreed = await room.press(on.last(room), say("zh", "agree"))
    await on.settled()
    assert agreed.answer
    assert agreed.answer["text"] == say("zh", "agreed")
    assert on.last(room).buttons == RATING
    assert len(room.from_bot) == 1
    assert await on.chat.store.people.agreed("telegram", str(room.user.id)) is True


async def test_a_second_vote_replaces_the_first(on: OnTelegram, room: Chat) -> None:
    await on.say(room, room.user, "你好")
    for button in ("👍", "👎"):
        await room.press(on.last(room), button)
    await on.settled()
    assert on.ratings() == [(-1, None)]


async def test_saying_it_again_keeps_the_old_reply(on: OnTelegram, room: Chat) -> None:
    on.chat.engine.replies += ["头一样。", "第二样。"]
    await on.say(room, room.user, "你好")
    press = await room.press(on.last(room), "↻")
    await on.settled()
    assert [message.text for message in room.from_bot] == ["头一样。", "第二样。"]
    assert [message.buttons for message in room.from_bot] == [[], RATING]
    assert press.answer


async def test_the_pen_says_how_a_better_wording_is_given(on: OnTelegram, room: Chat) -> None:
    await on.say(room, room.user, "你好")
    press = await room.press(on.last(room), "✍️")
    await on.settled()
    assert press.answer
    assert press.answer["text"] == say("zh", "feedback_usage")
    await on.say(room, room.user, "/feedback 你来了，坐罢。", reply_to=on.last(room))
    assert on.ratings() == [(-1, "你来了，坐罢。")]


async def test_a_press_on_a_message_that_is_gone_is_answered(on: OnTelegram, room: Chat) -> None:
    await on.say(room, room.user, "你好")
    await room.delete(on.last(room) if room.from_bot else 0)  # type: ignore[arg-type]
    reply = next(message for message in room.everything if message.by_bot)
    press = await room.press(reply, "👍")
    await on.settled()
    assert press.answer
    assert on.ratings() == [(1, None)]


async def test_buttons_hold_after_a_restart(tmp_path: Path, server: BotAPI, room: Chat) -> None:
    async with on_telegram(tmp_path, server) as on:
        await on.say(room, room.user, "你好")
    async with on_telegram(tmp_path, server) as on:
        await room.press(on.last(room), "👎")
        await on.settled()
        assert on.ratings() == [(-1, None)]
        await on.say(room, room.user, "再说")
        assert [message.buttons for message in room.from_bot] == [[], RATING]


async def test_reactions_are_votes_and_the_last_state_counts(on: OnTelegram, room: Chat) -> None:
    await room.say(room.user, "/privacy no")
    await on.say(room, room.user, "你好")
    reply = on.last(room)
    states: list[tuple[tuple[str, ...], list[tuple[int, None]]]] = [
        (("❤",), [(1, None)]),
        (("👎",), [(-1, None)]),
        ((), []),
        (("👍",), [(1, None)]),
        (("🤔",), []),
    ]
    for emojis, expected in states:
        await room.react(reply, *emojis)
        await on.settled()
        assert on.ratings() == expected, emojis
    assert reply.reactions[on.server.bot.id] == []
    assert len(room.from_bot) == 2


async def test_a_reaction_to_something_else_is_no_vote(on: OnTelegram, room: Chat) -> None:
    mine = await room.say(room.user, "你好")
    await on.say(room, room.user, "/help")
    await room.react(mine, "👍")
    await room.react(on.last(room), "👍")
    await on.settled()
    assert on.ratings() == []


async def test_taking_a_reaction_back_keeps_written_words(on: OnTelegram, room: Chat) -> None:
    await on.say(room, room.user, "你好")
    reply = on.last(room)
    await room.react(reply, "👍")
    await on.settled()
    await on.say(room, room.user, "/feedback 你来了，坐罢。", reply_to=reply)
    await room.react(reply)
    await on.settled()
    assert on.ratings() == [(-1, "你来了，坐罢。")]
