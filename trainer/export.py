"""Export: the dataset in the formats of other trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data.triples import Triple, write_triples

ALPACA = "daiyu_alpaca.jsonl"
SHAREGPT = "daiyu_sharegpt.jsonl"
MESSAGES = "daiyu_messages.jsonl"


def export(triples: Sequence[Triple], folder: Path, system: str) -> list[Path]:
    """Writes Alpaca, ShareGPT and messages JSONL, and LLaMA-Factory's dataset_info.json; the files.

    `system` is the persona's system prompt, for rows without one of their own. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    filled = [t if t.system else t.model_copy(update={"system": system}) for t in triples]
    write_triples(folder / ALPACA, filled)
    _write(folder / SHAREGPT, map(_sharegpt, filled))
    _write(folder / MESSAGES, map(_messages, filled))
    info = folder / "dataset_info.json"
    info.write_text(json.dumps(_DATASET_INFO, indent=2) + "\n", "utf-8")
    return [folder / ALPACA, folder / SHAREGPT, folder / MESSAGES, info]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    part.replace(path)


def _sharegpt(triple: Triple) -> dict[str, Any]:
    turns = []
    for message, reply in _exchanges(triple):
        turns += [{"from": "human", "value": message}, {"from": "gpt", "value": reply}]
    return {"conversations": turns, "system": triple.system or ""}


def _messages(triple: Triple) -> dict[str, Any]:
    """As chat templates name the roles: what TRL takes without a word."""
    turns = [{"role": "system", "content": triple.system or ""}]
    for message, reply in _exchanges(triple):
        turns += [{"role": "user", "content": message}, {"role": "assistant", "content": reply}]
    return {"messages": turns}


def _exchanges(triple: Triple) -> list[tuple[str, str]]:
    return [*triple.history, (triple.message, triple.output)]


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
    "daiyu_messages": {
        "file_name": MESSAGES,
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
}
