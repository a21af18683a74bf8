"""Commands on Discord whose acknowledgement or session is lost: answered, and answered once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import discord
import pytest
import pytest_asyncio
from connected import Connected, connected, said
from talking import rows

from bot.platforms.base import Incoming
from tests.bot.discord_rest import APPLICATION, GUILD, ME, Fault, Place, flood
from tests.bot.discord_server import DiscordServer

BROKEN = Fault(0, late=True)
"""Done, and the connection breaks before it can be told."""
QUICK_END = {"discord__drain": "0.1"}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[DiscordServer]:
    async with DiscordServer() as opened:
        yield opened


@pytest.fixture
def room(server: DiscordServer) -> Place:
    return server.channel()


def kept(on: Connected) -> list[str]:
    """What the inbox still holds of what was said."""
    return [row["payload"] for row in rows(on.chat.database, "SELECT payload FROM inbox")]


def statuses(server: DiscordServer, path: str, method: str = "POST") -> list[int]:
    return [call.status for call in server.made(method, path)]


async def test_a_command_is_acknowledged_before_its_answer_is_made(
    server: DiscordServer, room: Place, tmp_path: Path
) -> None:
    async with connected(tmp_path, server) as on:
        on.chat.engine.delay = 0.05
        server.command(room, "chat", message="一二三四五六七八九十")
        await on.until(lambda: server.made("POST", "/callback"))
        assert all(turn["state"] != "done" for turn in on.turns(room))
        await on.answered(room, "一二三四五六七八九十")


@pytest.mark.parametrize("fault", [Fault(502, late=True), BROKEN])
async def test_a_command_whose_acknowledgement_was_lost_is_answered_once(
    server: DiscordServer, room: Place, tmp_path: Path, fault: Fault
) -> None:
    async with connected(tmp_path, server) as on:
        server.fail("POST", "/callback", fault)
        server.fail("PATCH", "@original", fault)
        server.command(room, "chat", message="一")
        await on.until(lambda: len(server.made("PATCH", "@original")) >= 2)
        await on.until(lambda: said(room) == ["一"])
        await on.answered(room, "一")
        assert statuses(server, "/callback") == [fault.status, 400]
        assert kept(on) == [""]  # what opens the answer is kept no longer than it takes


@pytest.mark.parametrize("fault", [Fault(502), Fault(0)])
async def test_an_acknowledgement_that_never_arrived_is_given_again(
    server: DiscordServer, room: Place, tmp_path: Path, fault: Fault
) -> None:
    async with connected(tmp_path, server) as on:
        server.fail("POST", "/callback", fault)
        server.command(room, "chat", message="一")
        await on.answered(room, "一")
        assert statuses(server, "/callback") == [fault.status, 200]


async def test_what_another_program_acknowledged_is_left_to_it_however_long_that_took(
    server: DiscordServer, room: Place, tmp_path: Path
) -> None:
    async with connected(tmp_path, server) as on:
        server.fail("POST", "/callback", flood(1.1))  # refused, and so not done
        asked = server.command(room, "chat", message="一")
        await on.until(lambda: server.made("POST", "/callback"))
        server.acknowledge_elsewhere(asked)
        await on.until(lambda: kept(on) == [""])
        assert statuses(server, "/callback") == [429, 400]
        assert said(room) == []
        assert on.turns(room) == []


@pytest.mark.parametrize(("name", "undone"), [("chat", []), ("undo", ["零"])])
async def test_a_command_that_is_cut_off_by_the_end_of_the_library_is_answered_by_the_next_session(
    server: DiscordServer, room: Place, tmp_path: Path, name: str, undone: list[str]
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "零")
        await on.answered(room, "零")
        server.fail("PATCH", "@original", Fault(503), times=None)
        server.command(room, name, **({"message": "一"} if name == "chat" else {}))
        await on.until(lambda: server.made("PATCH", "@original"))
        server.tell("MESSAGE_CREATE", {"no": "message"})
        await on.until(lambda: server.identified == 2)
        server.mend()
        await on.until(lambda: len(room.hers) == 2 and not on.waiting())
        if name == "chat":
            assert said(room) == ["零", "一"]
        assert [turn["text"] for turn in on.turns(room) if turn["undone"]] == undone


async def test_an_acknowledgement_that_the_end_of_the_library_cuts_off_is_given_by_the_next_session(
    server: DiscordServer, room: Place, tmp_path: Path
) -> None:
    async with connected(tmp_path, server) as on:
        server.fail("POST", "/callback", Fault(503, late=True), times=None)
        server.command(room, "chat", message="一")
        await on.until(lambda: server.made("POST", "/callback"))
        server.tell("MESSAGE_CREATE", {"no": "message"})
        await on.until(lambda: server.identified == 2)
        server.mend()
        await on.answered(room, "一")


async def test_a_file_that_the_end_of_the_library_cuts_off_is_given_by_the_next_session(
    server: DiscordServer, room: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.platforms.discord._CUT", 10.0)  # it fails by itself, and is not cut
    given = r"/webhooks/8/t\d+$"
    async with connected(tmp_path, server) as on:
        server.fail("POST", given, Fault(503), times=None)
        server.command(room, "privacy")
        await on.until(lambda: server.made("POST", given))
        server.tell("MESSAGE_CREATE", {"no": "message"})
        await on.until(lambda: server.identified == 2)
        server.mend()
        await on.until(lambda: not on.waiting())
        assert statuses(server, given)[-1] == 200
        assert len(room.hers) == 2  # what is kept, in a few words, and all of it


async def test_a_command_that_an_earlier_process_left_is_answered(
    server: DiscordServer, room: Place, tmp_path: Path
) -> None:
    async with connected(tmp_path, server, **QUICK_END):
        server.fail("PATCH", "@original", Fault(503), times=None)
        server.command(room, "chat", message="一")
        await server.until(lambda: server.made("PATCH", "@original"))
    assert server.made("DELETE", "@original") == []  # it is still thought about
    server.mend()
    async with connected(tmp_path, server) as on:
        await on.until(lambda: room.hers and not on.waiting())
        assert said(room) == ["一"]
        assert kept(on) == [""]


async def test_what_was_shown_already_is_changed_and_not_said_again(
    server: DiscordServer, room: Place, tmp_path: Path
) -> None:
    """The process ended between the growing reply and its last words."""
    quick = QUICK_END | {"discord__group_edit_interval": "0"}
    async with connected(tmp_path, server, **quick) as on:
        on.chat.engine.delay = 0.05
        on.chat.engine.replies.append("雨打芭蕉，倒也好听，只是听久了，叫人睡不着。")
        server.command(room, "chat", message="一")
        await on.until(lambda: room.hers)
        begun = room.hers
    async with connected(tmp_path, server) as on:
        await on.until(lambda: room.hers != begun and not on.waiting())
        assert said(room) == ["一"]


async def test_after_the_time_that_discord_allows_votes_count_and_nothing_is_said(
    server: DiscordServer, room: Place, tmp_path: Path
) -> None:
    async with connected(tmp_path, server) as on:
        server.say(room, "零")
        await on.answered(room, "零")
        long_ago = discord.utils.utcnow().timestamp() - 16 * 60
        first = int(long_ago * 1000 - discord.utils.DISCORD_EPOCH) << 22
        for number, text in enumerate(("/feedback good", "一"), first):
            incoming = Incoming(
                "discord", room.id, "100", text, message_id=f"i{number}", is_group=True,
                sent_at=long_ago, alone=text != "一", server_id=GUILD,
            )  # fmt: skip
            ticket = {
                "application": int(APPLICATION), "token": f"t{number}", "type": 2, "how": "answer",
                "alone": incoming.alone,
            }  # fmt: skip
            payload = json.dumps(asdict(incoming) | {"ticket": ticket})
            await on.chat.store.inbox.put("discord", ME["id"], number, "100", payload)
    async with connected(tmp_path, server) as on:
        await on.until(lambda: not on.waiting())
        assert said(room) == ["零"]
        assert rows(on.chat.database, "SELECT vote FROM ratings") == [{"vote": 1}]
        assert server.made("POST", "/callback") == []


async def test_what_is_left_in_an_unknown_form_stops_nothing(
    server: DiscordServer, room: Place, tmp_path: Path
) -> None:
    async with connected(tmp_path, server) as on:
        left = asdict(Incoming("discord", room.id, "100", "一", message_id="i1"))
        for number, payload in enumerate(("[", "1", json.dumps(left | {"ticket": {"of": "old"}}))):
            await on.chat.store.inbox.put("discord", ME["id"], number, "100", payload)
    async with connected(tmp_path, server) as on:
        server.say(room, "二")
        await on.answered(room, "二")
