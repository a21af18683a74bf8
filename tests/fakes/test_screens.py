"""The screens of the README: made by a command, with the whole bot."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

from bot.texts import say
from tests.fakes.screens import FOLDER, REPO

SVG = "{http://www.w3.org/2000/svg}"
PATIENCE = 240


def drawn(path: Path) -> list[str]:
    return [node.text or "" for node in ElementTree.parse(path).iter(f"{SVG}text")]


async def test_the_command_draws_both_conversations(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAIYU_")}
    env |= {"DAIYU_MODEL__ENGINE": "echo", "DAIYU_PATHS__VAR": str(tmp_path / "var")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.screens", str(tmp_path), cwd=REPO, env=env,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, told.decode()
    talk, company = drawn(tmp_path / "talk.svg"), drawn(tmp_path / "company.svg")
    assert talk.count("我的乌龟不肯吃东西") == 2  # hers is the echo
    assert any(row in say("zh", "unseen_picture") for row in talk)
    assert f"〔阿宁 按了 👍〕{say('zh', 'rated_good')}" in talk
    assert "今晚月亮真圆" in company
    assert [say("zh", "consent_short"), say("zh", "agree"), say("zh", "refuse")] == company[-3:]
    assert not (tmp_path / "var" / "daiyu.db").exists()


def test_the_readmes_show_the_screens_that_are_there() -> None:
    for readme in ("README.md", "README.zh-CN.md"):
        text = (REPO / readme).read_text("utf-8")
        assert all(f"docs/screens/{path.name}" in text for path in FOLDER.glob("*.svg"))
    assert len(list(FOLDER.glob("*.svg"))) == 2
