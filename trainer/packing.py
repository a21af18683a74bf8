"""Packing: examples of different lengths side by side in one sequence, none seeing another.

A pack begins with what all its examples begin with, the system prompt at the least, once; each
example sees that and itself. Positions restart for each, so that every logit is what it would be
alone: only the padding and the repeated beginnings are saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from persona.prompt import IGNORED

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to learn from. `labels` has the length of `ids`, IGNORED where nothing is
    learned; `rows` names the rows whose replies are."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    rows: tuple[str, ...]

    @property
    def targets(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies behind one prompt, of which the first is to be preferred; `key` names its row.

    `reference` holds log p of each, in nats, under the weights that learning starts to differ from.
    """

    key: str
    chosen: Example
    rejected: Example
    reference: tuple[float, float] = (0.0, 0.0)

    def pack(self) -> Pack:
        """Both in one sequence, the prompt once; the targets of `chosen` come first."""
        return pack([self.chosen, self.rejected])


@dataclass(frozen=True, slots=True)
class Pack:
    """Several examples in one sequence of T tokens, of which N are learned.

    `ids` and `positions` are [T]; `segments` [T] numbers the example that a token belongs to, -1
    for the shared beginning. `sources` [N] are the places whose output predicts `targets` [N].
    """

    ids: Ints
    positions: Ints
    segments: Ints
    sources: Ints
    targets: Ints
    examples: tuple[Example, ...]

    def mask(self) -> npt.NDArray[np.bool_]:
        """[T, T]: whether the token of a row may see that of a column."""
        causal = np.tri(len(self.ids), dtype=np.bool_)
        same = self.segments[:, None] == self.segments[None, :]
        return np.asarray(causal & (same | (self.segments[None, :] == -1)))


def pack(examples: Sequence[Example]) -> Pack:
    """Puts examples side by side behind their shared beginning."""
    shared = _shared(examples)
    ids = list(examples[0].ids[:shared])
    positions = list(range(shared))
    segments = [-1] * shared
    sources: list[int] = []
    targets: list[int] = []
    for number, example in enumerate(examples):
        start = len(ids)
        own = len(example.ids) - shared
        ids.extend(example.ids[shared:])
        positions.extend(range(shared, shared + own))
        segments.extend([number] * own)
        for place, label in enumerate(example.labels[shared:], start=start):
            if label != IGNORED:
                sources.append(place - 1)
                targets.append(label)
    return Pack(
        ids=np.asarray(ids),
        positions=np.asarray(positions),
        segments=np.asarray(segments),
        sources=np.asarray(sources, dtype=np.int64),
        targets=np.asarray(targets, dtype=np.int64),
        examples=tuple(examples),
    )


def _shared(examples: Sequence[Example]) -> int:
    """How many tokens all examples begin with, none of which is learned.

    The token before a learned one stays out too: its output is one example's own.
    """
    shared = 0
    for places in zip(*(e.ids for e in examples), strict=False):
        if len(set(places)) > 1:
            break
        shared += 1
    for example in examples:
        learned = [i for i, label in enumerate(example.labels[: shared + 1]) if label != IGNORED]
        if learned:
            shared = min(shared, learned[0] - 1)
    # A pack of one shares nothing; nothing may be shared whole either.
    return max(0, min([shared, *(len(e.ids) - 1 for e in examples)])) if len(examples) > 1 else 0


def fill(examples: Sequence[Example], room: int) -> list[Pack]:
    """Puts examples into packs of up to `room` tokens, the longest first.

    An example longer than that gets a pack of its own.
    """
    shared = _shared(examples)
    bins: list[list[Example]] = []
    sizes: list[int] = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        own = len(example.ids) - shared
        for number, size in enumerate(sizes):
            if size + own <= room:
                bins[number].append(example)
                sizes[number] += own
                break
        else:
            bins.append([example])
            sizes.append(shared + own)
    return [pack(chosen) for chosen in bins]
