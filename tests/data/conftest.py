"""A store on an SQLite file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from data.store import Conversation, Store


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "daiyu.db"


@pytest.fixture
def url(database: Path) -> str:
    return f"sqlite+aiosqlite:///{database}"


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await Store.open(url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def conversation(store: Store) -> Conversation:
    return await store.conversation("screen", "1")
