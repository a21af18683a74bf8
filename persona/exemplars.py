"""Exemplars: the authored and approved exchanges nearest to a message.

They stand right before the message; she leans on them, and they carry most of her voice. Nearness
is BM25 over single characters and pairs, and over words of letters: it needs no word segmenter and
forgives typing errors.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import bm25s
import numpy as np
import numpy.typing as npt

from persona.prompt import Exchange

SAME = 0.6
"""Character 3-gram Jaccard from which on two texts say the same."""

_K1, _B = 1.5, 0.75  # bm25s's own
_LOOKED_AT = 64
"""The best by their characters, among which an equal wording is looked for."""
_WORD = re.compile(r"[a-z0-9]+")


@lru_cache(maxsize=8192)  # those of all dialogues would take 70 MB
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
        self._learned = _Learned()
        self._exchanges = list(exchanges)
        self._index: bm25s.BM25 | None = None
        terms = [_terms(e.text) for e in exchanges]
        self._average = sum(map(len, terms)) / max(1, len(terms))
        if any(terms):
            self._index = bm25s.BM25(k1=_K1, b=_B)
            self._index.index(terms, show_progress=False)

    def __len__(self) -> int:
        return len(self._exchanges)

    @property
    def exchanges(self) -> list[Exchange]:
        """All of them, learned ones first."""
        return list(self._exchanges)

    def with_learned(
        self, exchanges: Sequence[Exchange], places: Mapping[str, Hashable]
    ) -> ExemplarIndex:
        """An index of these beside the ones that this was built from; quickly made.

        `places` tells by its key where alone an exchange is found; one that is not named there is
        found everywhere. They are weighed by the frequencies of the others.
        """
        made = ExemplarIndex(())
        before = len(self._learned.places)
        made._exchanges = [*exchanges, *self._exchanges[before:]]
        made._index, made._average = self._index, self._average
        for number, exchange in enumerate(exchanges):
            terms = Counter(_terms(exchange.text))
            length = terms.total()
            share = length / (self._average or length or 1)
            for term, count in terms.items():
                weight = count / (count + _K1 * (1 - _B + _B * share))
                made._learned.weights[term].append((number, self._rarity(term) * weight))
            made._learned.places.append(places.get(exchange.key))
        return made

    def _rarity(self, term: str) -> float:
        """Inverse document frequency, as the index itself reckons it."""
        if self._index is None:
            return math.log(2)
        place = self._index.vocab_dict.get(term)
        ends, count = self._index.scores["indptr"], self._index.scores["num_docs"]
        found = 0
        if place is not None and place + 1 < len(ends):
            found = int(ends[place + 1] - ends[place])
        return math.log(1 + (count - found + 0.5) / (found + 0.5))

    def nearest(
        self,
        text: str,
        k: int,
        *,
        said: Collection[str] = (),
        without: Collection[str] = (),
        apart_from: str | None = None,
        place: Hashable = None,
    ) -> list[Exchange]:
        """The `k` nearest exchanges, nearest last, no two of which say the same.

        `said` are replies of this conversation, which no exemplar may say again. `without` are
        keys never to return. `apart_from` is a reply: with training rows, whatever says the same
        as the row itself is left out, message or reply. `place` is where it is asked.
        """
        terms = _terms(text)
        if k <= 0 or not terms:
            return []
        own_text = trigrams(text)
        scores = self._scores(terms, place)
        # 嗯 is not 嗯嗯, though they share all their characters.
        for i in np.argsort(-scores, kind="stable")[:_LOOKED_AT]:
            if trigrams(self._exchanges[i].text) == own_text:
                scores[i] *= 2
        own_reply = None if apart_from is None else trigrams(apart_from)
        spent = [trigrams(reply) for reply in said]

        def differs(i: int, replies: Iterable[frozenset[str]]) -> bool:
            own = trigrams(self._exchanges[i].reply)
            return all(similarity(own, reply) < SAME for reply in replies)

        chosen: list[int] = []
        for i in map(int, np.argsort(-scores, kind="stable")):
            if len(chosen) == k or scores[i] <= 0:
                break
            if self._exchanges[i].key in without:
                continue
            if own_reply is not None and (
                similarity(trigrams(self._exchanges[i].text), own_text) >= SAME
                or not differs(i, [own_reply])
            ):
                continue
            if differs(i, spent):
                chosen.append(int(i))
                spent.append(trigrams(self._exchanges[i].reply))
        return [self._exchanges[i] for i in reversed(chosen)]

    def _scores(self, terms: list[str], place: Hashable) -> npt.NDArray[np.float32]:
        """BM25 of each exchange, in their order; 0 where one may not be found here."""
        learned = np.zeros(len(self._learned.places), np.float32)
        for term in terms:
            for number, weight in self._learned.weights.get(term, ()):
                if self._learned.places[number] in (None, place):
                    learned[number] += weight
        authored = np.zeros(len(self._exchanges) - len(learned), np.float32)
        if self._index is not None:
            authored = self._index.get_scores(terms)
        return np.concatenate([learned, authored])


@dataclass(frozen=True, slots=True)
class _Learned:
    """Where each learned exchange is found, None being everywhere, and what each term weighs."""

    places: list[Hashable] = field(default_factory=list)
    weights: defaultdict[str, list[tuple[int, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum()) or folded.strip()


def _terms(text: str) -> list[str]:
    """Characters and pairs of them; of letters, which tell nothing alone, whole words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(folded)
    letters = "".join(c for c in _WORD.sub(" ", folded) if c.isalnum()) if words else _letters(text)
    return [*letters, *(letters[i : i + 2] for i in range(len(letters) - 1)), *words]
