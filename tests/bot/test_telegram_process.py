"""`python -m bot` on Telegram as a process of its own: killed, stopped, misconfigured."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from starting import ECHO, SLOW, environment
from talking import REPO, rows

from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Chat

PATIENCE = 120
"""Seconds for a process to start and answer, on a machine that is busy with other things."""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[BotAPI]:
    async with BotAPI() as opened:
        yield opened


@asynccontextmanager
async def started(
    var: Path, server: BotAPI, delay: float = 0.0, **env: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    more = {
        "TELEGRAM_TOKEN": server.token,
        "DAIYU_TELEGRAM__BASE_URL": server.base_url.removesuffix("/bot"),
        "DAIYU_TELEGRAM__FLOOD": "0",
        **env,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, *(SLOW if delay else ECHO), cwd=REPO,
        env=environment(var, delay, **more),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def undone(var: Path) -> int:
    if not (var / "daiyu.db").exists():
        return 0
    return len(rows(var / "daiyu.db", "SELECT 1 FROM inbox WHERE done_at IS NULL"))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.02)


async def begun(var: Path) -> None:
    """Waits until a reply is being made."""

    def pending() -> bool:
        if not (var / "daiyu.db").exists():
            return False
        try:
            return bool(rows(var / "daiyu.db", "SELECT 1 FROM turns WHERE state = 'pending'"))
        except sqlite3.OperationalError:  # the tables are being made
            return False

    await until(pending)


async def answered(room: Chat, count: int) -> list[str]:
    await room.until(lambda place: len(place.from_bot) >= count, PATIENCE)
    return [message.text for message in room.from_bot]


async def test_killed_in_mid_reply_it_answers_at_the_next_start(
    tmp_path: Path, server: BotAPI
) -> None:
    room = server.private(server.user("宝玉"))
    await room.say(room.user, "话说到一半")
    async with started(tmp_path, server, delay=0.5) as process:
        await begun(tmp_path)
        process.kill()
    assert room.from_bot == []
    async with started(tmp_path, server) as process:
        assert await answered(room, 1) == ["话说到一半"]
        await until(lambda: undone(tmp_path) == 0)
    assert len(room.from_bot) == 1


async def test_killed_with_fifty_queued_none_is_lost_and_none_answered_twice(
    tmp_path: Path, server: BotAPI
) -> None:
    rooms = [server.private(server.user(f"客{number}")) for number in range(10)]
    for number in range(5):
        for room in rooms:
            await room.say(room.user, f"第{number}句")
    async with started(tmp_path, server, delay=0.3) as process:
        await begun(tmp_path)
        await server.updates.confirmed(PATIENCE)
        process.kill()
    async with started(tmp_path, server) as process:
        for room in rooms:
            assert await answered(room, 5) == [f"第{number}句" for number in range(5)]
        await until(lambda: undone(tmp_path) == 0)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), PATIENCE)
    assert all(len(room.from_bot) == 5 for room in rooms)


async def test_sigterm_in_mid_reply_lets_it_end_and_leaves_the_rest_for_later(
    tmp_path: Path, server: BotAPI
) -> None:
    room = server.private(server.user("宝玉"))
    await room.say(room.user, "头一句")
    await room.say(room.user, "第二句")
    async with started(tmp_path, server, delay=0.1) as process:
        await begun(tmp_path)
        process.send_signal(signal.SIGTERM)
        _, told = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    assert b"Traceback" not in told
    assert [message.text for message in room.from_bot] == ["头一句"]
    async with started(tmp_path, server):
        assert await answered(room, 2) == ["头一句", "第二句"]


async def test_a_wrong_token_is_one_line(tmp_path: Path, server: BotAPI) -> None:
    server.revoked = True
    async with started(tmp_path, server) as process:
        out, told = await asyncio.wait_for(process.communicate(), PATIENCE)
    lines = [line for line in told.decode().splitlines() if line.startswith("daiyu:")]
    assert process.returncode == 1
    assert len(lines) == 1
    assert "TELEGRAM_TOKEN" in lines[0]
    log = (tmp_path / "daiyu.log").read_text("utf-8")
    assert server.token not in out.decode() + told.decode() + log


@pytest.mark.parametrize("token", ["nonsense", "12:34 56"])
async def test_what_is_no_token_is_one_line(tmp_path: Path, server: BotAPI, token: str) -> None:
    async with started(tmp_path, server, TELEGRAM_TOKEN=token) as process:
        _, told = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 1
    assert token not in told.decode()
    assert "Traceback" not in told.decode()


async def test_a_second_poller_is_one_line(tmp_path: Path, server: BotAPI) -> None:
    async with started(tmp_path / "one", server) as one, started(tmp_path / "two", server) as two:
        ends = [asyncio.create_task(process.wait()) for process in (one, two)]
        await asyncio.wait(ends, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        ended = one if one.returncode is not None else two
        assert ended.returncode == 1
        _, told = await ended.communicate()
        assert "another program" in told.decode()
        assert server.token not in told.decode()
        assert "Traceback" not in told.decode()


async def test_the_log_of_a_day_holds_no_token(tmp_path: Path, server: BotAPI) -> None:
    room = server.private(server.user("宝玉"))
    async with started(tmp_path, server) as process:
        await room.say(room.user, "你好")
        await answered(room, 1)
        process.send_signal(signal.SIGTERM)
        out, told = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    log = (tmp_path / "daiyu.log").read_text("utf-8")
    assert server.token.partition(":")[2] not in out.decode() + told.decode() + log
    assert "@daiyu_bot" in told.decode()
