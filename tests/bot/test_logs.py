"""The log tells of turns by their numbers, and never what was said in them."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starting import run
from talking import full_disk, opened_chat

from bot.logs import Redacting, RedactingJSON
from persona.engines.base import EngineError

SECRET = "1:secret"


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[list[str]]:
    """What the log's file would hold, with tracebacks, from every logger at INFO and above."""
    kept: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(self.format(record))

    handler = Keeping(logging.INFO)
    handler.setFormatter(Redacting([SECRET]))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield kept
    root.removeHandler(handler)
    root.setLevel(level)


async def test_turns_are_told_by_number_whatever_becomes_of_them(
    tmp_path: Path, lines: list[str]
) -> None:
    async with opened_chat(tmp_path) as chat:
        await chat.say("苏州的雨")
        chat.engine.replies.append(EngineError("it fell over"))
        await chat.say("苏州的桥")
        await chat.say("/feedback 不如说苏州的船")
        async with full_disk(chat.store):
            for _ in range(40):
                await chat.say("苏州" * 200)
    log = "\n".join(lines)
    assert re.search(r"turn 1: done after \d", log)
    assert re.search(r"turn 2: failed after \d", log)
    assert "disk is full" in log
    assert "苏州" not in log


async def test_what_nobody_foresaw_is_logged_without_what_was_said(
    tmp_path: Path, lines: list[str]
) -> None:
    private = "苏州的桥"
    async with opened_chat(tmp_path) as chat:
        async with chat.store._transactions.write() as connection:
            await connection.exec_driver_sql(
                "CREATE TRIGGER no BEFORE INSERT ON turns BEGIN SELECT RAISE(ABORT, 'no room'); END"
            )
        await chat.say("苏州的雨")
        try:
            await chat.store.begin_turn(1, "u1", "", private, "m1")
        except Exception:
            logging.getLogger("bot").exception("it broke")
    log = "\n".join(lines)
    assert "no room" in log
    assert "Traceback" in log
    assert "苏州" not in log


def record(**extra: object) -> logging.LogRecord:
    try:
        raise ValueError(f"a token: {SECRET}")
    except ValueError:
        made = logging.getLogger("bot.x").makeRecord(
            "bot.x", logging.ERROR, __file__, 1, "turn %d 「%s」", (7, SECRET), sys.exc_info(),
            extra=extra or None,
        )  # fmt: skip
    return made


def test_json_is_one_object_a_line_without_secrets() -> None:
    line = RedactingJSON([SECRET]).format(record(turn=7))
    assert "\n" not in line
    assert SECRET not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["turn"]) == ("ERROR", "bot.x", 7)
    assert told["message"] == "turn 7 「<token>」"
    assert "ValueError: a token: <token>" in told["error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told["time"])


def test_secret_that_json_writes_otherwise_is_redacted_too() -> None:
    secret = 'to"ken'
    made = logging.LogRecord("bot", logging.INFO, "", 0, "say %s", (secret,), None)
    assert json.loads(RedactingJSON([secret]).format(made))["message"] == "say <token>"


def test_log_is_json_where_that_is_set(tmp_path: Path) -> None:
    assert run(tmp_path, stdin="苏州的雨\n", DAIYU_BOT__LOG="json").returncode == 0
    log = (tmp_path / "daiyu.log").read_text("utf-8")
    told = [json.loads(line) for line in log.splitlines()]
    assert [line["turn"] for line in told if "turn" in line] == [1]
    assert "苏州" not in log
