"""What a platform handed over: dealt with in its order, and then noted as done."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from functools import partial

from bot.platforms.base import Inbox

log = logging.getLogger(__name__)


async def note_done(inbox: Inbox, platform: str, bot_id: str, update_id: int) -> None:
    """Notes that an update was dealt with; where that cannot be kept, it may be once more."""
    for pause in (0.2, 1.0, None):
        try:
            await inbox.done(platform, bot_id, update_id)
            return
        except Exception as error:
            log.error("that update %d was dealt with could not be kept: %s", update_id, error)
            if pause is not None:
                await asyncio.sleep(pause)


class Lanes:
    """Things to do: those of one key in their order, those of different keys side by side."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[Callable[[], Awaitable[None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def add(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        if key in self._lanes:
            self._lanes[key].append(work)
            return
        self._lanes[key] = deque([work])
        task = asyncio.create_task(self._run(key))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, key))

    async def _run(self, key: Hashable) -> None:
        lane = self._lanes[key]
        while lane and not self._closing:
            await lane.popleft()()

    def _ended(self, key: Hashable, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        left = self._lanes.pop(key)
        if not task.cancelled() and (error := task.exception()):
            log.error("a message could not be dealt with", exc_info=error)
        if left and not self._closing:  # one that broke must not take the rest with it
            for work in left:
                self.add(key, work)

    async def drain(self, seconds: float) -> None:
        """Lets what is being done come to its end, and leaves the rest; what is late is stopped."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
