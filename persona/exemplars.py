"""Exemplars: the authored and approved exchanges nearest to a message.

They stand right before the message; she leans on them, and they carry most of her voice. They are
looked for by BM25 over single characters and pairs, and over words of letters, which needs no word
segmenter and forgives typing errors; of those found, the likeliest to fit (`fit.py`) come first.
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

from persona.fit import fit
from persona.prompt import Exchange

SAME = 0.6
"""Character 3-gram Jaccard from which on two texts say the same."""

_K1, _B = 1.5, 0.75  # bm25s's own
_LOOKED_AT = 32
"""The nearest by their characters, among which those that fit are looked for."""
_OF_A_CLAUSE = 8
_FIRST, _LATER = 0.45, 0.25
"""What it is worth that a clause of the message is answered: people begin with what matters."""
_TELLING = 20.0
"""The terms of a clause that tells anything are together as rare as this: a bare name is not."""
_PAUSE = re.compile(r"[。！？!?；;，,、…~\n]+|\.\s|(?<=[一-鿿])\s+|\s+(?=[一-鿿])")
_TAUGHT = 8.0
"""How many times likelier to fit is held what was learned here, in odds."""
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

    def __init__(self, exchanges: Sequence[Exchange], *, fitting: bool = True) -> None:
        self._learned = _Learned()
        self._fitting = fitting
        self._exchanges = list(exchanges)
        self._index: bm25s.BM25 | None = None
        texts = [terms(e.text) for e in exchanges]
        self._average = sum(map(len, texts)) / max(1, len(texts))
        if any(texts):
            self._index = bm25s.BM25(k1=_K1, b=_B)
            self._index.index(texts, show_progress=False)

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
        made = ExemplarIndex((), fitting=self._fitting)
        before = len(self._learned.places)
        made._exchanges = [*exchanges, *self._exchanges[before:]]
        made._index, made._average = self._index, self._average
        for number, exchange in enumerate(exchanges):
            counts = Counter(terms(exchange.text))
            for term, count in counts.items():
                weight = self.rarity(term) * self._saturated(count, counts.total())
                made._learned.weights[term].append((number, weight))
            made._learned.places.append(places.get(exchange.key))
        return made

    def rarity(self, term: str) -> float:
        """The term's inverse document frequency among the messages."""
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
        """The `k` exchanges likeliest to fit, likeliest last, no two of which say the same.

        Of an index that is not `fitting`, the nearest. `said` are replies of this conversation,
        which no exemplar may say again. `without` are keys never to return. `apart_from` is a
        reply: with training rows, whatever says the same as the row itself is left out, message
        or reply. `place` is where it is asked.
        """
        if k <= 0 or not terms(text):
            return []
        own_text = trigrams(text)
        own_reply = None if apart_from is None else trigrams(apart_from)
        spent = [trigrams(reply) for reply in said]

        def differs(i: int, replies: Iterable[frozenset[str]]) -> bool:
            own = trigrams(self._exchanges[i].reply)
            return all(similarity(own, reply) < SAME for reply in replies)

        chosen: list[int] = []
        for i in self._order(text, place):
            if len(chosen) == k:
                break
            if self._exchanges[i].key in without:
                continue
            if own_reply is not None and (
                similarity(trigrams(self._exchanges[i].text), own_text) >= SAME
                or not differs(i, [own_reply])
            ):
                continue
            if differs(i, spent):
                chosen.append(i)
                spent.append(trigrams(self._exchanges[i].reply))
        return [self._exchanges[i] for i in reversed(chosen)]

    def fit(self, text: str, exchange: Exchange) -> float:
        """How likely the exchange's reply answers the message, 0 to 1; see `fit.py`.

        Of a long message a clause may be all that it answers: its first, most often.
        """
        parts = [(text, 1.0), *self._clauses(text)]
        return max(
            share * self._fit(terms(part), exchange, self.nearness(part, exchange))
            for part, share in parts
        )

    def nearness(self, text: str, exchange: Exchange) -> float:
        """BM25 of the exchange's message, twice that where the wording is the same."""
        counts = Counter(terms(exchange.text))
        score = sum(
            self.rarity(term) * self._saturated(counts[term], counts.total())
            for term in terms(text)
            if term in counts
        )
        return self._nearness(score, trigrams(text), exchange)

    def _nearness(self, score: float, own: frozenset[str], exchange: Exchange) -> float:
        # 嗯 is not 嗯嗯, though they share all their characters.
        return score * 2 if trigrams(exchange.text) == own else score

    def _fit(self, message: list[str], exchange: Exchange, nearness: float) -> float:
        found = terms(exchange.text), terms(exchange.reply)
        return fit(message, *found, nearness, self.rarity)

    def _order(self, text: str, place: Hashable) -> list[int]:
        """All that have anything in common with the message, the likeliest to fit first."""
        order, found = self._found(text, place, _LOOKED_AT)
        rank = found
        if self._fitting:
            message = terms(text)
            likely = {i: self._fit(message, self._exchanges[i], near) for i, near in found.items()}
            for clause, share in self._clauses(text):
                message = terms(clause)
                for i, near in self._found(clause, place, _OF_A_CLAUSE)[1].items():
                    fits = share * self._fit(message, self._exchanges[i], near)
                    likely[i] = max(likely.get(i, 0.0), fits)
            rank = {i: self._odds(i, share) for i, share in likely.items()}
        first = sorted(rank, key=lambda i: rank[i], reverse=True)
        return [*first, *(i for i in order if i not in rank)]

    def _found(self, text: str, place: Hashable, most: int) -> tuple[list[int], dict[int, float]]:
        """All that share a term with the text, nearest first; of the first, how near they are."""
        scores = self._scores(terms(text), place)
        order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores > 0)].tolist()
        own = trigrams(text)
        near = ((i, float(scores[i])) for i in order[:most])
        return order, {i: self._nearness(score, own, self._exchanges[i]) for i, score in near}

    def _clauses(self, text: str) -> list[tuple[str, float]]:
        """A message's clauses, and what fitting one is worth beside fitting the whole."""
        parts = [part for part in _PAUSE.split(text) if part]
        if len(parts) < 2:
            return []
        said = [(part, _FIRST if n == 0 else _LATER) for n, part in enumerate(parts)]
        return [(part, share) for part, share in said if self._weight(part) >= _TELLING]

    def _weight(self, text: str) -> float:
        return math.fsum(map(self.rarity, set(terms(text))))

    def _odds(self, number: int, likely: float) -> float:
        odds = likely / max(1e-9, 1 - likely)
        return odds * _TAUGHT if number < len(self._learned.places) else odds

    def _saturated(self, count: int, length: int) -> float:
        share = length / (self._average or length or 1)
        return count / (count + _K1 * (1 - _B + _B * share))

    def _scores(self, message: list[str], place: Hashable) -> npt.NDArray[np.float32]:
        """BM25 of each exchange, in their order; 0 where one may not be found here."""
        learned = np.zeros(len(self._learned.places), np.float32)
        for term in message:
            for number, weight in self._learned.weights.get(term, ()):
                if self._learned.places[number] in (None, place):
                    learned[number] += weight
        authored = np.zeros(len(self._exchanges) - len(learned), np.float32)
        if self._index is not None and message:
            authored = self._index.get_scores(message)
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


def terms(text: str) -> list[str]:
    """Characters and pairs of them; of letters, which tell nothing alone, whole words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(folded)
    letters = "".join(c for c in _WORD.sub(" ", folded) if c.isalnum()) if words else _letters(text)
    return [*letters, *(letters[i : i + 2] for i in range(len(letters) - 1)), *words]
