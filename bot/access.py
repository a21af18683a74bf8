"""Access: who may talk to her, and how much; once for all platforms."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from bot.platforms.base import Incoming
from bot.platforms.settings import AccessSettings
from data.store import Store

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_REMEMBERED = 10_000
"""People and chats whose times are kept in memory; the database knows the rest."""

_Key = TypeVar("_Key")


class Access:
    """Decides on each message by the settings of its platform; one without any lets all in."""

    def __init__(
        self,
        store: Store,
        platforms: Mapping[str, AccessSettings],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._platforms = platforms
        self._clock = clock
        self._said: dict[tuple[str, str], deque[float]] = {}
        self._answered: dict[tuple[str, str, str], deque[float]] = {}

    def is_owner(self, incoming: Incoming) -> bool:
        """Whether somebody runs the bot; whoever sits at a platform without settings does."""
        settings = self._platforms.get(incoming.platform)
        return settings is None or _among(settings.owners, incoming.user_id)

    async def refusal(self, incoming: Incoming) -> str | None:
        """None where a message is to be answered; else the key of what to say, "" for nothing.

        Raises StoreUnavailable.
        """
        settings = self._platforms.get(incoming.platform)
        if settings is None:
            return None
        ids = (incoming.user_id, incoming.chat_id, incoming.server_id)
        if _among(settings.block, *ids):
            return ""
        if self.is_owner(incoming):
            return None
        if settings.allow and not _among(settings.allow, *ids):
            return "" if incoming.in_public or incoming.in_place else "not_allowed"
        if incoming.again:  # it was let in before
            return None
        flood = self._flood(settings, incoming)
        if flood is not None:
            return flood
        return await self._quota(settings, incoming) if _asks_her(incoming) else None

    def give_back(self, incoming: Incoming) -> None:
        """What was let in was not answered, through no fault of anybody's: it counts for nobody."""
        if incoming.again or self.is_owner(incoming) or not _asks_her(incoming):
            return
        for kind, name in _whose(incoming):
            if times := self._answered.get((incoming.platform, kind, name)):
                times.pop()

    def _flood(self, settings: AccessSettings, incoming: Incoming) -> str | None:
        """By when a message was said: those that come at once after a pause are no flood."""
        if not settings.flood:
            return None
        said = self._said.setdefault((incoming.platform, incoming.user_id), deque())
        now = incoming.sent_at or self._clock()
        while said and said[0] <= now - _MINUTE:
            said.popleft()
        said.append(now)
        _prune(self._said, now)
        if len(said) <= settings.flood:
            return None
        return "flood" if len(said) == settings.flood + 1 else ""

    async def _quota(self, settings: AccessSettings, incoming: Incoming) -> str | None:
        quotas = {
            "user": (settings.user_hour, settings.user_day, "quota_user"),
            "chat": (settings.group_hour, settings.group_day, "quota_group"),
        }
        now = self._clock()
        counted = []
        for kind, name in _whose(incoming):
            hour, day, key = quotas[kind]
            times = await self._times(incoming.platform, kind, name, now)
            if (day and len(times) >= day) or (
                hour and sum(at > now - _HOUR for at in times) >= hour
            ):
                return key
            counted.append(times)
        for times in counted:
            times.append(now)
        return None

    async def _times(self, platform: str, kind: str, name: str, now: float) -> deque[float]:
        """When replies were asked for in the last day, before the start of the bot too."""
        key = (platform, kind, name)
        if key not in self._answered:
            since = datetime.fromtimestamp(now - _DAY, UTC)
            of = {"user_id": name} if kind == "user" else {"chat_id": name}
            begun = await self._store.begun_since(platform, since, **of)
            self._answered.setdefault(key, deque(at.timestamp() for at in begun))
            _prune(self._answered, now)
        times = self._answered[key]
        while times and times[0] <= now - _DAY:
            times.popleft()
        return times


def _whose(incoming: Incoming) -> list[tuple[str, str]]:
    """Whose quotas an answer counts against; nobody's who is hidden."""
    whose = [("user", incoming.user_id)] if incoming.user_id else []
    return [*whose, ("chat", incoming.chat_id)] if incoming.is_group else whose


def _asks_her(incoming: Incoming) -> bool:
    """Whether the answer costs a reply of the model."""
    if incoming.edited:
        return False
    text = incoming.text.strip()
    return bool(text) and (not text.startswith("/") or text.startswith(("/retry", "//")))


def _among(ids: list[int | str], *asked: str) -> bool:
    return any(str(one) in asked for one in ids if str(one))


def _prune(times: dict[_Key, deque[float]], now: float) -> None:
    if len(times) > _REMEMBERED:
        for key in [key for key, at in times.items() if not at or at[-1] <= now - _HOUR]:
            del times[key]
