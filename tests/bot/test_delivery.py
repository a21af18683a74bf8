"""Delivery: splitting loses nothing, edits are paced, the last text always arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from talking import SECONDS, Screen, eventually

from bot.delivery import deliver, split
from bot.platforms.base import Incoming, Limits, Said, SendError

TO = Incoming("screen", "1", "u1", "你好", message_id="m1")


def utf16(text: str) -> int:
    """Length as Telegram counts it."""
    return len(text.encode("utf-16-le")) // 2


texts = st.text(st.sampled_from("雨花a. \n。！”🌧😀，\u3000\t"), max_size=120) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=120
)


@given(text=texts, limit=st.integers(2, 40), measure=st.sampled_from([len, utf16]))
@example(text="雨" * 50, limit=10, measure=len)
@example(text="🌧" * 20, limit=3, measure=utf16)
def test_split_fits_and_loses_only_white_space(
    text: str, limit: int, measure: Callable[[str], int]
) -> None:
    pieces = split(text, limit, measure)
    assert all(0 < measure(piece) <= limit for piece in pieces)
    place = 0
    for piece in pieces:
        found = text.index(piece, place)
        assert not text[place:found].strip()
        place = found + len(piece)
    assert not text[place:].strip()


@given(text=texts, limit=st.integers(2, 40))
def test_split_never_halves_a_surrogate_pair(text: str, limit: int) -> None:
    for piece in split(text, limit, utf16):
        assert piece.encode("utf-16-le").decode("utf-16-le") == piece


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("第一段。再说。\n\n第二段", ["第一段。再说。", "第二段"]),
        ("第一行来了，\n第二行。很", ["第一行来了，", "第二行。很"]),
        ("她说：“罢了。”我不再问了", ["她说：“罢了。”", "我不再问了"]),
        ("one two three four", ["one two", "three four"]),
        ("甲乙丙丁戊己庚辛壬癸甲乙", ["甲乙丙丁戊己庚辛壬癸", "甲乙"]),
    ],
)
def test_split_prefers_the_best_stop(text: str, pieces: list[str]) -> None:
    assert split(text, 10) == pieces


def test_short_and_empty_texts_are_left_alone() -> None:
    assert split(" 你好 ", 10) == ["你好"]
    assert split(" \n ", 10) == []


async def grow(*texts: str, pause: float = 0.0) -> AsyncGenerator[Said]:
    for text in texts:
        yield Said(text)
        await asyncio.sleep(pause)


async def test_reply_grows_in_one_message() -> None:
    screen = Screen()
    assert await deliver(screen, TO, grow("花", "花开", "花开了。", pause=0.005)) == ["b1"]
    assert screen.seen == ["花", "花开", "花开了。"]
    assert screen.messages == {"b1": "花开了。"}


async def test_edits_are_paced_and_the_last_text_arrives() -> None:
    screen = Screen(Limits(length=2000, edit_interval=60))
    async with asyncio.timeout(SECONDS):
        await deliver(screen, TO, grow("甲", "甲乙", "甲乙丙", "甲乙丙丁", pause=0.005))
    assert screen.seen == ["甲", "甲乙丙丁"]


async def test_platform_without_edits_sends_once() -> None:
    screen = Screen(Limits(length=2000, edit_interval=None))
    await deliver(screen, TO, grow("甲", "甲乙", "甲乙丙"))
    assert screen.seen == ["甲乙丙"]


async def test_replaced_text_is_edited_away() -> None:
    screen = Screen()
    await deliver(screen, TO, grow("她要说错", "方才走了神。", pause=0.005))
    assert list(screen.messages.values()) == ["方才走了神。"]


async def test_long_reply_goes_on_in_further_messages() -> None:
    screen = Screen(Limits(length=6, edit_interval=0.0))
    reply = grow("一二三。", "一二三。四五六。", "一二三。四五六。七八九。", pause=0.005)
    ids = await deliver(screen, TO, reply)
    assert ids == ["b1", "b2", "b3"]
    assert list(screen.messages.values()) == ["一二三。", "四五六。", "七八九。"]


async def test_nothing_said_sends_nothing() -> None:
    screen = Screen()
    assert await deliver(screen, TO, grow()) == []
    assert screen.seen == []


async def test_typing_is_shown_until_the_reply_ends() -> None:
    screen = Screen(Limits(length=2000, edit_interval=None, typing_interval=0.005))
    await deliver(screen, TO, grow("甲", pause=0.05))
    typed = screen.typed
    assert typed >= 2
    await asyncio.sleep(0.02)
    assert screen.typed == typed


class Failing(Screen):
    """Fails at what it is told to, `times` times."""

    def __init__(self, what: str, times: int) -> None:
        super().__init__(Limits(length=2000, edit_interval=0.0, typing_interval=0.001))
        self._what, self._times = what, times

    def _fail(self, what: str) -> None:
        if what == self._what and self._times > 0:
            self._times -= 1
            raise SendError("429")

    async def send(self, to: Incoming, said: Said) -> str:
        self._fail("send")
        return await super().send(to, said)

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None:
        self._fail("edit")
        await super().edit(to, message_id, said)

    async def typing(self, to: Incoming) -> None:
        self._fail("typing")


@pytest.mark.parametrize("what", ["send", "edit", "typing"])
async def test_failed_call_on_the_way_loses_nothing(what: str) -> None:
    screen = Failing(what, 1)
    await deliver(screen, TO, grow("甲", "甲乙", "甲乙丙。", pause=0.005))
    assert list(screen.messages.values()) == ["甲乙丙。"]


async def test_failure_at_the_end_is_raised() -> None:
    with pytest.raises(SendError):
        await deliver(Failing("send", 99), TO, grow("甲"))


async def test_slow_platform_does_not_hold_the_reply_back() -> None:
    ended = asyncio.Event()

    async def reply() -> AsyncGenerator[Said]:
        for text in ("甲", "甲乙", "甲乙丙"):
            yield Said(text)
            await asyncio.sleep(0)
        ended.set()

    class Slow(Screen):
        async def send(self, to: Incoming, said: Said) -> str:
            await ended.wait()
            return await super().send(to, said)

    screen = Slow()
    async with asyncio.timeout(SECONDS):
        await deliver(screen, TO, reply())
    assert list(screen.messages.values()) == ["甲乙丙"]


async def test_platform_learns_who_speaks() -> None:
    screen = Screen(Limits(length=4, edit_interval=0.0))

    async def reply() -> AsyncGenerator[Said]:
        yield Said("她说一句")
        await asyncio.sleep(0.005)
        yield Said("程序说了两句话。", hers=False)

    await deliver(screen, TO, reply())
    assert screen.seen == ["她说一句", "程序说了", "两句话。"]
    assert screen.hers == set()


@pytest.mark.parametrize("where", ["reply", "send"])
async def test_cancelling_closes_the_reply_before_it_returns_and_says_why(where: str) -> None:
    stuck, closed = asyncio.Event(), list[str]()

    async def reply() -> AsyncGenerator[Said]:
        try:
            yield Said("甲")
            await asyncio.Event().wait()
        except asyncio.CancelledError as why:
            await asyncio.sleep(0)
            closed.append(str(why))

    class Stuck(Screen):
        async def send(self, to: Incoming, said: Said) -> str:
            sent = await super().send(to, said)
            stuck.set()
            if where == "send":
                await asyncio.Event().wait()
            return sent

    task = asyncio.create_task(deliver(Stuck(), TO, reply()))
    async with asyncio.timeout(SECONDS):
        await stuck.wait()
    task.cancel("enough")
    await asyncio.wait([task], timeout=SECONDS)
    assert task.cancelled()
    assert closed == ["enough"]


async def test_error_in_the_reply_reaches_the_caller() -> None:
    async def reply() -> AsyncGenerator[Said]:
        yield Said("甲")
        raise ValueError("oh")

    before = len(asyncio.all_tasks())
    with pytest.raises(ValueError, match="oh"):
        await deliver(Screen(), TO, reply())
    await eventually(lambda: len(asyncio.all_tasks()) == before)
