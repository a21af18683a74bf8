"""`python -m benchmarks.platforms`: one bot on Telegram and Discord at once, under a mixed load.

A process of its own runs the whole bot on the echo engine with both tokens; the servers, in this
process, stand for Telegram and Discord. Half of the chats are on each, a third of Discord's are
channels. *Within limits*: a rate that both platforms' limits allow. *Beyond*: a rate that they do
not, on servers that refuse nothing; the bot keeps Telegram's limits by itself, and falls behind.

The latency that is told is the bot's own: from a message's arrival at the server to the reply's.
Ends with 1 where a message was lost or answered twice.
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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.machine import machine
from tests.bot.discord_rest import Place
from tests.bot.discord_server import DiscordServer
from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Chat
from tests.fakes.limits import Rates

REPO = Path(__file__).parents[1]
PACKAGES = ("python-telegram-bot", "discord.py", "aiosqlite", "SQLAlchemy")
_WITHIN = 20.0
"""Messages a second of both together: a reply and what goes with it stay below 30 and 50 calls."""
_STRAGGLERS = 2.0
"""Seconds in which whatever is said twice is said."""
_PATIENCE = 600.0
_BOT = """
import sys, discord, yarl
from discord.gateway import DiscordWebSocket
discord.http.Route.BASE, gateway = sys.argv[1:3]
DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway)
from bot.__main__ import main
sys.exit(main([]))
"""
"""The bot as it is; only where Discord is found differs, which has no setting."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of the messages on one platform; `latency` in seconds.

    `doubled` counts whatever stands there beyond one answer to each message.
    """

    name: str
    messages: int
    latency: list[float]
    lost: int
    doubled: int
    refused: int

    def line(self, load: str, peak_bytes: int) -> str:
        ordered = sorted(self.latency) or [0.0]
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        return (
            f"| {load} | {self.name} | {self.messages} | {statistics.median(ordered) * 1000:.0f} "
            f"| {p95 * 1000:.0f} | {self.lost} | {self.doubled} | {self.refused} "
            f"| {peak_bytes / 1e6:.0f} |"
        )


Said = dict[tuple[str, str], float]
"""When each message, by chat and text, arrived at its server."""


@contextlib.asynccontextmanager
async def _bot(
    var: Path, telegram: BotAPI, discord: DiscordServer
) -> AsyncIterator[asyncio.subprocess.Process]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAIYU_")}
    for platform in ("TELEGRAM", "DISCORD"):
        for limit in ("FLOOD", "USER_HOUR", "USER_DAY", "GROUP_HOUR", "GROUP_DAY"):
            env[f"DAIYU_{platform}__{limit}"] = "0"
    env |= {
        "DAIYU_MODEL__ENGINE": "echo",
        "DAIYU_MODEL__QUEUE": "4096",
        "DAIYU_PATHS__VAR": str(var),
        "DAIYU_TELEGRAM__BASE_URL": telegram.base_url.removesuffix("/bot"),
        "TELEGRAM_TOKEN": telegram.token,
        "DISCORD_TOKEN": discord.token,
        "PYTHONPATH": str(REPO),
    }
    with (var / "bot.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _BOT, discord.base, discord.gateway,
            cwd=REPO, env=env, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def measure(
    chats: int, messages: int, rate: float, *, limits: bool
) -> tuple[list[Result], int]:
    """People in `chats` chats write `messages` messages, `rate` a second; the most bytes taken."""
    rates = Rates() if limits else None
    async with BotAPI(rates=rates) as telegram, DiscordServer(limits=limits) as discord:
        rooms = [telegram.private(telegram.user(f"客{n}")) for n in range(chats // 2)]
        places = [
            discord.channel() if n % 3 == 0 else discord.private()
            for n in range(chats - chats // 2)
        ]
        with tempfile.TemporaryDirectory() as folder:
            async with _bot(Path(folder), telegram, discord) as process:
                await _until(process, lambda: telegram.calls("getUpdates") and discord.connected)
                on_telegram, on_discord = await _say(discord, rooms, places, messages, rate)
                sent = len(on_telegram) + len(on_discord)
                with contextlib.suppress(TimeoutError):  # what is missing then is lost
                    await _until(
                        process,
                        lambda: (
                            sum(len(room.from_bot) for room in rooms)
                            + sum(len(place.hers) for place in places)
                            >= sent
                        ),
                    )
                await asyncio.sleep(_STRAGGLERS)
                peak = _peak(process.pid)
        return [
            _on_telegram(telegram, rooms, on_telegram),
            _on_discord(discord, places, on_discord),
        ], peak


async def _until(process: asyncio.subprocess.Process, true: Callable[[], object]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not true():
            if process.returncode is not None:
                raise SystemExit(f"the bot ended with {process.returncode}")
            await asyncio.sleep(0.05)


async def _say(
    discord: DiscordServer, rooms: list[Chat], places: list[Place], messages: int, rate: float
) -> tuple[Said, Said]:
    """One message after the other, on both platforms in turn."""
    on_telegram: Said = {}
    on_discord: Said = {}
    started = time.monotonic()
    for number in range(messages):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        text, turn = f"第{number}句", number // 2
        if number % 2:
            room = rooms[turn % len(rooms)]
            on_telegram[str(room.id), text] = time.monotonic()
            await room.say(room.user, text)
        else:
            place = places[turn % len(places)]
            on_discord[place.id, text] = time.monotonic()
            discord.say(place, text)
    return on_telegram, on_discord


def _on_telegram(server: BotAPI, rooms: list[Chat], said: Said) -> Result:
    skew = time.monotonic() - server.now()
    arrived: Said = {}
    for request in server.calls("sendMessage"):
        if request.status == 200 and request.chat is not None:
            key = str(request.chat), request.params.text("text")
            arrived.setdefault(key, request.at + skew)
    stands = Counter((str(room.id), m.text) for room in rooms for m in room.from_bot)
    refused = sum(request.status == 429 for request in server.requests)
    return _result("Telegram", said, arrived, stands, refused)


def _on_discord(server: DiscordServer, places: list[Place], said: Said) -> Result:
    arrived: Said = {}
    calls = [c for how in ("POST", "PATCH") for c in server.made(how, r"/channels/\d+/messages")]
    for call in sorted(calls, key=lambda call: call.at):
        if call.status == 200 and "content" in call.body:  # not where only buttons are taken away
            arrived.setdefault((call.path.split("/")[2], _plain(call.body["content"])), call.at)
    stands = Counter((place.id, _plain(text)) for place in places for text in place.hers)
    refused = sum(call.status == 429 for call in server.calls)
    return _result("Discord", said, arrived, stands, refused)


def _plain(text: str) -> str:
    """Without the name of whom is echoed: in a channel she is told who speaks."""
    return text.rpartition("：")[2]


def _result(
    name: str, said: Said, arrived: Said, stands: Counter[tuple[str, str]], refused: int
) -> Result:
    return Result(
        name,
        len(said),
        [arrived[key] - at for key, at in said.items() if key in arrived],
        sum(key not in stands for key in said),
        sum(stands.values()) - sum(key in stands for key in said),
        refused,
    )


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return int(psutil.Process(pid).memory_info().rss)
    return int(next(x.split()[1] for x in status.splitlines() if x.startswith("VmHWM"))) * 1024


async def _main(chats: int, messages: int, rate: float) -> bool:
    """Whether nothing was lost, and nothing doubled."""
    print("  ".join(f"{key}: {value}" for key, value in machine(PACKAGES).items()), end="\n\n")
    print("| load | platform | messages | p50 ms | p95 ms | lost | twice | refused | peak MB |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    well = True
    for load, speed, limits in (("within limits", _WITHIN, True), ("beyond", rate, False)):
        results, peak = await measure(chats, messages, speed, limits=limits)
        for result in results:
            print(result.line(f"{load}, {speed:.0f}/s", peak), flush=True)
            well = well and not result.lost and not result.doubled
    return well


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chats", type=int, default=60)
    parser.add_argument("--messages", type=int, default=1200)
    parser.add_argument("--rate", type=float, default=40.0, help="messages a second, beyond limits")
    arguments = parser.parse_args()
    sys.exit(not asyncio.run(_main(arguments.chats, arguments.messages, arguments.rate)))
