"""A dataset small enough to train on in a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

Configured = Callable[..., Path]
"""What the fixture `configured` is."""

SEED = [
    {"instruction": "窗前的竹子可要修剪？", "output": "不必，我爱它遮着窗。"},
    {"instruction": "这是暹罗进贡的茶叶", "output": "味儿倒轻，颜色也淡些。"},
    {"instruction": "请计算", "input": "1+1", "output": "原是二，你倒来考我。"},
]
"""The three examples that the first recipe came with."""


def fifty() -> list[dict[str, object]]:
    """Fifty rows that say different things, the seed's three first."""
    things = "竹梨茶雨灯诗琴帕药雪风月花鹤棋画扇帘炉砚墨笔纸梅兰菊荷柳燕莺蝉萤泉石溪亭桥舟"
    rows: list[dict[str, object]] = [dict(row) for row in SEED]
    for number, thing in enumerate(things):
        other = things[(number * 7 + 3) % len(things)]
        rows.append(
            {
                "instruction": f"{thing}好不好{other}？",
                "output": f"{thing}{other}罢了，{other * 2}倒{thing}。",
            }
        )
    for number in range(50 - len(rows)):
        row: dict[str, object] = {
            "instruction": f"那{things[number]}还在么？",
            "output": f"{things[number]}还在，你自己{things[-number - 1]}去。",
        }
        if number % 2:
            row["history"] = [[f"昨日送你{things[number]}", f"我收着{things[number]}呢。"]]
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path
