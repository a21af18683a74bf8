"""A version on trial: heard by some, judged by what they make of it, dropped or promoted."""

from __future__ import annotations

import asyncio
import itertools
import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking import Chat, eventually, opened_chat
from test_takeover import look, publish

from bot import app
from bot import takeover as watching
from bot.config import Settings
from bot.trial import chance_of_as_many, judge
from data.trials import Heard
from persona.child import Report
from persona.engines.base import EngineError
from persona.registry import Registry
from persona.serving import Served
from persona.trial import Trial

# The test against chance.


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_chance_is_the_share_of_all_divisions_that_are_as_bad(
    bad: int, good: int, bad_beside: int, good_beside: int
) -> None:
    marks = [1] * (bad + bad_beside) + [0] * (good + good_beside)
    divisions = list(itertools.combinations(range(len(marks)), bad + good))
    as_bad = sum(sum(marks[i] for i in division) >= bad for division in divisions)
    found = chance_of_as_many(bad, bad + good, bad_beside, bad_beside + good_beside)
    assert found == pytest.approx(float(Fraction(as_bad, len(divisions))), rel=1e-9)


@given(st.integers(1, 40), st.integers(1, 400), st.integers(0, 40), st.integers(0, 400))
def test_one_more_bad_one_is_never_likelier(bad: int, good: int, beside: int, well: int) -> None:
    more = chance_of_as_many(bad + 1, bad + 1 + good, beside, beside + well)
    fewer = chance_of_as_many(bad, bad + 1 + good, beside + 1, beside + 1 + well)
    assert 0.0 <= more <= fewer + 1e-9
    assert fewer <= 1.0


def test_chance_is_right_in_large_tables() -> None:
    expected = sum(math.comb(300, k) * math.comb(11_700, 3_000 - k) for k in range(90, 301))
    expected_share = Fraction(expected, math.comb(12_000, 3_000))
    found = chance_of_as_many(90, 3_000, 210, 9_000)
    assert found == pytest.approx(float(expected_share), rel=1e-6)


# What is made of it.

FINE = Heard(chats=9, replies=180, guarded=4, good=40, bad=10, displeased=6)


def worse(tried: Heard, *, last: bool, beside: Heard = FINE) -> str | None:
    return judge(tried, beside, "v1", last=last).worse


@pytest.mark.parametrize("last", [False, True])
def test_what_is_as_good_is_kept(last: bool) -> None:
    assert worse(FINE, last=last) is None
    better = Heard(chats=3, replies=60, guarded=0, good=16, bad=0)
    assert worse(better, last=last) is None


@pytest.mark.parametrize("last", [False, True])
def test_few_votes_tell_nothing(last: bool) -> None:
    assert worse(Heard(), last=last) is None
    assert worse(Heard(), last=last, beside=Heard()) is None
    assert worse(Heard(chats=2, replies=9, good=0, bad=2, displeased=2), last=last) is None
    alone = Heard(chats=2, replies=9, good=0, bad=5, displeased=3)
    assert worse(alone, last=last, beside=Heard(chats=5, replies=40)) is None


@pytest.mark.parametrize("last", [False, True])
def test_much_worse_votes_are_told_at_every_look(last: bool) -> None:
    told = worse(Heard(chats=3, replies=60, guarded=1, good=2, bad=14, displeased=5), last=last)
    assert told is not None
    assert told.startswith("votes: ")


@pytest.mark.parametrize("last", [False, True])
def test_much_more_for_the_guard_is_told_at_every_look(last: bool) -> None:
    told = worse(Heard(chats=3, replies=60, guarded=15, good=9, bad=2, displeased=2), last=last)
    assert told is not None
    assert told.startswith("guard: ")


def test_what_is_a_little_worse_is_told_only_at_the_last_look() -> None:
    tried = Heard(chats=3, replies=60, guarded=1, good=8, bad=8, displeased=5)
    assert worse(tried, last=False) is None
    assert worse(tried, last=True) is not None


def test_one_person_alone_drops_nothing() -> None:
    beside = Heard(chats=9, replies=180, good=90, bad=0)
    tried = Heard(chats=3, replies=60, bad=3, displeased=1)
    assert worse(tried, last=True, beside=beside) is None
    two = Heard(chats=3, replies=60, bad=3, displeased=2)
    assert worse(two, last=True, beside=beside) is not None


# In a running bot.


