"""The terminal: line editing and a streamed reply at a terminal, plain lines in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
import sys
import threading
import time
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, InMemoryHistory
from rich.console import Console
from rich.live import Live
from rich.text import Text

from bot.platforms.base import Handler, Incoming, Limits
from bot.texts import say

_CHAT = "terminal"


class TerminalPlatform:
    """One person at one terminal, or lines from a pipe, each answered before the next is read."""

    name = "terminal"

    def __init__(self, her_name: str, lang: str, history: Path, console: Console | None = None):
        self._console = console or Console(highlight=False)
        self._interactive = sys.stdin.isatty() and self._console.is_terminal
        self._her_name = her_name
        self._lang = lang
        self._history = history
        self._live: Live | None = None
        self.limits = Limits(
            length=1_000_000, edit_interval=0.05 if self._console.is_terminal else None
        )

    async def run(self, handle: Handler) -> None:
        await self._answer(handle, "/start")
        await (self._converse(handle) if self._interactive else self._read_pipe(handle))

    async def send(self, to: Incoming, text: str) -> str:
        if self.limits.edit_interval is None:
            self._console.print(self._line(to, text), soft_wrap=True)
        else:
            # A live area redraws the whole reply: what the guard takes back vanishes.
            self._live = Live(
                self._line(to, text), console=self._console, vertical_overflow="visible",
                auto_refresh=False,
            )  # fmt: skip
            self._live.start(refresh=True)
        return str(time.time_ns())

    async def edit(self, to: Incoming, message_id: str, text: str) -> None:
        if self._live:
            self._live.update(self._line(to, text), refresh=True)

    async def typing(self, to: Incoming) -> None:
        return None

    def _line(self, to: Incoming, text: str) -> Text:
        if to.text.startswith("/") and not to.text.startswith("/retry"):
            return Text(_printable(text), style="dim")  # the program speaks, not she
        return Text.assemble((f"{self._her_name}：", "bold magenta"), _printable(text))

    def _incoming(self, text: str) -> Incoming:
        user = _user()
        return Incoming(self.name, _CHAT, user, text, user_name=user)

    async def _answer(self, handle: Handler, text: str) -> None:
        try:
            await handle(self._incoming(text))
        finally:
            if self._live:
                self._live.stop()
                self._live = None

    async def _converse(self, handle: Handler) -> None:
        session: PromptSession[str] = PromptSession(history=self._file_history())
        prompt = ANSI(f"\033[1;36m{say(self._lang, 'you')}：\033[0m")
        interrupted = False
        while True:
            try:
                text = await session.prompt_async(prompt)
            except EOFError:
                break
            except KeyboardInterrupt:
                if interrupted:
                    break
                interrupted = True
                self._console.print(say(self._lang, "interrupt_hint"), style="dim")
                continue
            interrupted = False
            if text.strip() == "/quit":
                break
            if not text.strip():
                continue
            interrupted = await self._answer_or_stop(handle, text)
        self._console.print(say(self._lang, "bye"), style="dim")

    async def _answer_or_stop(self, handle: Handler, text: str) -> bool:
        """Answers; Ctrl-C stops the reply, a second one leaves. Whether it was stopped."""
        task = asyncio.ensure_future(self._answer(handle, text))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()  # the bot ends: the reply first
            await asyncio.wait([task])
            raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        if task.cancelled():
            self._console.print(say(self._lang, "cancelled"), style="dim")
            return True
        task.result()
        return False

    async def _read_pipe(self, handle: Handler) -> None:
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody reads any more
                while line := sys.stdin.buffer.readline():
                    loop.call_soon_threadsafe(lines.put_nowait, line)
                loop.call_soon_threadsafe(lines.put_nowait, b"")

        # Not a pool's thread: one that waits for a line must not hold up the end.
        threading.Thread(target=read, daemon=True).start()
        while line := await lines.get():
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text.strip() == "/quit":
                break
            if text.strip():
                await self._answer(handle, text)

    def _file_history(self) -> FileHistory | InMemoryHistory:
        try:
            self._history.touch(mode=0o600)
        except OSError:
            return InMemoryHistory()
        return FileHistory(str(self._history))


def _user() -> str:
    """Who is at the terminal; in a container it may be a number that no name belongs to."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
    return name.encode("utf-8", "replace").decode("utf-8")


def _printable(text: str) -> str:
    """Without control characters: a reply must not move the cursor or colour the screen."""
    return "".join(c for c in text if c == "\n" or c.isprintable() or c in "\u200d\ufe0f")
