"""Exemplars: the authored and approved exchanges nearest to a message.

They stand before the conversation and carry most of her voice on an untrained base. Nearness is
BM25 over single characters and pairs, which needs no word segmenter and forgives typing errors.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

import bm25s
import numpy as np

from persona.prompt import Exchange

SAME = 0.6
"""Character 3-gram Jaccard from which on two texts say the same."""


def trigrams(text: str) -> frozenset[str]:
    """The text's runs of three characters, punctuation and case left out."""
    letters = _letters(text)
    return frozenset(letters[i : i + 3] for i in range(max(1, len(letters) - 2)))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity, 0 to 1."""
    return len(a & b) / len(a | b) if a or b else 1.0


class ExemplarIndex:
    """Finds exchanges by their message. Built once from a snapshot; replaced, never changed."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._exchanges = list(exchanges)
        self._texts = [trigrams(e.text) for e in exchanges]
        self._replies = [trigrams(e.reply) for e in exchanges]
        self._index: bm25s.BM25 | None = None
        terms = [_terms(e.text) for e in exchanges]
        if any(terms):
            self._index = bm25s.BM25()
            self._index.index(terms, show_progress=False)

    def __len__(self) -> int:
        return len(self._exchanges)

    def nearest(
        self,
        text: str,
        k: int,
        *,
        said: Collection[str] = (),
        without: Collection[str] = (),
        apart_from: str | None = None,
    ) -> list[Exchange]:
        """The `k` nearest exchanges, nearest last, no two of which say the same.

        `said` are replies of this conversation, which no exemplar may say again. `without` are
        keys never to return. `apart_from` is a reply: with training rows, whatever says the same
        as the row itself is left out, message or reply.
        """
        terms = _terms(text)
        if self._index is None or k <= 0 or not terms:
            return []
        scores = self._index.get_scores(terms)
        own_text = trigrams(text)
        own_reply = None if apart_from is None else trigrams(apart_from)
        spent = [trigrams(reply) for reply in said]
        chosen: list[int] = []
        for i in np.argsort(-scores, kind="stable"):
            if len(chosen) == k or scores[i] <= 0:
                break
            if self._exchanges[i].key in without:
                continue
            if own_reply is not None and (
                similarity(self._texts[i], own_text) >= SAME
                or similarity(self._replies[i], own_reply) >= SAME
            ):
                continue
            if any(similarity(self._replies[i], reply) >= SAME for reply in spent):
                continue
            if all(self._differ(int(i), j) for j in chosen):
                chosen.append(int(i))
        return [self._exchanges[i] for i in reversed(chosen)]

    def _differ(self, i: int, j: int) -> bool:
        return similarity(self._replies[i], self._replies[j]) < SAME


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum()) or folded.strip()


def _terms(text: str) -> list[str]:
    letters = _letters(text)
    return [*letters, *(letters[i : i + 2] for i in range(len(letters) - 1))]
