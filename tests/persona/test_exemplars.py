"""Exemplars: the nearest exchanges, none twice, and never the row itself."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.exemplars import SAME, ExemplarIndex, similarity, trigrams
from persona.prompt import Exchange

TALK = [
    Exchange("窗前的竹子可要修剪", "不必，我爱它遮着窗。", "bamboo"),
    Exchange("今日下雨了", "雨打芭蕉，听着倒好。", "rain"),
    Exchange("你院子里的竹子高么", "高过墙头了，风来先知道。", "tall"),
    Exchange("你吃药了没有", "才吃过，苦得很。", "medicine"),
    Exchange("do you like tea", "A little, when it is hot.", "tea"),
]


def keys(found: list[Exchange]) -> list[str]:
    return [exchange.key for exchange in found]


def test_what_she_said_already_is_shown_no_more() -> None:
    index = ExemplarIndex(TALK)
    [nearest] = index.nearest("下雨了", 1)
    assert nearest.key not in keys(index.nearest("下雨了", 3, said=[f"{nearest.reply}。"]))
    assert nearest.key in keys(index.nearest("下雨了", 3, said=["全不相干的一句话。"]))


def test_the_nearest_stands_last() -> None:
    index = ExemplarIndex(TALK)
    assert keys(index.nearest("窗前的竹子要修剪么", 2)) == ["tall", "bamboo"]
    assert keys(index.nearest("院子里的竹子高不高", 2)) == ["bamboo", "tall"]


def test_an_equal_wording_is_nearest_though_the_characters_are_shared() -> None:
    hums = [Exchange("嗯", "只一个字？", "one"), Exchange("嗯嗯", "两个字。", "two")]
    index = ExemplarIndex([*hums, *TALK])
    assert keys(index.nearest("嗯", 2)) == ["two", "one"]
    assert keys(index.nearest("嗯嗯！", 2)) == ["one", "two"]


def test_letters_are_compared_as_words() -> None:
    index = ExemplarIndex(
        [
            Exchange("the late train", "It is late.", "train"),
            Exchange("i eat a lot", "So do I.", "eat"),
        ]
    )
    assert keys(index.nearest("Trains? no, a TRAIN", 2)) == ["eat", "train"]
    assert index.nearest("tarn", 2) == []


def test_no_more_come_than_are_asked_for_or_have_anything_in_common() -> None:
    index = ExemplarIndex(TALK)
    assert keys(index.nearest("下雨了", 1)) == ["rain"]
    assert index.nearest("下雨了", 0) == []
    assert index.nearest("キャット", 3) == []
    assert len(index.nearest("竹子", 5)) == 2


def test_case_width_and_punctuation_make_no_difference() -> None:
    index = ExemplarIndex(TALK)
    assert keys(index.nearest("ＤＯ YOU like, Tea?!", 1)) == ["tea"]
    assert keys(index.nearest("下……雨，了！", 1)) == ["rain"]


def test_two_that_say_the_same_come_once() -> None:
    twice = [
        Exchange("竹子好看么", "好看，我最爱竹子的影子。", "first"),
        Exchange("竹子好看不好看", "好看！我最爱竹子的影子", "second"),
        Exchange("竹子会开花么", "开花便是要枯了，别说这个。", "third"),
    ]
    assert keys(ExemplarIndex(twice).nearest("竹子好看么", 3)) == ["third", "first"]


def test_the_same_question_may_come_with_other_answers() -> None:
    both = [Exchange("你好", "你来了。", "a"), Exchange("你好", "坐罢，茶还热。", "b")]
    assert sorted(keys(ExemplarIndex(both).nearest("你好", 2))) == ["a", "b"]


def test_keys_that_are_excluded_do_not_come() -> None:
    index = ExemplarIndex(TALK)
    assert keys(index.nearest("窗前的竹子", 2, without={"bamboo"})) == ["tall"]
    assert index.nearest("窗前的竹子", 2, without=["bamboo", "tall"]) == []


def test_a_training_row_sees_neither_itself_nor_its_like() -> None:
    rows = [
        Exchange("窗前的竹子可要修剪", "不必，我爱它遮着窗。", "itself"),
        Exchange("窗前的竹子可要修剪？", "剪它做什么，留着听雨。", "same message"),
        Exchange("竹子修剪么", "不必。我爱它遮着窗！", "same reply"),
        Exchange("竹子长得快么", "一夜便高一截，人倒不如它。", "near"),
    ]
    index = ExemplarIndex(rows)
    found = index.nearest(rows[0].text, 4, apart_from=rows[0].reply)
    assert keys(found) == ["near"]
    assert len(index.nearest(rows[0].text, 4)) == 3


def test_an_empty_index_has_nothing_near() -> None:
    index = ExemplarIndex([])
    assert len(index) == 0
    assert index.nearest("你好", 3) == []
    assert index.nearest("你好", 3, apart_from="你来了") == []


@pytest.mark.parametrize("text", ["😀", "😀😭", "……！？", "   ", "", "\ud83d"])
def test_a_message_without_letters_does_no_harm(text: str) -> None:
    assert ExemplarIndex(TALK).nearest(text, 3, apart_from=text) == []


def test_an_emoji_finds_the_exchange_that_it_stands_in() -> None:
    index = ExemplarIndex([*TALK, Exchange("😭", "怎么哭了？同我说说。", "tears")])
    assert keys(index.nearest("😭", 3)) == ["tears"]


@pytest.mark.parametrize("text", ["", "……", " "])
def test_exchanges_without_letters_can_be_indexed(text: str) -> None:
    index = ExemplarIndex([Exchange(text, text, "odd"), *TALK])
    assert keys(index.nearest("下雨了", 1)) == ["rain"]
    assert len(ExemplarIndex([Exchange(text, text)])) == 1
    ExemplarIndex([Exchange(text, text)]).nearest("下雨了", 3)


@settings(max_examples=50, deadline=None)
@given(
    exchanges=st.lists(
        st.builds(
            Exchange,
            text=st.text("竹雨花ab 。", max_size=6),
            reply=st.text("竹雨花ab 。", max_size=8),
            key=st.sampled_from("abcdef"),
        ),
        max_size=8,
    ),
    text=st.text("竹雨花ab 。", max_size=6),
    k=st.integers(0, 4),
    apart=st.none() | st.text("竹雨花ab 。", max_size=8),
)
def test_what_comes_is_within_all_bounds(
    exchanges: list[Exchange], text: str, k: int, apart: str | None
) -> None:
    found = ExemplarIndex(exchanges).nearest(text, k, without={"a"}, apart_from=apart)

    assert len(found) <= k
    assert all(one in exchanges and one.key != "a" for one in found)
    replies = [trigrams(one.reply) for one in found]
    for i, reply in enumerate(replies):
        assert all(similarity(reply, other) < SAME for other in replies[:i])
        if apart is not None:
            assert similarity(reply, trigrams(apart)) < SAME
            assert similarity(trigrams(found[i].text), trigrams(text)) < SAME


@given(a=st.text(max_size=12), b=st.text(max_size=12))
def test_similarity_is_symmetric_and_one_for_the_same(a: str, b: str) -> None:
    one, other = trigrams(a), trigrams(b)
    assert similarity(one, other) == similarity(other, one)
    assert 0.0 <= similarity(one, other) <= 1.0
    assert similarity(one, one) == 1.0


def test_a_thousand_exchanges_are_searched_in_no_time() -> None:
    many = [Exchange(f"第{n}枝花开了", f"第{n}枝，我记着。", str(n)) for n in range(1000)]
    index = ExemplarIndex(many)
    start = time.process_time()
    assert keys(index.nearest("第777枝花开了", 3))[-1] == "777"
    assert time.process_time() - start < 0.5


# What was learned stands beside what was authored.

LEARNED = [
    Exchange("外头刮大风了", "掩上窗便是。", "turn:1"),
    Exchange("你吃药了没有", "苦的东西，谁记得它。", "turn:2"),
]


def test_what_was_learned_is_found_as_if_it_had_been_there_from_the_start() -> None:
    index = ExemplarIndex(TALK).with_learned(LEARNED, {})
    assert len(index) == len(TALK) + 2
    assert keys(index.exchanges) == ["turn:1", "turn:2", *keys(TALK)]
    assert keys(index.nearest("外头风大么", 1)) == ["turn:1"]
    # The like message was authored too: the learned one is the nearer.
    assert keys(index.nearest("你吃药了没有", 2)) == ["medicine", "turn:2"]
    for text in ("外头刮大风了", "院子里的竹子高不高"):
        whole = ExemplarIndex([*LEARNED, *TALK])
        assert keys(index.nearest(text, 1)) == keys(whole.nearest(text, 1))


def test_what_was_learned_in_a_place_is_found_there_alone() -> None:
    index = ExemplarIndex(TALK).with_learned(LEARNED, {"turn:1": ("telegram", "7")})
    assert keys(index.nearest("外头刮大风了", 1, place=("telegram", "7"))) == ["turn:1"]
    assert "turn:1" not in keys(index.nearest("外头刮大风了", 5))
    assert "turn:1" not in keys(index.nearest("外头刮大风了", 5, place=("telegram", "8")))
    assert "turn:2" in keys(index.nearest("你吃药了没有", 2, place=("telegram", "8")))


def test_what_is_learned_next_takes_the_place_of_what_was() -> None:
    first = ExemplarIndex(TALK).with_learned(LEARNED, {})
    second = first.with_learned(LEARNED[1:], {})
    assert keys(second.exchanges) == ["turn:2", *keys(TALK)]
    assert keys(second.with_learned([], {}).exchanges) == keys(TALK)
    # The one before is as it was: replies on their way may still use it.
    assert keys(first.nearest("外头刮大风了", 1)) == ["turn:1"]


def test_without_anything_authored_what_was_learned_is_all_there_is() -> None:
    index = ExemplarIndex([]).with_learned(LEARNED, {})
    assert keys(index.nearest("外头风大么", 3)) == ["turn:1"]
    assert ExemplarIndex([]).with_learned([], {}).nearest("风", 3) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=6), st.text(max_size=12))
def test_any_texts_can_be_learned_and_searched(texts: list[str], asked: str) -> None:
    learned = [Exchange(text, text, f"turn:{n}") for n, text in enumerate(texts)]
    found = ExemplarIndex(TALK).with_learned(learned, {"turn:0": "a"}).nearest(asked, 3)
    assert len(found) <= 3
    assert "turn:0" not in keys(found)
