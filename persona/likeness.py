"""How much a message resembles what people at risk write: a logistic regression over its pieces.

The rules of `guard.py` and `hints.py` know the expressions that somebody thought of. This looks at
characters and pairs of them, learned from authored messages, and hears some of what is left; the
weights lie in `likeness.json` and can be read. Measured in docs/log.md.

    python -m persona.likeness    learns them anew from data/daiyu and tests/persona/guard

Sad messages whose authored reply speaks of no help line are learned as everyday ones: grief is not
weariness of life.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

_FILE = Path(__file__).with_name("likeness.json")
_CJK = re.compile(r"[一-鿿]")
_SAID_AT_ONCE = 200
_SELDOM = 0.007
"""Share of everyday messages held out of learning that may resemble; it sets the threshold."""
_AT_RISK = re.compile("12356|求助|寻死|轻生|想不开|不想活|988")
"""What the authored reply to a person at risk speaks of: the dialogues label themselves."""
_URGENT = re.compile("急救|120|110|求救|911|999")
"""What a reply speaks of where life is in danger otherwise: learned neither way."""
_UNSURE = "risk"
"""The theme all of whose messages are at least near to it."""


def _pieces(bare: str) -> set[str]:
    """Characters and pairs of them."""
    marked = f"^{bare}$"
    return set(marked) | {marked[at : at + 2] for at in range(len(marked) - 1)}


@cache
def _weights() -> tuple[dict[str, float], float]:
    read = json.loads(_FILE.read_text("utf-8"))
    return read["weights"], read["threshold"]


def resembles(bare: str) -> bool:
    """Whether a message, without signs and spaces, resembles one at risk.

    Only what is said in Chinese, and in a few sentences: there is too little English to learn
    from, and a page of text resembles everything a little.
    """
    if len(bare) > _SAID_AT_ONCE or not _CJK.search(bare):
        return False
    weights, threshold = _weights()
    return _score(weights, _pieces(bare)) > threshold


def _score(weights: dict[str, float], pieces: Iterable[str]) -> float:
    known = [weights[piece] for piece in pieces if piece in weights]
    return float(sum(known) / max(1, len(known)) ** 0.5)


def _learn(risky: Sequence[set[str]], everyday: Sequence[set[str]]) -> dict[str, float]:
    rows = [*risky, *everyday]
    counts = Counter(piece for row in rows for piece in row)
    number = {p: i for i, p in enumerate(sorted(p for p, n in counts.items() if n > 1))}
    known = [[number[piece] for piece in row if piece in number] for row in rows]
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in known])
    column_of = np.concatenate([np.array(row, dtype=np.int64) for row in known])
    value = np.repeat([max(1, len(row)) ** -0.5 for row in known], [len(row) for row in known])
    wanted = np.arange(len(rows)) < len(risky)
    share = np.where(wanted, 0.3 * len(everyday) / len(risky), 1.0)
    share = share / share.sum()
    parameters = np.zeros(len(number) + 1)  # the last is the constant
    mean, square = np.zeros_like(parameters), np.zeros_like(parameters)
    for step in range(1, 251):  # Adam
        z = np.bincount(row_of, value * parameters[column_of], len(rows)) + parameters[-1]
        error = share * (1 / (1 + np.exp(-z)) - wanted)
        slope = np.bincount(column_of, value * error[row_of], len(parameters))
        gradient = slope + 6e-5 * parameters
        gradient[-1] = error.sum()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        parameters -= 0.05 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return {piece: round(float(parameters[i]), 2) for piece, i in number.items()}


def _learn_all() -> None:
    from persona.guard import fold

    root = Path(__file__).parents[1]
    sentences = root / "tests" / "persona" / "guard"
    risk = tomllib.loads((sentences / "risk.toml").read_text("utf-8"))
    courtship = tomllib.loads((sentences / "sexual.toml").read_text("utf-8"))["must_not"]
    talk: set[str] = set()
    told: set[str] = set()
    dialogues = root / "data" / "daiyu"
    for path in sorted([*dialogues.glob("*.jsonl"), *dialogues.glob("rich/*.jsonl")]):
        for line in path.read_text("utf-8").split("\n"):
            if not line.strip():
                continue
            row = json.loads(line)
            message = "\n".join(filter(None, (row["instruction"], row["input"])))
            for said, reply in [*(row.get("history") or []), (message, row["output"])]:
                if _AT_RISK.search(reply):
                    told.add(said)
                elif path.stem != _UNSURE and not _URGENT.search(reply):
                    talk.add(said)

    def cut(messages: Iterable[str]) -> list[set[str]]:
        return [_pieces(bare) for bare in map(fold, messages) if _CJK.search(bare)]

    risky, alike = (
        cut(risk["must"] + risk["weary"] + risk["learn"] + sorted(told)),
        cut(risk["must_not"] + courtship),
    )
    everyday = cut(sorted(talk))
    random.Random(0).shuffle(everyday)  # noqa: S311
    # Each third is judged by what was learned without it.
    scores = []
    for held in range(3):
        rest = [row for at, row in enumerate(everyday) if at % 3 != held]
        trial = _learn(risky, alike + rest)
        scores += [_score(trial, row) for row in everyday[held::3]]
    threshold = round(sorted(scores, reverse=True)[int(len(scores) * _SELDOM)], 3)
    weights = _learn(risky, alike + everyday)
    stubborn = [row for row in alike + everyday if _score(weights, row) > threshold]
    weights = _learn(risky, alike + everyday + 10 * stubborn)
    weights = {piece: weight for piece, weight in weights.items() if abs(weight) >= 0.05}
    text = json.dumps({"threshold": threshold, "weights": weights}, ensure_ascii=False, indent=0)
    _FILE.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    _learn_all()
