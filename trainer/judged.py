"""The turns that people judged, as the gate asks about them: voted down, or corrected."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from data.config import StoreSettings
from data.corrections import Correction, standing
from data.database import NoDatabase, OldDatabase
from data.learning import Person, Snapshot
from data.screen import Screen, plain_reason
from persona.exemplars import trigrams
from persona.prompt import Exchange
from trainer.collect import barred, bursts, history_of, score
from trainer.config import Settings, TrainingSettings
from trainer.raters import distrusted, weigh
from trainer.stored import opened, screen

MOST = 36
"""Turns of each kind, the newest; each is spoken to twice, which takes its time."""
OF_A_PERSON = 6
"""Turns that one person's judgement decides: nobody is to have the gate for themselves."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A turn that was voted down, and then `rejected` is its reply, or corrected, or both.

    All words in it are of people who agreed.
    """

    turn_id: int
    message: str
    history: list[Exchange]
    rejected: str | None = None
    correction: str | None = None


async def read_judged(settings: Settings, only: Collection[int] | None = None) -> list[Judged]:
    """The judged turns of the store, the newest first; none where there is no store.

    `only` names the turns that are asked about. Raises StoreError, StoreUnavailable, TriplesError.
    """
    try:
        async with opened(settings) as store:
            snapshot = await store.learning.snapshot(settings.training.history)
    except (NoDatabase, OldDatabase):
        return []
    return judged(snapshot, screen(settings), settings.training, settings.store, only)


def judged(
    snapshot: Snapshot,
    screen: Screen,
    training: TrainingSettings,
    store: StoreSettings,
    only: Collection[int] | None = None,
) -> list[Judged]:
    """The newest judged turns that collecting could take too: of people who agreed, not erased."""
    reason = lru_cache(None)(screen.reason)
    corrections: defaultdict[int, list[Correction]] = defaultdict(list)
    for one in standing(snapshot, reason, trigrams, store.agreement):
        corrections[one.turn_id].append(one)
    weights = weigh(snapshot, corrections, distrusted(snapshot, corrections, reason))
    doubtful = bursts(snapshot, training.burst)
    rejected: Counter[Person] = Counter()
    corrected: Counter[Person] = Counter()
    found = []
    for rated in sorted(snapshot.rated, key=lambda rated: -rated.spoken.turn_id):
        spoken = rated.spoken
        if only is not None and spoken.turn_id not in only:
            continue
        if barred(snapshot, rated, training, store) or spoken.turn_id in doubtful:
            continue
        # It will be shown beside the figures, perhaps to more people than one.
        if plain_reason(spoken.text) or plain_reason(spoken.reply):
            continue
        least = training.score if rated.is_group else 1.0
        down = score(rated, weights) <= -least and _room(rejected, spoken.person)
        better = _better(snapshot, corrections[spoken.turn_id])
        if better is not None and not _room(corrected, better.person):
            better = None
        if down or better is not None:
            rejected[spoken.person] += down
            if better is not None:
                corrected[better.person] += 1
            history = [Exchange(*pair) for pair in history_of(snapshot, rated, reason)]
            found.append(
                Judged(
                    spoken.turn_id,
                    spoken.text,
                    history,
                    spoken.reply if down else None,
                    better.wording if better else None,
                )
            )
    return found


def _room(counted: Counter[Person], person: Person) -> bool:
    return counted.total() < MOST and counted[person] < OF_A_PERSON


def _better(snapshot: Snapshot, corrections: Sequence[Correction]) -> Correction | None:
    """The correction that may be learned: an approved one, the latest."""
    usable = [one for one in corrections if one.usable and one.person in snapshot.agreed]
    return max(usable, key=lambda one: (one.state == "approved", one.at), default=None)
