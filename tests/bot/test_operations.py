"""The local port: figures without words, and whether people are answered."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starting import mistake, run
from talking import Screen, opened_chat, settings

from bot import app
from bot.config import OperationsSettings
from bot.metrics import Metrics
from bot.operations import listening
from bot.readiness import Readiness
from data.config import SettingsError
from persona.engines.base import EngineError


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Port:
    """What asks there. `await port.get("readyz")` gives the status and the text."""

    def __init__(self, number: int, session: aiohttp.ClientSession) -> None:
        self.number = number
        self._session = session

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(f"http://127.0.0.1:{self.number}/{path}") as answer:
            return answer.status, await answer.text()

    async def figures(self) -> dict[tuple[str, ...], float]:
        """Every sample by its name and the values of its labels, in the order of their names."""
        status, text = await self.get("metrics")
        assert status == 200
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@asynccontextmanager
async def opened_port(metrics: Metrics, readiness: Readiness) -> AsyncIterator[Port]:
    number = free_port()
    async with (
        listening(OperationsSettings(port=number), metrics, readiness),
        aiohttp.ClientSession() as session,
    ):
        yield Port(number, session)


async def test_turns_are_counted_by_platform_and_end(tmp_path: Path) -> None:
    metrics = Metrics()
    async with (
        opened_chat(tmp_path, metrics=metrics) as chat,
        opened_port(metrics, Readiness()) as port,
    ):
        await chat.say("你好")
        await chat.say("今日下雨了")
        chat.engine.replies.append(EngineError("it fell over"))
        await chat.say("再说一句")
        figures = await port.figures()
    assert figures["daiyu_turns_total", "done", "screen"] == 2
    assert figures["daiyu_turns_total", "failed", "screen"] == 1
    assert figures["daiyu_errors_total", "bot.conversation"] == 1
    assert figures["daiyu_turn_seconds_count",] == 3
    assert figures["daiyu_first_token_seconds_count",] == 2
    assert figures["daiyu_tokens_total", "reply"] > 0


async def test_what_was_not_begun_is_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    async with (
        opened_chat(tmp_path, metrics=metrics, model__queue="1") as chat,
        opened_port(metrics, Readiness()) as port,
    ):
        chat.engine.delay = 0.01
        saying = chat.saying("头一个")
        await chat.mid_reply()
        await chat.say("第二个", chat_id="2")
        figures = await port.figures()
        assert figures["daiyu_turns_running",] == 1
        chat.engine.delay = 0
        await saying
    assert figures["daiyu_turns_total", "refused", "screen"] == 1


async def test_turn_that_met_its_deadline_is_late_and_counted_once(tmp_path: Path) -> None:
    metrics = Metrics()
    async with (
        opened_chat(tmp_path, metrics=metrics, model__deadline="0.05") as chat,
        opened_port(metrics, Readiness()) as port,
    ):
        chat.engine.delay = 10.0
        await chat.say("等你")
        figures = await port.figures()
    assert {k: v for k, v in figures.items() if k[0] == "daiyu_turns_total"} == {
        ("daiyu_turns_total", "late", "screen"): 1
    }


async def test_votes_and_guard_hits_are_counted_by_kind(tmp_path: Path) -> None:
    metrics = Metrics()
    async with (
        opened_chat(tmp_path, metrics=metrics) as chat,
        opened_port(metrics, Readiness()) as port,
    ):
        await chat.say("我不想活了")
        await chat.say("今日下雨了")
        for verdict in ("good", "bad", "雨打芭蕉，听着倒好。", "none", ""):
            await chat.say(f"/feedback {verdict}")
        figures = await port.figures()
    assert figures["daiyu_guard_hits_total", "risk"] == 1
    votes = {k[1]: v for k, v in figures.items() if k[0] == "daiyu_votes_total"}
    assert votes == {"good": 1, "bad": 1, "correction": 1, "taken back": 1}


async def test_versions_queue_speed_and_memory_are_told(tmp_path: Path) -> None:
    metrics = Metrics()
    async with (
        opened_chat(tmp_path, metrics=metrics) as chat,
        opened_port(metrics, Readiness()) as port,
    ):
        await chat.say("你好")
        chat.bot.watch.look()
        figures = await port.figures()
    assert figures["daiyu_adapter_info", "echo", "serving", "untrained"] == 1
    assert figures["daiyu_queue_length",] == 0
    assert figures["daiyu_tokens_per_second",] > 0
    assert figures["process_resident_memory_bytes",] > 1_000_000
    assert figures["daiyu_memory_bytes",] > 1_000_000
    assert figures["daiyu_disk_free_bytes",] > 0
    assert 0 < figures["daiyu_memory_share",] <= 1


async def test_no_figure_holds_a_word_or_a_person(tmp_path: Path) -> None:
    metrics, who = Metrics(), {"user_id": "u4711", "user_name": "阿宁", "chat_id": "c0815"}
    async with (
        opened_chat(tmp_path, metrics=metrics) as chat,
        opened_port(metrics, Readiness()) as port,
    ):
        chat.engine.replies.append("雨声里听不真")
        await chat.say("我住在苏州", **who)
        await chat.say("/feedback 不如说雨打芭蕉", **who)
        chat.engine.replies.append(EngineError("苏州 c0815 u4711"))
        await chat.say("再说苏州", **who)
        _, text = await port.get("metrics")
    assert "daiyu_votes_total" in text
    for private in ("苏州", "雨", "阿宁", "u4711", "c0815"):
        assert private not in text
    assert text.isascii()


async def test_process_is_healthy_before_it_is_ready(tmp_path: Path) -> None:
    readiness = Readiness()
    async with opened_port(Metrics(), readiness) as port:
        assert await port.get("healthz") == (200, "ok\n")
        status, told = await port.get("readyz")
        assert status == 503
        assert "engine" in json.loads(told)
        async with opened_chat(tmp_path) as chat:
            with readiness.serving(chat.bot.reachable, [chat.screen]):
                status, told = await port.get("readyz")
                assert (status, json.loads(told)) == (
                    200, {"engine": "ok", "store": "ok", "screen": "ok"}
                )  # fmt: skip
        assert (await port.get("readyz"))[0] == 503


async def test_platform_that_lost_its_connection_is_named(tmp_path: Path) -> None:
    readiness, screen = Readiness(), Screen()
    async with opened_chat(tmp_path, screen) as chat, opened_port(Metrics(), readiness) as port:
        with readiness.serving(chat.bot.reachable, [screen]):
            screen.online = False
            status, told = await port.get("readyz")
            assert (status, json.loads(told)["screen"]) == (503, "is not connected")
            screen.online = True
            assert (await port.get("readyz"))[0] == 200


async def test_store_that_does_not_answer_is_named(tmp_path: Path) -> None:
    readiness = Readiness()
    async with opened_chat(tmp_path) as chat, opened_port(Metrics(), readiness) as port:
        with readiness.serving(chat.bot.reachable, [chat.screen]):
            await chat.store._database.engine.dispose()
            chat.database.write_bytes(b"garbage " * 999)
            status, told = await port.get("readyz")
    assert (status, json.loads(told)["store"]) == (503, "does not answer")


async def test_port_that_is_taken_is_one_line() -> None:
    async with opened_port(Metrics(), Readiness()) as port:
        chosen = OperationsSettings(port=port.number)
        with pytest.raises(SettingsError, match=rf"\[operations\] port = {port.number}.*in use"):
            async with listening(chosen, Metrics(), Readiness()):
                pytest.fail("two listen at one port")


def test_taken_port_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = run(tmp_path, stdin="你好\n", DAIYU_OPERATIONS__PORT=port)
    mistake(done, "[operations] port", port)
    assert not (tmp_path / "daiyu.db").exists()


async def test_whole_bot_tells_of_itself_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, number = Screen(), free_port()
    heard, leave = asyncio.Event(), asyncio.Event()

    async def stay(_: object) -> None:
        heard.set()
        await leave.wait()

    monkeypatch.setattr(screen, "run", stay)
    monkeypatch.setattr(app, "_platforms", lambda *_: [screen])
    chosen = settings(
        tmp_path, operations__port=str(number), persona__dialogues="tests/bot/dialogues"
    )
    serving = asyncio.create_task(app._serve(chosen))
    async with aiohttp.ClientSession() as session:
        port = Port(number, session)
        await heard.wait()
        assert (await port.get("readyz"))[0] == 200
        assert "daiyu_adapter_info" in (await port.get("metrics"))[1]
        leave.set()
        await serving
        with pytest.raises(aiohttp.ClientError):
            await port.get("healthz")


async def test_errors_are_counted_while_the_port_is_open_alone() -> None:
    metrics, log = Metrics(), logging.getLogger("bot.somewhere")
    log.error("before")
    async with opened_port(metrics, Readiness()) as port:
        log.warning("no error")
        log.error("within")
        figures = await port.figures()
    log.error("after")
    assert figures["daiyu_errors_total", "bot.somewhere"] == 1
    assert b'daiyu_errors_total{module="bot.somewhere"} 1.0' in metrics.page()
