"""Groups and topics on Telegram: when she speaks, to whom, and what she remembers of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from on_telegram import OnTelegram, on_telegram

from bot.texts import say
from tests.fakes.bot_api import BotAPI
from tests.fakes.limits import KICKED, MUTED, NO_TOPIC, Fault
from tests.fakes.messages import User

RATING = ["👍", "👎", "✍️", "↻"]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[BotAPI]:
    async with BotAPI(privacy=False) as opened:
        yield opened


@pytest_asyncio.fixture
async def on(tmp_path: Path, server: BotAPI) -> AsyncIterator[OnTelegram]:
    async with on_telegram(tmp_path, server) as opened:
        yield opened


@pytest.fixture
def people(server: BotAPI) -> tuple[User, User]:
    return server.user("宝玉"), server.user("湘云")


@pytest.mark.parametrize(
    "text", ["@daiyu_bot 你好", "你好 @Daiyu_Bot", "@daiyu_bot你好", "林姑娘好", "黛玉呢", "/help"]
)
async def test_she_speaks_when_called(on: OnTelegram, people: tuple[User, User], text: str) -> None:
    group = on.server.supergroup("大观园", *people)
    said = await on.say(group, people[0], text)
    assert said
    assert "daiyu_bot" not in said
    assert on.last(group).reply_to is not None


@pytest.mark.parametrize(
    "text", ["你好", "@another_bot 你好", "/help@another_bot", "/another", "@daiyu_bot_two 在么"]
)
async def test_she_is_silent_when_not_called(
    on: OnTelegram, people: tuple[User, User], text: str
) -> None:
    group = on.server.supergroup("大观园", *people)
    assert await on.say(group, people[0], text) == ""
    assert on.chat.turns() == []


async def test_a_reply_to_her_is_meant_for_her(on: OnTelegram, people: tuple[User, User]) -> None:
    group = on.server.group("大观园", *people)
    await on.say(group, people[0], "林姑娘好")
    assert await on.say(group, people[1], "我也好", reply_to=on.last(group)) == "湘云：我也好"


async def test_she_knows_who_said_what(on: OnTelegram, people: tuple[User, User]) -> None:
    group = on.server.supergroup("大观园", *people)
    await on.say(group, people[0], "黛玉，我来了")
    await on.say(group, people[1], "黛玉，我也来了")
    assert "宝玉：黛玉，我来了" in on.chat.engine.prompts[-1]
    assert "湘云：黛玉，我也来了" in on.chat.engine.prompts[-1]


async def test_each_topic_is_a_conversation(on: OnTelegram, people: tuple[User, User]) -> None:
    forum = on.server.supergroup("大观园", *people, forum=True)
    flowers, poems = await forum.topic("花"), await forum.topic("诗")
    assert await on.say(flowers, people[0], "黛玉，海棠开了") == "宝玉：黛玉，海棠开了"
    assert await on.say(poems, people[0], "黛玉，起社了") == "宝玉：黛玉，起社了"
    assert "海棠" not in on.chat.engine.prompts[-1]
    # In a topic everything answers its first message: that is no reply to her.
    assert await on.say(flowers, people[0], "真好看") == ""


async def test_bots_channels_and_what_a_channel_posts_are_not_answered(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.supergroup("大观园", *people)
    channel = on.server.channel("邸报")
    await channel.say(channel, "黛玉")
    await group.say(channel, "黛玉")
    await group.say(on.server.user("机关", "x_bot", is_bot=True), "黛玉")
    await on.settled()
    assert group.from_bot == []
    assert channel.from_bot == []


async def test_an_anonymous_admin_is_answered_and_has_no_vote(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.supergroup("大观园", *people, bot="administrator")
    assert await on.say(group, group, "黛玉，你好") == "大观园：黛玉，你好"
    reply = on.last(group)
    assert await on.say(group, group, "/feedback good", reply_to=reply) == say("zh", "no_vote")
    await group.react(reply, "👍", anonymous=True)
    await group.react(reply, "👍", by=on.server.user("机关", "x_bot", is_bot=True))
    await on.settled()
    assert on.ratings() == []


async def test_votes_in_a_group_add_no_message(on: OnTelegram, people: tuple[User, User]) -> None:
    group = on.server.supergroup("大观园", *people, bot="administrator")
    for person in people:
        await on.chat.store.people.agree("telegram", str(person.id), True)
    await on.say(group, people[0], "黛玉，你好")
    reply = on.last(group)
    press = await group.press(reply, "👍", by=people[0])
    await group.react(reply, "👎", by=people[1])
    await on.settled()
    assert sorted(on.ratings()) == [(-1, None), (1, None)]  # two people, in any order
    assert press.answer
    assert press.answer["text"] == say("zh", "rated_good")
    assert reply.reactions[on.server.bot.id] == ["✍"]
    assert reply.buttons == RATING
    assert len(group.from_bot) == 1


async def test_only_members_vote(on: OnTelegram, people: tuple[User, User]) -> None:
    group = on.server.supergroup("大观园", *people, username="garden")
    await on.say(group, people[0], "黛玉，你好")
    press = await group.press(on.last(group), "👍", by=on.server.user("过客"))
    await on.settled()
    assert press.answer is not None
    assert on.ratings() == []


async def test_the_history_goes_with_a_group_that_is_upgraded(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.group("大观园", *people)
    await on.say(group, people[0], "黛玉，我叫阿宁")
    new = await group.upgrade()
    assert await on.say(new, people[0], "黛玉，我叫什么")
    assert "阿宁" in on.chat.engine.prompts[-1]


async def test_an_answer_follows_a_group_upgraded_meanwhile(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.group("大观园", *people)
    on.chat.engine.delay = 0.02
    await group.say(people[0], "黛玉，我叫阿宁")
    await on.chat.mid_reply()
    new = await group.upgrade()
    await on.settled()
    assert [message.text for message in new.from_bot] == ["宝玉：黛玉，我叫阿宁"]


@pytest.mark.parametrize("fault", [KICKED, MUTED, NO_TOPIC])
async def test_where_she_may_not_speak_she_ends_quietly(
    on: OnTelegram,
    people: tuple[User, User],
    fault: Fault,
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = on.server.supergroup("大观园", *people)
    plan = on.server.fail("sendMessage", fault, times=None)
    assert await on.say(group, people[0], "黛玉") == ""
    plan.end()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert await on.say(group, people[0], "黛玉") == "宝玉：黛玉"


async def test_coming_and_going_are_nothing_said(on: OnTelegram, people: tuple[User, User]) -> None:
    group = on.server.supergroup("大观园", *people)
    await group.join(on.server.user("宝琴"))
    await group.rename(people[0], "黛玉的园子")
    await group.set_bot("kicked", by=people[0])
    await group.set_bot("member", by=people[0])
    await on.settled()
    assert group.from_bot == []


async def test_privacy_mode_is_told_at_the_start(tmp_path: Path) -> None:
    async with BotAPI(privacy=True) as server, on_telegram(tmp_path, server) as on:
        room = server.private(server.user("宝玉"))
        await on.say(room, room.user, "你好")
        assert "setprivacy" in on.notices[0]
        people = server.user("宝玉"), server.user("湘云")
        group = server.supergroup("大观园", *people)
        assert await on.say(group, people[0], "黛玉") == ""
        assert await on.say(group, people[0], "/help@daiyu_bot") != ""
