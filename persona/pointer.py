"""What the registry's current.json holds: promotions, the trial that runs, trials that ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from persona.trial import EndedTrial, Outcome, Trial


@dataclass(frozen=True, slots=True)
class Pointer:
    """Never changed: each step makes another one. One from before there were trials has none."""

    promotions: list[dict[str, Any]] = field(default_factory=list)
    trial: Trial | None = None
    ended: list[EndedTrial] = field(default_factory=list)

    @property
    def current(self) -> str | None:
        """The version that is served."""
        name = (self.promotions or [{"version": None}])[-1]["version"]
        return None if name is None else str(name)

    @property
    def before(self) -> list[str | None]:
        """What a rollback goes back to, the nearest last: None is what ships.

        A rollback is not gone back to: the second one goes further back.
        """
        stack: list[str | None] = [None]
        for promotion in self.promotions:
            if promotion.get("rollback"):
                while len(stack) > 1 and stack[-1] != promotion["version"]:
                    stack.pop()
            elif promotion["version"] != stack[-1]:
                stack.append(promotion["version"])
        return stack[:-1]

    def needed(self, steps: int) -> set[str]:
        """The versions that may be asked for by it: the one that is served and those that so many
        rollbacks go back to, the one on trial and the one whose trial ended last."""
        named = [self.current, *self.before[-steps:]]
        named += [self.trial.version] if self.trial else []
        named += [ended.trial.version for ended in self.ended[-1:]]
        return {name for name in named if name is not None}

    def promoting(
        self, name: str | None, reason: str, *, forced: bool = False, rollback: bool = False
    ) -> Pointer:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"version": name, "at": now, "reason": reason, "forced": forced}
        entry |= {"rollback": True} if rollback else {}
        return replace(self, promotions=[*self.promotions, entry])

    def ending(self, outcome: Outcome, why: str, figures: dict[str, Any]) -> Pointer:
        """Without the trial that runs, if one does."""
        if self.trial is None:
            return self
        ended = EndedTrial(self.trial, datetime.now(UTC), outcome, why, figures)
        return replace(self, trial=None, ended=[*self.ended, ended])

    def written(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "promotions": self.promotions,
            "trial": self.trial and self.trial.written(),
            "ended_trials": [ended.written() for ended in self.ended],
        }

    @classmethod
    def read(cls, held: dict[str, Any]) -> Pointer:
        """From JSON. Raises KeyError, TypeError, ValueError for what is none."""
        promotions = list(held["promotions"])
        if not all(isinstance(p["version"], str | None) for p in promotions):
            raise TypeError("a version has no name")
        trial = held.get("trial")
        return cls(
            promotions,
            None if trial is None else Trial.read(trial),
            [EndedTrial.read(ended) for ended in held.get("ended_trials", [])],
        )
