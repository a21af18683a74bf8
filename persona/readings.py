"""What readers judged, and what is learned from it: which exemplar fits, which reply contents.

    python -m persona.readings    learns sense.json, fit.json and content.json anew

Readers' verdicts and judgements stand in docs/readings, the dialogues in data/daiyu.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from persona.exemplars import ExemplarIndex, similarity, terms, trigrams
from persona.fit import content_seen, fit_seen
from persona.prompt import Exchange
from persona.regression import Regression, keep
from persona.sense import Sense

_PROJECT = Path(__file__).parents[1]
_DIALOGUES = _PROJECT / "data" / "daiyu"
_VERDICTS = _PROJECT / "docs" / "readings" / "verdicts.tsv"
_JUDGED_PAIRS = _PROJECT / "docs" / "readings" / "fits.tsv"
_CHINESE = re.compile("[一-鿿]")

Dialogue = tuple[str, Sequence[str]]
"""The last message, and all that she says, the last reply last."""


def dialogues() -> Iterator[Dialogue]:
    """The authored ones, file by file."""
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


def judged_pairs() -> Iterator[tuple[str, str, int]]:
    """Message, an exemplar's message, and how its reply was judged: 2 is an answer to the message
    as it stands, 1 one with a detail turned, 0 none."""
    for line in _JUDGED_PAIRS.read_text("utf-8").splitlines()[1:]:
        message, judged, *texts = line.split("\t")
        for label, text in zip(judged, texts, strict=True):
            yield message, text.replace(" / ", "\n"), int(label)


def learn() -> None:
    """Each from what the one before it tells."""
    rows = list(dialogues())
    exchanges = [Exchange(text, replies[-1]) for text, replies in rows if len(replies) == 1]
    sense = Sense(reply for _, replies in rows for reply in replies)
    index = ExemplarIndex(exchanges)
    keep("sense", _sense(sense))
    keep("fit", _fit(index))
    keep("content", _content(sense, index))


def _sense(sense: Sense) -> Regression:
    judged = [(m, reply, good) for m, reply, good in verdicts() if _CHINESE.search(reply)]
    seen = [sense.seen(reply, message) for message, reply, _ in judged]
    return Regression.of(seen, [good for _, _, good in judged])


def _fit(index: ExemplarIndex) -> Regression:
    count = Counter(exchange.text for exchange in index.exchanges)
    # Of several replies to the same message nobody knows which was judged.
    by_text = {e.text: e for e in index.exchanges if count[e.text] == 1}
    seen, good = [], []
    for message, text, label in judged_pairs():
        if exchange := by_text.get(text):
            said, asked = set(terms(exchange.reply)), set(terms(exchange.text))
            nearness = index.nearness(message, exchange)
            seen.append(fit_seen(set(terms(message)), asked, said, nearness, index.rarity))
            good.append(label == 2)
    return Regression.of(seen, good)


def _content(sense: Sense, index: ExemplarIndex) -> Regression:
    grams = [trigrams(exchange.reply) for exchange in index.exchanges]
    seen, good = [], []
    for message, reply, contents in verdicts():
        own = trigrams(reply)
        likeness, number = max((similarity(own, said), n) for n, said in enumerate(grams))
        fit = index.fit(message, index.exchanges[number])
        seen.append(content_seen(sense.share(reply, message), likeness, fit))
        good.append(contents)
    return Regression.of(seen, good)


if __name__ == "__main__":
    learn()
