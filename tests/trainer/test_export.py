"""Export: what other trainers read is what was written."""

from __future__ import annotations

import json
from pathlib import Path

from data.triples import Triple, read_triples
from trainer.export import export

ROWS = [
    Triple(instruction="窗前的竹子可要修剪？", output="不必，我爱它遮着窗。"),
    Triple(instruction="请计算", input="1+1", output="原是二。", history=[("来了", "坐。")]),
    Triple(instruction="你是谁", output="我是紫鹃。", system="你是紫鹃。", meta={"turn": 3}),
]
SYSTEM = "你是林黛玉，贾宝玉的表妹。"


def test_alpaca_rows_come_back_with_the_system_prompt(tmp_path: Path) -> None:
    alpaca, _, _ = export(ROWS, tmp_path / "out", SYSTEM)
    read = [triple for _, triple in read_triples(alpaca)]
    assert read == [
        row if row.system else row.model_copy(update={"system": SYSTEM}) for row in ROWS
    ]


def test_sharegpt_rows_are_turns_in_order(tmp_path: Path) -> None:
    _, sharegpt, _ = export(ROWS, tmp_path, SYSTEM)
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
    alpaca, _, _ = export(ROWS[:1], tmp_path, SYSTEM)
    assert len(list(read_triples(alpaca))) == 1
