"""`python -m bot` as a person starts it: in a pipe, at a terminal, killed, misconfigured."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from talking import REPO, rows, settings

from bot.app import load_character
from bot.texts import say

SECONDS = 30
SLOW = [str(Path(__file__).with_name("slow_bot.py"))]
ECHO = ["-m", "bot"]


def environment(var: Path, delay: float = 0.0, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DAIYU_")}
    return kept | {
        "DAIYU_MODEL__ENGINE": "echo",
        "DAIYU_PATHS__VAR": str(var),
        "PYTHONPATH": str(REPO),
        "PYTHONUTF8": "1",
        "PYTHONWARNINGS": "default",
        "SLOW_BOT_DELAY": str(delay),
        "TERM": "xterm",
        **more,
    }


def run(
    var: Path, *arguments: str, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *ECHO, *arguments], input=stdin, cwd=REPO,
        env=environment(var, 0.0, **env), capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip


@contextmanager
def started(
    var: Path, program: Sequence[str] = ECHO, delay: float = 0.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A bot that reads from a pipe which stays open."""
    process = subprocess.Popen(
        [sys.executable, *program], env=environment(var, delay), cwd=REPO,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def tell(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin
    process.stdin.write(f"{line}\n".encode())
    process.stdin.flush()


def turns(var: Path) -> list[dict[str, object]]:
    if not (var / "daiyu.db").exists():
        return []
    return rows(var / "daiyu.db", "SELECT * FROM turns ORDER BY id")


def until_pending(var: Path, text: str) -> None:
    """Waits until a message is written down and not yet answered."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if any((t["text"], t["state"]) == (text, "pending") for t in turns(var)):
                return
        except Exception as error:  # the tables are being made
            if "no such table" not in str(error):
                raise
        time.sleep(0.01)
    pytest.fail("no reply was begun")


# A pipe.


def test_pipe_is_answered_line_by_line(tmp_path: Path) -> None:
    done = run(tmp_path, stdin="你好\n\n  \n今日下雨\n/status\n/nonsense\n\xff\n/quit\n还有么\n")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert done.stdout.index("程序") < done.stdout.index("黛玉：你好\n")
    assert done.stdout.index("黛玉：你好\n") < done.stdout.index("黛玉：今日下雨\n")
    assert say("zh", "unknown_command", command="/nonsense") in done.stdout
    assert "还有么" not in done.stdout
    assert [turn["text"] for turn in turns(tmp_path)] == ["你好", "今日下雨", "ÿ"]


def test_pipe_takes_bytes_that_are_no_text(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *ECHO], input=b"\xff\xfe\0\n" + "末了".encode(), cwd=REPO,
        env=environment(tmp_path) | {"LOGNAME": "\udcff"}, capture_output=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert "黛玉：末了" in done.stdout.decode()
    assert [turn["state"] for turn in turns(tmp_path)] == ["done", "done"]


def test_history_goes_on_in_the_next_run(tmp_path: Path) -> None:
    for text in ("头一回", "第二回"):
        assert run(tmp_path, stdin=f"{text}\n").returncode == 0
    first, second = turns(tmp_path)
    assert isinstance(first["prompt_tokens"], int)
    assert isinstance(second["prompt_tokens"], int)
    assert second["conversation_id"] == first["conversation_id"]
    assert second["prompt_tokens"] > first["prompt_tokens"] + 2 * len("头一回".encode())


def test_log_goes_to_its_file(tmp_path: Path) -> None:
    assert run(tmp_path, stdin="你好\n").stderr == ""
    assert (tmp_path / "daiyu.log").exists()


# The end.


def test_killed_in_mid_reply_nothing_said_is_lost(tmp_path: Path) -> None:
    assert run(tmp_path, stdin="我叫阿宁\n").returncode == 0
    with started(tmp_path, SLOW, delay=1.0) as process:
        tell(process, "话说到一半")
        until_pending(tmp_path, "话说到一半")
        process.kill()
    assert turns(tmp_path)[-1]["state"] == "pending"
    done = run(tmp_path, stdin="后来呢\n")
    assert "黛玉：后来呢" in done.stdout
    assert [(t["text"], t["state"]) for t in turns(tmp_path)] == [
        ("我叫阿宁", "done"),
        ("话说到一半", "failed"),
        ("后来呢", "done"),
    ]
    assert "left open" in (tmp_path / "daiyu.log").read_text()


def test_killed_again_and_again_the_database_stays_whole(tmp_path: Path) -> None:
    for i in range(3):
        with started(tmp_path, SLOW, delay=1.0) as process:
            tell(process, f"话{i}")
            until_pending(tmp_path, f"话{i}")
            process.kill()
    assert run(tmp_path, "--check").returncode == 0
    assert run(tmp_path, stdin="好了\n").returncode == 0
    assert [t["state"] for t in turns(tmp_path)] == ["failed"] * 3 + ["done"]


def test_sigterm_ends_it_cleanly_and_closes_the_turn(tmp_path: Path) -> None:
    with started(tmp_path, SLOW, delay=1.0) as process:
        tell(process, "话说到一半")
        until_pending(tmp_path, "话说到一半")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=SECONDS)
    assert told == b""
    assert process.returncode == 0
    assert turns(tmp_path)[-1]["state"] == "cancelled"


def test_sigterm_while_nobody_speaks_ends_it_at_once(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout
        assert "程序" in process.stdout.readline().decode()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=SECONDS)
    assert told == b""
    assert process.returncode == 0


# Mistakes.


def mistake(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("daiyu: ")
    assert "Traceback" not in done.stderr
    assert all(part in lines[0] for part in parts), lines[0]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("[model]\nengin = 'echo'\n", ["[model] engin", "known are", "engine"]),
        ("[model]\nqueue = 'many'\n", ["[model] queue", "'many'"]),
        ("[model\n", ["line 1"]),
        (None, ["no such file"]),
    ],
)
def test_wrong_config_is_one_line(tmp_path: Path, content: str | None, parts: list[str]) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_text(content)
    mistake(run(tmp_path, "--config", str(path)), str(path), *parts)


def test_wrong_variable_is_one_line(tmp_path: Path) -> None:
    mistake(run(tmp_path, DAIYU_BOT__LANGUAGE="en"), "DAIYU_BOT__LANGUAGE", "lang")


def test_missing_card_is_one_line(tmp_path: Path) -> None:
    mistake(run(tmp_path, DAIYU_PERSONA__FOLDER=str(tmp_path / "none")), str(tmp_path / "none"))


def test_broken_authored_replies_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "persona"
    shutil.copytree(REPO / "persona" / "daiyu", folder)
    (folder / "guard.toml").write_text("[risk]\nzh = []\n")
    mistake(run(tmp_path, DAIYU_PERSONA__FOLDER=str(folder)), "guard.toml", "risk.zh")


def test_bad_dialogue_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"instruction": "a", "output": "b"}) + '\n{"instruction": "a"}\n')
    mistake(run(tmp_path, DAIYU_PERSONA__DIALOGUES=str(tmp_path)), f"{path}:2", "output")


def test_var_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    mistake(run(tmp_path / "file" / "var"), "[paths] var", str(tmp_path / "file"))


def test_damaged_database_is_one_line_each_time(tmp_path: Path) -> None:
    (tmp_path / "daiyu.db").write_bytes(b"garbage " * 999)
    mistake(run(tmp_path, stdin="你好\n"), "daiyu.db", "damaged-")
    mistake(run(tmp_path, stdin="你好\n"), "daiyu.db", "damaged-", "restore a backup")


def test_second_bot_is_one_line(tmp_path: Path) -> None:
    # What a running bot holds.
    with FileLock(tmp_path / "daiyu.db.lock"):
        mistake(run(tmp_path, stdin="你好\n"), "another bot", "daiyu.db")


# --check.


def test_check_says_what_would_be_done(tmp_path: Path) -> None:
    run(tmp_path, stdin="你好\n")
    done = run(tmp_path, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert list(lines) == ["persona", "dialogues", "model", "database", "platforms"]
    assert lines["persona"].startswith("林黛玉, ")
    usable = len(load_character(settings(tmp_path)).exchanges)
    assert lines["dialogues"].startswith(f"{usable} to choose")
    assert usable >= 400
    assert "echo engine" in lines["model"]
    assert lines["database"] == "1 turns in 1 conversations"


def test_check_fetches_no_model(tmp_path: Path) -> None:
    done = run(tmp_path, "--check", DAIYU_MODEL__ENGINE="openvino")
    assert (done.returncode, done.stderr) == (0, "")
    assert "would be fetched" in done.stdout
    assert not (tmp_path / "models").exists()


def test_check_tells_a_mistake_in_one_line(tmp_path: Path) -> None:
    mistake(run(tmp_path, "--check", DAIYU_MODEL__ENGINE="gpu"), "DAIYU_MODEL__ENGINE", "'gpu'")


# A terminal.


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
        assert [t["state"] for t in turns(tmp_path)] == ["cancelled"]
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
    assert [t["state"] for t in turns(tmp_path)] == ["cancelled"]


def test_ctrl_d_leaves(tmp_path: Path) -> None:
    with terminal(tmp_path) as person:
        person.type("\x04")
        person.wait_for(say("zh", "bye"))
        assert person.end() == 0
