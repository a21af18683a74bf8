"""How likely an exemplar's reply answers a message: what the order of exemplars goes by.

A small model says the reply of an exemplar nearly as it stands, so the exemplar had better fit.
What two messages share tells little of that by itself; it tells more beside what they do not share,
and beside how much of the reply speaks of what only its own message had. Readers' judgements of
some thousand pairs weigh these (`readings.py`; docs/log.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from persona.regression import learned

_LEAST = 1e-3
_SURE = 0.02
"""No likelihood is taken for further from an even chance than this one."""


def fit(
    message: Collection[str],
    text: Collection[str],
    reply: Collection[str],
    nearness: float,
    rarity: Callable[[str], float],
) -> float:
    """How likely a person is content to get the reply to the message, 0 to 1.

    `message`, `text` and `reply` are terms, of what is asked now and of the exemplar; `nearness`
    is what search found, and `rarity` a term's inverse document frequency.
    """
    seen = fit_seen(set(message), set(text), set(reply), nearness, rarity)
    return learned("fit").likelihood(seen)


def content(sense: float, likeness: float, fit: float) -> float:
    """How likely a reader is content with a reply that leans on an exemplar, 0 to 1.

    `sense` is what its wording says (`sense.py`), `likeness` how near it is to the exemplar's
    reply (character 3-grams, Jaccard), `fit` how likely that one answers the message.
    """
    return learned("content").likelihood(content_seen(sense, likeness, fit))


def fit_seen(
    message: set[str],
    text: set[str],
    reply: set[str],
    nearness: float,
    rarity: Callable[[str], float],
) -> tuple[float, ...]:
    """What is looked at: nearness; the share of the message that the exemplar's has, and that
    times the other way round; of the reply, what only the exemplar's message speaks of, and what
    the message does; how much the exemplar's message says."""

    def weight(terms: set[str]) -> float:
        # Exact, so that the order of a set, another one in each process, changes nothing.
        return math.fsum(map(rarity, terms)) + _LEAST

    shared = weight(message & text)
    covered, covering = shared / weight(message), shared / weight(text)
    said = weight(reply)
    return (
        nearness,
        math.log(_LEAST + covered),
        covered * covering,
        weight(reply & (text - message)) / said,
        weight(reply & message) / said,
        math.log(1 + len(text)),
    )


def content_seen(sense: float, likeness: float, fit: float) -> tuple[float, ...]:
    """What `content` is looked for in: the wording's share, likeness, and of a copy the fit."""
    return _logit(sense), likeness, likeness * _logit(fit)


def _logit(share: float) -> float:
    share = min(max(share, _SURE), 1 - _SURE)
    return math.log(share / (1 - share))
