"""How often Telegram may be called: per chat, per group and in all, and what to do at a 429."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from telegram.error import RetryAfter, TelegramError
from telegram.ext import BaseRateLimiter

OPTIONAL = "optional"
"""As `rate_limit_args`: a call that is left out, with NotNow, where it would have to wait."""

_UNCOUNTED = frozenset(("sendChatAction", "sendMessageDraft"))
_GROUP_WINDOW = 61.0
"""A minute, and a little for the way to the server."""
_GROUP_CALLS, _GROUP_SPARE = 20, 6
"""Sends and edits in a group in that time; the last ones are kept for what must arrive."""
_CALLS, _SPARE = 30, 10
"""Calls in all in a second, and those of them that are kept in the same way."""
_IDLE = 600.0


class NotNow(TelegramError):
    """A call that nobody needs was left out, since it would have had to wait."""


@dataclass(slots=True)
class _Chat:
    """When a chat was written to, and until when Telegram wants silence there."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: deque[float] = field(default_factory=lambda: deque(maxlen=_GROUP_CALLS))
    silent_until: float = 0.0


class RateLimiter(BaseRateLimiter[str]):
    """Holds calls back, each chat for itself: what one has to wait for halts no other.

    `scale` makes every second shorter, for tests.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._chats: dict[str, _Chat] = {}
        self._calls: deque[float] = deque(maxlen=_CALLS)

    async def initialize(self) -> None:
        return None

    async def shutdown(self) -> None:
        return None

    async def process_request(
        self,
        callback: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,
        kwargs: dict[str, Any],
        endpoint: str,
        data: dict[str, Any],
        rate_limit_args: str | None,
    ) -> Any:
        chat_id = str(data.get("chat_id") or "")
        chat = self._chat(chat_id)
        group = chat_id.startswith("-")
        counted = endpoint.startswith(("send", "edit")) and endpoint not in _UNCOUNTED

        async def call() -> Any:
            self._note(chat if counted else None)
            try:
                return await callback(*args, **kwargs)
            except RetryAfter as refused:
                chat.silent_until = self._now() + _seconds(refused) * self._scale
                raise

        if rate_limit_args == OPTIONAL:
            # What waits already goes first.
            if chat.turn.locked() or self._wait(chat, counted, group, spare=True) > 0:
                raise NotNow("it would have to wait")
            return await call()
        if not counted:
            return await self._insist(call, chat, counted, group)
        async with chat.turn:
            return await self._insist(call, chat, counted, group)

    async def _insist(
        self, call: Callable[[], Coroutine[Any, Any, Any]], chat: _Chat, counted: bool, group: bool
    ) -> Any:
        while True:
            wait = self._wait(chat, counted, group)
            if wait > 0:
                await asyncio.sleep(wait / self._scale)
                continue  # others may have called meanwhile
            try:
                return await call()
            except RetryAfter:
                continue

    def _wait(self, chat: _Chat, counted: bool, group: bool, *, spare: bool = False) -> float:
        """Seconds, as Telegram counts them, until a call may be made."""
        now = self._now()
        free = [chat.silent_until]
        calls = _CALLS - (_SPARE if spare else 0)
        if len(self._calls) >= calls:
            free.append(self._calls[-calls] + 1.0)
        if counted and chat.calls:
            free.append(chat.calls[-1] + 1.0)
        limit = _GROUP_CALLS - (_GROUP_SPARE if spare else 0)
        if counted and group and len(chat.calls) >= limit:
            free.append(chat.calls[-limit] + _GROUP_WINDOW)
        return max(free) - now

    def _note(self, chat: _Chat | None) -> None:
        now = self._now()
        self._calls.append(now)
        if chat is not None:
            chat.calls.append(now)

    def _chat(self, chat_id: str) -> _Chat:
        if chat_id not in self._chats and len(self._chats) >= 1000:
            self._forget_idle()
        return self._chats.setdefault(chat_id, _Chat())

    def _forget_idle(self) -> None:
        before = self._now() - _IDLE
        self._chats = {
            chat_id: chat
            for chat_id, chat in self._chats.items()
            if chat.turn.locked()
            or chat.silent_until > before
            or (chat.calls and chat.calls[-1] > before)
        }

    def _now(self) -> float:
        return time.monotonic() * self._scale


def _seconds(refused: RetryAfter) -> float:
    # Its public attribute is an int today and a timedelta tomorrow, and warns of that.
    return refused._retry_after.total_seconds()
