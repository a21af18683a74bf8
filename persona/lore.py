"""Lore: which of a card's lorebook entries the recent messages call for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from persona.card import Lorebook, LoreEntry


def triggered(book: Lorebook, recent: Sequence[str]) -> list[LoreEntry]:
    """Entries whose keys stand in `recent` (oldest first), the most important first.

    Keys are plain text, never patterns: an entry that asks for a regular expression is passed
    over, since a card comes from strangers. A longer key that contains a shorter one hides it:
    奶茶 does not call for 茶.
    """
    if book.scan_depth is not None:
        recent = recent[-book.scan_depth :] if book.scan_depth else []
    text = "\n".join(recent)
    folded = text.casefold()
    hits: list[tuple[int, float, float, int, LoreEntry]] = []
    spans = _spans(book, text, folded)
    for number, entry in enumerate(book.entries):
        if not entry.enabled or entry.use_regex:
            continue
        places = [p for p in spans.get(number, []) if not _hidden(p, number, spans)]
        if not places and not entry.constant:
            continue
        if entry.selective and entry.secondary_keys and not entry.constant:
            cased = text if entry.case_sensitive else folded
            keys = [k if entry.case_sensitive else k.casefold() for k in entry.secondary_keys]
            if not any(key in cased for key in keys):
                continue
        # What was said last, and what the card holds dearest, comes first.
        latest = max((end for _, end in places), default=len(text))
        priority = 0.0 if entry.priority is None else entry.priority
        line = text.count("\n", 0, latest)
        hits.append((-line, -priority, entry.insertion_order, number, entry))
    return [entry for *_, entry in sorted(hits, key=lambda hit: hit[:4])]


def within(
    entries: Sequence[LoreEntry], budget: int, count: Callable[[str], int]
) -> list[LoreEntry]:
    """The most important entries that together fit `budget` tokens, in the card's order."""
    chosen: list[LoreEntry] = []
    for entry in entries:
        cost = count(entry.content) + 1
        if cost <= budget:
            budget -= cost
            chosen.append(entry)
    return sorted(chosen, key=lambda entry: entry.insertion_order)


_Span = tuple[int, int]


def _spans(book: Lorebook, text: str, folded: str) -> dict[int, list[_Span]]:
    """Where each entry's keys stand."""
    spans: dict[int, list[_Span]] = {}
    for number, entry in enumerate(book.entries):
        haystack = text if entry.case_sensitive else folded
        for key in entry.keys:
            needle = key if entry.case_sensitive else key.casefold()
            start = haystack.find(needle) if needle.strip() else -1
            while start >= 0:
                spans.setdefault(number, []).append((start, start + len(needle)))
                start = haystack.find(needle, start + 1)
    return spans


def _hidden(place: _Span, number: int, spans: dict[int, list[_Span]]) -> bool:
    return any(
        start <= place[0] and place[1] <= end and end - start > place[1] - place[0]
        for other, places in spans.items()
        if other != number
        for start, end in places
    )
