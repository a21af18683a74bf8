"""People who talk, rate and agree on a real store, at times of the test's choosing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from data import store as store_module
from data.config import StoreSettings
from data.messages import Turn
from data.screen import Screen
from data.store import Store
from persona import guard
from trainer.collect import Harvest, harvest
from trainer.config import TrainingSettings
from trainer.preprocess import Row

START = datetime(2026, 3, 1, tzinfo=UTC)
SCREEN = Screen(guard)


@dataclass
class Village:
    """`now` is what the store takes for the time; it moves only where a test moves it."""

    store: Store
    now: datetime = START

    def pass_time(self, **span: float) -> None:
        self.now += timedelta(**span)

    async def say(
        self,
        who: str,
        text: str,
        reply: str,
        *,
        chat: str = "",
        platform: str = "telegram",
        guarded: str | None = None,
        retry_of: Turn | None = None,
    ) -> int:
        """A turn of somebody, in a chat of their own or in the group that is named."""
        place = await self.store.conversation(
            platform, chat or f"chat of {who}", is_group=bool(chat)
        )
        turn = await self.store.begin_turn(place.id, who, f"name of {who}", text, None, retry_of)
        facts = {"adapter": "v1", "guarded": guarded}
        await self.store.close_turn(turn, "done", reply, facts=facts)
        return turn

    async def rate(
        self, who: str, turn: int, vote: int = 1, better: str | None = None,
        platform: str = "telegram",
    ) -> None:  # fmt: skip
        vote = vote if better is None else -1
        await self.store.rate(turn, platform, who, vote, better)

    async def agree(self, *people: str, platform: str = "telegram", agreed: bool = True) -> None:
        for who in people:
            await self.store.people.agree(platform, who, agreed)

    async def settle(self, *people: str, chat: str = "square") -> None:
        """Has them known for days before anything else happens."""
        for who in people:
            await self.say(who, f"我是{who}", f"{who}来了。", chat=chat)
        await self.agree(*people)
        self.pass_time(days=3)

    async def harvest(
        self, authored: list[Row] | None = None, frozen: list[Row] | None = None,
        only: list[int] | None = None, permission: str = "", agreement: int = 0, **training: Any,
    ) -> Harvest:  # fmt: skip
        return await harvest(
            self.store.learning,
            SCREEN,
            TrainingSettings(**training),
            StoreSettings(discord_permission=permission, agreement=agreement),
            authored or [],
            frozen or [],
            only,
        )

    async def learned(self, **settings: Any) -> list[int]:
        """The turns that may be learned."""
        return sorted((await self.harvest(**settings)).turns)

    async def held(self, **settings: Any) -> list[tuple[int, str]]:
        return sorted((h.turn_id, h.reason) for h in (await self.harvest(**settings)).held)


@asynccontextmanager
async def founded(database: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Village]:
    """A village with nobody in it yet."""
    store = await Store.open(f"sqlite+aiosqlite:///{database}")
    village = Village(store)
    monkeypatch.setattr(store_module, "_now", lambda: village.now)
    try:
        yield village
    finally:
        await store.close()
