"""Votes on Discord: buttons, forms, reactions, the menu, and what is asked of a person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from on_discord import OnDiscord, custom_id, labels, on_discord
from talking import opened_chat

from bot.texts import say


@pytest_asyncio.fixture
async def on(tmp_path: Path) -> AsyncIterator[OnDiscord]:
    async with on_discord(tmp_path) as opened:
        yield opened


GOOD, BAD, BETTER = (custom_id(f"/feedback{verdict}") for verdict in (" good", " bad", ""))


async def test_a_button_is_a_vote_and_another_replaces_it(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    first = await on.member.click(on.last(), custom_id=GOOD)
    assert on.ratings() == [(1, None)]
    assert first.response
    assert first.response.ephemeral
    assert first.response.content.startswith(say("en", "rated_good"))
    await on.member.click(on.last(), custom_id=BAD)
    assert on.ratings() == [(-1, None)]
    assert len(on.hers()) == 1


async def test_consent_is_asked_once_and_in_private(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    first = await on.member.click(on.last(), custom_id=GOOD)
    assert first.response
    assert say("en", "consent") in first.response.content
    assert labels(first.response.message) == [say("en", "agree"), say("en", "refuse")]
    await on.member.click(first.response, custom_id=custom_id("/privacy yes"))
    assert first.response.content == say("en", "agreed")
    assert labels(first.response.message) == []
    assert await on.chat.store.people.agreed("discord", str(on.member.id)) is True
    second = await on.member.click(on.last(), custom_id=BAD)
    assert second.response
    assert say("en", "consent") not in second.response.content


QUESTION = [say("en", key) for key in ("consent_short", "agree", "refuse")]
RATING = ["👍", "👎", "✍️", "↻"]


async def test_a_first_vote_by_reaction_is_asked_about_under_the_reply(on: OnDiscord) -> None:
    await on.member.slash(on.room, "lang", language="en")
    await on.say_here(f"{on.mention} 你好")
    stood = len(on.hers())
    await on.member.react(on.last(), "👍")
    assert labels(on.last()) == [*RATING, *QUESTION]
    assert on.texts()[-1] == "你好"
    whole = await on.member.click(on.last(), custom_id=custom_id("/privacy ask"))
    assert whole.response
    assert whole.response.ephemeral
    assert whole.response.content == say("en", "consent")
    assert labels(on.last()) == [*RATING, *QUESTION]
    agreed = await on.member.click(on.last(), custom_id=custom_id("/privacy yes"))
    assert agreed.response
    assert agreed.response.ephemeral
    assert agreed.response.content == say("en", "agreed")
    assert labels(agreed.response.message) == []
    assert labels(on.last()) == RATING
    assert await on.chat.store.people.agreed("discord", str(on.member.id)) is True
    await on.member.unreact(on.last(), "👍")
    await on.member.react(on.last(), "👎")
    assert labels(on.last()) == RATING
    assert len(on.hers()) == stood


async def test_the_question_stays_until_everyone_who_reacted_has_answered(on: OnDiscord) -> None:
    await on.member.slash(on.room, "lang", language="en")
    for text in ("一", "二"):
        await on.say_here(f"{on.mention} {text}")
    earlier = on.hers()[-2]
    other = on.guild.add_member(on.env.create_user("chai"))
    for member in (on.member, other):
        await member.react(earlier, "👍")
    for member, answer, left in ((on.member, "no", QUESTION), (other, "yes", [])):
        assert labels(on.hers()[-2]) == QUESTION  # what rates stands under the last reply alone
        await member.click(on.hers()[-2], custom_id=custom_id(f"/privacy {answer}"))
        assert labels(on.hers()[-2]) == left
    assert labels(on.last()) == RATING
    people = on.chat.store.people
    agreed = [await people.agreed("discord", str(one.id)) for one in (on.member, other)]
    assert agreed == [False, True]


async def test_a_better_wording_is_asked_for_by_a_form(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    shown = await on.member.click(on.last(), custom_id=BETTER)
    assert shown.modal
    assert shown.modal["title"] == say("en", "rate_title")
    sent = await on.member.submit_modal(shown, {"better": "你来了，坐罢。"})
    assert on.ratings() == [(-1, "你来了，坐罢。")]
    assert sent.response
    assert sent.response.ephemeral
    assert sent.response.content.startswith(say("en", "rated_correction"))


async def test_a_wording_out_of_her_role_is_refused(on: OnDiscord) -> None:
    await on.say("你好")
    shown = await on.person.click(on.last(on.person.dm_channel), custom_id=BETTER)
    sent = await on.person.submit_modal(shown, {"better": "作为一个人工智能助手，我很乐意帮忙"})
    assert on.ratings() == []
    assert sent.response
    assert sent.response.content == say("en", "correction_refused", limit=300)


async def test_asking_again_gives_another_reply(on: OnDiscord) -> None:
    on.chat.engine.replies.extend(["头一句。", "第二句。"])
    await on.say_here(f"{on.mention} 你好")
    first = on.last()
    pressed = await on.member.click(first, custom_id=custom_id("/retry"))
    assert pressed.acknowledged
    assert on.texts() == ["头一句。", "第二句。"]
    assert [labels(message) != [] for message in on.hers()] == [False, True]


async def test_buttons_are_valid_after_a_restart(tmp_path: Path) -> None:
    async with on_discord(tmp_path) as on:
        await on.say_here(f"{on.mention} 你好")
        asked = await on.member.click(on.last(), custom_id=BETTER)
        await on.restart()
        await on.member.click(on.last(), custom_id=GOOD)
        assert on.ratings() == [(1, None)]
        await on.member.submit_modal(asked, {"better": "你来了，坐罢。"})
        assert on.ratings() == [(-1, "你来了，坐罢。")]


async def test_a_reaction_is_a_vote_and_its_removal_takes_it_back(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    await on.member.react(on.last(), "👍")
    assert on.ratings() == [(1, None)]
    assert "✍️" in [str(reaction.emoji) for reaction in on.last().reactions]
    await on.member.unreact(on.last(), "👍")
    assert on.ratings() == []
    assert len(on.hers()) == 1


async def test_the_later_reaction_stands_when_the_earlier_goes(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    await on.member.react(on.last(), "❤️")
    await on.member.react(on.last(), "👎🏽")
    await on.member.unreact(on.last(), "❤️")
    assert on.ratings() == [(-1, None)]


async def test_what_is_no_verdict_or_not_hers_is_no_vote(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    await on.member.react(on.last(), "🤔")
    said = await on.member.send(on.room, "我自己的话")
    await on.member.react(said, "👍")
    robot = on.guild.add_member(on.env.create_user("robot", bot=True))
    await robot.react(on.last(), "👍")
    assert on.ratings() == []


async def test_one_vote_a_person(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    other = on.guild.add_member(on.env.create_user("chai"))
    for member in (on.member, other):
        await member.react(on.last(), "👍")
        await member.click(on.last(), custom_id=GOOD)
    assert on.ratings() == [(1, None), (1, None)]


async def test_the_menu_of_a_reply_asks_how_it_was(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 头一句")
    await on.say_here(f"{on.mention} 第二句")
    first = on.hers()[0]
    asked = await on.member.context_menu(on.room, say("zh", "rate_menu"), first)
    assert asked.response
    assert asked.response.ephemeral
    assert labels(asked.response.message) == ["👍", "👎", "✍️"]
    await on.member.click(asked.response, custom_id=custom_id("/feedback good", str(first.id)))
    rated = await on.chat.store.messages.turn_of("discord", str(on.room.id), str(first.id))
    assert rated
    rating = await on.chat.store.rating(rated.id, "discord", str(on.member.id))
    assert rating
    assert rating.vote == 1


async def test_the_menu_of_others_messages_rates_nothing(on: OnDiscord) -> None:
    said = await on.member.send(on.room, "我自己的话")
    asked = await on.member.context_menu(on.room, say("zh", "rate_menu"), said)
    assert asked.response
    assert asked.response.content == say("en", "not_hers")


@pytest.mark.parametrize(("code", "votes"), [(40060, [(1, None)]), (10062, [(1, None)])])
async def test_a_press_that_cannot_be_answered_counts(
    on: OnDiscord, code: int, votes: list[tuple[int, None]]
) -> None:
    await on.say_here(f"{on.mention} 你好")
    on.env.inject_error("POST", "/interactions/*/callback", status=400, code=code, times=1)
    await on.member.click(on.last(), custom_id=GOOD)
    assert on.ratings() == votes
    assert len(on.hers()) == 1


async def test_what_was_acknowledged_elsewhere_is_not_said_twice(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    on.env.inject_error("POST", "/interactions/*/callback", status=400, code=40060, times=1)
    await on.member.click(on.last(), custom_id=custom_id("/retry"))
    assert len(on.hers()) == 1
    assert len(on.chat.turns()) == 1


async def test_erasure_is_asked_twice_and_told_to_the_person_alone(on: OnDiscord) -> None:
    await on.say_here(f"{on.mention} 你好")
    asked = await on.member.slash(on.room, "forget")
    assert asked.response
    assert asked.response.ephemeral
    assert labels(asked.response.message) == [say("en", "forget_yes")]
    assert len(on.chat.turns()) == 1
    await on.member.click(asked.response, custom_id=custom_id("/forget yes"))
    assert asked.response.content == say("en", "forgotten", turns=1)
    assert on.chat.turns() == []


async def test_votes_are_kept_by_the_platform_they_came_from(tmp_path: Path) -> None:
    async with on_discord(tmp_path) as on:
        await on.say("你好")
        await on.person.click(on.last(on.person.dm_channel), custom_id=GOOD)
        person = str(on.person.id)
    async with opened_chat(tmp_path) as chat:
        assert (await chat.store.people.kept("discord", person)).ratings == 1
        assert (await chat.store.people.kept("telegram", person)).ratings == 0
