"""People who are being forgotten: what they had said until then is not taken up any more.

What is stored the database erases. What still waits for its turn, or is about to be written down,
would be stored after that; here is known that it is gone too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bot.platforms.base import Incoming

_Person = tuple[str, str]
_REMEMBERED = 10_000
"""People; what the first of so many had said has long been dealt with."""


class Forgetting:
    """Who was forgotten by this process, and when. A person is a platform and their id there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way: Counter[_Person] = Counter()
        self._done: dict[_Person, float] = {}

    @contextmanager
    def of(self, platform: str, user_id: str) -> Iterator[None]:
        """Around the erasure: what arrives before its end goes with it, unless it fails."""
        person = (platform, user_id)
        self._under_way[person] += 1
        try:
            yield
            self._done.pop(person, None)  # to its new place, as the newest
            self._done[person] = self._clock()
            while len(self._done) > _REMEMBERED:
                del self._done[next(iter(self._done))]
        finally:
            self._under_way[person] -= 1
            if not self._under_way[person]:
                del self._under_way[person]

    def covers(self, incoming: Incoming, user_id: str | None = None) -> bool:
        """Whether its person was forgotten since it arrived; `user_id` is whose words it is about,
        where they are another's."""
        person = (incoming.platform, incoming.user_id if user_id is None else user_id)
        return person in self._under_way or incoming.arrived <= self._done.get(person, -1.0)
