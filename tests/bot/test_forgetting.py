"""Somebody is forgotten while something that they said still waits, or is being answered."""

from __future__ import annotations

from typing import Any

import pytest
from talking import Chat, eventually, rows

from bot.forgetting import Forgetting
from bot.platforms.base import Incoming
from bot.texts import say
from data.transactions import StoreUnavailable

LONG = "今儿园子里的海棠都开了。紫鹃折了两枝，插在瓶里。我瞧着倒比往年好些，只是风大。"
GROUP: dict[str, Any] = {"chat_id": "g", "is_group": True}


def spoken(chat: Chat) -> list[tuple[str, str]]:
    return [(turn["user_id"], turn["text"]) for turn in chat.turns()]


async def test_what_waits_behind_others_is_neither_answered_nor_kept(chat: Chat) -> None:
    chat.engine.replies.append(LONG)
    chat.engine.going.clear()
    first = chat.saying("一", user_id="u1", **GROUP)
    await chat.mid_reply()
    waits = chat.saying("二", user_id="u2", **GROUP)
    last = chat.saying("三", user_id="u3", **GROUP)
    await eventually(lambda: chat.service.stats().waiting == 2)
    assert await chat.say("/forget yes", user_id="u2") == say("zh", "forgotten", turns=0)
    chat.engine.going.set()
    assert [await task for task in (first, waits, last)] == [LONG, "", "三"]
    assert spoken(chat) == [("u1", "一"), ("u3", "三")]
    assert len(chat.engine.prompts) == 2


async def test_what_a_platform_still_holds_is_not_taken_up(chat: Chat) -> None:
    held = [chat.incoming(text) for text in ("一", "/feedback bad", "/privacy yes")]
    edited = chat.incoming("零", message_id="m0", edited=True)
    await chat.say("零点", message_id="m0")
    await chat.say("/forget yes")
    shown = len(chat.screen.seen)
    for incoming in (*held, edited):
        await chat.bot.handle(chat.screen, incoming)
    assert len(chat.screen.seen) == shown
    for table in ("turns", "ratings", "consents", "conversations"):
        assert rows(chat.database, f"SELECT * FROM {table}") == []


async def test_a_reply_that_nobody_has_seen_of_is_not_given(chat: Chat) -> None:
    chat.engine.replies.append(LONG)
    chat.engine.going.clear()
    saying = chat.saying("我叫阿宁", user_id="u2", **GROUP)
    await chat.mid_reply()
    await chat.say("/forget yes", user_id="u2")
    chat.engine.going.set()
    assert await saying == ""
    assert spoken(chat) == []
    assert (chat.engine.running, chat.engine.cancelled) == (0, 1)


async def test_a_reply_that_is_half_said_is_said_to_its_end_and_not_kept(chat: Chat) -> None:
    chat.engine.replies.append(LONG)
    chat.engine.delay = 0.02
    saying = chat.saying("我叫阿宁", user_id="u2", **GROUP)
    await eventually(lambda: chat.screen.seen)
    chat.engine.going.clear()
    await chat.say("/forget yes", user_id="u2")
    chat.engine.delay = 0
    chat.engine.going.set()
    assert await saying == LONG
    for table in ("turns", "messages"):
        assert rows(chat.database, f"SELECT * FROM {table}") == []
    assert await chat.say("后来人", user_id="u3", **GROUP) == "后来人"
    assert "海棠" not in chat.engine.prompts[-1]


async def test_what_is_said_afterwards_is_answered_and_kept(chat: Chat) -> None:
    await chat.say("一")
    await chat.say("/forget yes")
    assert await chat.say("二") == "二"
    assert spoken(chat) == [("u1", "二")]


async def test_an_erasure_that_fails_takes_nothing_along(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise StoreUnavailable("database is locked")

    held = chat.incoming("一")
    with monkeypatch.context() as patched:
        patched.setattr(chat.store.people, "erase", failing)
        assert await chat.say("/forget yes") == say("zh", "store_failed")
    await chat.bot.handle(chat.screen, held)
    assert spoken(chat) == [("u1", "一")]


@pytest.mark.parametrize("by", ["u2", "u3"])
async def test_nothing_comes_between_what_was_asked_and_what_is_written(
    chat: Chat, by: str
) -> None:
    """The database is busy: a message, or what another asks about one, waits to be written down,
    and the erasure behind it."""
    await chat.say("零", user_id="u1")
    await chat.say("一", user_id="u2", **GROUP)
    text = "二" if by == "u2" else "/retry"
    about = {} if by == "u2" else {"in_place": "button", "reply_to": chat.shown_id}
    async with chat.store._transactions.write():
        saying = chat.saying(text, user_id=by, **about, **GROUP)
        await eventually(lambda: chat.store._transactions._writing._waiters)
        forgetting = chat.saying("/forget yes", user_id="u2")
        await eventually(lambda: chat.bot._forgetting._under_way)
    assert await saying == ""
    assert await forgetting == say("zh", "forgotten", turns=1)
    assert spoken(chat) == [("u1", "零")]


def test_two_erasures_at_once_end_with_the_second() -> None:
    now = 1.0
    forgetting = Forgetting(lambda: now)
    said = [Incoming("screen", "1", "u1", "一", arrived=at) for at in (0.5, 1.5, 2.5)]

    def covered() -> list[bool]:
        return [forgetting.covers(incoming) for incoming in said]

    assert covered() == [False] * 3
    with forgetting.of("screen", "u1"):
        with forgetting.of("screen", "u1"):
            assert covered() == [True] * 3
        assert covered() == [True] * 3
        now = 2.0
    assert covered() == [True, True, False]
    assert not forgetting.covers(said[0], "u2")
