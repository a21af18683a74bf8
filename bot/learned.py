"""What was learned from people: corrections that serve as exemplars, from the moment they pass.

In its own chat a correction serves once it passed the screen; everywhere once it was approved. It
leaves as soon as the row or a consent does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Hashable
from datetime import datetime
from functools import lru_cache

from data.corrections import Correction, standing
from data.learning import Snapshot
from data.screen import Reason, Screen
from data.store import Store
from data.transactions import StoreUnavailable
from persona.exemplars import trigrams
from persona.prompt import Exchange
from persona.reply import TAUGHT
from persona.service import InferenceService

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two looks at what a reviewer, in another process, said meanwhile."""
_REMEMBERED = 10_000


class Learned:
    """Keeps a service's exemplars as the store's corrections are.

    `limit` is how many of one person serve everyone, and of one chat the chat. `agreement` people
    approve by writing alike. `discord` is whether there is a permission for what was said there.
    """

    def __init__(
        self,
        store: Store,
        service: InferenceService,
        screen: Screen,
        *,
        limit: int,
        agreement: int,
        discord: bool,
    ) -> None:
        self._store = store
        self._service = service
        self._limit = limit
        self._agreement = agreement
        self._discord = discord
        self._reason = lru_cache(_REMEMBERED)(screen.reason)
        self._shown: tuple[list[Exchange], dict[str, Hashable]] = ([], {})
        self._refreshing = asyncio.Lock()
        self._stale = True

    def reason(self, message: str, wording: str) -> Reason | None:
        """Why a correction is not used before somebody has read it."""
        return self._reason(message, wording)

    async def refresh(self) -> None:
        """Brings the exemplars to what the store says now.

        Where it says nothing, nothing learned is shown until it does: somebody may have withdrawn.
        """
        async with self._refreshing:
            chosen: tuple[list[Exchange], dict[str, Hashable]] = ([], {})
            try:
                chosen = self._chosen(await self._store.learning.snapshot(corrected=True))
                self._stale = False
            except StoreUnavailable as error:
                self._stale = True
                log.error("what was learned could not be read: %s", error)
            if chosen != self._shown:
                self._shown = chosen
                self._service.exemplars = self._service.exemplars.with_learned(*chosen)

    async def corrections(
        self, platform: str, user_id: str, chat_id: str | None
    ) -> list[Correction]:
        """A person's corrections, newest first; those of one chat only, if it is named."""
        snapshot = await self._store.learning.snapshot(corrected=True)
        found = [
            one
            for one in self._standing(snapshot)
            if one.person == (platform, user_id) and chat_id in (None, one.rated.chat_id)
        ]
        return sorted(found, key=lambda one: one.at, reverse=True)

    def serves_everyone(self, snapshot: Snapshot, one: Correction) -> bool:
        """Whether other chats may be shown it."""
        platform, _ = one.person
        agreed = {one.person, one.rated.spoken.person} <= snapshot.agreed
        return one.state == "approved" and agreed and (platform != "discord" or self._discord)

    async def run(self) -> None:
        """Looks again and again for what a reviewer judged, until cancelled."""
        seen: tuple[int, datetime | None] | None = None
        while True:
            try:
                judged = await self._store.learning.judged()
            except StoreUnavailable as error:
                log.warning("what was judged could not be read: %s", error)
            else:
                if judged != seen or self._stale:
                    await self.refresh()
                    seen = judged
            await asyncio.sleep(INTERVAL)

    def _standing(self, snapshot: Snapshot) -> list[Correction]:
        return standing(snapshot, self._reason, trigrams, self._agreement)

    def _chosen(self, snapshot: Snapshot) -> tuple[list[Exchange], dict[str, Hashable]]:
        """The exchanges to show, and where alone those are shown that are not for everyone."""
        counts: Counter[Hashable] = Counter()
        exchanges: dict[str, Exchange] = {}
        places: dict[str, Hashable] = {}
        usable = [one for one in self._standing(snapshot) if _may_serve(snapshot, one)]
        usable.sort(key=lambda one: (one.state == "approved", one.at), reverse=True)
        for one in usable:
            key = f"{TAUGHT}{one.turn_id}"
            everyone = self.serves_everyone(snapshot, one)
            whose: Hashable = one.person if everyone else ("chat", *one.rated.chat)
            if key in exchanges or counts[whose] >= self._limit:
                continue
            counts[whose] += 1
            exchanges[key] = Exchange(one.rated.spoken.text, one.wording, key)
            if not everyone:
                places[key] = one.rated.chat
        return list(exchanges.values()), places


def _may_serve(snapshot: Snapshot, one: Correction) -> bool:
    """Whether it may be shown at all: not against the word of those whose words it holds."""
    people = {one.person, one.rated.spoken.person}
    return (
        one.usable
        and not one.rated.undone
        and not one.rated.spoken.guarded
        and not people & snapshot.refused
    )
