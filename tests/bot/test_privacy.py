"""What is kept of a person: shown to them alone, as a file too, and not for longer than set."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from talking import Chat, opened_chat
from test_learned import BETTER, LIKE, RAIN, shown

from bot.delivery import deliver
from bot.platforms.base import File, Said
from bot.texts import LANGUAGES, say

GROUP = {"chat_id": "g", "is_group": True}


def contents(chat: Chat) -> list[dict[str, Any]]:
    return [json.loads(file.content.decode("utf-8")) for _, file in chat.screen.files]


async def test_all_that_is_kept_comes_as_a_file(chat: Chat) -> None:
    await chat.say("我叫阿宁")
    await chat.say(f"/feedback {BETTER}")
    await chat.say("/privacy yes")
    told = await chat.say("/privacy")
    assert say("zh", "privacy_file") in told
    [kept] = contents(chat)
    assert [turn["text"] for turn in kept["turns"]] == ["我叫阿宁"]
    assert [rating["correction"] for rating in kept["ratings"]] == [BETTER]
    assert kept["consent"]["agreed"] is True
    [(_, file)] = chat.screen.files
    assert file.name.endswith(".json")
    assert "阿宁" in file.content.decode("utf-8")


@pytest.mark.parametrize("text", ["/privacy yes", "/privacy no"])
async def test_an_answer_is_no_wish_for_a_file(chat: Chat, text: str) -> None:
    await chat.say(text)
    assert chat.screen.files == []


async def test_in_a_group_the_file_is_for_nobody(chat: Chat) -> None:
    await chat.say("我叫阿宁", **GROUP)
    told = await chat.say("/privacy", **GROUP)
    assert told.endswith(say("zh", "privacy_elsewhere"))
    assert chat.screen.files == []


async def test_in_a_group_it_is_given_where_the_person_alone_sees_it(chat: Chat) -> None:
    await chat.say("我叫阿宁", **GROUP)
    await chat.say("别人的话", user_id="u2", **GROUP)
    await chat.say("/privacy", alone=True, **GROUP)
    [kept] = contents(chat)
    assert [turn["text"] for turn in kept["turns"]] == ["我叫阿宁"]


async def test_no_file_goes_where_others_see_it_whoever_made_it(chat: Chat) -> None:
    async def texts() -> AsyncIterator[Said]:
        yield Said("给你", file=File("a.json", b"{}", "不成"))

    await deliver(chat.screen, chat.incoming("", **GROUP), texts())
    assert chat.screen.files == []
    await deliver(chat.screen, chat.incoming("", alone=True, **GROUP), texts())
    assert len(chat.screen.files) == 1


async def test_where_the_file_cannot_be_sent_that_is_said(chat: Chat) -> None:
    chat.screen.takes_no_files = True
    told = await chat.say("/privacy")
    assert told.endswith(say("zh", "file_failed"))


async def test_whoever_hides_is_shown_nothing(chat: Chat) -> None:
    assert await chat.say("/privacy", user_id="") == say("zh", "no_vote")
    assert chat.screen.files == []


async def test_whoever_was_forgotten_is_told_when(chat: Chat) -> None:
    await chat.say("我叫阿宁")
    assert "抹去过" not in await chat.say("/privacy")
    await chat.say("/forget yes")
    day = await chat.store.people.forgotten("screen", "u1")
    assert day is not None
    told = await chat.say("/privacy")
    assert say("zh", "privacy_forgotten", day=f"{day:%Y-%m-%d}") in told
    assert "抹去过" not in await chat.say("/privacy", user_id="u2")


def test_the_question_tells_what_is_kept_and_how_to_take_it_back() -> None:
    for lang in LANGUAGES:
        asked = say(lang, "consent")
        assert all(command in asked for command in ("/privacy", "/forget"))
        # Telegram shows it where a button was pressed: within 200 characters.
        assert max(len(say(lang, key)) for key in ("rated_good", "rated_bad")) + len(asked) < 199


# Retention.


async def test_what_is_too_old_is_forgotten_and_serves_nobody_any_more(tmp_path: Path) -> None:
    async with opened_chat(tmp_path, store__retention_days="30") as chat:
        await chat.say(RAIN)
        await chat.say(f"/feedback {BETTER}")
        await chat.say(LIKE)
        assert shown(chat) == ["turn:1"]
        with closing(sqlite3.connect(chat.database)) as connection:
            connection.execute("UPDATE turns SET created_at = '2020-01-01' WHERE id = 1")
            connection.commit()
        assert "30 天" in await chat.say("/privacy")
        await chat.bot.tidy()
        await chat.say(LIKE)
        assert shown(chat) == []
        assert [turn["id"] for turn in chat.turns()] == [2, 3]


async def test_without_a_limit_nothing_is_forgotten(chat: Chat) -> None:
    await chat.say(RAIN)
    with closing(sqlite3.connect(chat.database)) as connection:
        connection.execute("UPDATE turns SET created_at = '2020-01-01'")
        connection.commit()
    await chat.bot.tidy()
    assert len(chat.turns()) == 1
