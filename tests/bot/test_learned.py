"""The fast half of the loop: a correction helps at once, and goes with the consent or the row."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from talking import Chat, eventually, opened_chat, rows

from bot import learned as learned_module
from bot.texts import say
from data.corrections import RECORD
from data.learning import Verdict
from data.screen import Reason
from data.transactions import StoreUnavailable

RAIN = "外头刮大风了"
LIKE = "外头又刮大风了"
BETTER = "风再大，也吹不散我这炉香。"


@pytest_asyncio.fixture
async def chat(tmp_path: Path) -> AsyncIterator[Chat]:
    async with opened_chat(tmp_path) as opened:
        yield opened


def shown(chat: Chat) -> list[str]:
    """The learned ones of the last reply's exemplars."""
    return [key for key in json.loads(chat.last()["exemplars"]) if key.startswith("turn:")]


async def correct(chat: Chat, better: str = BETTER, message: str = RAIN, **where: Any) -> int:
    """Somebody says something, corrects the reply and agrees; the turn."""
    await chat.say(message, **where)
    turn = int(chat.last()["id"])
    await chat.say(f"/feedback {better}", **where)
    await chat.say("/privacy yes", **where)
    return turn


async def asked(chat: Chat, message: str = LIKE, **where: Any) -> list[str]:
    await chat.say(message, **where)
    return shown(chat)


async def approve(chat: Chat, turn: int, wording: str = BETTER, **more: Any) -> None:
    """As a reviewer does in another process; the bot then takes a look."""
    person = (chat.screen.name, more.pop("user_id", "u1"))
    state = more.pop("state", "approved")
    assert await chat.store.learning.judge(Verdict(turn, person, wording, "", state, **more))
    await chat.bot._learned.refresh()


async def test_a_correction_serves_in_its_own_chat_at_once(chat: Chat) -> None:
    await chat.say(RAIN)
    assert shown(chat) == []
    turn = int(chat.last()["id"])
    await chat.say(f"/feedback {BETTER}")
    assert await asked(chat) == [f"turn:{turn}"]
    # And the model was given it, without any training in between.
    assert BETTER in chat.engine.prompts[-1]
    assert await asked(chat, chat_id="2", user_id="u2") == []


async def test_approved_it_serves_everyone_who_agreed_to_that(chat: Chat) -> None:
    turn = await correct(chat)
    await approve(chat, turn)
    assert await asked(chat, chat_id="2", user_id="u2") == [f"turn:{turn}"]
    await chat.say("/privacy no")
    assert await asked(chat, chat_id="2", user_id="u2") == []
    assert await asked(chat) == []
    await chat.say("/privacy yes")
    assert await asked(chat, chat_id="2", user_id="u2") == [f"turn:{turn}"]


async def test_without_consent_it_stays_in_its_chat(chat: Chat) -> None:
    await chat.say(RAIN)
    turn = int(chat.last()["id"])
    await chat.say(f"/feedback {BETTER}")
    await approve(chat, turn)
    assert await asked(chat) == [f"turn:{turn}"]
    assert await asked(chat, chat_id="2", user_id="u2") == []


async def test_the_person_whose_message_it_answers_has_to_agree_too(chat: Chat) -> None:
    group = dict(chat_id="g", is_group=True)
    await chat.say(RAIN, user_id="u2", **group)
    turn = int(chat.last()["id"])
    await chat.say(f"/feedback {BETTER}", **group)
    await chat.say("/privacy yes", **group)
    await approve(chat, turn)
    assert await asked(chat, chat_id="2") == []
    await chat.say("/privacy yes", user_id="u2", **group)
    assert await asked(chat, chat_id="2") == [f"turn:{turn}"]
    await chat.say("/forget yes", user_id="u2")
    assert await asked(chat, chat_id="2") == []


@pytest.mark.parametrize(
    "command", ["/feedback none", "/feedback good", "/forget yes", "/undo", "/privacy no"]
)
async def test_it_leaves_with_its_row_or_consent(chat: Chat, command: str) -> None:
    await correct(chat)
    assert len(chat.service.exemplars.exchanges) == 3
    await chat.say(command)
    assert len(chat.service.exemplars.exchanges) == 2


async def test_the_reviewers_wording_serves_and_what_was_rejected_does_not(chat: Chat) -> None:
    turn = await correct(chat)
    await approve(chat, turn, edited="风大便把窗掩上罢。")
    await chat.say(LIKE)
    assert "风大便把窗掩上罢。" in chat.engine.prompts[-1]
    await approve(chat, turn, state="rejected")
    assert await asked(chat) == []


