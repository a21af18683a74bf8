"""The deploy files fit the program: what they start, set and copy is there."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bot import config
from bot.__main__ import _options

REPO = Path(__file__).parents[1]
UNIT = REPO / "deploy" / "daiyu.service"
DOCKERFILE = REPO / "deploy" / "Dockerfile"
CHECKOUT = "/srv/daiyu"


def unit() -> dict[str, list[str]]:
    """The unit's settings, each with its values in their order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith(("#", "[")):
            found.setdefault(key, []).append(value)
    return found


def variables(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def in_repository(path: str) -> Path:
    assert path.startswith(CHECKOUT)
    return REPO / path.removeprefix(CHECKOUT).lstrip("/")


def test_unit_starts_the_bot_with_the_settings_that_are_there() -> None:
    [command] = unit()["ExecStart"]
    program, *arguments = command.split()
    assert program == f"{CHECKOUT}/.venv/bin/python"
    assert arguments[:2] == ["-m", "bot"]
    options = _options(arguments[2:])
    assert in_repository(str(options.config)) == REPO / "config.toml"
    assert unit()["WorkingDirectory"] == [CHECKOUT]
    makefile = (REPO / "Makefile").read_text("utf-8")
    assert ".venv/.chat:" in makefile  # which the unit's first lines name
    assert "make .venv/.chat" in UNIT.read_text("utf-8")


def test_unit_sets_what_the_program_knows_and_may_write_there() -> None:
    env = variables([word for line in unit()["Environment"] for word in line.split()])
    settings = config.read(REPO / "config.toml", env)
    [state] = unit()["StateDirectory"]
    assert settings.paths.var == Path("/var/lib", state)
    assert settings.operations.port
    assert env["HOME"] == str(settings.paths.var)


def test_unit_waits_as_long_as_replies_are_given_at_the_end() -> None:
    settings = config.read(REPO / "config.toml", {})
    [seconds] = unit()["TimeoutStopSec"]
    # A platform after the other at the worst, then the engine and the store.
    assert int(seconds) >= settings.telegram.drain + settings.discord.drain + 20
    assert unit()["KillSignal"] == ["SIGTERM"]
    assert unit()["Restart"] == ["on-failure"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text("utf-8").replace(f"{CHECKOUT}/.venv/bin/python", sys.executable)
    (tmp_path / "daiyu.service").write_text(text, "utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "daiyu.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ours = [line for line in verified.stderr.splitlines() if "daiyu.service" in line]
    assert (verified.returncode, ours) == (0, [])


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


def of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def test_image_holds_the_program_and_nothing_of_what_it_wrote() -> None:
    copied = [name for rest in of("COPY") for name in rest.split()[:-1]]
    let_in = [
        line.removeprefix("!")
        for line in (REPO / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    ]
    assert sorted(copied) == sorted(let_in)
    assert all((REPO / name).exists() for name in copied)
    packages = {"bot", "data", "persona"}
    assert packages <= set(copied)
    assert not any(fnmatch.fnmatch(name, pattern) for name in copied for pattern in ("var*", ".*"))


def test_image_runs_as_nobody_in_particular_and_keeps_its_state_in_the_volume() -> None:
    env = variables([word for rest in of("ENV") for word in rest.split()])
    settings = config.read(REPO / "config.toml", env)
    assert of("VOLUME") == [str(settings.paths.var)]
    [user] = of("USER")
    assert user not in ("root", "0")
    order = [word for word, _ in instructions()]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert of("ENTRYPOINT") == ['["python", "-m", "bot"]']
    assert of("WORKDIR") == [CHECKOUT]
    [health] = of("HEALTHCHECK")
    assert f":{settings.operations.port}/healthz" in health


def test_image_is_of_a_python_that_the_program_runs_on() -> None:
    needed = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    [image] = of("FROM")
    found = re.fullmatch(r"python:(\d+\.\d+)-slim", image)
    assert found
    assert f">={found[1]}" == needed["requires-python"]
