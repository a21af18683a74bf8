"""Quarantine and snapshot: what is put aside, what was judged, and that it goes with its row."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from data.corrections import standing
from data.learning import NOBODY, Judgement, Rated, Snapshot, Spoken, Verdict
from data.near import Near
from data.store import Conversation, Store

PERSON = ("screen", "u1")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def said(store: Store, conversation: Conversation, text: str, user: str = "u1") -> int:
    turn = await store.begin_turn(conversation.id, user, user, text)
    await store.close_turn(turn, "done", f"答{text}")
    return turn


async def corrected(store: Store, conversation: Conversation, better: str) -> int:
    turn = await said(store, conversation, "今日下雨了")
    await store.rate(turn, *PERSON, -1, better)
    return turn


async def verdicts(store: Store) -> dict[tuple[int, tuple[str, str]], Verdict]:
    return (await store.learning.snapshot()).verdicts


async def test_what_is_put_aside_is_kept_once_with_its_reason(
    store: Store, conversation: Conversation
) -> None:
    turn = await corrected(store, conversation, "甲")
    for reason in ("contact", "link"):
        await store.learning.hold(turn, PERSON, "甲", reason)
    assert await verdicts(store) == {(turn, PERSON): Verdict(turn, PERSON, "甲", "link", "held")}


async def test_what_was_judged_is_not_put_aside_again(
    store: Store, conversation: Conversation
) -> None:
    turn = await corrected(store, conversation, "甲")
    verdict = Verdict(turn, PERSON, "甲", "", "approved", "乙", "owner", NOON)
    assert await store.learning.judged() == (0, None)
    assert await store.learning.judge(verdict)
    assert await store.learning.judged() == (1, NOON)
    await store.learning.hold(turn, PERSON, "甲", "contact")
    assert await verdicts(store) == {(turn, PERSON): verdict}
    # A person may think better of it.
    assert await store.learning.judge(replace(verdict, state="rejected"))
    assert (await verdicts(store))[turn, PERSON].state == "rejected"


async def test_a_verdict_is_of_the_words_that_were_judged(
    store: Store, conversation: Conversation
) -> None:
    turn = await corrected(store, conversation, "甲")
    await store.learning.judge(Verdict(turn, PERSON, "甲", "", "approved"))
    await store.rate(turn, *PERSON, -1, "甲")
    assert (await verdicts(store))[turn, PERSON].state == "approved"
    await store.rate(turn, *PERSON, -1, "乙")
    assert await verdicts(store) == {}
    # Too late: those words do not stand any more.
    assert not await store.learning.judge(Verdict(turn, PERSON, "甲", "", "approved"))
    assert await verdicts(store) == {}


async def test_taken_back_or_turned_into_a_vote_its_words_are_gone(
    store: Store, conversation: Conversation, database: Path
) -> None:
    for take_back in (True, False):
        turn = await corrected(store, conversation, "只我写过的")
        await store.learning.hold(turn, PERSON, "只我写过的", "contact")
        if take_back:
            await store.unrate(turn, *PERSON)
        else:
            await store.rate(turn, *PERSON, 1)
        assert await verdicts(store) == {}
    with closing(sqlite3.connect(database)) as connection:
        assert "只我" not in "\n".join(connection.iterdump())


async def test_erasing_takes_what_was_put_aside_of_both(
    store: Store, conversation: Conversation, database: Path
) -> None:
    other = await said(store, conversation, "别人的", "u2")
    await store.rate(other, *PERSON, -1, "只我写过的")
    await store.learning.hold(other, PERSON, "只我写过的", "contact")
    own = await said(store, conversation, "只我说的")
    await store.learning.hold(own, NOBODY, "答只我说的", "burst")
    assert await store.people.corrected(*PERSON) == [other]
    await store.people.erase(*PERSON)
    with closing(sqlite3.connect(database)) as connection:
        assert "只我" not in "\n".join(connection.iterdump())
    assert await store.people.corrected(*PERSON) == []
    # The trainer may have read it just before.
    await store.learning.hold(own, NOBODY, "答只我说的", "burst")
    await store.learning.hold(other, PERSON, "只我写过的", "contact")
    assert await verdicts(store) == {}


async def test_snapshot_knows_who_agreed_who_was_heard_first_and_what_was_erased(
    store: Store, conversation: Conversation
) -> None:
    turn = await corrected(store, conversation, "甲")
    liked = await said(store, conversation, "二")
    await store.rate(liked, "screen", "u2", 1)
    gone = await said(store, conversation, "三", "u3")
    await store.people.erase("screen", "u3")
    await store.people.agree(*PERSON, True)
    await store.people.agree("screen", "u2", False)
    found = await store.learning.snapshot()
    assert [rated.spoken.turn_id for rated in found.rated] == [turn, liked]
    assert (found.agreed, found.refused) == ({PERSON}, {("screen", "u2")})
    assert found.erased == {gone}
    assert set(found.seen) == {PERSON, ("screen", "u2")}
    assert all(abs(at - datetime.now(UTC)) < timedelta(minutes=5) for at in found.seen.values())
    only = await store.learning.snapshot(corrected=True)
    assert [rated.spoken.turn_id for rated in only.rated] == [turn]


async def test_a_chat_is_known_as_group_or_not_from_when_it_was_told(
    store: Store, database: Path
) -> None:
    for chat, told in (("1", None), ("2", True), ("3", False)):
        await store.conversation("screen", chat, is_group=told)
    await store.conversation("screen", "1", is_group=True)
    await store.conversation("screen", "2")
    await store.conversation("screen", "3", is_group=True)  # what a chat is does not change
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT is_group FROM conversations ORDER BY id").fetchall()
    assert found == [(1,), (1,), (0,)]


# Which corrections stand.


def snapshot(*corrections: tuple[str, str, str], old: bool = True) -> Snapshot:
    """Of (person, message, wording)."""
    rated = [
        Rated(
            Spoken(n, ("screen", "asker"), message, "罢了。", False),
            "1",
            False,
            False,
            None,
            (Judgement(("screen", who), -1, wording, NOON),),
        )
        for n, (who, message, wording) in enumerate(corrections, start=1)
    ]
    seen = NOON - timedelta(days=9 if old else 0)
    return Snapshot(rated, seen={("screen", who): seen for who, *_ in corrections})


def states(found: Snapshot, agreement: int = 0) -> list[tuple[str, str]]:
    def reason(_: str, wording: str) -> str | None:
        return "bad" if "坏" in wording else None

    return [(c.state, c.reason) for c in standing(found, reason, grams, agreement)]


def grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 3] for i in range(max(1, len(text) - 2)))


def test_a_correction_is_screened_or_held() -> None:
    found = snapshot(("a", "问", "好话"), ("b", "问", "坏话"))
    assert states(found) == [("screened", ""), ("held", "bad")]


def test_what_a_person_judged_overrules_the_screen() -> None:
    found = snapshot(("a", "问", "好话"), ("b", "问", "坏话"))
    a, b = ("screen", "a"), ("screen", "b")
    verdicts = {
        (1, a): Verdict(1, a, "好话", "", "rejected"),
        (2, b): Verdict(2, b, "坏话", "bad", "approved", "改过的话"),
    }
    judged = replace(found, verdicts=verdicts)
    assert states(judged) == [("rejected", ""), ("approved", "")]
    *_, edited = standing(judged, lambda *_: None, grams)
    assert edited.wording == "改过的话"
    # Of other words than those that stand, a verdict says nothing.
    verdicts[1, a] = Verdict(1, a, "别的话", "", "rejected")
    assert states(judged)[0] == ("screened", "")


def test_whoever_failed_three_times_and_mostly_is_held() -> None:
    bad = [("a", f"问{n}", f"坏{n}") for n in range(3)]
    assert states(snapshot(*bad, ("a", "问", "好话")))[-1] == ("held", "record")
    assert states(snapshot(*bad[:2], ("a", "问", "好话")))[-1] == ("screened", "")
    good = [("a", f"问{n}", f"好{n}") for n in range(3)]
    assert states(snapshot(*bad, *good))[-1] == ("screened", "")


def test_what_enough_people_wrote_alike_is_approved() -> None:
    alike = [(who, "外头刮大风了", "掩上窗便是。") for who in "abc"]
    assert {state for state, _ in states(snapshot(*alike), 3)} == {"approved"}
    assert {state for state, _ in states(snapshot(*alike), 4)} == {"screened"}
    assert {state for state, _ in states(snapshot(*alike), 0)} == {"screened"}
    assert {state for state, _ in states(snapshot(*alike, old=False), 3)} == {"screened"}
    one = [("a", "外头刮大风了", "掩上窗便是。")] * 3
    assert {state for state, _ in states(snapshot(*one), 3)} == {"screened"}
    other = [(who, message, "掩上窗便是。") for who, message in zip("abc", "风雨雪", strict=True)]
    assert {state for state, _ in states(snapshot(*other), 3)} == {"screened"}


@settings(deadline=None)
@given(st.lists(st.text("甲乙丙丁", max_size=6), max_size=8), st.text("甲乙丙丁", max_size=6))
def test_near_finds_what_comparing_all_finds(texts: list[str], asked: str) -> None:
    near = Near[int](grams, 0.6)
    for number, text in enumerate(texts):
        near.add(text, number)
    expected = [
        n
        for n, text in enumerate(texts)
        if len(grams(text) & grams(asked)) >= 0.6 * len(grams(text) | grams(asked))
    ]
    assert near.find(asked) == expected
