"""`python -m bot` at a terminal: typed lines, Ctrl-C, Ctrl-D, signals."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from starting import SECONDS, SLOW, environment, turns, until_pending
from talking import REPO

from bot.texts import say


class Terminal:
    """A person's terminal: types, reads, answers what prompt-toolkit asks of the cursor."""

    def __init__(self, var: Path, program: Sequence[str], delay: float) -> None:
        self.screen = ""
        self._read_to = 0
        env = environment(var, delay, COLUMNS="200", LINES="40")
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(REPO)
            os.execve(sys.executable, [sys.executable, *program], env)

    def type(self, text: str) -> None:
        self.screen, self._read_to = "", 0
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Reads on until the text stands after what was waited for before."""
        end = time.monotonic() + SECONDS
        while text not in self.screen[self._read_to :]:
            assert time.monotonic() < end, f"{text!r} not in {self.screen!r}"
            assert self._read(), f"{text!r} not in {self.screen!r}"
        self._read_to = self.screen.index(text, self._read_to) + len(text)

    def wait_for_prompt(self) -> None:
        self.wait_for("你：")

    def end(self) -> int:
        """Waits for the program's end; its exit status."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], SECONDS)
        try:
            data = os.read(self._fd, 65536) if ready else b""
        except OSError:  # the other side is closed
            return False
        if b"\x1b[6n" in data:
            os.write(self._fd, b"\x1b[1;1R")
        self.screen += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def terminal(var: Path, delay: float = 0.0) -> Iterator[Terminal]:
    opened = Terminal(var, SLOW, delay)
    try:
        opened.wait_for_prompt()
        yield opened
    finally:
        opened.close()


def test_person_talks_at_a_terminal_and_leaves(tmp_path: Path) -> None:
    with terminal(tmp_path) as person:
        assert "程序" in person.screen
        person.type("海棠开了\r")
        person.wait_for("黛玉：")
        person.wait_for_prompt()
        assert "程序" not in person.screen  # nothing older is drawn again
        person.type("/quit\r")
        person.wait_for(say("zh", "bye"))
        assert person.end() == 0
    assert [(t["text"], t["reply"]) for t in turns(tmp_path)] == [("海棠开了", "海棠开了")]


def test_ctrl_c_stops_the_reply_and_not_the_bot(tmp_path: Path) -> None:
    with terminal(tmp_path, delay=0.03) as person:
        person.type("海棠开了，我再不管它\r")
        person.wait_for("黛玉：")
        person.type("\x03")
        person.wait_for(say("zh", "cancelled"))
        person.wait_for_prompt()
        [turn] = turns(tmp_path)
        assert (turn["state"], turn["error"]) == ("cancelled", "stopped by the person")
        person.type("好\r")
        person.wait_for("黛玉：")
        person.wait_for_prompt()
        person.type("\x03")
        person.wait_for(say("zh", "interrupt_hint"))
        person.wait_for_prompt()
        person.type("\x03")
        person.wait_for(say("zh", "bye"))
        assert person.end() == 0
    assert [t["state"] for t in turns(tmp_path)] == ["cancelled", "done"]


def test_sigterm_at_a_terminal_closes_the_turn(tmp_path: Path) -> None:
    with terminal(tmp_path, delay=1.0) as person:
        person.type("海棠开了，我再不管它\r")
        until_pending(tmp_path, "海棠开了，我再不管它")
        os.kill(person.pid, signal.SIGTERM)
        assert person.end() == 0
        assert "Traceback" not in person.screen
    [turn] = turns(tmp_path)
    assert (turn["state"], turn["error"]) == ("cancelled", "the bot ended")


def test_ctrl_d_leaves(tmp_path: Path) -> None:
    with terminal(tmp_path) as person:
        person.type("\x04")
        person.wait_for(say("zh", "bye"))
        assert person.end() == 0


def test_terminal_speaks_the_language_of_the_chat(tmp_path: Path) -> None:
    with terminal(tmp_path) as person:
        person.type(" /lang EN\r")
        person.wait_for(say("en", "lang_set"))
        person.wait_for("You：")
        person.type("\x03")
        person.wait_for(say("en", "interrupt_hint"))
        person.wait_for("You：")
        assert "黛玉：" not in person.screen
        person.type(" /QUIT \r")
        person.wait_for(say("en", "bye"))
        assert person.end() == 0


def test_bytes_that_are_no_text_are_taken_at_a_terminal(tmp_path: Path) -> None:
    with terminal(tmp_path) as person:
        os.write(person._fd, b"\xff\xfe\xb2\r")
        person.wait_for("黛玉：")
        person.wait_for_prompt()
        person.type("/quit\r")
        assert person.end() == 0
        assert "Traceback" not in person.screen


def test_interrupt_that_is_no_key_is_taken_as_ctrl_c(tmp_path: Path) -> None:
    with terminal(tmp_path) as person:
        for told in ("interrupt_hint", "bye"):
            os.kill(person.pid, signal.SIGINT)
            person.wait_for(say("zh", told))
            if told != "bye":
                person.wait_for_prompt()
        assert person.end() == 0


def test_ctrl_c_again_and_again_closes_the_turn_once(tmp_path: Path) -> None:
    with terminal(tmp_path, delay=0.03) as person:
        person.type("海棠开了，我再不管它\r")
        person.wait_for("黛玉：")
        for _ in range(5):
            person.type("\x03")
        person.wait_for(say("zh", "cancelled"))
    [turn] = turns(tmp_path)
    assert (turn["state"], turn["error"]) == ("cancelled", "stopped by the person")
    assert "ERROR" not in (tmp_path / "daiyu.log").read_text("utf-8")
