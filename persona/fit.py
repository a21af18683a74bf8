"""How likely an exemplar's reply answers a message: what the order of exemplars goes by.

A small model says the reply of an exemplar nearly as it stands, so the exemplar had better fit.
What two messages share tells little of that by itself; it tells more beside what they do not share,
and beside how much of the reply speaks of what only its own message had. Readers' judgements of
some thousand pairs weigh these (docs/log.md has the figures).

    python -m persona.fit    learns its weights anew from docs/readings
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("fit.json")
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
    return _likelihood("fit", _seen(set(message), set(text), set(reply), nearness, rarity))


def content(sense: float, likeness: float, fit: float) -> float:
    """How likely a reader is content with a reply that leans on an exemplar, 0 to 1.

    `sense` is what its wording says (`sense.py`), `likeness` how near it is to the exemplar's
    reply (character 3-grams, Jaccard), `fit` how likely that one answers the message.
    """
    return _likelihood("content", (_logit(sense), likeness, likeness * _logit(fit)))


def _seen(
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


def _logit(share: float) -> float:
    share = min(max(share, _SURE), 1 - _SURE)
    return math.log(share / (1 - share))


def _likelihood(of: str, seen: Sequence[float]) -> float:
    constant, weights = _weights()[of]
    return 1 / (1 + math.exp(-constant - sum(w * x for w, x in zip(weights, seen, strict=True))))


@cache
def _weights() -> dict[str, tuple[float, list[float]]]:
    read = json.loads(_FILE.read_text("utf-8"))
    return {name: (found["constant"], found["weights"]) for name, found in read.items()}


def _learn() -> None:
    """Two logistic regressions: on pairs of message and exemplar that a reader judged, and on
    replies that two readers judged."""
    import numpy as np  # what serves needs none of these

    from persona.exemplars import ExemplarIndex, similarity, terms, trigrams
    from persona.prompt import Exchange
    from persona.sense import Sense, dialogues, verdicts

    def regression(seen: list[tuple[float, ...]], good: list[bool]) -> dict[str, object]:
        x, y = np.array(seen), np.array(good, dtype=np.float64)
        mean, deviation = x.mean(0), x.std(0)
        z = np.c_[(x - mean) / deviation, np.ones(len(x))]
        w = np.zeros(z.shape[1])
        for _ in range(50):  # Newton's steps; the ridge keeps few judgements from saying too much
            p = 1 / (1 + np.exp(-z @ w))
            slope = z.T @ (z * (p * (1 - p))[:, None]) + np.eye(len(w))
            w -= np.linalg.solve(slope, z.T @ (p - y) + w)
        weights = w[:-1] / deviation
        return {
            "constant": round(float(w[-1] - weights @ mean), 3),
            "weights": [round(float(a), 3) for a in weights],
        }

    rows = list(dialogues())
    exchanges = [Exchange(text, replies[-1]) for text, replies in rows if len(replies) == 1]
    index = ExemplarIndex(exchanges)
    by_text = {exchange.text: exchange for exchange in exchanges}
    seen, good = [], []
    for message, text, label in _judged_pairs():
        if exchange := by_text.get(text):
            nearness = index.nearness(message, exchange)
            said, asked = set(terms(exchange.reply)), set(terms(exchange.text))
            seen.append(_seen(set(terms(message)), asked, said, nearness, index.rarity))
            good.append(label == 2)
    learned = {"fit": regression(seen, good)}
    _FILE.write_text(json.dumps(learned | {"content": learned["fit"]}), "utf-8")
    _weights.cache_clear()

    sense = Sense(reply for _, replies in rows for reply in replies)
    grams = [trigrams(exchange.reply) for exchange in exchanges]
    seen, good = [], []
    for message, reply, content in verdicts():
        own = trigrams(reply)
        likeness, number = max((similarity(own, said), n) for n, said in enumerate(grams))
        fits = index.fit(message, exchanges[number])
        share = sense.share(reply, message)
        seen.append((_logit(share), likeness, likeness * _logit(fits)))
        good.append(content)
    learned["content"] = regression(seen, good)
    _FILE.write_text(json.dumps(learned, indent=2) + "\n", "utf-8")


def _judged_pairs() -> Iterator[tuple[str, str, int]]:
    """Message, an exemplar's message, and how its reply was judged: 2 is an answer to the message
    as it stands, 1 one with a detail turned, 0 none."""
    table = Path(__file__).parents[1] / "docs" / "readings" / "fits.tsv"
    for line in table.read_text("utf-8").splitlines()[1:]:
        message, *judged = line.split("\t")
        for label, text in zip(judged[0], judged[1:], strict=True):
            yield message, text.replace(" / ", "\n"), int(label)


if __name__ == "__main__":
    _learn()
