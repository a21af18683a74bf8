"""What people said of earlier replies: who is asked, what counts, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fifty_rows import Configured
from village import SCREEN, Village, founded

from data.config import StoreSettings
from persona.card import Card
from persona.config import PROFILES
from persona.engines.base import Sampling
from persona.engines.echo import EchoEngine, byte_tokenizer
from persona.exemplars import ExemplarIndex
from persona.prompt import Budget, Exchange, PromptBuilder
from trainer import config, contest, loop
from trainer.__main__ import main
from trainer.config import TrainingSettings
from trainer.gate import Measured, compare
from trainer.judged import MOST, OF_A_PERSON, Judged, judged, read_judged
from trainer.judgements import Answer, answers, compare_answers, sheet
from trainer.speech import Subject

STALE = "我说什么便是什么，不必再问了。"
BETTER = "雨打芭蕉，夜里听着倒添了几分凉。"


@pytest_asyncio.fixture
async def village(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    (tmp_path / "var").mkdir()
    async with founded(tmp_path / "var" / "daiyu.db", monkeypatch) as made:
        yield made


async def asked(village: Village, **training: Any) -> list[Judged]:
    snapshot = await village.store.learning.snapshot(4)
    return judged(snapshot, SCREEN, TrainingSettings(**training), StoreSettings())


async def test_newest_turns_that_were_voted_down_or_corrected_are_asked(village: Village) -> None:
    await village.settle("甲", "乙")
    down = await village.say("甲", "今日下雨了", STALE)
    await village.rate("甲", down, -1)
    liked = await village.say("甲", "灯要灭了", "剪一剪灯芯便亮了。")
    await village.rate("甲", liked)
    both = await village.say("乙", "外头下雨呢", STALE)
    await village.rate("乙", both, better=BETTER)
    assert await asked(village) == [
        Judged(both, "外头下雨呢", [], STALE, BETTER),
        Judged(down, "今日下雨了", [], STALE, None),
    ]


@pytest.mark.parametrize("why", ["consent", "erased", "undone", "guarded", "address", "taken back"])
async def test_turns_that_may_not_be_learned_are_not_asked(village: Village, why: str) -> None:
    await village.settle("甲", "乙")
    text = "我的手机是13812345678" if why == "address" else "今日下雨了"
    turn = await village.say("甲", text, STALE, guarded="risk" if why == "guarded" else None)
    await village.rate("甲", turn, -1)
    assert len(await asked(village)) == (why not in ("guarded", "address"))
    if why == "consent":
        await village.agree("甲", agreed=False)
    elif why == "erased":
        await village.store.people.erase("telegram", "甲")
    elif why == "undone":
        place = await village.store.conversation("telegram", "chat of 甲")
        last = await village.store.last_turn(place)
        assert last is not None
        await village.store.undo(last)
    elif why == "taken back":
        await village.rate("甲", turn, 1)
    assert await asked(village) == []


async def test_a_correction_is_asked_about_with_its_authors_consent_and_past_the_screen(
    village: Village,
) -> None:
    await village.settle("甲", "乙", "丙")
    turn = await village.say("甲", "今日下雨了", STALE, chat="square")
    await village.rate("乙", turn, better=BETTER)
    (found,) = await asked(village)
    # One voice of a group is no vote against.
    assert (found.rejected, found.correction) == (None, BETTER)
    await village.agree("乙", agreed=False)
    assert await asked(village) == []
    await village.rate("丙", turn, better="滚开，白痴。")
    (found,) = await asked(village)
    assert (found.rejected, found.correction) == (STALE, None)


async def test_what_others_said_before_comes_along_only_if_they_agreed(village: Village) -> None:
    await village.settle("甲", "乙", "丙", "丁")
    await village.say("丙", "蟹肥了", "吃一点子夹子肉罢。", chat="garden")
    await village.say("丁", "酒温好了", "只喝一口罢。", chat="garden")
    await village.agree("丁", agreed=False)
    turn = await village.say("甲", "今日下雨了", STALE, chat="garden")
    for who in ("甲", "乙"):
        await village.rate(who, turn, -1)
    (found,) = await asked(village)
    assert found.history == [Exchange("蟹肥了", "吃一点子夹子肉罢。")]


async def test_nobody_has_the_gate_for_themselves(village: Village) -> None:
    people = [f"人{number}" for number in range(8)]
    await village.settle(*people)
    for number in range(OF_A_PERSON + 2):
        for who in people:
            turn = await village.say(who, f"第{number}回问", STALE)
            await village.rate(who, turn, -1)
    found = await asked(village)
    assert len(found) == MOST
    assert found[0].turn_id == turn
    await village.agree(*people[1:], agreed=False)
    assert len(await asked(village)) == OF_A_PERSON


async def flat(sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
    """One nat a token, of which a Chinese character has three here."""
    return [[-1.0] * (len(ids) - first) for ids, first in sequences]


def subject(card: Card, replies: Sequence[str]) -> Subject:
    tokenizer = byte_tokenizer()
    return Subject(
        name="new",
        builder=PromptBuilder(tokenizer, card, Budget(total=4000, exemplars=1000)),
        engine=EchoEngine(tokenizer, replies),
        scorer=flat,
        sampling=PROFILES["daiyu"],
        exemplars=ExemplarIndex([Exchange("下雨了么", "下了一夜。", "rain:1")]),
        exemplar_count=2,
    )


async def test_reply_is_held_against_the_rejected_one_and_the_correction(card: Card) -> None:
    turns = [
        Judged(1, "今日下雨了", [], rejected=STALE),
        Judged(2, "外头下雨呢", [], rejected=STALE, correction=BETTER),
        Judged(3, "雨停了么", [], correction=BETTER),
        Judged(4, "问" * 2000, [], rejected=STALE),
    ]
    heard = await answers(subject(card, [STALE[:-1] + "！", "雨停了。", BETTER]), turns)
    assert list(heard) == [1, 2, 3]
    assert [answer.again for answer in heard.values()] == [True, False, None]
    assert heard[1].similarity is None
    assert heard[2].similarity == 0.0
    assert heard[3].similarity == 1.0
    # Every byte is a token of the echo engine's, and the reply's end is one.
    assert heard[3].nats == len(BETTER.encode()) + 1
    assert heard[3].characters == len(BETTER)


def said(again: Sequence[bool]) -> dict[int, Answer]:
    return {turn: Answer("…", again=repeats) for turn, repeats in enumerate(again, start=1)}


@pytest.mark.parametrize(
    ("new", "old", "passed"),
    [
        ([True] * 5 + [False] * 5, [False] * 10, False),  # 1 of 32 by chance
        ([True] * 4 + [False] * 6, [False] * 10, True),  # 1 of 16
        ([True] * 10, [True] * 10, True),
        ([False] * 10, [True] * 10, True),
        ([True] * 7 + [False] * 3, [False] * 5 + [True] * 5, True),  # two more, within chance
        ([], [], True),
    ],
)
def test_saying_more_of_what_was_voted_down_fails_beyond_chance(
    new: list[bool], old: list[bool], passed: bool
) -> None:
    better, before = ({"talk": [nats] * 50} for nats in (30.0, 40.0))
    characters = {"talk": [10] * 50}
    verdict = compare(
        Measured("new", better, characters, [], said(new)),
        Measured("old", before, characters, [], said(old)),
    )
    assert verdict.passed == passed
    assert verdict.people.rejected.turns == list(range(1, len(new) + 1))
    if not passed:
        assert verdict.reasons == [
            "it says again 5 of 10 replies that people had voted down, the one in service 0: "
            "chance would do that in 3.1% of cases"
        ]


def test_nearness_to_corrections_is_told_of_both() -> None:
    ours = {
        7: Answer("甲", similarity=0.5, nats=30.0, characters=10),
        8: Answer("乙", similarity=0.1, nats=10.0, characters=10),
        9: Answer("丙", again=False),
    }
    theirs = {
        7: Answer("甲", similarity=0.2, nats=40.0, characters=10),
        8: Answer("乙", similarity=0.2, nats=20.0, characters=10),
        10: Answer("丁", similarity=1.0, nats=1.0, characters=10),
    }
    found = compare_answers(ours, theirs).corrected
    assert (found.turns, found.nearer, found.farther) == ([7, 8], 1, 1)
    assert found.near == [[0.5, 0.2], [0.1, 0.2]]
    assert found.similarity == pytest.approx([0.3, 0.2])
    assert found.loss == pytest.approx([2.0, 3.0])


def test_sheet_tells_of_people_and_of_none_and_holds_no_words() -> None:
    ours = {
        7: Answer(STALE, True, 0.0, 9.0, 16),
        8: Answer("甲", False),
        9: Answer(BETTER, None, 1.0, 9.0, 16),
    }
    theirs = {
        7: Answer(STALE, True, 0.1, 9.0, 16),
        8: Answer(STALE, True),
        9: Answer("乙", None, 0.2, 9.0, 16),
    }
    told = sheet(compare_answers(ours, theirs)).splitlines()
    assert told[2:4] == [
        "- replies voted down: 2; said again by the new one 1, by the old one 2",
        "- replies corrected: 2; the new one is nearer to the correction in 1, the old one in 1",
    ]
    assert told[-3:] == [
        "| 9 |  | 1.00 | 0.20 |",
        "| 8 | the old |  |  |",
        "| 7 | the new one and the old | 0.00 | 0.10 |",
    ]
    assert "None" in sheet(compare_answers({}, {}))


async def judge_version(path: Path) -> tuple[str, str]:
    """Trains and judges; gate.json and samples.md of what was published."""
    await asyncio.to_thread(main, ["--config", str(path)])
    version = loop.registry(config.read(path, {})).versions()[-1]
    return tuple((version.path / name).read_text("utf-8") for name in ("gate.json", "samples.md"))  # type: ignore[return-value]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Sampling(max_new_tokens=12, temperature=0.5, top_p=0.9, repetition_penalty=1.05)
    monkeypatch.setitem(PROFILES, "daiyu", short)


@pytest.mark.usefixtures("brief")
@pytest.mark.filterwarnings("ignore::FutureWarning")
async def test_report_and_sheet_hold_figures_and_the_words_are_shown_from_the_store(
    village: Village,
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await village.settle("甲", "乙", "丙", "丁")
    down = await village.say("甲", "今日下雨了", STALE)
    await village.rate("甲", down, -1)
    better = await village.say("乙", "外头落雨呢", "落便落罢，与我何干。")
    await village.rate("乙", better, better=BETTER)
    refused = await village.say("丙", "蟹可肥了么", "不知道。")
    await village.rate("丙", refused, better="吃一点子夹子肉罢，只是性寒。")
    await village.agree("丙", agreed=False)
    leaving = await village.say("丁", "酒可温好了", "不必。")
    await village.rate("丁", leaving, -1)
    path = configured("transformers")
    assert len(await read_judged(config.read(path, {}))) == 3

    measured = contest._measured

    async def slow(*arguments: Any) -> Measured:
        """While she speaks, somebody withdraws."""
        await village.agree("丁", agreed=False)
        return await measured(*arguments)

    monkeypatch.setattr(contest, "_measured", slow)
    report, samples = await judge_version(path)
    people = json.loads(report)["people"]
    assert people["rejected"]["turns"] == [down, better]
    assert people["corrected"]["turns"] == [better]
    assert all(loss > 0 for loss in people["corrected"]["loss"])
    assert f"| {better} | " in samples
    registry = loop.registry(config.read(path, {}))
    (version,) = registry.versions()
    said = (
        "今日下雨了",
        "外头落雨呢",
        STALE,
        "落便落罢",
        BETTER,
        "蟹可肥了么",
        "性寒",
        "酒可温好了",
    )
    for file in version.path.iterdir():
        held = file.read_bytes()
        assert not [words for words in said if words.encode() in held], file.name

    async def shown() -> list[bool]:
        """Which of these `show` says."""
        capsys.readouterr()
        arguments = ["--config", str(path), "show", version.name]
        assert await asyncio.to_thread(main, arguments) == 0
        told = capsys.readouterr().out
        assert f"turn {down}; voted down" in told
        assert f"turn {better}; voted down" in told
        return [words in told for words in said]

    assert await shown() == [True] * 5 + [False] * 3
    await village.agree("甲", agreed=False)
    assert await shown() == [False, True, False, True, True, False, False, False]
    await village.store.people.erase("telegram", "乙")
    assert await shown() == [False] * 8


@pytest.mark.usefixtures("brief")
@pytest.mark.filterwarnings("ignore::FutureWarning")
async def test_without_a_store_the_report_says_none(configured: Configured) -> None:
    report, samples = await judge_version(configured("transformers"))
    assert json.loads(report)["people"]["rejected"] == {
        "turns": [], "candidate": [], "incumbent": [], "chance": 1.0, "passed": True,
    }  # fmt: skip
    assert "None that may be asked about." in samples
