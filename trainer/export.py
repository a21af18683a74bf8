"""Export: the dataset in the formats of other trainers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.triples import Triple, write_triples

ALPACA = "daiyu_alpaca.jsonl"
SHAREGPT = "daiyu_sharegpt.jsonl"


def export(triples: Sequence[Triple], folder: Path, system: str) -> list[Path]:
    """Writes Alpaca and ShareGPT JSONL and LLaMA-Factory's dataset_info.json; the files.

    `system` is the persona's system prompt, for rows without one of their own. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    filled = [t if t.system else t.model_copy(update={"system": system}) for t in triples]
    write_triples(folder / ALPACA, filled)
    part = folder / f"{SHAREGPT}.part"
    with part.open("w", encoding="utf-8") as file:
        for triple in filled:
            file.write(json.dumps(_sharegpt(triple), ensure_ascii=False) + "\n")
    part.replace(folder / SHAREGPT)
    info = folder / "dataset_info.json"
    info.write_text(json.dumps(_DATASET_INFO, indent=2) + "\n", "utf-8")
    return [folder / ALPACA, folder / SHAREGPT, info]


def _sharegpt(triple: Triple) -> dict[str, Any]:
    turns = []
    for message, reply in [*triple.history, (triple.message, triple.output)]:
        turns += [{"from": "human", "value": message}, {"from": "gpt", "value": reply}]
    return {"conversations": turns, "system": triple.system or ""}


_DATASET_INFO = {
    "daiyu_alpaca": {
        "file_name": ALPACA,
        "columns": {
            "prompt": "instruction",
            "query": "input",
            "response": "output",
            "system": "system",
            "history": "history",
        },
    },
    "daiyu_sharegpt": {
        "file_name": SHAREGPT,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system"},
    },
}
