"""Triples: what is written is read again, and a bad row is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.triples import (
    Triple,
    TriplesError,
    read_dialogues,
    read_folder,
    read_triples,
    write_triples,
)

DIALOGUES = Path(__file__).parents[2] / "data" / "daiyu"
AUTHORED = sorted([*DIALOGUES.glob("*.jsonl"), *DIALOGUES.glob("rich/*.jsonl")])

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
triples = st.builds(
    Triple,
    instruction=words,
    input=st.just("") | words,
    output=words,
    system=st.none() | words,
    history=st.lists(st.tuples(words, words), max_size=3),
    meta=st.none() | st.dictionaries(words, st.integers() | words, max_size=3),
)


@given(rows=st.lists(triples, max_size=5))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
def test_rows_are_read_as_they_were_written(tmp_path: Path, rows: list[Triple]) -> None:
    path = tmp_path / "rows.jsonl"
    assert write_triples(path, rows) == len(rows)
    assert list(read_triples(path)) == list(enumerate(rows, start=1))
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_written_row_has_alpaca_fields_and_readable_characters(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_triples(path, [Triple(instruction="你好", output="来了。")])
    line = path.read_text("utf-8")
    assert line.endswith("\n")
    assert "你好" in line
    assert json.loads(line) == {"instruction": "你好", "input": "", "output": "来了。"}


def test_failed_writing_leaves_the_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_triples(path, [Triple(instruction="你好", output="来了。")])
    before = path.read_bytes()

    def breaks() -> object:
        yield Triple(instruction="半", output="途")
        raise ValueError("oh")

    with pytest.raises(ValueError, match="oh"):
        write_triples(path, breaks())  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_input_stands_on_a_line_of_its_own() -> None:
    assert Triple(instruction="续诗", input="雨打芭蕉", output="好。").message == "续诗\n雨打芭蕉"
    assert Triple(instruction="续诗", output="好。").message == "续诗"


GOOD = '{"instruction": "a", "output": "b"}'


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("{", ["not JSON"]),
        ("[1]", ["row"]),
        ('{"instruction": "a"}', ["output", "required"]),
        ('{"instruction": "", "output": "b"}', ["instruction"]),
        ('{"instruction": "a", "output": ""}', ["output"]),
        ('{"instruction": "a", "output": 5}', ["output"]),
        ('{"instruction": "a", "output": "b", "outptu": "c"}', ["outptu"]),
        ('{"instruction": "a", "output": "b", "history": [["x"]]}', ["history.0"]),
        ('{"instruction": "a", "output": "\\ud800"}', ["output"]),
    ],
)
def test_bad_row_is_named_by_file_line_and_field(
    tmp_path: Path, row: str, parts: list[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n\n{row}\n{GOOD}\n", "utf-8")
    rows = read_triples(path)
    assert next(rows)[0] == 1
    with pytest.raises(TriplesError) as mistake:
        list(rows)
    line = str(mistake.value)
    assert f"{path}:3: " in line
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_unreadable_file_or_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(TriplesError, match=r"rows\.jsonl"):
        list(read_triples(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TriplesError, match=r"rows\.jsonl"):
        list(read_triples(path))
    with pytest.raises(TriplesError, match="no such folder"):
        list(read_folder(tmp_path / "none"))


def test_folder_names_rows_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(f"{GOOD}\n\n{GOOD}\n")
    (tmp_path / "a.jsonl").write_text(f"{GOOD}\n")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "c.jsonl").write_text(f"{GOOD}\n")
    assert [name for name, _ in read_folder(tmp_path)] == ["a:1", "b:1", "b:3"]


def test_rich_dialogues_are_named_so_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{GOOD}\n")
    assert [name for name, _ in read_dialogues(tmp_path)] == ["a:1"]
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "a.jsonl").write_text(f"{GOOD}\n")
    assert [name for name, _ in read_dialogues(tmp_path)] == ["a:1", "rich/a:1"]


@pytest.mark.parametrize("path", AUTHORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_authored_rows_are_good(path: Path) -> None:
    rows = [triple for _, triple in read_triples(path)]
    assert rows
    for row in rows:
        assert row.meta is None
        assert row.output == row.output.strip()
        assert 3 <= len(row.output) <= 200, row.output
        assert "<|" not in row.output


def test_authored_dialogues_are_many_and_say_nothing_twice() -> None:
    rows = [triple for _, triple in read_dialogues(DIALOGUES)]
    assert len(rows) >= 11_000
    seen = [(row.message, str(row.history)) for row in rows]
    assert len(seen) == len(set(seen))
