"""How likely a reply has sense: what a reader would say of it, guessed from its wording alone.

A small model's nonsense is fluent in pieces and joined as nobody joins them. How probable its
characters are, each after the three before it, in the persona's authored replies tells readers'
verdicts apart (`readings.py`; docs/log.md has the figures). It costs no inference, so that of
several replies the best can be spoken.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from persona.exemplars import trigrams
from persona.regression import learned

_ORDER = 4
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
        return learned("sense").likelihood(self.seen(reply, message))

    def seen(self, reply: str, message: str) -> tuple[float, ...]:
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