def chats_of(trial: Trial, gets: bool, count: int) -> list[str]:
    """Chats that get the version on trial, or do not."""
    numbers = (str(number) for number in itertools.count(1))
    return list(itertools.islice((n for n in numbers if trial.gets(("screen", n)) is gets), count))


async def begun(chat: Chat, var: Path, hours: float = 20.0) -> Trial:
    """A trial of v2 beside v1, in half of the chats, that the bot has taken notice of."""
    registry = Registry(var / "adapters")
    registry.promote(publish(var, "v1"), "better")
    trial = registry.begin_trial(publish(var, "v2"), 0.5, hours, "gate")
    await look(chat).look()
    return trial


def served(var: Path) -> str | None:
    current = Registry(var / "adapters").current()
    return current.name if current else None


async def vote(chat: Chat, chats: list[str], rating: str, replies: int = 3) -> None:
    """In each of these chats its person says something and rates the answers."""
    for place in chats:
        for number in range(replies):
            await chat.say(f"第{number}句话", chat_id=place, user_id=f"u{place}")
            await chat.say(f"/feedback {rating}", chat_id=place, user_id=f"u{place}")


async def status(chat: Chat) -> str:
    return await chat.say("/status", chat_id="owner", user_id="owner")


async def test_a_trial_is_heard_in_its_chats_alone_and_every_turn_says_so(tmp_path: Path) -> None:
    async with opened_chat(tmp_path) as chat:
        trial = await begun(chat, tmp_path)
        with_it, without = chats_of(trial, True, 2), chats_of(trial, False, 2)
        for place in [*with_it, *without, *with_it]:
            assert await chat.say("你好", chat_id=place) == "你好"
        told = [turn["adapter"] for turn in chat.turns()]
        assert told == ["v2", "v2", "v1", "v1", "v2", "v2"]
        assert served(tmp_path) == "v1"


async def test_worse_votes_drop_it_by_themselves_and_their_figures_are_kept(
    tmp_path: Path,
) -> None:
    async with opened_chat(tmp_path) as chat:
        trial = await begun(chat, tmp_path)
        bad = chats_of(trial, True, 4)
        await vote(chat, bad, "bad")
        await vote(chat, chats_of(trial, False, 4), "good")
        assert "v2" in await status(chat)

        await look(chat).judge()

        registry = Registry(tmp_path / "adapters")
        assert (registry.trial(), served(tmp_path)) == (None, "v1")
        [ended] = registry.ended_trials()
        assert ended.outcome == "dropped"
        assert ended.why.startswith("votes: ")
        assert ended.figures["tried"] == {
            "chats": 4, "replies": 12, "guarded": 0, "good": 0, "bad": 12, "displeased": 4,
        }  # fmt: skip
        assert ended.figures["beside"]["version"] == "v1"
        assert ended.figures["beside"]["good"] == 12
        await chat.say("还在么", chat_id=bad[0])
        assert chat.last()["adapter"] == "v1"
        told = await status(chat)
        assert "v2" in told
        assert "votes: " in told


async def test_while_it_is_no_worse_it_goes_on_and_then_answers_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_chat(tmp_path) as chat:
        trial = await begun(chat, tmp_path, hours=1.0)
        without = chats_of(trial, False, 3)
        await vote(chat, chats_of(trial, True, 3), "good")
        await vote(chat, without, "good")
        await look(chat).judge()
        registry = Registry(tmp_path / "adapters")
        assert registry.trial() == trial

        later = datetime.now(UTC) + timedelta(hours=2)
        monkeypatch.setattr(watching, "_now", lambda: later)
        engine = chat.service._trial.engine  # type: ignore[union-attr]
        await look(chat).judge()

        assert served(tmp_path) == "v2"
        assert [ended.outcome for ended in registry.ended_trials()] == ["promoted"]
        # The engine that was there is the one that answers: nothing was loaded anew.
        assert (chat.service.version, chat.service.trial_version) == ("v2", None)
        assert chat.service._serving.engine is engine
        await chat.say("还在么", chat_id=without[0])
        assert chat.last()["adapter"] == "v2"


