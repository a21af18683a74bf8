"""`python -m bot`: starts the bot, or with --check says whether it could be started."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from bot import app, config
from bot.check import check
from data.config import SettingsError, environment
from data.database import StoreError
from data.triples import TriplesError
from persona.card import CardError
from persona.checkpoint import CheckpointError
from persona.engines.base import EngineError
from persona.guard import GuardError
from persona.weights import WeightsError

MISTAKES = (
    SettingsError,
    StoreError,
    TriplesError,
    CardError,
    GuardError,
    CheckpointError,
    EngineError,
    WeightsError,
)
"""What a person can mend: each is told in one line, without a traceback."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bot", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.toml"), help="settings file")
    parser.add_argument(
        "--check", action="store_true", help="validate everything, say what would be done, and end"
    )
    options = parser.parse_args(arguments)
    try:
        settings = config.read(options.config, environment())
        if options.check:
            return asyncio.run(check(settings))
        asyncio.run(app.run(settings))
    except MISTAKES as mistake:
        print(f"daiyu: {mistake}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
