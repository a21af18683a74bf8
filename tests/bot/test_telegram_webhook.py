"""The webhook, behind a reverse proxy: with its secret, and losing nothing."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from on_telegram import on_telegram
from talking import eventually

from bot.platforms.base import PlatformError
from data.transactions import StoreUnavailable
from tests.fakes.bot_api import BotAPI

PUBLIC = "https://garden.example/hook"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[BotAPI]:
    async with BotAPI() as opened:
        yield opened


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def webhook(server: BotAPI, port: int) -> dict[str, str]:
    server.updates.proxy[PUBLIC] = f"http://127.0.0.1:{port}/telegram"
    return {"telegram__webhook_url": PUBLIC, "telegram__webhook_port": str(port)}


async def test_messages_come_by_the_webhook(tmp_path: Path, server: BotAPI, port: int) -> None:
    async with on_telegram(tmp_path, server, **webhook(server, port)) as on:
        room = server.private(server.user("宝玉"))
        assert await on.say(room, room.user, "你好") == "你好"
        assert server.updates.webhook
        assert server.updates.webhook.secret
        async with aiohttp.ClientSession() as client:
            for secret in ({}, {"X-Telegram-Bot-Api-Secret-Token": "guess"}):
                forged = await client.post(
                    f"http://127.0.0.1:{port}/telegram", json={"update_id": 1}, headers=secret
                )
                assert forged.status == 403


async def test_what_could_not_be_kept_is_brought_again(
    tmp_path: Path, server: BotAPI, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_telegram(tmp_path, server, **webhook(server, port)) as on:
        room = server.private(server.user("宝玉"))
        refused = 0

        async def full(*_: object) -> bool:
            nonlocal refused
            refused += 1
            raise StoreUnavailable("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(on.chat.store.inbox, "put", full)
            await room.say(room.user, "你好")
            await eventually(lambda: refused >= 2)
        await on.settled()
        assert [message.text for message in room.from_bot] == ["你好"]


# Tornado leaves the socket that it could not bind to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_port_that_is_taken_is_one_line(tmp_path: Path, server: BotAPI, port: int) -> None:
    async def started_beside() -> str:
        async with on_telegram(tmp_path, server, **webhook(server, port)) as on:
            await eventually(on.running.done)
            error = on.running.exception()
            assert isinstance(error, PlatformError)
            return str(error)

    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert str(port) in await started_beside()
    gc.collect()
