"""Logistic regression on a few features: how readers' judgements become a likelihood.

    python -m persona.readings    learns all of them anew from docs/readings

What is learned stands as JSON beside this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Regression:
    """A likelihood of things seen: one weight for each, in their order."""

    constant: float
    weights: tuple[float, ...]

    def likelihood(self, seen: Sequence[float]) -> float:
        """0 to 1."""
        z = self.constant + sum(w * x for w, x in zip(self.weights, seen, strict=True))
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0

    @classmethod
    def of(cls, seen: Sequence[Sequence[float]], good: Sequence[bool]) -> Regression:
        """The likeliest for what was judged `good` and what was not, with a ridge of 1 on the
        weights of standardised features, which keeps few judgements from saying too much."""
        x, y = np.array(seen), np.array(good, dtype=np.float64)
        mean, deviation = x.mean(0), x.std(0)
        z = np.c_[(x - mean) / deviation, np.ones(len(x))]
        w = np.zeros(z.shape[1])
        for _ in range(50):  # Newton's steps
            p = 1 / (1 + np.exp(-z @ w))
            slope = z.T @ (z * (p * (1 - p))[:, None]) + np.eye(len(w))
            w -= np.linalg.solve(slope, z.T @ (p - y) + w)
        weights = w[:-1] / deviation
        constant = float(w[-1] - weights @ mean)
        return cls(round(constant, _DIGITS), tuple(round(float(a), _DIGITS) for a in weights))


@cache
def learned(name: str) -> Regression:
    """The regression of that name that stands in this folder."""
    read = json.loads(_path(name).read_text("utf-8"))
    return Regression(read["constant"], tuple(read["weights"]))


def keep(name: str, regression: Regression) -> None:
    """Writes it where `learned` finds it, from now on."""
    _path(name).write_text(json.dumps(asdict(regression), indent=2) + "\n", "utf-8")
    learned.cache_clear()


def _path(name: str) -> Path:
    return _FOLDER / f"{name}.json"