async def test_what_fails_the_screen_waits_and_serves_nobody(chat: Chat) -> None:
    await chat.say(RAIN)
    told = await chat.say("/feedback 打13812345678给我。")
    assert told.startswith(say("zh", "correction_waits"))
    assert await asked(chat) == []
    (held,) = rows(chat.database, "SELECT wording, reason, state FROM quarantine")
    assert held == {"wording": "打13812345678给我。", "reason": "contact", "state": "held"}
    # The rating itself counts all the same.
    assert rows(chat.database, "SELECT vote FROM ratings") == [{"vote": -1}]


async def test_enough_people_who_write_alike_need_no_review(tmp_path: Path) -> None:
    async with opened_chat(tmp_path, store__agreement="2") as chat:
        for who in ("u1", "u2"):
            await chat.say("你好", chat_id=who, user_id=who)
        turns = [await correct(chat, chat_id=who, user_id=who) for who in ("u1", "u2")]
        # Two who are hours old may be one.
        assert await asked(chat, chat_id="3", user_id="u3") == []
        await aged(chat)
        assert await asked(chat, chat_id="3", user_id="u3") == [f"turn:{turns[1]}"]


async def aged(chat: Chat) -> None:
    """All that was said counts as said long ago, before the ratings."""
    with closing(sqlite3.connect(chat.database)) as connection:
        connection.execute("UPDATE turns SET created_at = '2026-01-01 00:00:00.000000'")
        connection.commit()
    await chat.bot._learned.refresh()


async def test_caps_of_a_person_and_of_a_chat(tmp_path: Path) -> None:
    async with opened_chat(tmp_path, bot__learned="2") as chat:
        messages = ("茶凉了", "梨花落了", "墨干了")
        replies = ("再沏一盏来。", "随水去也罢。", "懒得磨它呢。")
        turns = [
            await correct(chat, reply, message)
            for message, reply in zip(messages, replies, strict=True)
        ]
        learned = [e.key for e in chat.service.exemplars.exchanges if e.key.startswith("turn:")]
        assert learned == [f"turn:{turn}" for turn in turns[:0:-1]]
        for turn, reply in zip(turns, replies, strict=True):
            await approve(chat, turn, reply)
        learned = [e.key for e in chat.service.exemplars.exchanges if e.key.startswith("turn:")]
        assert learned == [f"turn:{turn}" for turn in turns[:0:-1]]


async def test_of_discord_nothing_leaves_its_chat_without_permission(tmp_path: Path) -> None:
    for permission, served in (("", False), ("DSP-1", True)):
        var = tmp_path / (permission or "none")
        var.mkdir()
        async with opened_chat(var, store__discord_permission=f'"{permission}"') as chat:
            chat.screen.name = "discord"
            turn = await correct(chat)
            await approve(chat, turn)
            assert await asked(chat) == [f"turn:{turn}"]
            elsewhere = await asked(chat, chat_id="2", user_id="u2")
            assert (elsewhere == [f"turn:{turn}"]) is served


async def test_a_restarted_bot_has_what_was_learned(tmp_path: Path) -> None:
    async with opened_chat(tmp_path) as chat:
        turn = await correct(chat)
    async with opened_chat(tmp_path) as chat:
        await chat.bot._learned.refresh()
        assert await asked(chat) == [f"turn:{turn}"]


