"""`python -m bot` as a person starts it: in a pipe, stopped, killed, misconfigured."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from starting import (
    ECHO,
    SECONDS,
    SLOW,
    Refused,
    environment,
    mistake,
    run,
    started,
    tell,
    turns,
    until_pending,
)
from talking import REPO

from bot.texts import say

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


def test_privacy_is_written_to_a_file_that_only_the_person_reads(tmp_path: Path) -> None:
    done = run(tmp_path, stdin="我叫阿宁\n/privacy\n")
    assert (done.returncode, done.stderr) == (0, "")
    [written] = (tmp_path / "privacy").iterdir()
    assert say("zh", "file_written", path=written) in done.stdout
    assert written.stat().st_mode & 0o777 == 0o600
    kept = json.loads(written.read_text("utf-8"))
    assert [turn["text"] for turn in kept["turns"]] == ["我叫阿宁"]


def test_privacy_is_told_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "privacy").touch()
    done = run(tmp_path, stdin="/privacy\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert say("zh", "file_failed") in done.stdout


def test_history_goes_on_in_the_next_run(tmp_path: Path) -> None:
    for text in ("头一回", "第二回"):
        assert run(tmp_path, stdin=f"{text}\n", DAIYU_PERSONA__EXEMPLARS="0").returncode == 0
    first, second = turns(tmp_path)
    assert isinstance(first["prompt_tokens"], int)
    assert isinstance(second["prompt_tokens"], int)
    assert second["conversation_id"] == first["conversation_id"]
    assert second["prompt_tokens"] > first["prompt_tokens"] + 2 * len("头一回".encode())


def test_pipe_finds_commands_however_they_are_written(tmp_path: Path) -> None:
    done = run(tmp_path, stdin=" /help\n\t/Status \n  /QUIT now\n还有么\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert say("zh", "help") in done.stdout
    assert "echo" in done.stdout
    assert "黛玉：" not in done.stdout  # the program spoke
    assert turns(tmp_path) == []


def test_pipe_takes_a_line_without_end(tmp_path: Path) -> None:
    done = run(tmp_path, stdin="长" * 1_000_000 + "/quit\n末了\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "黛玉：" + say("zh", "too_long", limit=500) in done.stdout
    assert [turn["text"] for turn in turns(tmp_path)] == ["末了"]


def test_pipe_is_read_as_it_is_answered(tmp_path: Path) -> None:
    with started(tmp_path, SLOW, delay=5.0) as process:
        assert process.stdin
        os.set_blocking(process.stdin.fileno(), False)
        until_pending(tmp_path, tell(process, "你好"))
        written = 0
        while written < 4_000_000 and select.select([], [process.stdin], [], 0.5)[1]:
            written += os.write(process.stdin.fileno(), "再说\n".encode() * 1000)
    assert written < 200_000


def test_reader_that_has_seen_enough_ends_it_quietly(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        tell(process, "你好")
        assert process.wait(SECONDS) == 1
        assert process.stderr.read() == b""


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_missing_stream_is_no_error(tmp_path: Path, closed: str) -> None:
    shell = f"exec {sys.executable} -m bot {'<&-' if closed == 'stdin' else '>&-'}"
    done = subprocess.run(
        ["/bin/sh", "-c", shell], input=b"/help\n", cwd=REPO, env=environment(tmp_path),
        capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LANG": "C", "LC_ALL": "C"}


def test_screen_of_few_characters_is_no_error(tmp_path: Path) -> None:
    done = run(tmp_path, stdin="hello\n", **ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello\n" in done.stdout
    assert (tmp_path / "daiyu.log").read_text("utf-8").count("ERROR") == 0
    done = run(tmp_path, "--check", **ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lore entries" in done.stdout


def test_ctrl_c_before_it_has_begun_is_no_error(tmp_path: Path) -> None:
    # Ctrl-C as `main` first reads a module in.
    program = (
        "import builtins, sys\nfrom bot import __main__\nreal = builtins.__import__\n"
        "def importing(name, *rest):\n"
        "    if name == 'bot': raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = importing\nsys.exit(__main__.main([]))"
    )
    with started(tmp_path, ["-c", program]) as process:
        assert process.wait(SECONDS) == 130
        assert process.stderr
        assert process.stderr.read() == b""


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
    turn = turns(tmp_path)[-1]
    assert (turn["state"], turn["error"]) == ("cancelled", "the bot ended")


def test_sigterm_while_nobody_speaks_ends_it_at_once(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout
        assert "程序" in process.stdout.readline().decode()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=SECONDS)
    assert told == b""
    assert process.returncode == 0


# Mistakes.


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("[model]\nengin = 'echo'\n", ["[model] engin", "known are", "engine"]),
        ("[model]\nqueue = 'many'\n", ["[model] queue", "'many'"]),
        ("[model\n", ["line 1"]),
        (None, ["no such file"]),
    ],
)
def test_wrong_config_is_one_line(
    tmp_path: Path, refused: Refused, content: str | None, parts: list[str]
) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_text(content)
    line = refused("--config", str(path))
    assert all(part in line for part in (str(path), *parts))


def test_wrong_variable_is_one_line(refused: Refused) -> None:
    line = refused(DAIYU_BOT__LANGUAGE="en")
    assert line.startswith("DAIYU_BOT__LANGUAGE")
    assert "lang" in line


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


def test_dotenv_of_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("# 黛玉\n".encode("gbk"))
    done = subprocess.run(
        [sys.executable, *ECHO, "--config", str(REPO / "config.toml")], cwd=tmp_path,
        env=environment(tmp_path), capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    mistake(done, ".env", "utf-8")


def test_second_bot_is_one_line(tmp_path: Path) -> None:
    # What a running bot holds.
    with FileLock(tmp_path / "daiyu.db.lock"):
        mistake(run(tmp_path, stdin="你好\n"), "another bot", "daiyu.db")
