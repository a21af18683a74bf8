"""Delivery: when to edit and where to split, for any platform."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from bot.platforms.base import Incoming, Limits, Platform, Said, SendError

# Where a long text is cut, the best place first.
_CUTS = (re.compile(r"\n\n+"), re.compile(r"\n"), re.compile(r"[。！？!?…]+[”』」）)]*|\.\s"),
         re.compile(r"\s"))  # fmt: skip


def split(text: str, limit: int, measure: Callable[[str], int] = len) -> list[str]:
    """Cuts a text into pieces that a platform takes, at paragraphs, lines, sentences or spaces.

    `measure` gives a text's length in the platform's units. Nothing but white space at the cuts
    is lost, and no character is halved.
    """
    pieces = []
    text = text.strip()
    while measure(text) > limit:
        room = _fitting(text, limit, measure)
        cut = _cut(text[:room])
        piece = text[:cut].rstrip()
        if piece:
            pieces.append(piece)
        text = text[cut:].lstrip()
    return [*pieces, text] if text else pieces


def _fitting(text: str, limit: int, measure: Callable[[str], int]) -> int:
    """How many characters of the text fit, at least one."""
    low, high = 1, min(len(text), limit)
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(text: str) -> int:
    """The end of the last good stop in the text's second half, else its end."""
    for pattern in _CUTS:
        ends = [m.end() for m in pattern.finditer(text) if m.end() > len(text) // 2]
        if ends:
            return ends[-1]
    return len(text)


async def deliver(platform: Platform, to: Incoming, texts: AsyncIterator[Said]) -> list[str]:
    """Shows a reply as it grows; the ids of the messages that hold it in the end.

    `texts` yields the whole text so far. The last text always arrives; where the platform cannot
    edit, it is all that is sent.
    """
    limits = platform.limits
    shown: list[tuple[str, Said]] = []
    last = Said("")
    why: tuple[Any, ...] = ()
    grown = asyncio.Event()

    async def read() -> None:
        nonlocal last
        async for newest in texts:
            last = newest
            grown.set()

    # The reply goes on in a task of its own: a slow or failing platform neither holds it back nor
    # leaves it half open, and its deadline ends it and not what is being sent.
    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: grown.set())
    typing = asyncio.create_task(_keep_typing(platform, to, limits))
    try:
        while limits.edit_interval is not None and not reading.done():
            await grown.wait()
            grown.clear()
            if reading.done():
                break
            with contextlib.suppress(SendError):  # the last text is what counts
                await _show(platform, to, last, shown)
            await asyncio.wait([reading], timeout=limits.edit_interval)
        await reading
    except asyncio.CancelledError as cancelled:
        why = cancelled.args
        raise
    finally:
        typing.cancel()
        reading.cancel(*why)
        await asyncio.gather(typing, reading, return_exceptions=True)
    if last.text:
        await _show(platform, to, last, shown)
    return [message_id for message_id, _ in shown]


async def _show(
    platform: Platform, to: Incoming, said: Said, shown: list[tuple[str, Said]]
) -> None:
    """Makes the sent messages hold the text: edits what differs, sends what is new."""
    texts = split(said.text, platform.limits.length, platform.limits.measure)
    for number, piece in enumerate(replace(said, text=text) for text in texts):
        if number == len(shown):
            shown.append((await platform.send(to, piece), piece))
        elif shown[number][1] != piece:
            await platform.edit(to, shown[number][0], piece)
            shown[number] = (shown[number][0], piece)


async def _keep_typing(platform: Platform, to: Incoming, limits: Limits) -> None:
    while limits.typing_interval is not None:
        await platform.typing(to)
        await asyncio.sleep(limits.typing_interval)
