"""A chat with the real bot on a database of its own, and a start that is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from starting import Refused, environment
from talking import REPO, Chat, opened_chat

from bot.__main__ import main


@pytest_asyncio.fixture
async def chat(tmp_path: Path) -> AsyncIterator[Chat]:
    async with opened_chat(tmp_path) as opened:
        yield opened


@pytest.fixture
def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Starts the bot in this process, where its settings must end it at once; its one line."""

    def start(*arguments: str, **env: str) -> str:
        with monkeypatch.context() as patched:
            for name, value in environment(tmp_path, **env).items():
                patched.setenv(name, value)
            patched.chdir(REPO)
            assert main(list(arguments)) == 1
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        return line.removeprefix("daiyu: ")

    return start
