"""A fake server, and the real python-telegram-bot as its client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from telegram import Bot
from telegram.request import HTTPXRequest

from tests.fakes.bot_api import BotAPI

QUICK = {"verify": False, "trust_env": False}
"""For httpx: certificates, which plain HTTP does not need, take longer to load than a test."""


def client(server: BotAPI) -> Bot:
    return Bot(
        server.token,
        base_url=server.base_url,
        base_file_url=server.base_file_url,
        request=HTTPXRequest(connection_pool_size=8, httpx_kwargs=QUICK),
        get_updates_request=HTTPXRequest(httpx_kwargs=QUICK),
    )


@pytest_asyncio.fixture
async def server() -> AsyncIterator[BotAPI]:
    async with BotAPI() as opened:
        yield opened


@pytest_asyncio.fixture
async def bot(server: BotAPI) -> AsyncIterator[Bot]:
    async with client(server) as opened:
        yield opened
