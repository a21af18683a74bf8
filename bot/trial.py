"""Whether a version on trial is worse than the one beside it, beyond what chance would do."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bot.texts import say
from data.trials import Heard, Trials
from persona.registry import Registry

ALPHA = 0.05
"""How likely a version that is as good as the other is dropped at the last look, by either of the
two tests: each has half of it."""
EARLY = 0.001
"""The same for each look before. Whoever looks some hundred times sees much by chance, and with the
last look's bound would drop many a good version; one so strict adds little, and still ends a
disaster within the hour."""
_TESTS = 2
_ENDED = {"promoted": "status_trial_promoted", "dropped": "status_trial_dropped"}
_DISPLEASED = 2
"""People who must have voted it bad: one alone drops nothing."""


def chance_of_as_many(bad: int, of: int, bad_beside: int, of_beside: int) -> float:
    """Fisher's exact test, one-sided; 1.0 where there is nothing to compare.

    That is how likely so many of all the bad ones, or more, fall on the first side by chance alone,
    if bad ones are as frequent on both.
    """
    every, all_bad = of + of_beside, bad + bad_beside
    ways = _log_ways(every, of)
    return min(1.0, math.fsum(
        math.exp(_log_ways(all_bad, k) + _log_ways(every - all_bad, of - k) - ways)
        for k in range(max(bad, of - (every - all_bad)), min(all_bad, of) + 1)
    ))  # fmt: skip


def _log_ways(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


@dataclass(frozen=True, slots=True)
class Judged:
    """`worse` says at what the version on trial is worse beyond chance; None where it is not."""

    worse: str | None
    figures: dict[str, Any]


def judge(tried: Heard, beside: Heard, name_beside: str, *, last: bool) -> Judged:
    """Holds what was heard of a version on trial against what was heard beside it meanwhile."""
    bound = (ALPHA if last else EARLY) / _TESTS
    votes = chance_of_as_many(
        tried.bad, tried.bad + tried.good, beside.bad, beside.bad + beside.good
    )
    guarded = chance_of_as_many(tried.guarded, tried.replies, beside.guarded, beside.replies)
    worse = []
    if votes <= bound and tried.displeased >= _DISPLEASED:
        worse.append(f"votes: by chance {votes:.2g}")
    if guarded <= bound:
        worse.append(f"guard: by chance {guarded:.2g}")
    figures = {
        "tried": asdict(tried),
        "beside": asdict(beside) | {"version": name_beside},
        "chance": {"votes": votes, "guarded": guarded},
    }
    return Judged("; ".join(worse) or None, figures)


async def told(registry: Registry, trials: Trials, beside: str, lang: str) -> str:
    """How the last trial ended and how the one that runs goes, for the owner; empty without any.

    `beside` is the version that the other chats have. Raises RegistryError, StoreUnavailable.
    """
    ended, trial = await asyncio.to_thread(lambda: (registry.ended_trials(), registry.trial()))
    said = ""
    if ended:
        last = ended[-1]
        fields = dict(version=last.trial.version, at=_local(last.at), why=last.why)
        said += say(lang, _ENDED[last.outcome], **fields) + _counted(last.figures, lang)
    if trial:
        share, ends = f"{trial.share:.0%}", _local(trial.ends)
        said += say(lang, "status_trial", version=trial.version, share=share, ends=ends)
        heard = await trials.heard([trial.version, beside], trial.begun)
        figures = judge(heard[trial.version], heard[beside], beside, last=False).figures
        said += _counted(figures, lang)
    return said


def _counted(figures: dict[str, Any], lang: str) -> str:
    """The figures; empty where none were kept, since somebody ended the trial by hand."""
    try:
        sides = [
            say(lang, "status_trial_heard", **{**asdict(Heard()), **figures[side]})
            for side in ("tried", "beside")
        ]
        beside = figures["beside"]["version"]
    except (KeyError, TypeError):
        return ""
    return say(lang, "status_trial_beside", tried=sides[0], version=beside, beside=sides[1])


def _local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}"
