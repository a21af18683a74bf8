"""Preprocessing: authored and collected rows to conversations of token ids and labels.

A row is learned as it is served: system prompt, lore, the exemplars nearest to its message, its
history, its message, its reply. Where exemplars are rows of the dataset, their replies are learned
in the same pass, so that an epoch goes once over every reply and reads about a quarter of the
tokens that one conversation a row would take.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from data.triples import Triple, read_folder
from persona.exemplars import ExemplarIndex, similarity, trigrams
from persona.prompt import IGNORED, Exchange, Prompt, PromptBuilder, PromptTooLong
from trainer.packing import Example

KIN = 0.08
"""Character 3-gram Jaccard from which on a reply leans on another."""


class DatasetError(Exception):
    """There is nothing to learn from, or a row that cannot be learned."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the dataset; `key` names its file and line, or its turn."""

    key: str
    triple: Triple

    @property
    def exchange(self) -> Exchange:
        return Exchange(self.triple.message, self.triple.output, self.key)

    @property
    def history(self) -> list[Exchange]:
        return [Exchange(message, reply) for message, reply in self.triple.history]


def read_rows(folder: Path) -> list[Row]:
    """The rows of a folder. Raises TriplesError, DatasetError where there are none."""
    rows = [Row(key, triple) for key, triple in read_folder(folder)]
    if not rows:
        raise DatasetError(f"{folder} holds no rows (*.jsonl)")
    return rows


def hold_out(rows: Sequence[Row], share: float = 0.05) -> tuple[list[Row], list[Row]]:
    """Splits off a share to evaluate on, for a dataset without a set of its own for that.

    A row's own text decides, so that it never changes sides when others come or go.
    """
    held = [row for row in rows if _draw(row) < share]
    if not held and len(rows) > 1:
        held = [min(rows, key=_draw)]
    kept = {row.key for row in held}
    return [row for row in rows if row.key not in kept], held


