"""What people said of earlier replies, asked of a candidate: does it say again what they rejected,
does it come nearer to what they would rather have heard?

The frozen sets are the authors' taste; this is the users'. It counts against a candidate alone:
what pleases may flatter, so saying more of what was voted down fails it, and nothing here lets it
pass.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from persona.exemplars import SAME, similarity, trigrams
from persona.prompt import PromptTooLong
from trainer.judged import Judged
from trainer.speech import AT_ONCE, Subject, speak, to_score

CHANCE = 0.05
"""Below this it is taken for no chance that a candidate repeats more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a subject says to such a message, at its fixed seed.

    `again` is whether that is the rejected reply, `similarity` the 3-gram Jaccard with the
    correction, `nats` −log p of the correction and its end, `characters` its length; None where
    there is no such thing.
    """

    text: str
    again: bool | None = None
    similarity: float | None = None
    nats: float | None = None
    characters: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Turns that were voted down, and those of them whose reply each subject says again.

    `chance` is how likely as many more, or further more, would come of chance alone.
    """

    turns: list[int]
    candidate: list[int]
    incumbent: list[int]
    chance: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Corrected:
    """Turns that were corrected, on how many of them the candidate's reply is nearer to the
    correction, and farther from it.

    `near` is the 3-gram Jaccard of reply and correction, turn by turn, `similarity` its mean,
    `loss` the correction's nats a character; of each the candidate's and the incumbent's.
    """

    turns: list[int]
    nearer: int
    farther: int
    near: list[list[float]]
    similarity: list[float | None]
    loss: list[float | None]


@dataclass(frozen=True, slots=True)
class People:
    """What people's judgements say of a candidate: figures and the ids of turns, no words."""

    rejected: Rejected
    corrected: Corrected

    @property
    def reason(self) -> str | None:
        """What speaks against the candidate."""
        found = self.rejected
        if found.passed:
            return None
        return (
            f"it says again {len(found.candidate)} of {len(found.turns)} replies that people had "
            f"voted down, the one in service {len(found.incumbent)}: chance would do that in "
            f"{found.chance:.1%} of cases"
        )


async def answers(subject: Subject, turns: Sequence[Judged]) -> dict[int, Answer]:
    """What a subject says to these turns' messages, by turn; one that is too long for it is left
    out. Raises EngineError.

    The subject's exemplars must be the authored ones. A correction that stood before the message as
    exemplar would be said after by any version: what is asked is what the weights have learned.
    """
    fitting = [turn for turn in turns if _fits(subject, turn)]
    room = asyncio.Semaphore(AT_ONCE)

    async def said(turn: Judged) -> str:
        async with room:
            return (await speak(subject, "judged", turn.message, turn.history, "")).text

    texts = await asyncio.gather(*(said(turn) for turn in fitting))
    better = {turn.turn_id: turn.correction for turn in fitting if turn.correction is not None}
    asked = [
        to_score(subject, turn.message, turn.history, better[turn.turn_id])
        for turn in fitting
        if turn.turn_id in better
    ]
    scores = dict(zip(better, await subject.scorer(asked), strict=True))
    return {
        turn.turn_id: _answer(turn, text, scores.get(turn.turn_id))
        for turn, text in zip(fitting, texts, strict=True)
    }


def _fits(subject: Subject, turn: Judged) -> bool:
    try:
        subject.builder.build(turn.message, turn.history)
    except PromptTooLong:
        return False
    return True


def _answer(turn: Judged, text: str, scores: Sequence[float] | None) -> Answer:
    own = trigrams(text)
    again = near = nats = characters = None
    if turn.rejected is not None:
        again = similarity(own, trigrams(turn.rejected)) >= SAME
    if turn.correction is not None and scores is not None:
        near = similarity(own, trigrams(turn.correction))
        nats, characters = -sum(scores), len(turn.correction)
    return Answer(text, again, near, nats, characters)


def compare_answers(ours: Mapping[int, Answer], theirs: Mapping[int, Answer]) -> People:
    """The candidate's answers held against the incumbent's, on the turns that both answered."""
    both = {turn: (ours[turn], theirs[turn]) for turn in sorted(ours.keys() & theirs.keys())}
    return People(_rejected(both), _corrected(both))


def _rejected(both: Mapping[int, tuple[Answer, Answer]]) -> Rejected:
    asked = {turn: pair for turn, pair in both.items() if pair[0].again is not None}
    new, old = ([turn for turn, pair in asked.items() if pair[i].again] for i in (0, 1))
    worse, better = len({*new} - {*old}), len({*old} - {*new})
    chance = sign_test(worse, better)
    return Rejected(list(asked), new, old, chance, passed=chance >= CHANCE)


def sign_test(worse: int, better: int) -> float:
    """How likely at least so many of both are for the worse, if either is as likely."""
    both = worse + better
    return float(sum(math.comb(both, n) for n in range(worse, both + 1)) / 2**both)


def _corrected(both: Mapping[int, tuple[Answer, Answer]]) -> Corrected:
    asked = {turn: pair for turn, pair in both.items() if pair[0].similarity is not None}
    near = [[answer.similarity or 0.0 for answer in pair] for pair in asked.values()]
    characters = sum(new.characters or 0 for new, _ in asked.values())
    return Corrected(
        turns=list(asked),
        nearer=sum(new > old for new, old in near),
        farther=sum(new < old for new, old in near),
        near=near,
        similarity=[_ratio(sum(pair[i] for pair in near), len(near)) for i in (0, 1)],
        loss=[
            _ratio(sum(pair[i].nats or 0.0 for pair in asked.values()), characters) for i in (0, 1)
        ],
    )


def _ratio(value: float, of: int) -> float | None:
    return value / of if of else None


def sheet(people: People) -> str:
    """The judged turns and what became of them, as Markdown: figures, and no words of anybody.

    Whoever takes their words back is to find them in no version, which is never changed. So the
    subjects' answers, which may say them after, are left out too.
    """
    rejected, corrected = people.rejected, people.corrected
    lines = ["## What people had said of earlier replies", ""]
    if not (rejected.turns or corrected.turns):
        return "\n".join([*lines, "None that may be asked about.", ""])
    lines += [
        f"- replies voted down: {len(rejected.turns)}; said again by the new one "
        f"{len(rejected.candidate)}, by the old one {len(rejected.incumbent)}",
        f"- replies corrected: {len(corrected.turns)}; the new one is nearer to the correction in "
        f"{corrected.nearer}, the old one in {corrected.farther}",
        "",
        "What was said is kept in the database alone: `python -m trainer show <this version>` puts "
        "it beside, as long as it is there and its people agree.",
        "",
        "| turn | voted down, said again by | corrected, nearness: the new one | the old one |",
        "|--:|---|--:|--:|",
    ]
    near = dict(zip(corrected.turns, corrected.near, strict=True))
    for turn in sorted({*rejected.turns, *corrected.turns}, reverse=True):
        sides = (("the new one", rejected.candidate), ("the old", rejected.incumbent))
        by = [name for name, again in sides if turn in again]
        said = " and ".join(by) or "neither" if turn in rejected.turns else ""
        figures = " | ".join(f"{value:.2f}" for value in near[turn]) if turn in near else " | "
        lines.append(f"| {turn} | {said} | {figures} |")
    return "\n".join([*lines, ""])
