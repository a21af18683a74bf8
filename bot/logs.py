"""The log: where it goes, and what must never be in it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

log = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NOISY = (
    "httpx", "httpcore", "telegram", "discord", "apscheduler", "alembic", "aiosqlite", "modelscope",
)  # fmt: skip
"""Libraries that say at INFO what nobody asks, or, as httpx does, addresses that hold a token."""


class Redacting(logging.Formatter):
    """Takes secrets out of the whole finished line, its traceback included."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(_FORMAT)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return redacted(self._line(record), self._secrets)

    def _line(self, record: logging.LogRecord) -> str:
        return super().format(record)


class RedactingJSON(Redacting):
    """The same as one JSON object a line: time, level, logger, message, and where there is one the
    number of the turn and the traceback."""

    def _line(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
            "level": record.levelname,
            "logger": record.name,
            # Before JSON writes some of its characters otherwise.
            "message": redacted(record.getMessage(), self._secrets),
        }
        if (turn := getattr(record, "turn", None)) is not None:
            told["turn"] = turn
        if record.exc_info:
            told["error"] = redacted(self.formatException(record.exc_info), self._secrets)
        return json.dumps(told, ensure_ascii=False)


def redacted(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "<token>").replace(quote(secret, safe=""), "<token>")
    return text


def keep_log(
    path: Path, secrets: Sequence[str] = (), form: Literal["text", "json"] = "text"
) -> None:
    """Sends the log to a file: at a terminal the screen belongs to the conversation."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = RotatingFileHandler(path, maxBytes=5_000_000, backupCount=3)
    except OSError:
        handler = logging.StreamHandler()  # the store says what is wrong with the folder
    handler.setLevel(logging.INFO)
    handler.setFormatter((RedactingJSON if form == "json" else Redacting)(secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if secrets:
        _redact_last_words(secrets)


def _redact_last_words(secrets: Sequence[str]) -> None:
    """What ends the program unforeseen is printed without them too."""

    def tell(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        lines = logging.Formatter().formatException((kind, error, where))
        sys.stderr.write(redacted(lines, secrets) + "\n")

    sys.excepthook = tell


def notice(line: str) -> None:
    """Tells the person who runs the bot, in the log too."""
    log.info("%s", line)
    sys.stderr.write(f"daiyu: {line}\n")
