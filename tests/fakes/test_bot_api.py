"""The fake's socket with the real python-telegram-bot: polling, webhook, rates, faults, log."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from telegram import Bot, Update
from telegram.error import (
    BadRequest,
    ChatMigrated,
    Conflict,
    Forbidden,
    NetworkError,
    RetryAfter,
    TelegramError,
    TimedOut,
)
from telegram.ext import Application, MessageHandler, Updater, filters
from telegram.request import HTTPXRequest

from tests.fakes import limits
from tests.fakes.bot_api import TOKEN, BotAPI
from tests.fakes.conftest import QUICK, client
from tests.fakes.limits import DROP_AFTER, DROP_BEFORE, Rates, flood, html, migrated, slow

SECONDS = 20.0


POLLER = f"""
import sys, time, urllib.request
urllib.request.urlopen(sys.argv[1] + {TOKEN!r} + "/getUpdates?timeout=50").read()
time.sleep(60)
"""
"""Takes updates, and confirms none."""


class Listener:
    """An Updater of the library, and what it received."""

    def __init__(self, server: BotAPI) -> None:
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        # A client of its own: an updater shuts its client down.
        self.updater = Updater(client(server), self.queue)
        self.errors: list[TelegramError] = []

    async def next(self) -> Update:
        update = await asyncio.wait_for(self.queue.get(), SECONDS)
        assert isinstance(update, Update)
        return update

    async def text(self) -> str:
        message = (await self.next()).effective_message
        assert message
        return message.text or ""


@asynccontextmanager
async def listening(server: BotAPI, **options: Any) -> AsyncIterator[Listener]:
    listener = Listener(server)
    async with listener.updater:
        await listener.updater.start_polling(
            poll_interval=0, error_callback=listener.errors.append, **options
        )
        try:
            yield listener
        finally:
            await listener.updater.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_conversation_with_a_whole_application(server: BotAPI) -> None:
    async def echo(update: Update, _: Any) -> None:
        assert update.message
        await update.message.reply_text(f"{update.message.text}？")

    builder = Application.builder().token(server.token).base_url(server.base_url)
    app = (
        builder.request(HTTPXRequest(8, httpx_kwargs=QUICK))
        .get_updates_request(HTTPXRequest(httpx_kwargs=QUICK))
        .build()
    )
    app.add_handler(MessageHandler(filters.TEXT, echo))
    chat = server.private(server.user("宝玉"))
    async with app:
        assert app.updater
        await app.updater.start_polling(poll_interval=0)
        await app.start()
        await chat.say(chat.user, "妹妹可好")
        answer = await chat.until(lambda here: here.from_bot)
        assert answer[0].text == "妹妹可好？"
        await app.updater.stop()
        await app.stop()


# ── long polling ──


async def test_an_update_stays_until_an_offset_confirms_it(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    for text in ("一", "二", "三"):
        await chat.say(chat.user, text)
    first = await bot.get_updates(limit=2)
    assert first == await bot.get_updates(limit=2)
    assert [update.message.text for update in first if update.message] == ["一", "二"]
    (third,) = await bot.get_updates(offset=first[-1].update_id + 1)
    assert len(server.updates.pending) == 1
    assert not await bot.get_updates(offset=third.update_id + 1)
    assert not server.updates.pending
    await chat.say(chat.user, "四")
    await chat.say(chat.user, "五")
    (last,) = await bot.get_updates(offset=-1)
    assert last.message
    assert last.message.text == "五"
    assert len(server.updates.pending) == 1


async def test_a_long_poll_ends_with_the_update_or_its_time(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    poll = asyncio.create_task(bot.get_updates(timeout=30))
    await server.until(lambda: server.updates.polled, SECONDS)
    await chat.say(chat.user, "你好")
    (update,) = await asyncio.wait_for(poll, SECONDS)
    assert not await bot.get_updates(offset=update.update_id + 1, timeout=1)


async def test_two_pollers_conflict(server: BotAPI) -> None:
    async with client(server) as other, listening(server, timeout=30) as first:
        await server.until(lambda: server.updates.polled, SECONDS)
        second = asyncio.create_task(other.get_updates(timeout=30))
        await server.until(lambda: first.errors, SECONDS)
        assert isinstance(first.errors[0], Conflict)
        assert "terminated by other getUpdates request" in str(first.errors[0])
        # The first comes back, and now the second is told.
        with pytest.raises(Conflict):
            await second


async def test_allowed_updates_are_remembered(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    asked = await chat.say(chat.user, "你好")
    await chat.react(asked, "👍")
    (update,) = await bot.get_updates()
    await bot.get_updates(offset=update.update_id + 1, allowed_updates=["message_reaction"])
    await bot.get_updates()
    await chat.say(chat.user, "还在？")
    await chat.react(asked)
    (update,) = await bot.get_updates()
    assert update.message_reaction
    assert not update.message_reaction.new_reaction


async def test_the_same_update_twice_and_ids_that_go_back(server: BotAPI) -> None:
    chat = server.private(server.user("宝玉"))
    async with listening(server, timeout=5) as listener:
        asked = await chat.say(chat.user, "一")
        first = await listener.next()
        server.updates.repeat(first.to_dict())
        again = await listener.next()
        assert again.update_id == first.update_id
        server.updates.push("message", asked.json(), update_id=first.update_id - 3)
        assert (await listener.next()).update_id == first.update_id - 3
        for restart in (first.update_id - 5000, first.update_id + 5_000_000):
            server.updates.restart_ids(restart)
            await chat.say(chat.user, "二")
            assert (await listener.next()).update_id == restart
        await server.updates.confirmed(SECONDS)
        assert listener.queue.empty()


async def test_updates_are_kept_for_a_day(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    await chat.say(chat.user, "一")
    server.advance(24 * 3600 + 1)
    assert not await bot.get_updates()


async def test_a_poller_that_is_killed_loses_nothing(server: BotAPI, bot: Bot) -> None:
    """A bot in a process of its own, which the system ends while it polls."""
    chat = server.private(server.user("宝玉"))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", POLLER, server.base_url)
    try:
        await server.until(lambda: server.updates.polled, SECONDS)
        await chat.say(chat.user, "一")
        await server.until(lambda: server.calls("getUpdates")[0].status, SECONDS)
    finally:
        process.kill()
        await process.wait()
    await chat.say(chat.user, "二")
    updates = await bot.get_updates()
    assert [update.message.text for update in updates if update.message] == ["一", "二"]


async def test_pending_updates_can_be_dropped(server: BotAPI) -> None:
    chat = server.private(server.user("宝玉"))
    await chat.say(chat.user, "一")
    async with listening(server, timeout=5, drop_pending_updates=True) as listener:
        await chat.say(chat.user, "二")
        assert await listener.text() == "二"


# ── the webhook ──


async def test_a_webhook_is_called_until_it_takes_the_update(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    port = free_port()
    server.updates.proxy["https://daiyu.example"] = f"http://127.0.0.1:{port}"
    await bot.set_webhook("https://daiyu.example/hook", secret_token="s3cret")
    await chat.say(chat.user, "早")
    await server.until(lambda: server.updates.deliveries, SECONDS)
    info = await bot.get_webhook_info()
    assert info.pending_update_count == 1
    assert info.last_error_message
    assert server.updates.deliveries[0].status is None

    listener = Listener(server)
    async with listener.updater:
        await listener.updater.start_webhook(
            listen="127.0.0.1",
            port=port,
            url_path="hook",
            webhook_url="https://daiyu.example/hook",
            secret_token="s3cret",
        )
        assert await listener.text() == "早"
        with pytest.raises(Conflict, match="can't use getUpdates method while webhook is active"):
            await bot.get_updates()
        await server.updates.confirmed(SECONDS)
        server.updates.deliveries.clear()
        # One that does not know the secret is refused; the update waits.
        await bot.set_webhook("https://daiyu.example/hook", secret_token="other")
        await chat.say(chat.user, "晚")
        await server.until(lambda: len(server.updates.deliveries) > 1, SECONDS)
        assert server.updates.deliveries[0].status == 403
        assert listener.queue.empty()
        await bot.set_webhook("https://daiyu.example/hook", secret_token="s3cret")
        assert await listener.text() == "晚"
        await listener.updater.stop()
    assert await bot.delete_webhook()
    assert not (await bot.get_webhook_info()).url
    assert not await bot.get_updates()


async def test_a_webhook_ends_the_poll_and_must_be_public(server: BotAPI, bot: Bot) -> None:
    poll = asyncio.create_task(bot.get_updates(timeout=30))
    await server.until(lambda: server.updates.polled, SECONDS)
    with pytest.raises(BadRequest, match="https url must be provided"):
        await bot.set_webhook("http://127.0.0.1:8080/")
    with pytest.raises(BadRequest, match="only on ports 80, 88, 443 or 8443"):
        await bot.set_webhook("https://daiyu.example:9000/")
    with pytest.raises(BadRequest, match="unallowed characters"):
        await bot.set_webhook("https://daiyu.example/", secret_token="a b")
    server.updates.proxy["https://daiyu.example"] = f"http://127.0.0.1:{free_port()}"
    await bot.set_webhook("https://daiyu.example/")
    with pytest.raises(Conflict, match="terminated by setWebhook request"):
        await poll


# ── rates ──


async def refused(send: Callable[[], Any], calls: int) -> list[float]:
    """How long those of so many calls had to wait that were refused."""
    waits = []
    for _ in range(calls):
        try:
            await send()
        except RetryAfter as wait:
            waits.append(float(wait.retry_after))  # type: ignore[arg-type]  # no timedelta unasked
    return waits


async def test_a_chat_takes_a_burst_and_then_one_message_a_second() -> None:
    # A slow pace, which a busy machine cannot outwait.
    async with BotAPI(rates=Rates(per_chat=0.01, burst=3)) as server, client(server) as bot:
        chat, other = server.private(server.user("宝玉")), server.private(server.user("湘云"))
        (wait,) = await refused(lambda: bot.send_message(chat.id, "花"), 4)
        assert 80 < wait <= 100
        answer = server.calls("sendMessage", chat)[-1].answer
        assert answer == {
            "ok": False,
            "error_code": 429,
            "description": f"Too Many Requests: retry after {wait:g}",
            "parameters": {"retry_after": wait},
        }
        await bot.send_message(other.id, "花")
        server.advance(wait)
        await bot.send_message(chat.id, "花")


async def test_a_group_takes_20_sends_and_edits_a_minute() -> None:
    async with BotAPI(rates=Rates(per_chat=1000, burst=1000)) as server, client(server) as bot:
        group = server.group("诗社", server.user("宝玉"))
        sent = await bot.send_message(group.id, "0")
        texts = iter(range(1, 100))
        assert not await refused(lambda: sent.edit_text(str(next(texts))), 19)
        (wait,) = await refused(lambda: bot.send_message(group.id, "花"), 1)
        assert 40 < wait <= 60
        assert await refused(lambda: sent.edit_text("谢"), 1)
        await bot.send_chat_action(group.id, "typing")
        server.advance(60)
        await bot.send_message(group.id, "花")


async def test_thirty_a_second_overall_scaled() -> None:
    async with BotAPI(rates=Rates(scale=0.001)) as server, client(server) as bot:
        chats = [server.private(server.user(str(index))) for index in range(31)]
        places = iter(chats)
        waits = await refused(lambda: bot.send_message(next(places).id, "花"), 31)
        assert waits == [1000]
        server.rates = None
        assert not await refused(lambda: bot.send_message(chats[0].id, "花"), 10)


# ── faults ──


async def test_connections_that_drop(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    server.fail("sendMessage", DROP_BEFORE)
    server.fail("sendMessage", DROP_AFTER)
    with pytest.raises(NetworkError):
        await bot.send_message(chat.id, "花")
    assert not chat.messages
    with pytest.raises(NetworkError):
        await bot.send_message(chat.id, "花")
    assert [message.text for message in chat.messages] == ["花"]
    assert [call.status for call in server.calls("sendMessage")] == [None, None]
    await bot.send_message(chat.id, "谢")


async def test_a_poll_that_drops_brings_its_updates_again(server: BotAPI) -> None:
    chat = server.private(server.user("宝玉"))
    server.fail("getUpdates", DROP_AFTER, times=2)
    async with listening(server, timeout=5) as listener:
        await chat.say(chat.user, "你好")
        assert await listener.text() == "你好"
        assert listener.errors
        await server.updates.confirmed(SECONDS)
        assert listener.queue.empty()


async def test_slow_answers(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    server.fail("sendMessage", slow(5))
    with pytest.raises(TimedOut):
        await bot.send_message(chat.id, "花", read_timeout=0.3)
    await chat.until(lambda here: here.from_bot)


async def test_errors_of_the_server(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    plan = server.fail("*", html(502), times=None)
    for call in (bot.get_me, lambda: bot.send_message(chat.id, "花")):
        with pytest.raises(NetworkError):
            await call()
    plan.end()
    server.fail("getMe", html(500))
    with pytest.raises(NetworkError):
        await bot.get_me()
    await bot.get_me()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (limits.BLOCKED, Forbidden, "bot was blocked by the user"),
        (limits.DEACTIVATED, Forbidden, "user is deactivated"),
        (limits.KICKED, Forbidden, "bot was kicked"),
        (limits.NO_CHAT, BadRequest, "Chat not found"),
        (limits.MUTED, BadRequest, "Not enough rights to send text messages"),
        (limits.TOPIC_CLOSED, BadRequest, "Topic_closed"),
        (limits.NO_TOPIC, BadRequest, "Message thread not found"),
        (flood(7), RetryAfter, "Retry in 7 seconds"),
        (migrated(-100123), ChatMigrated, "Group migrated to supergroup"),
    ],
)
async def test_refusals_for_one_chat(
    server: BotAPI, bot: Bot, fault: limits.Fault, error: type[TelegramError], words: str
) -> None:
    chat, other = server.private(server.user("宝玉")), server.private(server.user("湘云"))
    server.fail("sendMessage", fault, chat=chat, times=2)
    await bot.send_message(other.id, "花")
    for _ in range(2):
        with pytest.raises(error, match=words):
            await bot.send_message(chat.id, "花")
    await bot.send_message(chat.id, "花")


# ── the log, and what may not be in an answer ──


async def test_every_request_is_logged_with_its_time(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    await bot.send_message(chat.id, "一")
    server.advance(10)
    await bot.send_message(chat.id, "二")
    one, two = server.calls("sendMessage", chat)
    assert 10 <= two.at - one.at < 30
    assert two.params["text"] == "二"
    assert two.status == 200
    assert two.answer["result"]["text"] == "二"
    assert [request.method for request in server.requests] == ["getMe"] + ["sendMessage"] * 2


async def test_the_token_in_an_answer_fails_the_test() -> None:
    async def leak() -> None:
        async with BotAPI() as server, client(server) as bot:
            chat = server.private(server.user("宝玉"))
            await bot.send_message(chat.id, f"failed: {server.token}")

    with pytest.raises(AssertionError, match="the token is in an answer"):
        await leak()


async def test_calls_come_in_any_of_the_ways_that_telegram_takes(server: BotAPI) -> None:
    chat = server.private(server.user("宝玉"))
    url = f"{server.base_url}{server.token}/SENDMESSAGE"
    said = {"chat_id": str(chat.id), "text": "花"}
    async with httpx.AsyncClient(verify=False, trust_env=False) as http:
        for answer in (
            await http.get(url, params=said),
            await http.post(url, data=said),
            await http.post(url, json=said),
            await http.post(url, data=said, files={"photo": b"pixels"}),
        ):
            assert answer.json()["ok"]
        assert (await http.get(f"{server.base_url}nonsense/getMe")).status_code == 404
        unknown = await http.get(f"{server.base_url}{server.token}/sing")
    assert unknown.json() == {
        "ok": False,
        "error_code": 404,
        "description": "Not Found: method not found",
    }
    assert len(chat.messages) == 4
