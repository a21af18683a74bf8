"""`python -m bot` on an echo engine that takes its time: for what happens in mid-reply."""

from __future__ import annotations

import os
import sys

from bot import __main__, app
from bot.config import Settings
from persona.child import Report
from persona.engines.base import Engine
from persona.engines.echo import EchoEngine, byte_tokenizer
from persona.tokenizer import ChatTokenizer


async def load_engine(
    settings: Settings, character: app.Character, report: Report
) -> tuple[Engine, ChatTokenizer]:
    return EchoEngine(delay=float(os.environ["SLOW_BOT_DELAY"])), byte_tokenizer()


if __name__ == "__main__":
    app.load_engine = load_engine
    sys.exit(__main__.main())
