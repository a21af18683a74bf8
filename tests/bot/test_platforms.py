"""Several platforms in one process: one that fails takes no other with it; `--check` of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import discord
import pytest
from aiohttp import web
from pydantic import SecretStr
from talking import Chat, Screen, settings

from bot.check import check
from bot.platforms import discord_calls
from bot.platforms.base import Handler, Platform, PlatformError
from bot.platforms.discord import DiscordPlatform
from bot.platforms.telegram import TelegramPlatform
from tests.bot.discord_server import DiscordServer
from tests.fakes.bot_api import BotAPI

TOKEN = "a.secret.token"
TOKENS_OF_OTHERS = {"telegram": "1:another", "discord": TOKEN}


class Failing(Screen):
    name = "failing"

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def run(self, handle: Handler) -> None:
        raise self._error


@asynccontextmanager
async def rest(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, Any]]
) -> AsyncIterator[list[str]]:
    """Discord's REST addresses, as far as they are given; the paths that were asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        status, body = answers.get(request.path, (404, {"code": 0, "message": "unknown"}))
        # The library reads as JSON what says no more than that it is.
        headers = {"Content-Type": "application/json"}
        return web.Response(body=json.dumps(body).encode(), status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    monkeypatch.setattr(discord.http.Route, "BASE", f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield asked
    finally:
        await runner.cleanup()


REFUSED = {"/users/@me": (401, {"code": 0, "message": "401: Unauthorized"})}
USER = {"id": "7", "username": "daiyu", "discriminator": "0", "avatar": None, "bot": True}
ROLE = {
    "id": "9", "name": "@everyone", "color": 0, "hoist": False, "position": 0, "managed": False,
    "mentionable": False, "flags": 0,
    "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
}  # fmt: skip


def world(flags: int, permissions: discord.Permissions) -> dict[str, tuple[int, Any]]:
    """A bot in one server."""
    application = {
        "id": "8", "name": "daiyu", "icon": None, "description": "", "bot_public": True,
        "bot_require_code_grant": False, "verify_key": "0", "owner": USER, "flags": flags,
        "team": None, "bot": USER,
    }  # fmt: skip
    guild = {
        "id": "9", "name": "大观园", "owner_id": "1", "features": [], "emojis": [], "stickers": [],
        "roles": [ROLE | {"permissions": str(permissions.value)}],
    }  # fmt: skip
    member = {"user": USER, "roles": [], "joined_at": None, "deaf": False, "mute": False}
    return {
        "/users/@me": (200, USER),
        "/oauth2/applications/@me": (200, application),
        "/users/@me/guilds": (200, [guild]),
        "/guilds/9": (200, guild),
        "/guilds/9/members/7": (200, member | {"flags": 0}),
    }


async def test_one_that_fails_takes_no_other_with_it(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    well = Screen()
    await chat.bot.run([Failing(PlatformError("the token is refused")), well])
    assert list(well.messages.values()) == ["你好"]
    told = capsys.readouterr().err.splitlines()
    assert told == ["daiyu: failing has ended, the rest goes on: the token is refused"]


async def test_one_that_breaks_unforeseen_takes_no_other_with_it(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    well = Screen()
    await chat.bot.run([well, Failing(ZeroDivisionError("division by zero"))])
    assert list(well.messages.values()) == ["你好"]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("refused", ["telegram", "discord"])
async def test_a_token_that_one_refuses_is_nothing_to_the_other(
    chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    async with BotAPI() as telegram, DiscordServer() as discords:
        chosen = settings(tmp_path, telegram__base_url=telegram.base_url.removesuffix("/bot"))
        tokens = {"telegram": telegram.token, "discord": discords.token}
        tokens[refused] = TOKENS_OF_OTHERS[refused]
        inbox, notes = chat.store.inbox, chat.store.notes
        lines: list[str] = []
        both: list[Platform] = [
            TelegramPlatform(
                chosen.telegram, tokens["telegram"], inbox, chat.bot.moved, lines.append
            ),
            DiscordPlatform(chosen.discord, tokens["discord"], inbox, notes, lines.append),
        ]
        private, place = telegram.private(telegram.user("宝玉")), discords.private()
        with discords.in_place():
            running = asyncio.create_task(chat.bot.run(both))
            try:
                told: list[str] = []

                def has_told() -> bool:
                    told.append(capsys.readouterr().err)
                    return running.done() or bool(told[-1])

                await discords.until(has_told)
                assert told[-1].startswith(f"daiyu: {refused} has ended, the rest goes on")
                assert TOKENS_OF_OTHERS[refused] not in told[-1]
                if refused == "telegram":
                    await discords.until(lambda: discords.connected and lines)
                    discords.say(place, "你好")
                    await discords.until(lambda: place.hers == ["你好"])
                else:
                    await private.say(private.user, "你好")
                    await discords.until(lambda: [m.text for m in private.from_bot] == ["你好"])
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def test_where_all_have_failed_the_last_is_the_error(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PlatformError, match="two"):
        await chat.bot.run([Failing(PlatformError("one")), Failing(PlatformError("two"))])
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_a_wrong_token_is_one_line_without_it(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    platform = DiscordPlatform(
        settings(tmp_path).discord, TOKEN, chat.store.inbox, chat.store.notes, pytest.fail
    )
    async with rest(monkeypatch, REFUSED):
        with pytest.raises(PlatformError, match="DISCORD_TOKEN") as refused:
            await platform.run(lambda incoming: asyncio.sleep(0))
    assert TOKEN not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("token", ["no\ntoken", "kein Schlüssel"])
async def test_what_is_no_token_is_one_line(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    async with rest(monkeypatch, REFUSED):
        with pytest.raises(PlatformError, match="DISCORD_TOKEN"):
            await discord_calls.check(token)


async def test_the_check_says_who_she_is_and_how_she_is_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rest(monkeypatch, world(1 << 19, discord_calls.PERMISSIONS)):
        told = await discord_calls.check(TOKEN)
    assert told.startswith("daiyu, hears what is not meant for her; let her in at https://")
    assert "client_id=8" in told
    assert "scope=bot+applications.commands" in told
    assert f"permissions={discord_calls.PERMISSIONS.value}" in told


async def test_the_check_names_the_permissions_that_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    less = discord.Permissions(view_channel=True, send_messages=True)
    async with rest(monkeypatch, world(0, less)):
        told = await discord_calls.check(TOKEN)
    assert "does not hear what is not meant for her" in told
    assert "in 大观园 she may not" in told
    assert "read_message_history" in told


async def test_the_check_says_that_discord_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discord.http.Route, "BASE", "http://127.0.0.1:9")
    with pytest.raises(PlatformError, match="cannot be reached"):
        await discord_calls.check(TOKEN)


def test_a_platform_that_is_not_well_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refuse(*_: str) -> str:
        raise discord_calls.refused()

    monkeypatch.setattr(discord_calls, "check", refuse)
    lines: list[str] = []
    chosen = replace(settings(tmp_path), discord_token=SecretStr(TOKEN))
    assert not check(chosen, lines.append)
    assert "platforms discord" in lines
    [told] = [line for line in lines if line.startswith("discord ")]
    assert "NOT WELL" in told
    assert TOKEN not in "".join(lines)
