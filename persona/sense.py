"""How likely a reply has sense: what a reader would say of it, guessed from its wording alone.

A small model's nonsense is fluent in pieces and joined as nobody joins them. How probable its
characters are, each after the three before it, in the persona's authored replies tells readers'
verdicts apart (docs/log.md has the figures), and cost no inference, so that of several replies the
best can be spoken.

    python -m persona.sense    learns its weights anew from docs/readings/verdicts.tsv
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from persona.exemplars import trigrams

_FILE = Path(__file__).with_name("sense.json")
_DIALOGUES = Path(__file__).parents[1] / "data" / "daiyu"
_VERDICTS = Path(__file__).parents[1] / "docs" / "readings" / "verdicts.tsv"
_ORDER = 4
_CHINESE = re.compile("[一-鿿]")
_START, _END = "\x02" * (_ORDER - 1), "\x03"
_UNSEEN = 0.1, 1000.0
"""What is added to a character's count, and to all counts together."""

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Table:
    """Counts by key, sorted."""

    keys: Keys
    counts: Counts

    def of(self, keys: Keys) -> Counts:
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0.0)


@dataclass(frozen=True, slots=True)
class _Order:
    """Runs of n characters: how often each occurs, and what is known of the n - 1 before the last:
    how often they occur, and before how many different characters."""

    runs: _Table
    before: _Table
    kinds: _Table


class Sense:
    """Judges replies by the wording of authored ones. Built once; replaced, never changed."""

    def __init__(self, replies: Iterable[str]) -> None:
        texts = [_codes(reply) for reply in replies]
        self._orders = [_count(texts, n) for n in range(1, _ORDER + 1)] if texts else []
        self._total = float(self._orders[0].runs.counts.sum()) if texts else 0.0

    def share(self, reply: str, message: str) -> float:
        """How likely a reader finds the reply in character and to the point, 0 to 1.

        Without authored replies to compare with, and for an empty reply, 0.
        """
        if not self._orders or not _letters(reply):
            return 0.0
        seen = self._seen(reply, message)
        constant, weights, means = _weights()
        z = constant + sum(w * (x - m) for w, x, m in zip(weights, seen, means, strict=True))
        return 1 / (1 + math.exp(-z))

    def _seen(self, reply: str, message: str) -> tuple[float, ...]:
        """What is looked at: how probable its characters are, on the whole and at its worst; how
        much of the message it echoes; how much of itself it repeats; its length."""
        letters = _letters(reply)
        logs = self._logs(letters)
        own = trigrams(reply)
        pairs = [letters[i : i + 2] for i in range(len(letters) - 1)]
        return (
            float(logs.mean()),
            float(np.percentile(logs, 10)),
            len(own & trigrams(message)) / len(own),
            1 - len(set(pairs)) / max(1, len(pairs)),
            math.log(len(letters)),
        )

    def _logs(self, letters: str) -> Counts:
        """Natural log of each character's probability after those before it, and of the end's.

        Witten-Bell: the more different characters follow a run, the less it says of the next.
        """
        text = _codes(letters)
        added, more = _UNSEEN
        last = _runs(text, 1)[_ORDER - 1 :]
        odds = (self._orders[0].runs.of(last) + added) / (self._total + more)
        for n, order in enumerate(self._orders[1:], start=2):
            runs = _runs(text, n)[_ORDER - n :]
            before = runs >> np.uint64(16)
            total, kinds = order.before.of(before), order.kinds.of(before)
            known = total > 0
            weight = np.where(known, total / np.maximum(total + kinds, 1), 0.0)
            odds = weight * order.runs.of(runs) / np.maximum(total, 1) + (1 - weight) * odds
        return np.log(odds)


@cache
def _weights() -> tuple[float, list[float], list[float]]:
    read = json.loads(_FILE.read_text("utf-8"))
    return read["constant"], read["weights"], read["means"]


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum())


def _codes(text: str) -> Keys:
    """Characters as numbers of 16 bits, between what stands for the beginning and the end."""
    marked = f"{_START}{_letters(text)}{_END}"
    return np.array([min(ord(c), 0xFFFF) for c in marked], dtype=np.uint64)


def _runs(codes: Keys, n: int) -> Keys:
    """Each run of n characters in one number: four of 16 bits fill it."""
    packed = np.zeros(len(codes) - n + 1, dtype=np.uint64)
    for i in range(n):
        packed = (packed << np.uint64(16)) | codes[i : len(codes) - n + 1 + i]
    return packed


def _count(texts: list[Keys], n: int) -> _Order:
    keys, counts = np.unique(np.concatenate([_runs(text, n) for text in texts]), return_counts=True)
    before, first = np.unique(keys >> np.uint64(16), return_index=True)
    totals = np.add.reduceat(counts, first)
    kinds = np.diff(np.append(first, len(keys)))
    return _Order(
        _Table(keys, counts.astype(np.float64)),
        _Table(before, totals.astype(np.float64)),
        _Table(before, kinds.astype(np.float64)),
    )


def dialogues() -> Iterator[tuple[str, list[str]]]:
    """The authored dialogues: the last message, and all that she says, the last reply last."""
    for path in sorted([*_DIALOGUES.glob("*.jsonl"), *_DIALOGUES.glob("rich/*.jsonl")]):
        for line in path.read_text("utf-8").split("\n"):
            if line.strip():
                row = json.loads(line)
                message = "\n".join(filter(None, (row["instruction"], row["input"])))
                earlier = [reply for _, reply in row.get("history") or []]
                yield message, [*earlier, row["output"]]


def verdicts() -> Iterator[tuple[str, str, bool]]:
    """Message, reply, and whether all its readers found it in character and to the point."""
    for line in _VERDICTS.read_text("utf-8").splitlines()[1:]:
        _, message, reply, *read = line.split("\t")
        if "(guard" not in reply:
            good = all(verdict[:2] == "11" for verdict in read)
            yield message, reply.removesuffix(" (near-copy)"), good


def _learn() -> None:
    """A logistic regression on replies that two readers judged."""
    sense = Sense(reply for _, replies in dialogues() for reply in replies)
    seen, good = [], []
    for message, reply, content in verdicts():
        if _CHINESE.search(reply):
            seen.append(sense._seen(reply, message))
            good.append(content)
    x, y = np.array(seen), np.array(good, dtype=np.float64)
    mean, deviation = x.mean(0), x.std(0)
    z = np.c_[(x - mean) / deviation, np.ones(len(x))]
    w = np.zeros(z.shape[1])
    for _ in range(50):  # Newton's steps; the ridge keeps few verdicts from saying too much
        p = 1 / (1 + np.exp(-z @ w))
        w -= np.linalg.solve(z.T @ (z * (p * (1 - p))[:, None]) + np.eye(len(w)), z.T @ (p - y) + w)
    learned = {
        "constant": round(float(w[-1]), 3),
        "weights": [round(float(a), 3) for a in w[:-1] / deviation],
        "means": [round(float(m), 3) for m in mean],
    }
    _FILE.write_text(json.dumps(learned, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    _learn()
