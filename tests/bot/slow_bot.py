"""`python -m bot` on an echo engine that takes its time: for what happens in mid-reply."""

from __future__ import annotations

import os
import sys

from bot import __main__, app
from bot.config import Settings
from persona.child import Report
from persona.engines.echo import EchoEngine, byte_tokenizer
from persona.serving import Served


async def load(settings: Settings, served: Served, report: Report) -> app.Loaded:
    engine = EchoEngine(delay=float(os.environ["SLOW_BOT_DELAY"]))
    return app.Loaded(served.version, engine, byte_tokenizer())


if __name__ == "__main__":
    app.load = load
    sys.exit(__main__.main())
