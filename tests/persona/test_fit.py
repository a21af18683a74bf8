"""Whether an exemplar's reply answers a message, and what a reply that leans on it is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.exemplars import ExemplarIndex, terms
from persona.fit import content, fit
from persona.prompt import Exchange
from persona.readings import dialogues

JUDGED = Path(__file__).parents[2] / "docs" / "readings" / "fits.tsv"


@pytest.fixture(scope="module")
def index() -> ExemplarIndex:
    return ExemplarIndex(
        [Exchange(text, replies[-1]) for text, replies in dialogues() if len(replies) == 1]
    )


def test_reply_that_speaks_of_what_was_not_said_fits_less(index: ExemplarIndex) -> None:
    asked = "宿舍三个人建了个群没拉我"
    alike = Exchange("室友建了个群没拉我", "漏下了你，谁都要难过。约个别处的朋友吃一顿。")
    other = Exchange("室友建了个群没拉我", "室友漏下了你，谁都要难过。约个别处的朋友吃一顿。")
    assert index.fit(asked, alike) > index.fit(asked, other)


def test_what_says_the_same_fits_better_than_what_says_more(index: ExemplarIndex) -> None:
    reply = "先在屋檐下等一等，急雨下不长。"
    equal = Exchange("下雨了没带伞", reply)
    more = Exchange("下雨了没带伞，老师还在台上讲那道鸡兔同笼的题", reply)
    assert index.fit("下雨了，没带伞！", equal) > index.fit("下雨了，没带伞！", more)


@pytest.mark.parametrize(
    ("taught", "reply", "like", "others"),
    [
        (
            "我的乌龟叫慢慢，它不肯吃菜叶",
            "慢慢不吃菜叶，便切一片苹果试试。它走得慢，心里却有数。",
            ["我的乌龟不肯吃东西", "乌龟不吃菜叶怎么办"],
            ["我的猫不肯吃东西", "我的乌龟真可爱", "你吃了吗"],
        ),
        (
            "今天加班到十点，好累",
            "十点才放人，比我熬夜还苦。先泡泡脚，再睡。",
            ["加班到十点了", "今天加班好累"],
            ["今天好累", "明天要加班"],
        ),
    ],
)
def test_what_was_taught_comes_first_for_the_like_alone(
    index: ExemplarIndex, taught: str, reply: str, like: list[str], others: list[str]
) -> None:
    learned = index.with_learned([Exchange(taught, reply, "turn:1")], {})
    first = {asked: learned.nearest(asked, 1)[0].reply for asked in (*like, *others)}
    assert {asked for asked, said in first.items() if said == reply} == set(like)


def test_readers_judgements_are_told_apart(index: ExemplarIndex) -> None:
    by_text = {exchange.text: exchange for exchange in index.exchanges}
    found: list[tuple[float, bool]] = []
    for line in JUDGED.read_text("utf-8").splitlines()[1::8]:
        message, labels, *texts = line.split("\t")
        for label, text in zip(labels, texts, strict=True):
            if exchange := by_text.get(text):
                found.append((index.fit(message, exchange), label == "2"))
    fits = np.array([likely for likely, good in found if good])
    others = np.array([likely for likely, good in found if not good])
    assert min(len(fits), len(others)) > 80
    assert (fits[:, None] > others[None, :]).mean() > 0.8
    assert fits.mean() > 2 * others.mean()


@given(st.text(), st.text(min_size=1), st.text(), st.floats(0, 200))
def test_fit_is_a_likelihood_whatever_is_said(a: str, b: str, c: str, nearness: float) -> None:
    assert 0 <= fit(terms(a), terms(b), terms(c), nearness, lambda term: len(term)) <= 1


@given(st.floats(0, 1), st.floats(0.5, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_better_the_exemplar_fits_the_more_its_copy_contents(
    sense: float, likeness: float, one: float, other: float
) -> None:
    worse, better = sorted((one, other))
    assert content(sense, likeness, worse) <= content(sense, likeness, better)
    assert content(0.2, likeness, one) < content(0.8, likeness, one)
