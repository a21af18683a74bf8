"""Near-duplicates: texts that share most of their runs of characters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Grams = Callable[[str], frozenset[str]]
"""What of a text is compared: its character 3-grams, say."""


class Near(Generic[Key]):
    """Texts by key. `least` is the Jaccard similarity, 0 to 1, from which on two are near."""

    def __init__(self, grams: Grams, least: float) -> None:
        self._grams = grams
        self._least = least
        self._held: list[tuple[Key, frozenset[str]]] = []
        self._places: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, text: str, key: Key) -> None:
        grams = self._grams(text)
        for gram in grams:
            self._places[gram].append(len(self._held))
        self._held.append((key, grams))

    def find(self, text: str) -> list[Key]:
        """The keys of the texts that are near to this one, in the order in which they came."""
        grams = self._grams(text)
        candidates = sorted({place for gram in grams for place in self._places.get(gram, ())})
        return [
            self._held[place][0]
            for place in candidates
            if len(grams & self._held[place][1]) >= self._least * len(grams | self._held[place][1])
        ]
