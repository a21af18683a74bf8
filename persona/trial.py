"""A version on trial: which chats get it, for how long, and how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

MOST_HOURS = 24.0 * 365
Outcome = Literal["promoted", "dropped"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A share (0 to 1) of all chats gets a version, from `begun` on, for so many hours.

    `reason` and `forced` stand with the promotion, should it come to one.
    """

    version: str
    share: float
    begun: datetime
    hours: float
    reason: str
    forced: bool = False

    @property
    def ends(self) -> datetime:
        return self.begun + timedelta(hours=self.hours)

    def gets(self, place: Hashable) -> bool:
        """Whether a chat gets it: a platform and a chat's id, or whatever names one.

        Decided by the names alone, so that it is the same after every start, and by the version's
        too, so that it is not the same chats each time.
        """
        names = place if isinstance(place, tuple) else (place,)
        key = "\0".join((self.version, *map(str, names))).encode("utf-8", "replace")
        return int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64 < self.share

    def written(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return asdict(self) | {"begun": self.begun.isoformat()}

    @classmethod
    def read(cls, held: dict[str, Any]) -> Trial:
        """From JSON. Raises KeyError, TypeError, ValueError for what is no trial."""
        trial = cls(
            str(held["version"]),
            float(held["share"]),
            datetime.fromisoformat(held["begun"]),
            float(held["hours"]),
            str(held["reason"]),
            bool(held["forced"]),
        )
        if not (0 < trial.share <= 1 and 0 < trial.hours <= MOST_HOURS and trial.begun.tzinfo):
            raise ValueError(f"a trial of {trial.version} cannot be so")
        return trial


@dataclass(frozen=True, slots=True)
class EndedTrial:
    """How a trial ended, when and why; `figures` holds what was counted by then, in groups."""

    trial: Trial
    at: datetime
    outcome: Outcome
    why: str
    figures: dict[str, Any]

    def written(self) -> dict[str, Any]:
        """As it stands in JSON."""
        ended = {"ended": self.at.isoformat(), "outcome": self.outcome, "why": self.why}
        return self.trial.written() | ended | {"figures": self.figures}

    @classmethod
    def read(cls, held: dict[str, Any]) -> EndedTrial:
        """From JSON. Raises KeyError, TypeError, ValueError for what is none."""
        outcome: Outcome = "promoted" if held["outcome"] == "promoted" else "dropped"
        at = datetime.fromisoformat(held["ended"])
        figures = {side: dict(counts) for side, counts in dict(held["figures"]).items()}
        return cls(Trial.read(held), at, outcome, str(held["why"]), figures)
