"""Raters: what each one's vote is worth, by their own record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from data.corrections import FAILED, Correction, faults, records
from data.learning import Person, Snapshot

Weights = Callable[[Person], float]
"""What a person's vote counts, 0 to 1."""

_TRUST = 2
"""Judgements in agreement that somebody unknown is taken to have behind them."""


def weigh(
    snapshot: Snapshot,
    corrections: Mapping[int, Iterable[Correction]],
    doubted: Collection[Person] = (),
) -> Weights:
    """Weights by agreement with the others who rated the same turns, and by failed corrections.

    Whoever is right half of the time counts whole; nobody knows taste. Below that the weight falls:
    of ten votes, all against the others', a third is left. Who is `doubted` counts for nothing.
    """
    right: Counter[Person] = Counter()
    wrong: Counter[Person] = Counter()
    for rated in snapshot.rated:
        total = sum(judgement.vote for judgement in rated.judgements)
        for judgement in rated.judgements:
            others = total - judgement.vote
            if others * judgement.vote > 0:
                right[judgement.person] += 1
            elif others * judgement.vote < 0:
                wrong[judgement.person] += 1
    for several in corrections.values():
        for correction in several:
            if correction.state in ("held", "rejected"):
                wrong[correction.person] += 1

    def weight(person: Person) -> float:
        if person in doubted:
            return 0.0
        agreed = right[person] + _TRUST
        return min(1.0, 2 * agreed / (agreed + wrong[person]))

    return weight


def distrusted(
    snapshot: Snapshot,
    corrections: Mapping[int, Iterable[Correction]],
    reason: Callable[[str, str], str | None],
) -> frozenset[Person]:
    """Who mostly held to be well said what may not be learned: their likes and corrections wait.

    Where one's like suffices, alone with her, liking what the screen holds is as bad as having
    written it; in a group one laughs along, and that is one fault.
    """
    failed, passed = records((one for several in corrections.values() for one in several), reason)
    for rated in snapshot.rated:
        if rated.spoken.guarded:
            continue
        found = faults(reason("", rated.spoken.reply))
        if rated.is_group:
            found = min(found, 1)
        for judgement in rated.judgements:
            if judgement.vote > 0:
                failed[judgement.person] += found
                passed[judgement.person] += not found
    return frozenset(p for p, n in failed.items() if n >= FAILED and n > passed[p])
