"""A chat with the real bot on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from talking import Chat, opened_chat


@pytest_asyncio.fixture
async def chat(tmp_path: Path) -> AsyncIterator[Chat]:
    async with opened_chat(tmp_path) as opened:
        yield opened
