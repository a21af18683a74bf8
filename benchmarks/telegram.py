"""`python -m benchmarks.telegram`: the whole bot under many chats, against a strict fake server.

A process of its own runs `python -m bot` on the echo engine, so that what is measured is all but
the model: python-telegram-bot, inbox, store, conversation, delivery. The server, in this process,
keeps Telegram's limits (one message a second a chat, 30 a second overall). *Steady*: people write
at a rate that the limits allow, one chat after the other; the latency is the bot's own. *Burst*:
everybody writes everything at once; the limits set the pace, and nothing may be lost or said twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.machine import machine
from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Chat
from tests.fakes.limits import Rates

REPO = Path(__file__).parents[1]
PACKAGES = ("python-telegram-bot", "aiosqlite", "SQLAlchemy")
_STEADY = 12.0
"""Messages a second: a draft and a reply each stay below the 30 that are allowed."""
PATIENCE = 600.0
"""Seconds after which a benchmark that hangs is given up."""


@dataclass(frozen=True, slots=True)
class Result:
    """`latency` runs, in seconds, from a message's arrival to the final reply's."""

    name: str
    messages: int
    seconds: float
    latency: list[float]
    lost: int
    doubled: int
    refused: int
    peak_bytes: int

    def line(self) -> str:
        ordered = sorted(self.latency) or [0.0]
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        return (
            f"| {self.name} | {self.messages} | {self.messages / self.seconds:.1f} "
            f"| {statistics.median(ordered) * 1000:.0f} | {p95 * 1000:.0f} | {self.lost} "
            f"| {self.doubled} | {self.refused} | {self.peak_bytes / 1e6:.0f} |"
        )


@contextlib.asynccontextmanager
async def _bot(var: Path, server: BotAPI) -> AsyncIterator[asyncio.subprocess.Process]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAIYU_")}
    env |= {
        "DAIYU_MODEL__ENGINE": "echo",
        "DAIYU_MODEL__QUEUE": "4096",
        "DAIYU_PATHS__VAR": str(var),
        "DAIYU_TELEGRAM__BASE_URL": server.base_url.removesuffix("/bot"),
        "DAIYU_TELEGRAM__FLOOD": "0",
        "DAIYU_TELEGRAM__USER_HOUR": "0",
        "DAIYU_TELEGRAM__USER_DAY": "0",
        "TELEGRAM_TOKEN": server.token,
        "PYTHONPATH": str(REPO),
    }
    with (var / "bot.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", cwd=REPO, env=env, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def measure(name: str, chats: int, messages: int, rate: float | None) -> Result:
    """People in `chats` chats write `messages` messages, `rate` a second; None is all at once."""
    async with BotAPI(rates=Rates()) as server:
        rooms = [server.private(server.user(f"客{number}")) for number in range(chats)]
        with tempfile.TemporaryDirectory() as folder:
            async with _bot(Path(folder), server) as process:
                await server.until(lambda: server.calls("getUpdates"), PATIENCE)
                started = time.monotonic()
                said = await _say(server, rooms, messages, rate, started)
                each = messages // chats
                await server.until(
                    lambda: all(len(room.from_bot) >= each for room in rooms), PATIENCE
                )
                seconds = time.monotonic() - started
                await asyncio.sleep(2.0)  # whatever is said twice is said by then
                peak = _peak(process.pid)
        return _result(name, server, rooms, said, seconds, peak)


async def _say(
    server: BotAPI, rooms: list[Chat], messages: int, rate: float | None, started: float
) -> dict[tuple[int, str], float]:
    said = {}
    for number in range(messages):
        if rate:
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        room = rooms[number % len(rooms)]
        text = f"第{number}句"
        said[room.id, text] = server.now()
        await room.say(room.user, text)
    return said


def _result(
    name: str,
    server: BotAPI,
    rooms: list[Chat],
    said: dict[tuple[int, str], float],
    seconds: float,
    peak: int,
) -> Result:
    answers = Counter((room.id, message.text) for room in rooms for message in room.from_bot)
    sent: dict[tuple[int, str], float] = {}
    for request in server.calls("sendMessage"):
        if request.status == 200 and request.chat is not None:
            sent.setdefault((request.chat, request.params.text("text")), request.at)
    refused = sum(1 for request in server.requests if request.status == 429)
    return Result(
        name,
        len(said),
        seconds,
        [sent[key] - at for key, at in said.items() if key in sent],
        sum(key not in answers for key in said),
        sum(count - 1 for key, count in answers.items() if key in said),
        refused,
        peak,
    )


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return int(psutil.Process(pid).memory_info().rss)
    return int(next(x.split()[1] for x in status.splitlines() if x.startswith("VmHWM"))) * 1024


async def _main(chats: int, messages: int) -> None:
    print("  ".join(f"{key}: {value}" for key, value in machine(PACKAGES).items()), end="\n\n")
    print("| people | messages | a second | p50 ms | p95 ms | lost | twice | refused | peak MB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    print((await measure("steady", chats, messages, _STEADY)).line(), flush=True)
    print((await measure("burst", chats, messages, None)).line(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chats", type=int, default=200)
    parser.add_argument("--messages", type=int, default=2000)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.chats, arguments.messages))
