"""Lint: each rule names file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fifty_rows import fifty, write_rows

from trainer.lint import LintError, lint

RULES = """
min_reply = 4
max_reply = 40
max_message = 60
forbidden = ["哈哈", "您"]
"""
FINE = {"instruction": "窗前的竹子可要修剪？", "output": "不必，我爱它遮着窗。"}


@pytest.fixture
def linted(tmp_path: Path) -> Callable[..., list[str]]:
    """Lints rows in a folder with rules; the folder's path is cut from what is said."""

    def run(*rows: dict[str, object], rules: str = RULES, **held: dict[str, object]) -> list[str]:
        (tmp_path / "lint.toml").write_text(rules, "utf-8")
        write_rows(tmp_path / "rows.jsonl", rows)
        for name, row in held.items():
            write_rows(tmp_path / "eval" / f"{name}.jsonl", [row])
        count, faults = lint(tmp_path)
        assert count == len(rows) + len(held)
        return [fault.replace(f"{tmp_path}/", "") for fault in faults]

    return run


def test_good_rows_have_no_faults(linted: Callable[..., list[str]]) -> None:
    assert linted(FINE) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"output": "不。"}, "a reply of 2 characters, 4 to 40 may be"),
        ({"output": "竹" * 39 + "梨花。"}, "a reply of 42 characters"),
        ({"instruction": "问" * 61}, "the message has 61 characters, 60 may be"),
        ({"output": "不必，我爱它遮着窗"}, "does not end as a sentence does"),
        ({"output": "不必，我爱它遮着窗。 "}, "does not end as a sentence does"),
        ({"output": "**不必**，我爱它遮着窗。"}, "holds markup: '*'"),
        ({"output": "不必，\n我爱它遮着窗。"}, "holds markup: '\\n'"),
        ({"output": "不必😀，我爱它遮着窗。"}, "holds an emoji: '😀'"),
        ({"output": "哈哈，我爱它遮着窗。"}, "a reply holds '哈哈'"),
        ({"output": "作为人工智能，我不看竹子。"}, "the guard would refuse the reply (assistant)"),
        ({"output": "Leave it be, I like it."}, "answered without a Chinese word"),
        ({"history": [["在么", "哈哈，在呢。"]]}, "a reply holds '哈哈'"),
        ({"history": [["在么", FINE["output"]]]}, "stands in its own history"),
    ],
)
def test_fault_of_a_row_is_named_with_file_and_line(
    linted: Callable[..., list[str]], changed: dict[str, object], told: str
) -> None:
    first = {"instruction": "今日下雨，你可出门？", "output": "雨打芭蕉，我在家听。"}
    faults = linted(first, FINE | changed)
    assert any(f.startswith("rows.jsonl:2: ") and told in f for f in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_near_rows_are_named_with_both_places(linted: Callable[..., list[str]]) -> None:
    near = {"instruction": "窗前的竹子可要修剪么？", "output": "你倒问我，问竹子去。"}
    echo = {"instruction": "有人来了", "output": "不必，我爱它遮着窗！"}
    assert linted(FINE, near, echo) == [
        "rows.jsonl:2: the message is near to that of rows.jsonl:1",
        "rows.jsonl:3: the reply is near to that of rows.jsonl:1",
    ]


def test_row_to_judge_by_near_to_a_trained_one_is_a_fault(
    linted: Callable[..., list[str]],
) -> None:
    held = {"instruction": "窗前的竹子可要修剪呢？", "output": "园子里的事，问园丁去。"}
    assert linted(FINE, talk=held) == [
        "eval/talk.jsonl:1: the message is near to that of rows.jsonl:1"
    ]


def test_same_message_behind_another_history_is_no_fault(
    linted: Callable[..., list[str]],
) -> None:
    later = FINE | {"output": "方才说过了，不修。", "history": [["来了", "坐下罢。"]]}
    assert linted(FINE, later) == []


def test_openings_that_too_many_replies_share_are_named(
    linted: Callable[..., list[str]],
) -> None:
    same = [row | {"output": f"你倒问我{row['output']}"} for row in fifty()[3:8]]
    faults = linted(*same, rules="max_opening = 0.5\nmax_reply = 90\n")
    assert faults[-1].endswith("5 of 5 replies begin with '你倒问我'; 50.0% may")


def test_malformed_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [FINE])
    with path.open("a", encoding="utf-8") as file:
        file.write('\n{"instruction": "问"}\n{"instruction": \nnull\n')
    count, faults = lint(tmp_path)
    assert count == 1
    places = [fault.split(": ")[0] for fault in faults]
    assert places == [f"{path}:{line}" for line in (3, 4, 5)]
    assert "output" in faults[0]


def test_line_separators_inside_a_row_are_no_lines(tmp_path: Path) -> None:
    text = '{"instruction": "窗前\u2028的竹子？", "output": "不必，我爱它遮着窗。"}\n{\n'
    (tmp_path / "rows.jsonl").write_text(text, "utf-8")
    count, faults = lint(tmp_path)
    assert count == 1
    assert [f.split(": ")[0] for f in faults] == [f"{tmp_path / 'rows.jsonl'}:2"]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("min_replies = 3", "min_replies"),
        ("min_reply = 'few'", "min_reply"),
        ("forbidden = ['(']", "lint.toml"),
        ("[", "lint.toml"),
    ],
)
def test_rules_that_cannot_be_read_are_one_line(tmp_path: Path, rules: str, told: str) -> None:
    write_rows(tmp_path / "rows.jsonl", [FINE])
    (tmp_path / "lint.toml").write_text(rules, "utf-8")
    with pytest.raises(LintError, match=told) as refused:
        lint(tmp_path)
    assert "\n" not in str(refused.value)


def test_folder_without_rows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LintError, match="no rows"):
        lint(tmp_path)
    with pytest.raises(LintError, match="no such folder"):
        lint(tmp_path / "missing")
