"""Lore: which entries a conversation calls for, and which of them fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.card import Lorebook, LoreEntry
from persona.lore import triggered, within


def entry(*keys: str, content: str = "", **more: Any) -> LoreEntry:
    return LoreEntry(keys=list(keys), content=content or "+".join(keys), **more)


def called(entries: list[LoreEntry], *recent: str, scan_depth: int | None = None) -> list[str]:
    book = Lorebook(entries=entries, scan_depth=scan_depth)
    return [found.content for found in triggered(book, recent)]


def test_an_entry_is_called_by_any_of_its_keys() -> None:
    entries = [entry("竹", "潇湘馆"), entry("菊")]
    assert called(entries, "潇湘馆里可冷？") == ["竹+潇湘馆"]
    assert called(entries, "今日天气好") == []
    assert called(entries) == []


def test_case_matters_only_where_the_entry_says_so() -> None:
    assert called([entry("Bamboo")], "my bamboo") == ["Bamboo"]
    assert called([entry("Bamboo", case_sensitive=True)], "my bamboo") == []
    assert called([entry("Bamboo", case_sensitive=True)], "my Bamboo") == ["Bamboo"]


def test_a_longer_key_hides_a_shorter_one_within_it() -> None:
    entries = [entry("茶"), entry("奶茶"), entry("奶茶店")]
    assert called(entries, "喝奶茶么") == ["奶茶"]
    assert called(entries, "去奶茶店") == ["奶茶店"]
    assert called(entries, "奶茶也好，茶也好") == ["茶", "奶茶"]


def test_keys_that_only_overlap_are_both_heard() -> None:
    assert called([entry("宝玉"), entry("玉佩")], "宝玉佩着") == ["宝玉", "玉佩"]


def test_an_entry_never_hides_itself() -> None:
    assert called([entry("茶", "奶茶")], "奶茶") == ["茶+奶茶"]


def test_a_selective_entry_needs_a_second_key() -> None:
    both = entry("花", secondary_keys=["葬", "落"], selective=True)
    assert called([both], "花开了") == []
    assert called([both], "花开了", "落了") == ["花"]
    assert called([entry("花", secondary_keys=["葬"])], "花开了") == ["花"]
    assert called([entry("花", secondary_keys=[], selective=True)], "花开了") == ["花"]


def test_second_keys_mind_case_like_first_ones() -> None:
    keys: dict[str, Any] = {"secondary_keys": ["Tea"], "selective": True}
    assert called([entry("cup", **keys)], "a cup of tea") == ["cup"]
    assert called([entry("cup", case_sensitive=True, **keys)], "a cup of tea") == []


def test_a_constant_entry_is_always_called() -> None:
    always = entry("无", constant=True, secondary_keys=["无"], selective=True)
    assert called([always], "你好") == ["无"]
    assert called([always]) == ["无"]


def test_a_disabled_entry_is_never_called() -> None:
    off: dict[str, Any] = {"enabled": False}
    assert called([entry("竹", **off), entry("竹", constant=True, **off)], "竹") == []


def test_an_entry_that_asks_for_a_pattern_is_passed_over() -> None:
    assert called([entry("(a+)+$", use_regex=True)], "a" * 40) == []
    assert called([entry("a.c")], "abc") == []
    assert called([entry("a.c")], "a.c") == ["a.c"]


@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_an_empty_key_calls_nothing(key: str) -> None:
    assert called([entry(key, content="x")], "a \n b") == []


def test_only_the_last_messages_are_searched() -> None:
    talk = ["竹子", "梨花", "芭蕉"]
    entries = [entry("竹"), entry("梨"), entry("芭蕉")]
    assert called(entries, *talk, scan_depth=2) == ["芭蕉", "梨"]
    assert called(entries, *talk, scan_depth=0) == []
    assert called(entries, *talk, scan_depth=9) == ["芭蕉", "梨", "竹"]
    assert called(entries, *talk) == ["芭蕉", "梨", "竹"]


def test_what_was_said_last_comes_first_then_what_the_card_holds_dearest() -> None:
    entries = [
        entry("竹", priority=1, insertion_order=1),
        entry("梨", priority=9, insertion_order=2),
        entry("雨", insertion_order=0),
        entry("花", insertion_order=5),
        entry("草", insertion_order=4),
    ]
    assert called(entries, "雨", "竹和梨，花和草") == ["梨", "竹", "草", "花", "雨"]


def test_the_budget_takes_the_first_that_fit_in_the_cards_order() -> None:
    entries = [
        entry("a", content="aaaa", insertion_order=3),
        entry("b", content="b" * 50, insertion_order=2),
        entry("c", content="cccc", insertion_order=1),
        entry("d", content="d", insertion_order=0),
    ]
    assert [e.content for e in within(entries, 10, len)] == ["cccc", "aaaa"]
    assert [e.content for e in within(entries, 9, len)] == ["d", "aaaa"]
    assert within(entries, 0, len) == []


@given(
    contents=st.lists(st.text(max_size=20), max_size=8),
    budget=st.integers(min_value=0, max_value=60),
)
def test_lore_and_its_line_breaks_never_exceed_the_budget(contents: list[str], budget: int) -> None:
    entries = [LoreEntry(keys=[], content=c, insertion_order=-n) for n, c in enumerate(contents)]
    chosen = within(entries, budget, len)
    assert sum(len(e.content) + 1 for e in chosen) <= budget
    assert chosen == sorted(chosen, key=lambda e: e.insertion_order)


@given(
    keys=st.lists(st.lists(st.text("ab竹 ", max_size=3), max_size=3), max_size=5),
    recent=st.lists(st.text("ab竹 \n", max_size=8), max_size=3),
)
def test_what_is_called_has_a_key_in_the_text(keys: list[list[str]], recent: list[str]) -> None:
    book = Lorebook(entries=[LoreEntry(keys=k, content=str(n)) for n, k in enumerate(keys)])
    text = "\n".join(recent)
    found = triggered(book, recent)
    assert all(any(key in text for key in e.keys) for e in found)
    # The longest key of all is hidden by none.
    present = [k for one in keys for k in one if k.strip() and k in text]
    assert bool(found) == bool(present)
