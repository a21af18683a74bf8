"""Trials in the registry: who gets the version, how one begins and ends, what a crash leaves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.registry import Registry, RegistryError, Version
from persona.trial import Trial

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPO = Path(__file__).parents[2]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters")


@pytest.fixture
def publish(registry: Registry, adapter: Path) -> Callable[[str], Version]:
    def put(name: str) -> Version:
        folder = registry.folder / name
        folder.mkdir(parents=True)
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copyfile(adapter / file, folder / file)
        lineage = {"base": {"name": "small", "sha256": "0" * 64}}
        (folder / "lineage.json").write_text(json.dumps(lineage))
        return registry.version(name)

    return put


Publish = Callable[[str], Version]


def current(registry: Registry) -> str | None:
    found = registry.current()
    return found.name if found else None


# Which chats get it.


@given(st.text(min_size=1, max_size=20), st.tuples(st.text(max_size=9), st.text(max_size=9)))
def test_a_chat_stays_on_its_side(version: str, place: tuple[str, str]) -> None:
    quarter, half = Trial(version, 0.25, NOON, 1, ""), Trial(version, 0.5, NOON, 9, "again")
    assert quarter.gets(place) == quarter.gets(place)
    assert half.gets(place) or not quarter.gets(place)
    assert Trial(version, 1.0, NOON, 1, "").gets(place)


def test_the_share_is_that_of_the_chats_and_other_ones_each_time() -> None:
    places = [("telegram", str(number)) for number in range(4000)]
    chosen = [
        {place for place in places if Trial(version, 0.25, NOON, 1, "").gets(place)}
        for version in ("v1", "v2")
    ]
    assert all(0.22 < len(of) / len(places) < 0.28 for of in chosen)
    both = chosen[0] & chosen[1]
    assert 0.18 < len(both) / len(chosen[0]) < 0.32


def test_which_chats_get_it_is_known_for_good() -> None:
    # Another way of choosing would move chats about in the middle of a trial.
    trial = Trial("v1", 0.5, NOON, 1, "")
    assert [n for n in range(12) if trial.gets(("telegram", str(n)))] == [
        0, 2, 3, 4, 6, 9, 11,
    ]  # fmt: skip


# How one begins and ends.


def test_begun_trial_is_read_back_and_changes_nothing_that_is_served(
    registry: Registry, publish: Publish
) -> None:
    old, new = publish("a"), publish("b")
    registry.promote(old, "first")
    trial = registry.begin_trial(new, 0.25, 20.0, "the gate passed it", forced=True)
    again = Registry(registry.folder)
    assert again.trial() == trial
    assert (trial.version, trial.share, trial.forced) == ("b", 0.25, True)
    assert trial.ends - trial.begun == timedelta(hours=20)
    assert current(again) == "a"
    assert again.ended_trials() == []


@pytest.mark.parametrize(("outcome", "served"), [("promoted", "b"), ("dropped", "a")])
def test_ended_trial_is_kept_with_its_figures(
    registry: Registry, publish: Publish, outcome: Any, served: str
) -> None:
    old, new = publish("a"), publish("b")
    registry.promote(old, "first")
    trial = registry.begin_trial(new, 0.25, 20.0, "the gate passed it", forced=True)
    figures = {"tried": {"replies": 30}, "chance": {"votes": 0.01}}
    assert registry.end_trial(trial, outcome, "as counted", figures)
    again = Registry(registry.folder)
    assert current(again) == served
    assert again.trial() is None
    [ended] = again.ended_trials()
    assert (ended.trial, ended.outcome, ended.why) == (trial, outcome, "as counted")
    assert ended.figures == figures
    last = again.promotions()[-1]
    if outcome == "promoted":
        assert last["reason"] == "the gate passed it; as counted"
        assert last["forced"]
    # It has ended once and for all.
    assert not registry.end_trial(trial, "promoted", "late", {})
    assert current(again) == served


def test_promoting_by_hand_ends_the_trial(registry: Registry, publish: Publish) -> None:
    a, b = publish("a"), publish("b")
    registry.begin_trial(b, 0.5, 1.0, "x")
    registry.promote(b, "by hand")
    registry.begin_trial(a, 0.5, 1.0, "x")
    registry.promote(b, "by hand")
    assert registry.trial() is None
    assert [(e.trial.version, e.outcome) for e in registry.ended_trials()] == [
        ("b", "promoted"),
        ("a", "dropped"),
    ]


def test_rolling_back_takes_back_the_trial_first_and_then_what_is_served(
    registry: Registry, publish: Publish
) -> None:
    a, b, c = (publish(name) for name in "abc")
    registry.promote(a, "x")
    registry.promote(b, "x")
    registry.begin_trial(c, 0.5, 1.0, "x")
    assert registry.rollback() == b
    assert registry.trial() is None
    assert registry.rollback() == a
    assert [ended.outcome for ended in registry.ended_trials()] == ["dropped"]


def test_a_trial_can_be_taken_back_where_nothing_was_promoted(
    registry: Registry, publish: Publish
) -> None:
    registry.begin_trial(publish("a"), 0.5, 1.0, "x")
    assert registry.rollback() is None
    assert registry.trial() is None


def test_another_trial_takes_the_place_of_the_first(registry: Registry, publish: Publish) -> None:
    first = registry.begin_trial(publish("a"), 0.5, 1.0, "x")
    second = registry.begin_trial(publish("b"), 0.5, 1.0, "x")
    assert registry.trial() == second
    assert [ended.trial for ended in registry.ended_trials()] == [first]
    assert not registry.end_trial(first, "promoted", "late", {})


def test_unfit_version_is_neither_tried_nor_promoted_by_its_trial(
    registry: Registry, publish: Publish
) -> None:
    version = publish("a")
    trial = registry.begin_trial(version, 0.5, 1.0, "x")
    (version.path / "stray.bin").write_bytes(b"x")
    with pytest.raises(RegistryError, match=r"stray\.bin"):
        registry.end_trial(trial, "promoted", "x", {})
    assert registry.trial() == trial
    with pytest.raises(RegistryError, match=r"stray\.bin"):
        registry.begin_trial(version, 0.5, 1.0, "x")
    assert registry.end_trial(trial, "dropped", "unfit", {})


def test_pointer_from_before_there_were_trials_is_read(
    registry: Registry, publish: Publish
) -> None:
    a, b = publish("a"), publish("b")
    entry = {"version": "a", "at": "2026-03-01T12:00:00+00:00", "reason": "x", "forced": False}
    registry.pointer.write_text(json.dumps({"promotions": [entry]}))
    assert registry.current() == a
    assert registry.trial() is None
    trial = registry.begin_trial(b, 0.5, 1.0, "x")
    assert registry.promotions() == [entry]
    assert registry.end_trial(trial, "dropped", "worse", {})
    assert registry.promotions() == [entry]


@pytest.mark.parametrize("change", [{"share": 0}, {"share": 2}, {"hours": 0}, {"hours": 1e9},
                                    {"begun": "2026-03-01"}, {"begun": 7}])  # fmt: skip
def test_trial_that_cannot_be_is_told_as_damage(
    registry: Registry, publish: Publish, change: dict[str, Any]
) -> None:
    registry.begin_trial(publish("a"), 0.5, 1.0, "x")
    held = json.loads(registry.pointer.read_text())
    held["trial"] |= change
    registry.pointer.write_text(json.dumps(held))
    with pytest.raises(RegistryError, match="is damaged"):
        registry.trial()


# What two processes, or a killed one, leave.


def test_changes_from_two_sides_are_all_kept(registry: Registry, publish: Publish) -> None:
    a, b = publish("a"), publish("b")

    def try_out() -> None:
        for _ in range(15):
            trial = Registry(registry.folder).begin_trial(b, 0.5, 1.0, "x")
            Registry(registry.folder).end_trial(trial, "dropped", "x", {})

    trying = threading.Thread(target=try_out)
    trying.start()
    for _ in range(15):
        registry.promote(a, "again")
    trying.join()
    assert len(registry.promotions()) == 15
    assert len(registry.ended_trials()) == 15


@pytest.mark.parametrize(
    ("patched", "ended"), [("os.fsync", False), ("pathlib.Path.replace", False), ("", True)]
)
def test_killed_while_a_trial_ends_leaves_old_or_new(
    registry: Registry, publish: Publish, patched: str, ended: bool
) -> None:
    old, new = publish("a"), publish("b")
    registry.promote(old, "x")
    trial = registry.begin_trial(new, 0.5, 1.0, "x")
    script = (
        "import os, pathlib, signal, sys\n"
        "from persona.registry import Registry\n"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        + (f"{patched} = die\n" if patched else "")
        + "registry = Registry(pathlib.Path(sys.argv[1]))\n"
        "registry.end_trial(registry.trial(), 'promoted', 'no worse', {})\n"
        "die()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, registry.folder], cwd=REPO, check=False)
    assert done.returncode == -signal.SIGKILL
    again = Registry(registry.folder)
    assert again.trial() == (None if ended else trial)
    assert current(again) == ("b" if ended else "a")
    # And the lock went with it.
    again.promote(new, "by hand")
    assert current(again) == "b"
    assert len(again.ended_trials()) == 1
