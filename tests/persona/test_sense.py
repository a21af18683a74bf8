"""Sense: replies that join words as authored ones do are told from those that do not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.triples import read_dialogues
from persona.sense import Sense

ROOT = Path(__file__).parents[2]
VERDICTS = ROOT / "docs" / "readings" / "verdicts.tsv"


@pytest.fixture(scope="module")
def sense() -> Sense:
    rows = read_dialogues(ROOT / "data" / "daiyu")
    return Sense(reply for _, row in rows for reply in row.replies)


def test_readers_verdicts_are_told_apart(sense: Sense) -> None:
    good, bad = [], []
    for line in VERDICTS.read_text("utf-8").splitlines()[1:]:
        _, message, reply, first, second = line.split("\t")
        likely = sense.share(reply.removesuffix(" (near-copy)"), message)
        if {first[:2], second[:2]} == {"11"}:
            good.append(likely)
        elif "1" not in first[1] + second[1]:
            bad.append(likely)
    assert len(good) > 50
    assert len(bad) > 50
    above = np.mean(np.array(good)[:, None] > np.array(bad)[None])
    assert above > 0.75, above  # an exemplar said where it does not fit is worded well: see fit.py


@pytest.mark.parametrize(
    ("sensible", "salad"),
    [
        ("烧到三十八度多，就别硬撑着了，快去看大夫。", "三个人都装不住，那群她自己当是她。"),
        ("我住在外祖母家，这是实情。", "雪雁是她家的姐姐，我那姐姐是雪雁的姐姐，是雪雁的姐姐。"),
        ("饿了就先吃块点心垫一垫。", "一小时不吃，你快叫人告诉家里，叫人替你挑个便宜的。"),
    ],
)
def test_salad_is_less_likely_to_have_sense(sense: Sense, sensible: str, salad: str) -> None:
    assert sense.share(sensible, "你好") > sense.share(salad, "你好")


def test_echo_of_the_message_is_less_likely_to_have_sense(sense: Sense) -> None:
    message = "你早饭一般吃什么，我就吃两个包子"
    answer = "早饭不过半碗粥，紫鹃还嫌我吃得少。"
    assert sense.share(answer, message) > sense.share(message, message)


def test_nothing_to_compare_with_or_to_judge_is_zero(sense: Sense) -> None:
    assert Sense([]).share("好。", "你好") == 0.0
    assert sense.share("……", "你好") == 0.0


@given(reply=st.text(max_size=40), message=st.text(max_size=20))
def test_any_text_is_judged(reply: str, message: str) -> None:
    likely = Sense(["茶凉了，我叫紫鹃换一盏来。", "你来了，坐罢。"]).share(reply, message)
    assert math.isfinite(likely)
    assert 0.0 <= likely <= 1.0
