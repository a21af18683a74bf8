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
from collections.abc import Callable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, InMemoryHistory
from rich.console import Console
from rich.live import Live
from rich.text import Text

from bot.platforms.base import STOPPED, File, Handler, Incoming, Lang, Limits, Said, SendError
from bot.texts import say

_CHAT = "terminal"
_LONGEST_LINE = 1_000_000
"""Bytes of a piped line that are read: far more than the bot takes."""


class TerminalPlatform:
    """One person at one terminal, or lines from a pipe, each answered before the next is read."""

    name = "terminal"
    online = True

    def __init__(
        self, her_name: str, lang: Lang, history: Path, files: Path, console: Console | None = None
    ) -> None:
        self._console = console or Console(highlight=False)
        # Without a standard input, as under some supervisors, it reads an empty pipe.
        self._interactive = bool(sys.stdin and sys.stdin.isatty() and self._console.is_terminal)
        self._her_name = her_name
        self._lang = lang
        self._history = history
        self._files = files
        self._live: Live | None = None
        self._answering: asyncio.Task[None] | None = None
        self._limits = Limits(
            length=1_000_000, edit_interval=0.05 if self._console.is_terminal else None
        )

    def limits(self, to: Incoming) -> Limits:
        return self._limits

    async def run(self, handle: Handler) -> None:
        await self._answer(handle, "/start")
        if not self._interactive:
            await self._read_pipe(handle)
            return
        session: PromptSession[str] = PromptSession(history=self._file_history())
        with _on_ctrl_c(lambda: self._interrupt(session)):
            await self._converse(handle, session)

    async def send(self, to: Incoming, said: Said) -> str:
        self._settle()
        if self._limits.edit_interval is None:
            self._console.print(self._line(said), soft_wrap=True)
        else:
            # A live area redraws the whole reply: what the guard takes back vanishes.
            self._live = Live(
                self._line(said), console=self._console, vertical_overflow="visible",
                auto_refresh=False,
            )  # fmt: skip
            self._live.start(refresh=True)
        return str(time.time_ns())

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None:
        if self._live:
            self._live.update(self._line(said), refresh=True)

    async def typing(self, to: Incoming) -> None:
        return None

    async def draft(self, to: Incoming, said: Said) -> None:
        return None

    async def strip(self, to: Incoming, message_id: str) -> None:
        return None

    async def hand_over(self, to: Incoming, file: File) -> None:
        """Writes it where only the person reads it, and says where."""
        path = self._files / file.name
        try:
            self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(file.content)
        except OSError as error:
            raise SendError(f"{path}: {error.strerror}") from error
        await self.send(to, Said(say(await self._lang(to), "file_written", path=path), hers=False))

    def _settle(self) -> None:
        """Leaves what is shown as it stands."""
        if self._live:
            self._live.stop()
            self._live = None

    def _line(self, said: Said) -> Text:
        if not said.hers:
            return Text(_printable(said.text), style="dim")
        return Text.assemble((f"{self._her_name}：", "bold magenta"), _printable(said.text))

    async def _say(self, key: str) -> str:
        """What the platform itself says, in the chat's language."""
        return say(await self._lang(self._incoming()), key)

    async def _note(self, key: str) -> None:
        self._console.print(await self._say(key), style="dim")

    def _incoming(self, text: str = "") -> Incoming:
        user = _user()
        return Incoming(self.name, _CHAT, user, text, user_name=user)

    async def _answer(self, handle: Handler, text: str) -> None:
        try:
            await handle(self._incoming(text))
        finally:
            self._settle()

    async def _converse(self, handle: Handler, session: PromptSession[str]) -> None:
        interrupted = False
        while True:
            prompt = ANSI(f"\033[1;36m{await self._say('you')}：\033[0m")
            try:
                text = await session.prompt_async(prompt, handle_sigint=False)
            except EOFError:
                break
            except KeyboardInterrupt:
                if interrupted:
                    break
                interrupted = True
                await self._note("interrupt_hint")
                continue
            interrupted = False
            if _is_farewell(text):
                break
            if text.strip():
                interrupted = await self._answer_or_stop(handle, text)
        await self._note("bye")

    async def _answer_or_stop(self, handle: Handler, text: str) -> bool:
        """Answers; Ctrl-C stops the reply, a second one leaves. Whether it was stopped."""
        self._answering = task = asyncio.create_task(self._answer(handle, text))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()  # the bot ends: the reply first
            await asyncio.wait([task])
            raise
        finally:
            self._answering = None
        if task.cancelled():
            await self._note("cancelled")
            return True
        task.result()
        return False

    def _interrupt(self, session: PromptSession[str]) -> None:
        if self._answering:
            if not self._answering.cancelling():  # it is closing its turn: let it
                self._answering.cancel(STOPPED)
        elif session.app.is_running:
            session.app.exit(exception=KeyboardInterrupt())

    async def _read_pipe(self, handle: Handler) -> None:
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        wanted = threading.Semaphore(0)
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody reads any more
                while wanted.acquire():
                    loop.call_soon_threadsafe(lines.put_nowait, _next_line())

        # Not a pool's thread: one that waits for a line must not hold up the end.
        threading.Thread(target=read, daemon=True).start()
        while True:
            wanted.release()  # a line at a time: an endless pipe must not fill the memory
            line = await lines.get()
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if not line or _is_farewell(text):
                break
            if text.strip():
                await self._answer(handle, text)

    def _file_history(self) -> FileHistory | InMemoryHistory:
        try:
            self._history.touch(mode=0o600)
        except OSError:
            return InMemoryHistory()
        return _History(str(self._history))


class _History(FileHistory):
    """Goes on where the disk takes no more: what was typed matters more than that it is kept."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


@contextlib.contextmanager
def _on_ctrl_c(act: Callable[[], None]) -> Iterator[None]:
    """Does that on SIGINT, in the event loop, where nothing is torn out of the middle of a step."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, act)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)  # asyncio's own, which ends the bot in order


def _is_farewell(text: str) -> bool:
    return text.casefold().split()[:1] == ["/quit"]


def _next_line() -> bytes:
    """The next line of standard input, cut where it is too long; empty at the end."""
    if not sys.stdin:
        return b""
    line = rest = sys.stdin.buffer.readline(_LONGEST_LINE)
    while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
        rest = sys.stdin.buffer.readline(_LONGEST_LINE)
    return line


def _user() -> str:
    """Who is at the terminal; in a container it may be a number that no name belongs to."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
    return name.encode("utf-8", "replace").decode("utf-8")


def _printable(text: str) -> str:
    """Without control characters: a reply must not move the cursor or colour the screen."""
    return "".join(c for c in text if c == "\n" or c.isprintable() or c in "\u3000\u200d\ufe0f")
