"""`python -m bot` as a process of its own: what the tests of whole processes start it with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from talking import REPO, rows

Refused = Callable[..., str]
"""What the fixture `refused` is."""

SECONDS = 30
SLOW = [str(Path(__file__).with_name("slow_bot.py"))]
ECHO = ["-m", "bot"]
FEW = Path(__file__).with_name("dialogues")
"""A few, since reading thousands takes most of a start."""


def environment(var: Path, delay: float = 0.0, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DAIYU_")}
    return kept | {
        "DAIYU_MODEL__ENGINE": "echo",
        "DAIYU_PATHS__VAR": str(var),
        "DAIYU_PERSONA__DIALOGUES": str(FEW),
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


def tell(process: subprocess.Popen[bytes], line: str) -> str:
    assert process.stdin
    process.stdin.write(f"{line}\n".encode())
    process.stdin.flush()
    return line


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


def mistake(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("daiyu: ")
    assert "Traceback" not in done.stderr
    assert all(part in lines[0] for part in parts), lines[0]
