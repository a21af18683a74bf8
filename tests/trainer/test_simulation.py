"""The simulation of benchmarks/loop.py in small: its goals are met, and it notices where not."""

from __future__ import annotations

import random
import shutil
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.crowd import NEW, REFUSING, TROLLS, Crowd, Poison
from benchmarks.loop import Played, failures, simulate
from data.triples import Triple

REPO = Path(__file__).parents[2]
POISON = Poison({"rude": ["滚"]}, {"rude": ["呸"]}, {"rude": ["谁理你"]})


def same(night: Played) -> Played:
    ruled, unruled = replace(night.ruled, seconds=0.0), replace(night.unruled, seconds=0.0)
    return replace(night, ruled=ruled, unruled=unruled)


@pytest.fixture
def fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the dialogues is enough for so few people."""
    authored = REPO / "data" / "daiyu"
    shutil.copytree(authored / "rich", tmp_path / "dialogues")
    shutil.copytree(authored / "eval", tmp_path / "dialogues" / "eval")
    shutil.copy(authored / "lint.toml", tmp_path / "dialogues")
    monkeypatch.setenv("DAIYU_PERSONA__DIALOGUES", str(tmp_path / "dialogues"))
    monkeypatch.chdir(REPO)


@pytest.mark.usefixtures("fewer")
async def test_a_small_crowd_is_noticed() -> None:
    (night,), _ = await simulate(people=30, nights=1, seed=3)
    assert failures([night]) == []
    assert night.ruled.allowed > 10
    assert night.ruled.held["burst"] > 0
    assert night.ruled.poison < night.unruled.poison
    # It would be told of: without the rules there is poison in what is learned.
    assert any("learned" in line for line in failures([replace(night, ruled=night.unruled)]))
    lost = replace(night.ruled, kept=int(night.ruled.allowed * 0.9))
    assert any("corrections kept" in line for line in failures([replace(night, ruled=lost)]))
    stolen = replace(night.ruled, stolen=1)
    assert any("did not agree" in line for line in failures([replace(night, ruled=stolen)]))


@pytest.mark.usefixtures("fewer")
async def test_the_same_people_do_the_same_each_time() -> None:
    (night,), _ = await simulate(people=12, nights=1, seed=3)
    (again,), _ = await simulate(people=12, nights=1, seed=3)
    assert same(again) == same(night)
    assert night.ruled.allowed > 0


def test_shares_of_the_crowd() -> None:
    kinds = [person.kind for person in Crowd.gathered(300, [], POISON, 1).people]
    assert len(kinds) == 300
    assert kinds.count("refusing") == 300 * REFUSING
    honest = ("honest", "eager", "refusing")
    assert sum(kind not in honest for kind in kinds) == 300 * TROLLS


def test_new_accounts_meet_on_one_evening() -> None:
    rows = [Triple(instruction=f"问{n}", output=f"答{n}。") for n in range(4000)]
    crowd = Crowd.gathered(300, rows, POISON, 1)
    nights = [{event.who for event in crowd.night(number)} for number in range(3)]
    assert [sum(who.startswith("new") for who in night) for night in nights] == [0, NEW, 0]


def test_what_honest_people_type_has_slips_and_is_never_empty() -> None:
    crowd = Crowd([], deque(), POISON, random.Random(1))
    typed = [crowd._typed("雨下了一夜。竹子都湿了。") for _ in range(500)]
    assert 0.5 < typed.count("雨下了一夜。竹子都湿了。") / 500 < 0.8
    assert "雨下了一夜。" in typed
    assert min(map(len, typed)) >= 4
