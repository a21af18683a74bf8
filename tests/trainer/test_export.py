"""Export: what other trainers read is what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from data.triples import Triple, read_triples
from trainer.export import export

ROWS = [
    Triple(instruction="窗前的竹子可要修剪？", output="不必，我爱它遮着窗。"),
    Triple(instruction="请计算", input="1+1", output="原是二。", history=[("来了", "坐。")]),
    Triple(instruction="你是谁", output="我是紫鹃。", system="你是紫鹃。", meta={"turn": 3}),
]
SYSTEM = "你是林黛玉，贾宝玉的表妹。"


def test_alpaca_rows_come_back_with_the_system_prompt(tmp_path: Path) -> None:
    alpaca, *_ = export(ROWS, tmp_path / "out", SYSTEM)
    read = [triple for _, triple in read_triples(alpaca)]
    assert read == [
        row if row.system else row.model_copy(update={"system": SYSTEM}) for row in ROWS
    ]


def test_sharegpt_rows_are_turns_in_order(tmp_path: Path) -> None:
    _, sharegpt, *_ = export(ROWS, tmp_path, SYSTEM)
    rows = [json.loads(line) for line in sharegpt.read_text("utf-8").splitlines()]
    assert [row["system"] for row in rows] == [SYSTEM, SYSTEM, "你是紫鹃。"]
    assert rows[1]["conversations"] == [
        {"from": "human", "value": "来了"},
        {"from": "gpt", "value": "坐。"},
        {"from": "human", "value": "请计算\n1+1"},
        {"from": "gpt", "value": "原是二。"},
    ]


def test_dataset_info_names_files_and_columns_that_are_there(tmp_path: Path) -> None:
    written = export(ROWS, tmp_path, SYSTEM)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    info = json.loads((tmp_path / "dataset_info.json").read_text("utf-8"))
    for described in info.values():
        lines = (tmp_path / described["file_name"]).read_text("utf-8").splitlines()
        columns = set(described["columns"].values())
        held = [set(json.loads(line)) for line in lines]
        # What a row lacks is optional; a column that none has would be a mistake.
        assert columns <= set().union(*held)
    assert info["daiyu_sharegpt"]["formatting"] == "sharegpt"


def test_exporting_again_replaces_what_was_there(tmp_path: Path) -> None:
    export(ROWS, tmp_path, SYSTEM)
    alpaca, *_ = export(ROWS[:1], tmp_path, SYSTEM)
    assert len(list(read_triples(alpaca))) == 1


class Columns(BaseModel):
    """What LLaMA-Factory's data/README.md lets a dataset's columns name."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str | None = None
    messages: str = "conversations"
    system: str | None = None


class Tags(BaseModel):
    """The tags of a dataset that is formatted as sharegpt, and what stands for them by default."""

    model_config = ConfigDict(extra="forbid")

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"


class Described(BaseModel):
    """An entry of LLaMA-Factory's dataset_info.json."""

    model_config = ConfigDict(extra="forbid")

    file_name: str
    formatting: str = Field("alpaca", pattern="alpaca|sharegpt")
    columns: Columns = Columns()
    tags: Tags = Tags()


def test_llama_factory_reads_every_dataset_as_it_was_written(tmp_path: Path) -> None:
    export(ROWS, tmp_path, SYSTEM)
    info = json.loads((tmp_path / "dataset_info.json").read_text("utf-8"))
    wanted = [turns_of(row) for row in ROWS]
    systems = [row.system or SYSTEM for row in ROWS]
    for entry in info.values():
        described = Described.model_validate(entry)
        lines = (tmp_path / described.file_name).read_text("utf-8").splitlines()
        read = [(_alpaca if described.formatting == "alpaca" else _sharegpt)(json.loads(line),
                 described) for line in lines]  # fmt: skip
        assert [turns for turns, _ in read] == wanted
        assert [system for _, system in read] == systems
    assert len(info) == 3


def turns_of(row: Triple) -> list[str]:
    """What is said, by turns."""
    return [text for pair in [*row.history, (row.message, row.output)] for text in pair]


def _alpaca(row: dict[str, Any], described: Described) -> tuple[list[str], str]:
    """By the documented rules: the query on a line of its own, the history a list of pairs."""
    columns = described.columns
    assert columns.history is not None
    assert columns.system is not None
    turns = [text for pair in row.get(columns.history) or [] for text in pair]
    message = "\n".join(filter(None, (row[columns.prompt], row.get(columns.query))))
    return [*turns, message, row[columns.response]], row[columns.system]


def _sharegpt(row: dict[str, Any], described: Described) -> tuple[list[str], str]:
    """The person speaks first, then by turns; the system prompt is a column or the first of all."""
    tags, columns = described.tags, described.columns
    messages = row[columns.messages]
    system = row[columns.system] if columns.system else ""
    if messages[0][tags.role_tag] == tags.system_tag:
        system = messages.pop(0)[tags.content_tag]
    speakers = [message[tags.role_tag] for message in messages]
    assert speakers == [tags.user_tag, tags.assistant_tag] * (len(messages) // 2)
    return [message[tags.content_tag] for message in messages], system


def test_ms_swift_finds_the_keys_that_it_documents(tmp_path: Path) -> None:
    alpaca, sharegpt, messages, _ = export(ROWS, tmp_path, SYSTEM)
    for line in alpaca.read_text("utf-8").splitlines():
        row = json.loads(line)
        assert all(isinstance(row[key], str) for key in ("instruction", "output", "system"))
        assert isinstance(row.get("input", ""), str)
        pairs = row.get("history", [])
        assert all(len(pair) == 2 and all(isinstance(t, str) for t in pair) for pair in pairs)
    # It takes messages and conversations alike, whichever way role and content are named.
    for path, key, names in (
        (sharegpt, "conversations", ("from", "value")),
        (messages, "messages", ("role", "content")),
    ):
        for line in path.read_text("utf-8").splitlines():
            turns = json.loads(line)[key]
            assert all(set(turn) == set(names) for turn in turns)
            assert turns[-1][names[0]] in ("gpt", "assistant")


def test_datasets_and_trl_load_what_was_exported(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="TRL's loader, of [bench], is not installed")
    data_utils = pytest.importorskip("trl.data_utils", reason="TRL, of [bench], is not installed")
    alpaca, sharegpt, messages, _ = export(ROWS, tmp_path / "out", SYSTEM)

    def loaded(path: Path) -> list[dict[str, Any]]:
        cache = str(tmp_path / "cache")
        return list(datasets.load_dataset("json", data_files=str(path), split="train",
                                          cache_dir=cache))  # fmt: skip

    assert [row["output"] for row in loaded(alpaca)] == [row.output for row in ROWS]
    for row, wanted in zip(loaded(messages), ROWS, strict=True):
        assert data_utils.is_conversational(row)
        assert [turn["content"] for turn in row["messages"][1:]] == turns_of(wanted)
        assert [turn["role"] for turn in row["messages"][:3]] == ["system", "user", "assistant"]
    for row, wanted in zip(loaded(sharegpt), ROWS, strict=True):
        assert data_utils.is_conversational_from_value(row)
        said = data_utils.maybe_convert_to_chatml(row)["messages"]
        assert [turn["content"] for turn in said] == turns_of(wanted)
