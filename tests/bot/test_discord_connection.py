"""Discord's connection goes wrong in every way it can: nothing is lost, and nothing said twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from connected import connected, said
from talking import eventually

from bot.platforms.base import PlatformError
from tests.bot.discord_rest import Fault, Place, flood, refusal
from tests.bot.discord_server import TOKEN, DiscordServer


@pytest_asyncio.fixture
async def server() -> AsyncIterator[DiscordServer]:
    async with DiscordServer() as opened:
        yield opened


@pytest.fixture
def room(server: DiscordServer) -> Place:
    return server.channel()


async def _away(server: DiscordServer, how: str) -> None:
    """Interrupts the session; the client takes it up again where that can be done."""
    if how == "dropped":
        server.drop()
    elif how == "asked to reconnect":
        server.reconnect()
    elif how == "closed":
        await server.close(1000)
    elif how == "broken":
        await server.close(4000)
    elif how == "invalid":
        server.invalidate(resumable=True)
    elif how == "void":
        server.invalidate(resumable=False)
    elif how == "forgotten":
        server.forget()


async def test_without_a_connection_she_is_not_online(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        await on.until(lambda: on.platform.online)
        server.down = True
        server.drop()
        await eventually(lambda: not on.platform.online)
        server.down = False
        await eventually(lambda: on.platform.online)
        on.running.cancel()
        await asyncio.gather(on.running, return_exceptions=True)
        assert not on.platform.online


@pytest.mark.parametrize(
    "how", ["dropped", "asked to reconnect", "closed", "broken", "invalid"]
)  # fmt: skip
async def test_a_session_that_is_resumed_loses_nothing(
    tmp_path: Path, server: DiscordServer, room: Place, how: str
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "一")
        await on.answered(room, "一")
        await _away(server, how)
        server.say(room, "二")
        await on.answered(room, "一", "二")
        assert (server.identified, server.resumed) == (1, 1)


@pytest.mark.parametrize("how", ["void", "forgotten"])
async def test_a_session_that_is_lost_loses_nothing(
    tmp_path: Path, server: DiscordServer, room: Place, how: str
) -> None:
    async with connected(tmp_path, server) as on:
        private = server.private()
        server.say(room, "一")
        server.say(private, "甲")
        await on.answered(room, "一")
        await on.answered(private, "甲")
        await _away(server, how)
        server.say(room, "二")
        server.say(private, "乙")
        await on.answered(room, "一", "二")
        await on.answered(private, "甲", "乙")
        assert (server.identified, server.resumed) == (2, 0)


async def test_what_comes_at_once_does_not_hide_what_was_missed(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "一")
        await on.answered(room, "一")
        server.on_identify = lambda: server.say(room, "三")
        server.invalidate(resumable=False)
        server.say(room, "二")
        await on.answered(room, "一", "二", "三")


async def test_what_was_missed_is_found_though_history_cannot_be_read_at_first(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "一")
        await on.answered(room, "一")
        server.fail("GET", "/messages", Fault(503), times=2)
        server.on_identify = lambda: server.say(room, "三")
        server.invalidate(resumable=False)
        server.say(room, "二")
        await on.answered(room, "一", "二", "三")


async def test_what_was_not_read_yet_is_found_by_the_next_start(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "一")
        await on.answered(room, "一")
        server.fail("GET", "/messages", Fault(503), times=None)
        server.on_identify = lambda: server.say(room, "三")
        server.invalidate(resumable=False)
        server.say(room, "二")
        await on.answered(room, "一", "三")
    server.mend()
    server.on_identify = lambda: None
    async with connected(tmp_path, server) as on:
        await on.answered(room, "一", "二", "三")


async def test_events_that_are_told_twice_are_dealt_with_once(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "一")
        await on.answered(room, "一")
        server.command(room, "chat", message="二")
        await server.until(lambda: len(room.hers) == 2)
        server.replay_from = 2  # after READY and what the server is
        server.drop()
        await server.until(lambda: server.resumed)
        server.say(room, "三")
        await on.answered(room, "一", "二", "三")


async def test_a_server_that_is_gone_for_a_while_is_waited_for(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "一")
        await on.answered(room, "一")
        server.down = True
        server.forget()
        server.say(room, "二")
        await server.until(lambda: not server.connected)
        server.down = False
        await on.answered(room, "一", "二")


async def test_what_nobody_foresaw_is_survived(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "一")
        await on.answered(room, "一")
        server.tell("MESSAGE_CREATE", {"no": "message"})
        await server.until(lambda: not server.connected)
        server.say(room, "二")
        await on.answered(room, "一", "二")
        assert any("broke (KeyError)" in notice for notice in on.notices)


async def test_a_reply_that_is_cut_off_by_the_end_of_the_library_is_given_all_the_same(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.fail("POST", "/messages", Fault(503), times=None)
        server.say(room, "一")
        await server.until(lambda: server.made("POST", "/messages"))
        server.tell("MESSAGE_CREATE", {"no": "message"})
        await server.until(lambda: server.identified == 2)
        server.mend()
        await server.until(lambda: room.hers and not on.waiting())
        assert said(room) == ["一"]


@pytest.mark.parametrize("everywhere", [False, True])
async def test_being_told_to_wait_is_obeyed(
    tmp_path: Path, server: DiscordServer, room: Place, everywhere: bool
) -> None:
    other = server.channel()
    async with connected(tmp_path, server) as on:
        server.fail("POST", f"/channels/{room.id}/messages", flood(1.0, everywhere=everywhere))
        server.say(room, "一")
        await server.until(lambda: server.made("POST", "/messages"))
        server.say(other, "甲")
        await on.answered(other, "甲")
        await on.answered(room, "一")
        refused, again = server.made("POST", f"/channels/{room.id}/messages")
        assert again.at - refused.at >= 1.0
        [elsewhere] = server.made("POST", f"/channels/{other.id}/messages")
        assert (elsewhere.at - refused.at >= 1.0) == everywhere


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_server_in_trouble_says_nothing_twice(
    tmp_path: Path, server: DiscordServer, room: Place, status: int, late: bool
) -> None:
    async with connected(tmp_path, server) as on:
        server.fail("POST", f"/channels/{room.id}/messages", Fault(status, late=late))
        server.say(room, "一")
        await on.answered(room, "一")
        assert len(server.made("POST", f"/channels/{room.id}/messages")) == 2


async def test_a_channel_that_is_closed_to_her_costs_no_other(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    other = server.channel()
    async with connected(tmp_path, server) as on:
        server.fail("POST", f"/channels/{room.id}/messages", refusal(403, 50013), times=None)
        server.say(room, "一")
        server.say(other, "甲")
        await on.answered(other, "甲")
        await server.until(lambda: not on.waiting())
        assert said(room) == []
        server.mend()
        server.say(room, "二")
        await server.until(lambda: room.hers and not on.waiting())
        assert said(room) == ["二"]


async def test_a_reply_that_is_gone_before_its_end_is_said_once(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    reply = "雨打芭蕉，倒也好听，只是听久了，叫人睡不着。"
    async with connected(tmp_path, server) as on:
        on.chat.engine.delay = 0.02
        on.chat.engine.replies.append(reply)
        server.say(room, "今日下雨了")
        await server.until(lambda: room.hers)
        [begun] = [number for number, m in room.messages.items() if m["author"]["id"] == "7"]
        del room.messages[begun]
        await server.until(lambda: room.hers and not on.waiting())
        assert said(room) == [reply]
        assert [call.status for call in server.made("PATCH", begun)][:1] == [404]


@pytest.mark.parametrize("where", ["login", "gateway"])
async def test_a_token_that_is_refused_ends_it_in_one_line(
    tmp_path: Path, server: DiscordServer, where: str
) -> None:
    if where == "login":
        server.token = "another"
    async with connected(tmp_path, server) as on:
        if where == "gateway":
            await server.until(lambda: on.notices)
            server.token = "another"
            await server.close(4004)
        with pytest.raises(PlatformError, match="refuses DISCORD_TOKEN") as refused:
            await on.running
        assert TOKEN not in str(refused.value) + "".join(on.notices)


async def test_what_a_void_token_cut_off_is_said_with_the_next(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        server.token = "another"
        server.say(room, "一")
        await server.until(lambda: server.made("POST", "/messages"))
        await server.close(4004)
        with pytest.raises(PlatformError):
            await on.running
    server.token = TOKEN
    async with connected(tmp_path, server) as on:
        await server.until(lambda: room.hers and not on.waiting())
        assert said(room) == ["一"]


async def test_without_the_intent_she_goes_on_with_what_is_left(tmp_path: Path) -> None:
    async with DiscordServer() as server:
        room = server.channel()
        server.grants = False  # the portal says one thing and the gateway another
        async with connected(tmp_path, server) as on:
            server.say(room, "一")
            await on.answered(room, "一")
            assert "withdrew the Message Content Intent" in on.notices[0]
            await server.until(lambda: len(on.notices) == 2)
            assert "turn the Message Content Intent on" in on.notices[1]


@pytest.mark.parametrize("code", [4012, 4013])
async def test_a_close_for_good_ends_it_in_one_line(
    tmp_path: Path, server: DiscordServer, code: int
) -> None:
    async with connected(tmp_path, server) as on:
        await server.close(code)
        with pytest.raises(PlatformError, match=f"for good \\(code {code}\\)"):
            await on.running


async def test_more_shards_are_begun_anew(
    tmp_path: Path, server: DiscordServer, room: Place
) -> None:
    async with connected(tmp_path, server) as on:
        await server.close(4011)
        server.say(room, "一")
        await on.answered(room, "一")
        assert server.identified == 2
