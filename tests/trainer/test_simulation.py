"""The simulation of benchmarks/loop.py in small: its goals are met, and it notices where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.loop import Night, failures, simulate


async def played() -> tuple[Night, Night]:
    nights, _ = await simulate(people=40, nights=1, seed=3)
    return nights[0]


async def test_a_small_crowd_poisons_nothing_and_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    ruled, unruled = await played()
    assert failures([(ruled, unruled)]) == []
    assert ruled.allowed > 10
    assert ruled.held["burst"] > 0
    # It would be told of: without the rules there is poison in what is learned.
    assert any("learned" in line for line in failures([(unruled, unruled)]))
    lost = replace(ruled, kept=int(ruled.allowed * 0.9))
    assert any("honest corrections kept" in line for line in failures([(lost, unruled)]))
    assert any("did not agree" in line for line in failures([(replace(ruled, stolen=1), unruled)]))
    again = await played()
    assert [replace(night, seconds=0.0) for night in again] == [
        replace(night, seconds=0.0) for night in (ruled, unruled)
    ]
