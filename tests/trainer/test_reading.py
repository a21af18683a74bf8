"""Reading sheets: every message with what she says, in whole conversations too."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.reading import ReadingError, read_conversations, read_messages


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAIYU_MODEL__ENGINE", "echo")
    monkeypatch.setenv("DAIYU_PATHS__VAR", str(tmp_path / "var"))
    return Path(__file__).parents[2] / "config.toml"


def test_headings_and_empty_lines_are_no_messages(tmp_path: Path) -> None:
    path = tmp_path / "messages.txt"
    path.write_text("# 园子\n竹子高么\n\n# 茶\n  茶凉了 \n", "utf-8")
    assert read_messages(path) == ["竹子高么", "茶凉了"]


def test_empty_lines_part_conversations(tmp_path: Path) -> None:
    path = tmp_path / "conversations.txt"
    path.write_text("# 一\n你好\n我叫阿宁\n\n\n# 二\n在么\n", "utf-8")
    assert read_conversations(path) == [["你好", "我叫阿宁"], ["在么"]]


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadingError, match=r"absent\.txt"):
        read_messages(tmp_path / "absent.txt")


def test_sheet_holds_each_message_reply_and_mark(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages, conversations = tmp_path / "messages.txt", tmp_path / "conversations.txt"
    messages.write_text("竹|子高么\n我不想活了\n", "utf-8")
    conversations.write_text("你好呀\n我叫阿宁\n", "utf-8")

    code = main(
        [
            *("--config", str(config), "read"),
            *("--messages", str(messages), "--conversations", str(conversations)),
        ]
    )

    told = capsys.readouterr().out
    assert code == 0
    assert "| 1 | 竹\\|子高么 | 竹\\|子高么 | |" in told
    assert "12356" in told
    assert "(guard: risk)" in told
    assert told.rstrip().endswith("- 我叫阿宁\n  - 我叫阿宁")


def test_mistakes_are_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "read", "--messages", "absent.txt"]) == 1
    told = capsys.readouterr().err
    assert "absent.txt" in told
    assert told.count("\n") == 1
