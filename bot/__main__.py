"""`python -m bot`: starts the bot, with --check says whether it could start; copies its state."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from io import TextIOWrapper
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # What a screen of few characters cannot show must not end the conversation.
            stream.reconfigure(errors="replace")
    try:
        return _run(_options(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bot", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.toml"), help="settings file")
    parser.add_argument(
        "--check", action="store_true", help="look at everything, say what would be done, and end"
    )
    parser.add_argument(
        "verb",
        nargs="?",
        choices=("backup", "restore"),
        help="copy all that cannot be made again into a new folder, while a bot may be running; or "
        "put such a copy back, while none is. Without it the bot runs",
    )
    parser.add_argument("path", nargs="?", type=Path, help="the folder of the copy")
    options = parser.parse_args(arguments)
    if options.verb and not options.path:
        parser.error(f"{options.verb} needs the folder's PATH")
    return options


def _run(options: argparse.Namespace) -> int:
    # Not above: Ctrl-C in the second or two that these take is no error either.
    from bot import app, config
    from bot.check import MISTAKES, check
    from data.config import environment

    try:
        settings = config.read(options.config, environment())
        if options.verb:
            from bot.backup import back_up, put_back

            copy = back_up if options.verb == "backup" else put_back
            copy(settings, options.path, lambda line: print(f"daiyu: {line}"))
            return 0
        if not options.check:
            asyncio.run(app.run(settings))
            return 0
        lines: list[str] = []
        well = check(settings, lines.append)
    except MISTAKES as mistake:
        print(f"daiyu: {mistake}", file=sys.stderr)
        return 1
    return 0 if _tell(lines) and well else 1


def _tell(lines: list[str]) -> bool:
    """Prints; false where that failed. That a reader has seen enough, as `head` has, is well."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        # The interpreter tries once more at its end: let it succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return True
        print(f"daiyu: standard output: {error.strerror}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
