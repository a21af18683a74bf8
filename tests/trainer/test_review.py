"""Reviewing: what waits is shown, what is answered is kept, through a pipe as at a terminal."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from fifty_rows import Configured
from village import SCREEN, Village, founded

from data.learning import NOBODY
from trainer.review import Reviewed, review

REPO = Path(__file__).parents[2]
PHONE = "打13812345678给我。"


@pytest_asyncio.fixture
async def village(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    (tmp_path / "var").mkdir()
    async with founded(tmp_path / "var" / "daiyu.db", monkeypatch) as made:
        yield made


class Reviewer:
    """Answers line by line; `told` is all that was shown."""

    def __init__(self, *answers: str) -> None:
        self.told: list[str] = []
        self._answers: Iterator[str] = iter(answers)

    def ask(self, question: str) -> str:
        answer = next(self._answers, None)
        if answer is None:
            raise EOFError
        return answer

    async def read(self, village: Village) -> Reviewed:
        return await review(village.store.learning, SCREEN, self.ask, self.told.append, "owner")


async def doubtful(village: Village) -> list[int]:
    """A reply with a telephone number, a correction that is rude, and a plain correction."""
    await village.agree("甲", "乙")
    turns = [
        await village.say("乙", "给个号码", PHONE),
        await village.say("甲", "灯要灭了", "剪一剪灯芯便亮了。"),
        await village.say("甲", "竹子长高了", "我爱它遮着窗。"),
    ]
    await village.rate("乙", turns[0])
    await village.rate("甲", turns[1], better="滚蛋。")
    await village.rate("甲", turns[2], better="长高了才好听雨。")
    await village.harvest()
    return turns


async def test_everything_doubtful_and_every_correction_is_shown(village: Village) -> None:
    turns = await doubtful(village)
    owner = Reviewer("s", "s", "s")
    assert await owner.read(village) == Reviewed(0, 0, 3)
    shown = "\n".join(owner.told)
    for turn in turns:
        assert f"turn {turn}," in shown
    for part in ("contact", "profanity", "nobody read yet", PHONE, "滚蛋。", "灯要灭了"):
        assert part in shown


async def test_approved_edited_rejected_with_who_and_when(village: Village) -> None:
    phone, rude, plain = await doubtful(village)
    before = datetime.now(UTC)
    assert await Reviewer("r", "e", "亮些才好看书。", "a").read(village) == Reviewed(2, 1, 0)
    verdicts = (await village.store.learning.snapshot()).verdicts
    assert verdicts[phone, NOBODY].state == "rejected"
    edited = verdicts[rude, ("telegram", "甲")]
    assert (edited.state, edited.edited) == ("approved", "亮些才好看书。")
    for verdict in verdicts.values():
        assert verdict.reviewer == "owner"
        assert verdict.reviewed_at
        assert verdict.reviewed_at >= before
    rows = {row.key: row.triple.output for row in (await village.harvest()).rows}
    assert rows == {f"turn:{rude}": "亮些才好看书。", f"turn:{plain}": "长高了才好听雨。"}
    # Nothing of it is asked a second time.
    assert await Reviewer("a").read(village) == Reviewed(0, 0, 0)


async def test_input_that_ends_or_is_nonsense_decides_nothing(village: Village) -> None:
    await doubtful(village)
    assert await Reviewer().read(village) == Reviewed(0, 0, 3)
    assert await Reviewer("?", "", "yes").read(village) == Reviewed(0, 0, 3)
    assert await Reviewer("e").read(village) == Reviewed(0, 0, 3)
    assert await Reviewer("q", "a").read(village) == Reviewed(0, 0, 3)
    assert await Reviewer("r", "q").read(village) == Reviewed(0, 1, 2)


async def test_a_wording_with_control_tokens_is_asked_for_again(village: Village) -> None:
    await doubtful(village)
    owner = Reviewer("e", "<|im_end|>", "e", "\u202e", "e", "", "r", "q")
    assert await owner.read(village) == Reviewed(0, 1, 2)
    assert sum("control characters" in line for line in owner.told) == 3


async def test_words_of_those_who_did_not_agree_are_nobodys_to_read(village: Village) -> None:
    await doubtful(village)
    await village.agree("甲", "乙", agreed=False)
    owner = Reviewer("a")
    assert await owner.read(village) == Reviewed(0, 0, 0)
    assert owner.told == []


async def test_what_is_taken_back_meanwhile_is_not_judged(village: Village, tmp_path: Path) -> None:
    await doubtful(village)

    class Slow(Reviewer):
        def ask(self, question: str) -> str:
            with closing(sqlite3.connect(tmp_path / "var" / "daiyu.db")) as bot:
                bot.execute("PRAGMA foreign_keys=ON")
                bot.execute("DELETE FROM turns")
                bot.commit()
            return super().ask(question)

    owner = Slow("a", "r", "a")
    assert await owner.read(village) == Reviewed(0, 0, 3)
    assert owner.told.count("it was taken back meanwhile") == 3
    assert (await village.store.learning.snapshot()).verdicts == {}


async def test_a_correction_that_is_replaced_is_judged_anew(village: Village) -> None:
    _, rude, _ = await doubtful(village)
    await Reviewer("s", "r", "s").read(village)
    await village.rate("甲", rude, better="亮些才好看书。")
    assert (rude, ("telegram", "甲")) not in (await village.store.learning.snapshot()).verdicts
    assert rude in await village.learned()


async def test_the_screen_of_a_terminal_is_not_moved_by_what_people_write(
    village: Village,
) -> None:
    await village.agree("甲")
    turn = await village.say("甲", "看\x1b[2J\n1 of 1: 假的", "雨打芭蕉。")
    await village.rate("甲", turn)
    await village.harvest()
    owner = Reviewer("q")
    await owner.read(village)
    assert "\x1b" not in "".join(owner.told)
    assert "\n1 of 1: 假的" not in "".join(owner.told)


async def test_as_a_command_through_a_pipe(village: Village, configured: Configured) -> None:
    turns = await doubtful(village)
    # Nothing was collected since then: the command looks by itself.
    late = await village.say("甲", "骂我一句", "你这傻逼。")
    await village.rate("甲", late)
    path = configured()

    def run(stdin: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trainer", "--config", str(path), "review", *more],
            input=stdin, cwd=REPO, capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {"PYTHONUTF8": "1"},
        )  # fmt: skip

    done = await asyncio.to_thread(run, "r\ne\n亮些才好看书。\n", "--as", "owner")
    assert (done.returncode, done.stderr) == (0, "")
    assert "approved 1, rejected 1, still waiting 2" in done.stdout
    verdict = (await village.store.learning.snapshot()).verdicts[turns[0], NOBODY]
    assert (verdict.state, verdict.reviewer) == ("rejected", "owner")


def test_without_a_database_it_is_one_line(
    configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import main

    assert main(["--config", str(configured()), "review"]) == 1
    assert "the bot makes it at its start" in capsys.readouterr().err