async def test_while_the_store_says_nothing_nothing_learned_is_shown(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await correct(chat)

    async def unavailable(**_: object) -> None:
        raise StoreUnavailable("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(chat.store.learning, "snapshot", unavailable)
        assert await chat.say("/privacy no") == say("zh", "refused")
        assert await asked(chat) == []
    await chat.say("/privacy yes")
    assert await asked(chat) == [f"turn:{turn}"]


async def test_what_a_reviewer_says_is_taken_over_while_the_bot_runs(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await correct(chat)
    monkeypatch.setattr(learned_module, "INTERVAL", 0.01)
    looking = asyncio.create_task(chat.bot._learned.run())
    try:
        person = (chat.screen.name, "u1")
        verdict = Verdict(turn, person, BETTER, "", "rejected", None, "owner", datetime.now(UTC))
        await chat.store.learning.judge(verdict)
        await eventually(lambda: len(chat.service.exemplars.exchanges) == 2)
    finally:
        looking.cancel()


async def test_a_chat_that_moved_keeps_what_it_taught_her(chat: Chat) -> None:
    turn = await correct(chat, chat_id="-1", is_group=True)
    await chat.bot.moved(chat.screen.name, "-1", "-100")
    assert await asked(chat, chat_id="-100", is_group=True) == [f"turn:{turn}"]


# What people are told of it.


async def test_list_tells_what_became_of_each(chat: Chat) -> None:
    assert await chat.say("/feedback list") == say("zh", "corrections_none")
    first = await correct(chat)
    await chat.say("灯要灭了")
    await chat.say("/feedback 打13812345678给我。")
    told = await chat.say("/feedback list")
    assert told.splitlines()[0] == say("zh", "corrections", count=2)
    held, screened = told.splitlines()[1:]
    assert say("zh", "reason_contact") in held
    assert BETTER in screened
    assert say("zh", "correction_screened") in screened
    await approve(chat, first)
    assert say("zh", "correction_approved") in await chat.say("/feedback list")
    await approve(chat, first, state="rejected")
    assert say("zh", "correction_rejected") in await chat.say("/feedback list")
    # It is no rating itself.
    assert len(rows(chat.database, "SELECT 1 FROM ratings")) == 2


async def test_list_in_a_group_tells_nothing_of_other_chats(chat: Chat) -> None:
    await correct(chat)
    told = await chat.say("/feedback list", chat_id="g", is_group=True)
    assert told == say("zh", "corrections_none")
    assert await chat.say("/feedback list", user_id="u2") == say("zh", "corrections_none")


async def test_list_alone_in_a_group_tells_of_all_chats(chat: Chat) -> None:
    await correct(chat)
    told = await chat.say("/feedback list", chat_id="g", is_group=True, alone=True)
    assert BETTER in told


async def test_list_goes_on_until_every_correction_was_told(chat: Chat) -> None:
    for number in range(12):
        await chat.say(f"第{number}句")
        await chat.say(f"/feedback 更好的第{number}句。")
    first = await chat.say("/feedback list")
    assert first.splitlines()[-1] == say("zh", "corrections_more", left=2, page=2)
    second = await chat.say("/feedback list 2")
    assert await chat.say("/feedback list 99") == second
    told = "\n".join([*first.splitlines()[1:-1], *second.splitlines()[1:]])
    assert [f"第{number}句" for number in range(12) if f"更好的第{number}句" not in told] == []
    assert await chat.say("/feedback list all") == first
    # Words that only begin like it are a better wording.
    await chat.say("/feedback list 里的花都谢了")
    assert "list 里的花" in (await chat.say("/feedback list")).splitlines()[1]


async def test_every_reason_has_its_words() -> None:
    for lang in ("zh", "en"):
        for reason in (*Reason, RECORD, "burst"):
            assert say(lang, f"reason_{reason}")


async def test_status_counts_the_uses_and_flags_what_pleases_nobody(chat: Chat) -> None:
    turn = await correct(chat)
    assert "参看" not in await chat.say("/status")
    for number in range(3):
        await chat.say(LIKE)
        await chat.say("/feedback bad" if number else "/feedback good")
    told = await chat.say("/status")
    assert say("zh", "status_corrections", times=3, good=1, bad=2) in told
    assert say("zh", "status_flagged", turns=str(turn)) not in told
    await chat.say(LIKE)
    await chat.say("/feedback bad")
    assert say("zh", "status_flagged", turns=str(turn)) in await chat.say("/status")


def put_version(var: Path, name: str, turns: list[int]) -> None:
    folder = var / "adapters" / name
    folder.mkdir(parents=True)
    lineage = {"base": {"name": "b", "sha256": "0"}, "dataset": {"turns": turns}}
    (folder / "lineage.json").write_text(json.dumps(lineage), "utf-8")


async def test_forgetting_names_what_learned_from_the_person(chat: Chat, tmp_path: Path) -> None:
    own = await correct(chat)
    await chat.say("灯要灭了", chat_id="g", user_id="u2", is_group=True)
    corrected = int(chat.last()["id"])
    await chat.say("/feedback 剪一剪灯芯便亮了。", chat_id="g", is_group=True)
    put_version(tmp_path, "20260101T000000Z-aaaaaaaa", [own])
    put_version(tmp_path, "20260102T000000Z-bbbbbbbb", [corrected])
    put_version(tmp_path, "20260103T000000Z-cccccccc", [999])
    assert "20260101T000000Z-aaaaaaaa" in await chat.say("/feedback list")
    told = await chat.say("/forget yes")
    versions = "20260101T000000Z-aaaaaaaa, 20260102T000000Z-bbbbbbbb"
    assert told == say("zh", "forgotten", turns=1) + say(
        "zh", "forgotten_learners", versions=versions
    )


async def test_versions_that_cannot_be_read_keep_nobody_from_being_forgotten(
    chat: Chat, tmp_path: Path
) -> None:
    await correct(chat)
    put_version(tmp_path, "20260101T000000Z-aaaaaaaa", [1])
    (tmp_path / "adapters" / "20260101T000000Z-aaaaaaaa" / "lineage.json").write_text("{")
    assert await chat.say("/forget yes") == say("zh", "forgotten", turns=1)
    assert chat.turns() == []
