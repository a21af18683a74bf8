"""Delivery: when to edit and where to split, for any platform."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from bot.platforms.base import File, Incoming, Limits, Platform, Said, SendError, Unreachable

log = logging.getLogger(__name__)

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


async def deliver(
    platform: Platform,
    to: Incoming,
    texts: AsyncIterator[Said],
    sent: list[str] | None = None,
    link: Callable[[str], Awaitable[None]] | None = None,
) -> list[str]:
    """Shows a reply as it grows; the ids of the messages that hold it in the end.

    `texts` yields the whole text so far. The last text always arrives; where the platform cannot
    edit, it is all that is sent. `sent` are messages that already hold some of it, known at the
    latest when the first text comes; `link` is told of each further one at once.
    """
    limits = platform.limits(to)
    shown = _Shown(platform, to, limits, sent if sent is not None else [], link)
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
                await shown.grow(last)
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
        await shown.end(last)
    if last.file and not to.in_public:
        await shown.hand_over(last.file)
    return shown.ids


class _Shown:
    """The messages that hold a reply, and what each of them says."""

    def __init__(
        self,
        platform: Platform,
        to: Incoming,
        limits: Limits,
        ids: list[str],
        link: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        self.ids = ids
        self._platform = platform
        self._to = to
        self._limits = limits
        self._link = link
        self._said: dict[str, Said] = {}

    async def grow(self, said: Said) -> None:
        """Shows what there is so far, if it can be done at once."""
        # A message that stands already is edited all along: a draft beside it would say it twice.
        # Asked anew each time: a platform may find out that its server knows no drafts.
        if self._platform.limits(self._to).drafts and said.hers and not self.ids:
            for piece in self._pieces(said)[:1]:
                await self._platform.draft(self._to, replace(piece, growing=True))
            return
        for number, piece in enumerate(self._pieces(replace(said, choices=None))):
            await self._place(number, replace(piece, growing=True))

    async def end(self, said: Said) -> None:
        for number, piece in enumerate(self._pieces(said)):
            try:
                await self._place(number, piece)
            except Unreachable:
                raise
            except SendError:
                if number >= len(self.ids):
                    raise
                # What was shown cannot be changed any more: it may have been deleted.
                await self._send(number, piece)

    async def hand_over(self, file: File) -> None:
        try:
            await self._platform.hand_over(self._to, file)
        except Unreachable:
            raise
        except SendError as error:
            log.warning("%s could not be sent: %s", file.name, error)
            await self._platform.send(self._to, Said(file.instead, hers=False))

    def _pieces(self, said: Said) -> list[Said]:
        texts = split(said.text, self._limits.length, self._limits.measure)
        bare = replace(said, choices=None, beneath=None, file=None)
        pieces = [replace(bare, text=text) for text in texts]
        return [*pieces[:-1], *(replace(said, text=text, file=None) for text in texts[-1:])]

    async def _place(self, number: int, piece: Said) -> None:
        """Makes that message hold the piece: sends it where it is new, edits what differs."""
        if number >= len(self.ids):
            await self._send(number, piece)
            return
        stands = self._said.get(self.ids[number])
        if stands is None or replace(stands, growing=piece.growing) != piece:
            await self._platform.edit(self._to, self.ids[number], piece)
            self._said[self.ids[number]] = piece

    async def _send(self, number: int, piece: Said) -> None:
        message_id = await self._platform.send(self._to, piece)
        self.ids[number:] = [message_id, *self.ids[number + 1 :]]
        self._said[message_id] = piece
        if self._link:
            await self._link(message_id)


async def _keep_typing(platform: Platform, to: Incoming, limits: Limits) -> None:
    while limits.typing_interval is not None:
        await platform.typing(to)
        await asyncio.sleep(limits.typing_interval)
