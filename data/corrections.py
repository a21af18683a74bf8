"""Corrections: which of them stand; the bot shows those, the trainer learns them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from data.learning import Judgement, Person, Rated, Snapshot
from data.near import Grams, Near
from data.screen import Reason

State = Literal["held", "screened", "approved", "rejected"]

YOUNG = timedelta(hours=24)
"""For so long after they were first heard of, people may all be one person."""
ALIKE = 0.6
"""Jaccard similarity from which on two texts say the same."""
RECORD = "record"
"""The reason against whoever was mostly wrong before."""
FAILED = 3
"""Faults from which on a person's record speaks against them, where less than these was well."""
_GRAVE = frozenset(
    (
        Reason.CONTROL,
        Reason.LINK,
        Reason.CONTACT,
        Reason.SEXUAL,
        Reason.HARM,
        Reason.PROFANITY,
        Reason.ASSISTANT,
    )
)
"""What hardly anybody writes by mistake. It counts as two faults, so that twice is a record: the
third time the words may be such as no rule knows."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A better wording, and how it stands.

    `held` waits for a reviewer because of `reason`; `screened` passed the screen; `approved` was
    read by a reviewer, or found by several people. `wording` is what is to be learned.
    """

    rated: Rated
    person: Person
    wording: str
    state: State
    reason: str
    at: datetime

    @property
    def turn_id(self) -> int:
        return self.rated.spoken.turn_id

    @property
    def usable(self) -> bool:
        return self.state in ("screened", "approved")


def standing(
    snapshot: Snapshot,
    reason: Callable[[str, str], str | None],
    grams: Grams,
    agreement: int = 0,
) -> list[Correction]:
    """All corrections, oldest turn first, and how each stands.

    `reason` is the screen's, by message and reply. What `agreement` people, none of them young,
    wrote alike is approved by that; 0 is never. `grams` is what two texts are compared by.
    """
    found = [
        _judged(snapshot, rated, judgement, reason)
        for rated in snapshot.rated
        for judgement in rated.judgements
        if judgement.correction is not None
    ]
    failed, passed = records(found, reason)
    distrusted = {p for p, n in failed.items() if n >= FAILED and n > passed[p]}
    found = [
        replace(c, state="held", reason=RECORD)
        if c.state == "screened" and c.person in distrusted
        else c
        for c in found
    ]
    return _agreed(found, snapshot, grams, agreement) if agreement else found


def records(
    corrections: Iterable[Correction], reason: Callable[[str, str], str | None]
) -> tuple[Counter[Person], Counter[Person]]:
    """The faults of each person's wordings, and how many had none.

    A wording is judged by itself: nobody is to blame for what another one asked, nor for the burst
    or the record that had it put aside.
    """
    failed: Counter[Person] = Counter()
    passed: Counter[Person] = Counter()
    for one in corrections:
        if one.state == "approved":
            passed[one.person] += 1
        elif one.state == "rejected":
            failed[one.person] += 1
        elif found := faults(reason("", one.wording)):
            failed[one.person] += found
        elif one.usable:
            passed[one.person] += 1
    return failed, passed


def faults(reason: str | None) -> int:
    """How much a wording that the screen holds for this reason speaks against whoever likes it."""
    if reason is None:
        return 0
    return 2 if reason in _GRAVE else 1


def _judged(
    snapshot: Snapshot,
    rated: Rated,
    judgement: Judgement,
    reason: Callable[[str, str], str | None],
) -> Correction:
    wording = judgement.correction or ""
    made = Correction(rated, judgement.person, wording, "screened", "", judgement.at)
    verdict = snapshot.verdicts.get((rated.spoken.turn_id, judgement.person))
    if verdict is not None and verdict.wording == wording:
        if verdict.state == "rejected":
            return replace(made, state="rejected", reason=verdict.reason)
        if verdict.state == "approved":
            return replace(made, wording=verdict.edited or wording, state="approved")
        return replace(made, state="held", reason=verdict.reason)
    if why := reason(rated.spoken.text, wording):
        return replace(made, state="held", reason=why)
    return made


def _agreed(
    found: list[Correction], snapshot: Snapshot, grams: Grams, agreement: int
) -> list[Correction]:
    """Approves what enough people wrote alike for the like message."""
    texts, wordings = Near[int](grams, ALIKE), Near[int](grams, ALIKE)
    for number, one in enumerate(found):
        if one.usable and not is_young(snapshot, one.person, one.at):
            texts.add(one.rated.spoken.text, number)
            wordings.add(one.wording, number)

    def people(one: Correction) -> set[Person]:
        alike = set(wordings.find(one.wording)) & set(texts.find(one.rated.spoken.text))
        return {found[number].person for number in alike}

    return [
        replace(one, state="approved")
        if one.state == "screened" and len(people(one)) >= agreement
        else one
        for one in found
    ]


def is_young(snapshot: Snapshot, person: Person, at: datetime) -> bool:
    """Whether somebody had not been heard of for long at that moment."""
    return at - snapshot.seen.get(person, at) < YOUNG
