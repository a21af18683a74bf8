"""Conversations in a run: mixed in, named in its lineage, and gone when they may not be learned."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fifty_rows import Configured
from village import Village, founded

from data.triples import Triple
from trainer import loop
from trainer.__main__ import main
from trainer.gate import EvalSets
from trainer.loop import Dataset
from trainer.preprocess import Row, fingerprint
from trainer.train import Evaluation, Step

TALKS = [
    ("今日下雨了", "雨打芭蕉，倒也好听。"),
    ("灯要灭了", "剪一剪灯芯便亮了。"),
    ("墨磨好了么", "砚台里早干了。"),
]


@pytest_asyncio.fixture
async def village(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    (tmp_path / "var").mkdir()
    async with founded(tmp_path / "var" / "daiyu.db", monkeypatch) as made:
        yield made


async def talks(village: Village) -> list[int]:
    """Three people's liked exchanges, all of whom agreed."""
    turns = []
    for who, (text, reply) in zip("甲乙丙", TALKS, strict=True):
        turns.append(await village.say(who, text, reply))
        await village.rate(who, turns[-1])
        await village.agree(who)
    return turns


async def train(path: Path, *arguments: str) -> int:
    return await asyncio.to_thread(main, ["--config", str(path), "train", *arguments])


def facts(tmp_path: Path) -> dict[str, Any]:
    """Of the newest run's dataset."""
    *_, run = sorted((tmp_path / "var" / "training").glob("*-*"))
    read: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
    return dict(read["dataset"])


def withdrawn(tmp_path: Path, who: str) -> None:
    """As a bot does it that runs beside."""
    with closing(sqlite3.connect(tmp_path / "var" / "daiyu.db")) as bot:
        bot.execute("UPDATE consents SET agreed = 0 WHERE user_id = ?", (who,))
        bot.commit()


async def test_conversations_are_learned_with_the_authored_rows(
    village: Village, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = await talks(village)
    assert await train(configured()) == 0
    told = capsys.readouterr().err
    assert "3 conversations may be learned" in told
    assert "53 rows" in told
    learned = facts(tmp_path)
    assert learned["turns"] == turns
    assert learned["files"] == {"rows": 50, "turn": 3}


async def test_without_a_store_the_authored_rows_are_learned(
    configured: Configured, tmp_path: Path
) -> None:
    assert await train(configured()) == 0
    assert facts(tmp_path)["turns"] == []


async def test_consent_withdrawn_while_the_base_is_fetched_counts(
    village: Village,
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _, last = await talks(village)
    fetch = loop.training_base

    def slow(*arguments: Any) -> Any:
        withdrawn(tmp_path, "乙")
        return fetch(*arguments)

    monkeypatch.setattr(loop, "training_base", slow)
    assert await train(configured()) == 0
    assert "1 conversations were withdrawn meanwhile" in capsys.readouterr().err
    assert facts(tmp_path)["turns"] == [first, last]


async def test_resuming_learns_what_was_begun_with_and_nothing_withdrawn(
    village: Village,
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = await talks(village)
    path = configured(epochs=3, checkpoint_seconds=1e-9)
    interrupted(monkeypatch, after=2)
    assert await train(path) == 1
    monkeypatch.undo()
    # What came since then is for the next run, and further votes change nothing.
    late = await village.say("丁", "蟹肥了", "吃一点子夹子肉罢。")
    await village.rate("丁", late)
    await village.agree("丁")
    await village.rate("甲", turns[1], -1)
    withdrawn_path = configured(epochs=3)
    assert await train(withdrawn_path, "--resume") == 0
    assert facts(tmp_path)["turns"] == turns
    capsys.readouterr()


async def test_resuming_with_what_was_withdrawn_is_refused(
    village: Village,
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await talks(village)
    interrupted(monkeypatch, after=2)
    assert await train(configured(epochs=3, checkpoint_seconds=1e-9)) == 1
    monkeypatch.undo()
    withdrawn(tmp_path, "丙")
    capsys.readouterr()
    assert await train(configured(epochs=3), "--resume") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "1 of the conversations that the run learns from may not be learned any more" in told


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C after so many steps."""
    note: Callable[..., None] = loop.Run.note
    seen = []

    def noted(run: loop.Run, event: Step | Evaluation) -> None:
        note(run, event)
        seen.append(event)
        if len(seen) > after:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Run, "note", noted)


def rows(count: int, collected: bool) -> list[Row]:
    """Rows that differ in number alone."""
    return [
        Row(
            f"turn:{n}" if collected else f"a:{n}",
            Triple(
                instruction="问",
                output=f"答{n}",
                meta={"turn": n, "votes": n} if collected else None,
            ),
        )
        for n in range(count)
    ]


def test_collected_rows_are_at_most_their_share_and_the_best_of_them() -> None:
    dataset = Dataset(rows(30, False), [], EvalSets(rows(1, False)))
    best_first = rows(20, True)[::-1]
    mixed = dataset.mixed(best_first, 0.25)
    assert [row.key for row in mixed.rows[30:]] == [f"turn:{n}" for n in range(10, 20)]
    assert dataset.mixed(best_first, 0.0).rows == dataset.rows
    assert len(dataset.mixed(best_first, 0.9).rows) == 50
    assert mixed.bare() == dataset
    # Mixed again, they take the place of those before.
    assert len(mixed.mixed(best_first[:3], 0.25).rows) == 33


def test_votes_are_no_part_of_what_a_dataset_is() -> None:
    row = rows(3, True)[2]
    voted = Row(row.key, row.triple.model_copy(update={"meta": {"turn": 2, "votes": 99}}))
    assert fingerprint([row]) == fingerprint([voted])
