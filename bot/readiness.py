"""Whether people are answered just now: what /readyz tells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from bot.platforms.base import Platform
from data.transactions import StoreUnavailable

_STORE_SECONDS = 2.0
"""The longest that the store may take to count as answering."""


class Readiness:
    """Whether people are answered: an engine is loaded, the store answers, each platform hears."""

    def __init__(self) -> None:
        self._store: Callable[[], Awaitable[None]] | None = None
        self._platforms: Sequence[Platform] = ()

    @contextmanager
    def serving(
        self, store: Callable[[], Awaitable[None]], platforms: Sequence[Platform]
    ) -> Iterator[None]:
        """All is built, and at work meanwhile; `store` raises StoreUnavailable where it is that."""
        self._store, self._platforms = store, platforms
        try:
            yield
        finally:
            self._store, self._platforms = None, ()

    async def parts(self) -> dict[str, str]:
        """The state of each part: `ok`, or why it is not."""
        if self._store is None:
            return {"engine": "is not loaded yet, or is closed"}
        parts = {"engine": "ok", "store": "ok"}
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await self._store()
        except (StoreUnavailable, TimeoutError):  # the log says more, and this port is no place
            parts["store"] = "does not answer"
        for platform in self._platforms:
            parts[platform.name] = "ok" if platform.online else "is not connected"
        return parts