async def test_a_turn_that_runs_ends_on_the_version_on_trial_though_it_is_taken_back(
    tmp_path: Path,
) -> None:
    async with opened_chat(tmp_path) as chat:
        trial = await begun(chat, tmp_path)
        [place] = chats_of(trial, True, 1)
        engine = chat.service._trial.engine  # type: ignore[union-attr]
        engine.delay = 0.01  # type: ignore[attr-defined]
        saying = chat.saying("说一句长些的话给我听听罢。", chat_id=place)
        await eventually(lambda: engine.stats().running > 0)
        Registry(tmp_path / "adapters").rollback()
        await look(chat).look()
        assert chat.service.trial_version is None

        assert await saying == "说一句长些的话给我听听罢。"
        await chat.say("还在么", chat_id=place)
        assert [turn["adapter"] for turn in chat.turns()] == ["v2", "v1"]
        assert {turn["state"] for turn in chat.turns()} == {"done"}


async def test_a_trial_whose_engine_cannot_be_built_leaves_the_old_one_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_chat(tmp_path) as chat:
        load = app.load

        async def fails(settings: Settings, served: Served, report: Report) -> app.Loaded:
            if served.version == "v2":
                raise EngineError("no memory left")
            return await load(settings, served, report)

        with monkeypatch.context() as patched:
            patched.setattr(app, "load", fails)
            trial = await begun(chat, tmp_path, hours=1.0)
        [place] = chats_of(trial, True, 1)
        assert await chat.say("你好", chat_id=place) == "你好"
        assert chat.last()["adapter"] == "v1"
        assert "v2: no memory left" in await status(chat)

        # Nobody could hear it: it does not come through by that.
        later = datetime.now(UTC) + timedelta(hours=2)
        monkeypatch.setattr(watching, "_now", lambda: later)
        await look(chat).judge()
        registry = Registry(tmp_path / "adapters")
        assert [ended.outcome for ended in registry.ended_trials()] == ["dropped"]
        assert served(tmp_path) == "v1"
        assert "no memory left" in await status(chat)


async def test_a_version_that_was_damaged_meanwhile_does_not_come_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_chat(tmp_path) as chat:
        await begun(chat, tmp_path, hours=1.0)
        (tmp_path / "adapters" / "v2" / "stray.bin").write_bytes(b"x")
        later = datetime.now(UTC) + timedelta(hours=2)
        monkeypatch.setattr(watching, "_now", lambda: later)
        await look(chat).judge()
        [ended] = Registry(tmp_path / "adapters").ended_trials()
        assert ended.outcome == "dropped"
        assert "stray.bin" in ended.why
        assert chat.service.version == "v1"


async def test_a_store_that_fails_ends_no_trial(tmp_path: Path) -> None:
    async with opened_chat(tmp_path) as chat:
        trial = await begun(chat, tmp_path, hours=1e-9)
        await chat.store.close()
        (tmp_path / "daiyu.db").unlink()
        (tmp_path / "daiyu.db").mkdir()
        await look(chat).judge()
        assert Registry(tmp_path / "adapters").trial() == trial


async def test_a_trial_outlives_a_restart_and_keeps_its_chats(tmp_path: Path) -> None:
    async with opened_chat(tmp_path) as chat:
        trial = await begun(chat, tmp_path)
        await vote(chat, chats_of(trial, True, 2), "bad")
    async with opened_chat(tmp_path) as chat:
        await look(chat).look()
        await vote(chat, chats_of(trial, True, 4), "bad")
        await vote(chat, chats_of(trial, False, 4), "good")
        assert {t["adapter"] for t in chat.turns()} == {"v2", "v1"}
        await look(chat).judge()
        [ended] = Registry(tmp_path / "adapters").ended_trials()
        # Of each person the newest three votes.
        assert ended.figures["tried"]["bad"] == 12
        assert ended.figures["tried"]["replies"] == 18


async def test_the_running_bot_builds_and_judges_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.01)
    monkeypatch.setattr(watching, "JUDGING", 0.02)
    async with opened_chat(tmp_path) as chat:
        run = asyncio.create_task(look(chat).run())
        registry = Registry(tmp_path / "adapters")
        registry.promote(publish(tmp_path, "v1"), "better")
        trial = registry.begin_trial(publish(tmp_path, "v2"), 0.5, 20.0, "gate")
        await eventually(lambda: chat.service.trial_version == "v2")
        await vote(chat, chats_of(trial, False, 4), "good")
        await vote(chat, chats_of(trial, True, 4), "bad")
        await eventually(lambda: registry.ended_trials())
        await eventually(lambda: chat.service.trial_version is None)
        assert chat.service.version == "v1"
        assert not run.done()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
