"""docs/loop.md names for each threat the tests that show its rule: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "loop.md").read_text("utf-8")
THREATS = [line for line in PAGE.splitlines() if re.match(r"\| (?!threat|-)", line)]
MODULE = re.compile(r"`(test_\w+)`(?:: ((?:\*[^*]+\*(?:, )?)+))?")


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_threat_has_tests_and_they_are_there(row: str) -> None:
    _, _, _, shown_by, _ = row.split("|")
    named = MODULE.findall(shown_by)
    assert named
    for module, words in named:
        found = list(TESTS.rglob(f"{module}.py"))
        assert found, module
        tests = re.findall(r"def (test_\w+)", "".join(p.read_text("utf-8") for p in found))
        for said in re.findall(r"\*([^*]+)\*", words):
            name = re.sub(r"\W+", "_", said.rstrip("…").strip())
            assert any(name in test for test in tests), said