def _draw(row: Row) -> float:
    text = json.dumps([row.triple.message, row.triple.output], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def fingerprint(rows: Sequence[Row]) -> str:
    """SHA-256 over what the rows say, whatever their order, their files and their votes."""
    lines = sorted(row.triple.model_copy(update={"meta": None}).model_dump_json() for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Preprocessor:
    """Turns rows into conversations to learn from, and rows to evaluate into ones as served.

    Exemplars come from `rows`, and from `shown`, whose replies are not learned. What is evaluated
    on is never among them.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        rows: Sequence[Row],
        exemplars: int,
        shown: Sequence[Row] = (),
    ) -> None:
        self._builder = builder
        self._rows = {row.key: row for row in rows}
        self._shown = {row.key: row for row in shown}
        self._exemplars = exemplars
        alone = [row.exchange for row in (*rows, *shown) if not row.triple.history]
        self._index = ExemplarIndex(alone)
        self._by_reply = ExemplarIndex(
            [Exchange(e.reply, e.reply, e.key) for e in alone], fitting=False
        )
        self._near: dict[str, list[Exchange]] = {}
        self._kin: dict[str, tuple[Exchange | None, float]] = {}

    def epoch(
        self,
        seed: int,
        bare: float = 0.0,
        agreeing: float = 0.0,
        kinship: float = 0.0,
        continuing: float = 0.0,
        conversations: int = 0,
    ) -> list[Example]:
        """Conversations in which the reply of every row is learned once, in a random order.

        A `bare` share of them has no exemplars; in an `agreeing` share of the others the nearest
        exemplar is one whose reply leans the same way, where there is one. `conversations`, above
        0, is the most that authored rows make: a `continuing` share of rows with a history, else
        rows that have `kinship` with another, and others where these are too few. Raises
        DatasetError for a row that is too long.
        """
        draw = random.Random(seed)  # noqa: S311 - an order, no secret
        rows = list(self._rows.values())
        draw.shuffle(rows)
        with_history = [row for row in rows if row.triple.history and row.triple.meta is None]
        alone = [row for row in rows if not row.triple.history and row.triple.meta is None]
        collected = [row for row in rows if row.triple.meta is not None]
        learned = set(self._shown)

        def learn(chosen: Sequence[Row], most: int) -> list[Example]:
            # What is not learned now is an exemplar, and no more.
            given = learned | (self._rows.keys() - {row.key for row in chosen})
            made: list[Example] = []
            for row in chosen:
                if row.key in given:
                    continue
                near = [] if draw.random() < bare else self._nearest(row)
                if near and draw.random() < agreeing:
                    near = self._with_kin(row, near)
                made.append(self._learn(row, near, given))
                given.update(made[-1].rows)
            draw.shuffle(made)
            learned.update(key for one in made[:most] for key in one.rows)
            return made[:most]

        epoch = learn(collected, len(collected))
        if not conversations:
            # Rows with a history are no exemplars: they stand at an end, and go first, so that
            # what they take along needs no conversation of its own.
            epoch += learn([*with_history, *alone], len(rows))
        else:
            kindred = [row for row in alone if self._kin_of(row)[1] >= kinship]
            authored = learn(with_history, round(continuing * conversations))
            authored += learn(kindred, conversations - len(authored))
            if left := conversations - len(authored):
                authored += learn([*with_history, *alone], left)
            epoch += authored
        draw.shuffle(epoch)
        return epoch

    def evaluation(self, rows: Sequence[Row]) -> list[Example]:
        """A conversation for each row, of which its own reply alone is learned."""
        return [self._as_served(row) for row in rows]

    def _nearest(self, row: Row) -> list[Exchange]:
        if row.key not in self._near:
            self._near[row.key] = self._index.nearest(
                row.triple.message,
                self._exemplars,
                said=[reply for _, reply in row.triple.history],
                without=[row.key],
                apart_from=row.triple.output,
            )
        return self._near[row.key]

    def _kin_of(self, row: Row) -> tuple[Exchange | None, float]:
        """The exchange whose reply is nearest to the row's own without saying the same."""
        if row.key not in self._kin:
            found = self._by_reply.nearest(
                row.triple.output,
                1,
                said=[reply for _, reply in row.triple.history],
                without=[row.key],
                apart_from=row.triple.output,
            )
            kin = [(self._rows.get(e.key) or self._shown[e.key]).exchange for e in found]
            own = trigrams(row.triple.output)
            pairs = [(e, similarity(own, trigrams(e.reply))) for e in kin]
            self._kin[row.key] = pairs[0] if pairs else (None, 0.0)
        return self._kin[row.key]

    def _with_kin(self, row: Row, near: Sequence[Exchange]) -> list[Exchange]:
        """The exemplars, the last one being the one whose reply is nearest to the row's own."""
        kin, nearness = self._kin_of(row)
        if kin is None or nearness < KIN:
            return list(near)
        others = [e for e in near if e.key != kin.key]
        return [*others[-(self._exemplars - 1) :], kin] if self._exemplars > 1 else [kin]

    def _build(self, row: Row, near: Sequence[Exchange], known: frozenset[str]) -> Prompt:
        if row.triple.system is not None:
            raise DatasetError(f"{row.key}: a system prompt of its own is not supported")
        try:
            return self._builder.build(
                row.triple.message, row.history, near, reply=row.triple.output, known=known
            )
        except PromptTooLong as error:
            raise DatasetError(f"{row.key}: {error}") from error

    def _learn(self, row: Row, near: Sequence[Exchange], learned: set[str]) -> Example:
        known = frozenset(e.key for e in near if e.key in learned)
        prompt = self._build(row, near, known)
        fresh = [key for key in prompt.exemplars if key not in known]
        # What was said earlier is no answer to exemplars, and of a collected conversation nobody
        # has rated it.
        labels = _only(prompt.labels, replies(prompt.labels)[-len(fresh) - 1 :])
        return Example(tuple(prompt.ids), labels, (*fresh, row.key))

    def _as_served(self, row: Row) -> Example:
        said = [reply for _, reply in row.triple.history]
        near = self._index.nearest(row.triple.message, self._exemplars, said=said)
        prompt = self._build(row, near, frozenset())
        labels = _only(prompt.labels, replies(prompt.labels)[-1:])
        return Example(tuple(prompt.ids), labels, (row.key,))


def replies(labels: Sequence[int]) -> list[list[int]]:
    """The places of each reply that is learned, in order."""
    runs = groupby(range(len(labels)), lambda place: labels[place] != IGNORED)
    return [list(places) for learned, places in runs if learned]


def _only(labels: Sequence[int], kept: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The labels with everything but the given replies set to IGNORED."""
    places = {place for reply in kept for place in reply}
    return tuple(label if i in places else IGNORED for i, label in enumerate(labels))
