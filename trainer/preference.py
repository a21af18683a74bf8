"""The preference loss: of two replies to one message, which is to become likelier.

DPO, with the supervised loss of the chosen reply beside it, since DPO alone may lower both so long
as it lowers the rejected one more. The reference is what was served when the run began: its log p
of each reply is computed once, before the adapter that learns is loaded, so that there is never a
second model in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from trainer.model import pack_losses
from trainer.packing import Pair

SUPERVISED = 1.0
"""What the chosen reply's loss, in nats a token, weighs beside the preference's."""


@dataclass(frozen=True, slots=True)
class Preferred:
    """How some pairs stand. `margin` is how many nats the chosen reply has gained on the rejected
    one since the reference, on average; `accuracy` is the share of pairs in which it has gained."""

    pairs: int
    loss: float
    margin: float
    accuracy: float

    @classmethod
    def of(cls, pairs: int, sums: Sequence[float]) -> Preferred | None:
        """From what `learn` or `judge` gave of so many pairs; None of none."""
        return cls(pairs, *(value / pairs for value in sums)) if pairs else None


FIGURES = 3
"""How many sums `learn` and `judge` give: of loss, margin, and margins above zero."""


def learn(causal: Any, pairs: Sequence[Pair], beta: float, weight: float) -> list[float]:
    """Adds up the gradients of the pairs, each times `weight`; the sums of their figures."""
    sums = [0.0] * FIGURES
    for pair in pairs:
        loss, margin = pair_loss(causal, pair, beta)
        (weight * loss).backward()
        _add(sums, loss, margin)
    return sums


def judge(causal: Any, pairs: Sequence[Pair], beta: float) -> list[float]:
    """The sums of the pairs' figures. Nothing is learned."""
    sums = [0.0] * FIGURES
    causal.eval()
    try:
        with torch.inference_mode():
            for pair in pairs:
                _add(sums, *pair_loss(causal, pair, beta))
    finally:
        causal.train()
    return sums


def _add(sums: list[float], loss: Tensor, margin: Tensor) -> None:
    gained = float(margin.detach())
    for place, more in enumerate((float(loss.detach()), gained, float(gained > 0))):
        sums[place] += more


def pair_loss(causal: Any, pair: Pair, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of a pair and its margin over the reference, in nats: two scalars."""
    chosen, rejected = _log_probabilities(causal, pair)
    margin = (chosen - rejected) - (pair.reference[0] - pair.reference[1])
    supervised = -chosen / pair.chosen.targets
    # softplus(-x) is -log sigmoid(x).
    return softplus(-beta * margin) + SUPERVISED * supervised, margin


def _log_probabilities(causal: Any, pair: Pair) -> tuple[Tensor, Tensor]:
    """log p of the chosen and of the rejected reply."""
    losses = pack_losses(causal, pair.pack())
    end = pair.chosen.targets
    return -losses[:end].sum(), -losses[end:].sum()


def refer(causal: Any, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their log p under these weights as reference."""
    causal.eval()
    with torch.inference_mode():
        found = [_log_probabilities(causal, pair) for pair in pairs]
    return [
        replace(pair, reference=(float(chosen), float(rejected)))
        for pair, (chosen, rejected) in zip(pairs, found, strict=True)
    ]


def stored(pairs: Sequence[Pair]) -> dict[str, tuple[float, float]]:
    """What has to be kept of the reference, by the rows' keys."""
    return {pair.key: pair.reference for pair in pairs}


def restored(pairs: Sequence[Pair], kept: dict[str, Sequence[float]]) -> list[Pair]:
    """The pairs with the reference that was kept. Raises KeyError, ValueError, TypeError."""
    made = []
    for pair in pairs:
        chosen, rejected = (float(value) for value in kept[pair.key])
        if not math.isfinite(chosen + rejected):
            raise ValueError(f"{pair.key} has no log p")
        made.append(replace(pair, reference=(chosen, rejected)))
    return made
