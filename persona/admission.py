"""Admission: how many turns at once, and one at a time for each conversation."""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Busy(Exception):
    """The queue is full; nothing was begun."""

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(f"{waiting} turns are waiting, about {seconds:.0f} s")
        self.waiting = waiting
        self.seconds = seconds


class Late(Exception):
    """The turn did not end before its deadline."""


class Admission:
    """Lets `limit` turns in; each has `deadline` seconds, waiting included."""

    def __init__(self, limit: int, deadline: float) -> None:
        self.admitted = 0
        self._limit = limit
        self._deadline = deadline
        self._lines: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._seconds: deque[float] = deque(maxlen=100)

    def note(self, seconds: float) -> None:
        """Remembers what a turn took, for the estimate that a refusal carries."""
        self._seconds.append(seconds)

    @asynccontextmanager
    async def admit(
        self, conversation: Hashable, *, known: bool = False
    ) -> AsyncIterator[asyncio.Timeout]:
        """Waits until this conversation's earlier turns are over; the turn runs inside.

        Raises Busy at once when the queue is full, but not for a turn that is `known`: it waited
        already when the process before this one ended. Raises Late from whatever is awaited inside
        when the deadline passes. What it gives tells whether that is why the turn is being
        cancelled: then it is `expired()`.
        """
        if self.admitted >= self._limit and not known:
            raise Busy(self.admitted, statistics.median(self._seconds or [5.0]))
        self.admitted += 1
        try:
            async with asyncio.timeout(self._deadline) as limit:
                await self._wait_in_line(conversation)
                try:
                    yield limit
                finally:
                    self._leave_line(conversation)
        except TimeoutError as error:
            raise Late(f"the turn took over {self._deadline:.0f} s") from error
        finally:
            self.admitted -= 1

    async def _wait_in_line(self, conversation: Hashable) -> None:
        line = self._lines.setdefault(conversation, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        if line[0] is turn:
            return
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave_line(conversation)  # its turn had just come
            elif turn in line:
                line.remove(turn)
            raise

    def _leave_line(self, conversation: Hashable) -> None:
        line = self._lines[conversation]
        line.popleft()
        while line and line[0].cancelled():  # given up in this very moment
            line.popleft()
        if line:
            line[0].set_result(None)
        else:
            del self._lines[conversation]
