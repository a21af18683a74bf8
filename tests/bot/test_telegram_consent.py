"""Consent in a group: asked under the reply that was rated, once, and nobody is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from on_telegram import OnTelegram, on_telegram
from talking import eventually, rows

from bot.texts import say
from tests.fakes.bot_api import BotAPI
from tests.fakes.limits import DROP_BEFORE
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


async def consent(on: OnTelegram, person: User) -> bool | None:
    return await on.chat.store.people.agreed("telegram", str(person.id))


@pytest.mark.parametrize("lang", ["zh", "en"])
async def test_a_first_vote_by_reaction_is_asked_about_under_the_reply(
    on: OnTelegram, people: tuple[User, User], lang: str
) -> None:
    group = on.server.supergroup("大观园", *people, bot="administrator")
    await on.say(group, people[0], f"/lang {lang}")
    await on.say(group, people[0], "黛玉，你好")
    reply, stood = on.last(group), len(group.from_bot)
    question = [say(lang, "consent_short"), say(lang, "agree"), say(lang, "refuse")]
    await group.react(reply, "👍", by=people[1])
    await on.settled()
    assert reply.buttons == [*RATING, *question]
    assert reply.text == "宝玉：黛玉，你好"
    assert len(group.from_bot) == stood
    whole = await group.press(reply, question[0], by=people[1])
    await on.settled()
    assert whole.answer == {"text": say(lang, "consent"), "show_alert": True}
    agreed = await group.press(reply, question[1], by=people[1])
    await on.settled()
    assert agreed.answer
    assert agreed.answer["text"] == say(lang, "agreed")
    assert reply.buttons == RATING
    assert [await consent(on, person) for person in people] == [None, True]
    assert len(group.from_bot) == stood


async def test_who_was_asked_in_a_group_is_not_asked_again(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.supergroup("大观园", *people, bot="administrator")
    await on.say(group, people[0], "黛玉，一")
    for emojis in (["👍"], [], ["👎"], ["👍"]):
        await group.react(on.last(group), *emojis, by=people[1])
    await on.settled()
    assert len(on.server.calls("editMessageReplyMarkup")) == 1
    await on.say(group, people[0], "黛玉，二")
    assert [message.buttons for message in group.from_bot] == [[], RATING]
    await group.react(on.last(group), "👍", by=people[1])
    await on.settled()
    assert on.last(group).buttons == RATING
    assert on.ratings() == [(1, None), (1, None)]


async def test_the_question_stays_until_everyone_who_rated_there_has_answered(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.supergroup("大观园", *people, bot="administrator")
    for text in ("黛玉，一", "黛玉，二"):
        await on.say(group, people[0], text)
    earlier, last = group.from_bot
    for person in people:
        await group.react(earlier, "👍", by=person)
    await on.settled()
    question = [say("zh", "consent_short"), say("zh", "agree"), say("zh", "refuse")]
    assert earlier.buttons == question  # what rates stands under the last reply alone
    await group.press(earlier, question[2], by=people[0])
    await on.settled()
    assert earlier.buttons == question
    await group.press(earlier, question[1], by=people[1])
    await on.settled()
    assert (earlier.buttons, last.buttons) == ([], RATING)
    assert [await consent(on, person) for person in people] == [False, True]


async def test_only_the_person_themselves_answers(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.supergroup("大观园", *people, bot="administrator", username="garden")
    await on.say(group, people[0], "黛玉，你好")
    await group.react(on.last(group), "👍", by=people[1])
    await on.settled()
    for other in (people[0], on.server.user("过客")):
        await group.press(on.last(group), say("zh", "agree"), by=other)
    await on.settled()
    assert say("zh", "agree") in on.last(group).buttons
    assert await consent(on, people[1]) is None


async def test_in_a_topic_the_question_is_in_its_language(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    forum = on.server.supergroup("大观园", *people, forum=True, bot="administrator")
    poems = await forum.topic("诗")
    await on.say(poems, people[0], "/lang en")
    await on.say(poems, people[0], "黛玉，起社了")
    await forum.react(on.last(poems), "👍", by=people[1])
    await on.settled()
    assert say("en", "agree") in on.last(poems).buttons
    threads = rows(on.chat.database, "SELECT thread_id FROM conversations")
    assert threads == [{"thread_id": str(poems.thread)}]


async def test_the_pressed_question_is_told_to_whoever_pressed_alone(
    on: OnTelegram, people: tuple[User, User]
) -> None:
    group = on.server.supergroup("大观园", *people)
    await on.say(group, people[0], "黛玉，你好")
    press = await group.press(on.last(group), "👎", by=people[1])
    await on.settled()
    assert press.answer
    assert say("zh", "consent") in press.answer["text"]
    assert say("zh", "agree") in on.last(group).buttons
    assert len(group.from_bot) == 1


async def test_a_question_that_a_crash_kept_back_is_asked_at_the_next_start(
    tmp_path: Path, server: BotAPI, people: tuple[User, User]
) -> None:
    group = server.supergroup("大观园", *people, bot="administrator")
    async with on_telegram(tmp_path, server, telegram__drain="0") as on:
        await on.say(group, people[0], "黛玉，你好")
        plan = server.fail("editMessageReplyMarkup", DROP_BEFORE, times=None)
        await group.react(on.last(group), "👍", by=people[1])
        await eventually(lambda: server.calls("editMessageReplyMarkup"))
    plan.end()
    assert on.last(group).buttons == RATING
    async with on_telegram(tmp_path, server) as on:
        await on.settled()
        assert say("zh", "agree") in on.last(group).buttons
        assert on.ratings() == [(1, None)]
