"""Pairs: which voted-down replies stand beside which better ones, on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from village import Village, founded

from data.learning import NOBODY, Judgement, Rated, Snapshot, Spoken, Verdict
from data.messages import Turn
from data.triples import Triple
from trainer.pairs import paired_turns, with_rejected
from trainer.preprocess import Rejected, Row

RAIN, LAMP = "今日下雨了", "灯要灭了"
GOOD, BETTER = "雨打芭蕉，倒也好听。", "剪一剪灯芯便亮了。"
BAD, WORSE = "我不知道你说的什么。", "雨就是雨，有什么好说的呢。"


@pytest_asyncio.fixture
async def village(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    async with founded(tmp_path / "daiyu.db", monkeypatch) as made:
        yield made


async def retry(village: Village, who: str, first: int, reply: str, chat: str = "") -> int:
    """Asks for another answer to the message of a turn."""
    of = Turn(first, first, who, "", RAIN, "", "done")
    return await village.say(who, RAIN, reply, chat=chat, retry_of=of)


async def pairs(village: Village, **settings: float) -> dict[int, int]:
    found = await village.harvest(**({"preference": 1.0} | settings))
    return paired_turns(found.rows)


async def test_liked_retry_stands_beside_the_answer_voted_down(village: Village) -> None:
    await village.say("甲", LAMP, BETTER)
    bad = await village.say("甲", RAIN, BAD)
    good = await retry(village, "甲", bad, GOOD)
    await village.rate("甲", bad, -1)
    await village.rate("甲", good)
    await village.agree("甲")
    (row,) = (await village.harvest(preference=0.5)).rows
    assert (row.key, row.triple.output, row.rejected) == (f"turn:{good}", GOOD, Rejected(bad, BAD))
    assert row.triple.history == [(LAMP, BETTER)]
    # Off, nothing is paired, and the row is the same.
    (alone,) = (await village.harvest()).rows
    assert alone == Row(row.key, row.triple)


async def test_correction_stands_beside_what_it_corrects(village: Village) -> None:
    bad = await village.say("甲", RAIN, BAD)
    await village.rate("甲", bad, better=GOOD)
    await village.agree("甲")
    (row,) = (await village.harvest(preference=1.0)).rows
    assert (row.triple.output, row.rejected) == (GOOD, Rejected(bad, BAD))


async def test_correction_outranks_a_liked_retry(village: Village) -> None:
    bad = await village.say("甲", RAIN, BAD)
    liked = await retry(village, "甲", bad, GOOD)
    worse = await retry(village, "甲", bad, WORSE)
    await village.rate("甲", bad, better=BETTER)
    await village.rate("甲", liked)
    await village.rate("甲", worse, -1)
    await village.agree("甲")
    (row,) = (await village.harvest(preference=1.0)).rows
    assert (row.triple.output, row.rejected) == (BETTER, Rejected(bad, BAD))


async def test_answer_to_another_message_is_no_worse_one(village: Village) -> None:
    bad = await village.say("甲", RAIN, BAD)
    good = await village.say("甲", LAMP, BETTER)
    await village.rate("甲", bad, -1)
    await village.rate("甲", good)
    await village.agree("甲")
    assert await village.learned() == [good]
    assert await pairs(village) == {}


async def test_in_private_only_ones_own_vote_speaks_against_a_reply(village: Village) -> None:
    bad = await village.say("甲", RAIN, BAD)
    good = await retry(village, "甲", bad, GOOD)
    await village.rate("甲", good)
    for other in "乙丙丁":
        await village.rate(other, bad, -1)
    await village.agree("甲")
    assert await pairs(village) == {}
    await village.rate("甲", bad, -1)
    assert await pairs(village) == {good: bad}


async def test_in_a_group_two_of_different_people_must_be_against_it(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    bad = await village.say("甲", RAIN, BAD, chat="g")
    good = await retry(village, "甲", bad, GOOD, chat="g")
    for who in "甲乙":
        await village.rate(who, good)
    await village.rate("甲", bad, -1)
    assert await pairs(village) == {}
    await village.rate("乙", bad, -1)
    assert await pairs(village) == {good: bad}
    await village.rate("丙", bad)
    assert await pairs(village) == {}
    assert await pairs(village, score=1.0) == {good: bad}


async def test_both_who_asked_must_agree(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    good = await village.say("甲", RAIN, GOOD, chat="g")
    bad = await retry(village, "乙", good, BAD, chat="g")
    for who in "甲丙":
        await village.rate(who, good)
        await village.rate(who, bad, -1)
    assert await pairs(village) == {good: bad}
    await village.agree("乙", agreed=False)
    assert await village.learned() == [good]
    assert await pairs(village) == {}
    await village.agree("乙")
    await village.agree("甲", agreed=False)
    assert await pairs(village) == {}


async def test_erased_person_leaves_no_pair(village: Village) -> None:
    bad = await village.say("甲", RAIN, BAD)
    await village.rate("甲", bad, better=GOOD)
    await village.agree("甲")
    assert await pairs(village) == {bad: bad}
    await village.store.people.erase("telegram", "甲")
    assert await pairs(village) == {}


@pytest.mark.parametrize(("reply", "guarded"), [("先坐下。", "risk"), ("", None), (GOOD, None)])
async def test_guarded_empty_and_same_replies_are_not_moved_away_from(
    village: Village, reply: str, guarded: str | None
) -> None:
    of = await village.say("甲", RAIN, reply, guarded=guarded)
    good = await retry(village, "甲", of, GOOD)
    await village.rate("甲", of, -1)
    await village.rate("甲", good)
    await village.agree("甲")
    assert await village.learned() == [good]
    assert await pairs(village) == {}


async def test_what_fails_the_screen_is_no_better_one(village: Village) -> None:
    bad = await village.say("甲", RAIN, BAD)
    await village.rate("甲", bad, better="滚，我不同你说。")
    await village.agree("甲")
    assert await pairs(village) == {}
    # The worse one needs no screen: it is never said.
    rude = await village.say("甲", LAMP, "滚，我不同你说。")
    await village.rate("甲", rude, better=BETTER)
    assert await pairs(village) == {rude: rude}


async def test_pairs_fall_under_the_caps(village: Village) -> None:
    await village.agree("甲")
    for message, reply in ((RAIN, GOOD), (LAMP, BETTER)):
        bad = await village.say("甲", message, BAD)
        await village.rate("甲", bad, better=reply)
    assert len(await pairs(village)) == 2
    assert len(await pairs(village, person_rows=1)) == 1
    # However often an answer was asked for: one pair a row.
    again = await retry(village, "甲", bad, WORSE)
    await village.rate("甲", again, -1)
    assert len(await pairs(village)) == 2


async def test_a_burst_speaks_against_nothing(village: Village) -> None:
    await village.settle("甲", "乙")
    bad = await village.say("甲", RAIN, BAD, chat="g")
    good = await retry(village, "甲", bad, GOOD, chat="g")
    for who in "甲乙":
        await village.rate(who, good)
    await village.store.learning.judge(Verdict(good, NOBODY, GOOD, "", "approved"))
    for number in range(4):
        await village.rate(f"new{number}", bad, -1)
    assert await pairs(village) == {good: bad}
    await village.rate("new4", bad, -1)
    assert await village.learned() == [good]
    assert await pairs(village) == {}


async def test_a_run_that_goes_on_pairs_as_it_began(village: Village) -> None:
    bad = await village.say("甲", RAIN, BAD)
    good = await retry(village, "甲", bad, GOOD)
    worse = await retry(village, "甲", bad, WORSE)
    await village.rate("甲", good)
    for one in (bad, worse):
        await village.rate("甲", one, -1)
    await village.agree("甲")
    assert await pairs(village) == {good: worse}

    async def again(begun: dict[int, int]) -> dict[int, int]:
        snapshot = await village.store.learning.snapshot()
        rows = (await village.harvest()).rows
        score = float
        found = with_rejected(
            snapshot,
            rows,
            lambda _: True,
            lambda rated: score(sum(j.vote for j in rated.judgements)),
            1.0,
            begun,
        )
        return paired_turns(found)

    assert await again({good: bad}) == {good: bad}
    assert await again({}) == {}


NOON = datetime(2026, 3, 1, tzinfo=UTC)


@st.composite
def answered(draw: st.DrawFn) -> tuple[Snapshot, list[Row]]:
    """Some messages with several answers each, votes upon them, and the best of each as a row."""
    rated, rows = [], []
    turn = 0
    for _ in range(draw(st.integers(1, 4))):
        first, is_group = turn + 1, draw(st.booleans())
        said = draw(st.lists(st.sampled_from(["", "甲", "乙 ", "丙"]), min_size=1, max_size=4))
        for reply in said:
            turn += 1
            votes = draw(st.lists(st.sampled_from([1, -1]), max_size=4))
            judged = tuple(
                Judgement(("t", str(n)), vote, None, NOON) for n, vote in enumerate(votes)
            )
            spoken = Spoken(turn, ("t", "0"), "问", reply, False)
            leads = None if turn == first else first
            rated.append(Rated(spoken, "c", is_group, False, None, judged, first_turn=leads))
        chosen = draw(st.sampled_from(rated[first - 1 :]))
        triple = Triple(
            instruction="问",
            output=draw(st.sampled_from(["甲", "乙"])),
            meta={"turn": chosen.spoken.turn_id},
        )
        rows.append(Row(f"turn:{chosen.spoken.turn_id}", triple))
    return Snapshot(rated), rows


def votes(rated: Rated) -> float:
    return float(sum(judgement.vote for judgement in rated.judgements))


@given(answered(), st.sets(st.integers(1, 16)))
def test_whatever_was_voted_the_worse_one_is_an_allowed_answer_to_the_same_message(
    found: tuple[Snapshot, list[Row]], barred: set[int]
) -> None:
    snapshot, rows = found
    by_turn = {rated.spoken.turn_id: rated for rated in snapshot.rated}
    made = with_rejected(snapshot, rows, lambda r: r.spoken.turn_id not in barred, votes, 2.0)
    assert [Row(row.key, row.triple) for row in made] == rows
    for row in made:
        assert row.triple.meta
        turn = by_turn[row.triple.meta["turn"]]
        could = {
            rated.spoken.turn_id
            for rated in snapshot.rated
            if rated.message == turn.message
            and votes(rated) <= (-2 if rated.is_group else -1)
            and rated.spoken.turn_id not in barred
            and rated.spoken.reply.strip() not in ("", row.triple.output)
        }
        if row.rejected is None:
            assert not could
        else:
            assert row.rejected.turn_id in could
            assert row.rejected.reply == by_turn[row.rejected.turn_id].spoken.reply
    # Gone on with, the same stand together, whichever were chosen.
    begun = paired_turns(made)
    again = with_rejected(
        snapshot, rows, lambda r: r.spoken.turn_id not in barred, votes, 2.0, begun
    )
    assert again == made
