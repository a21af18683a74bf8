"""`python -m trainer review`: a person reads what the rules put aside, and every correction.

It asks in the terminal and answers to a pipe alike: a line an answer, and after `e` a line with the
better wording. What is answered is kept at once; at the end of the input it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from data.corrections import standing
from data.learning import NOBODY, Learning, Person, Snapshot, Verdict
from data.screen import Reason, Screen, plain_reason
from persona.exemplars import trigrams

Ask = Callable[[str], str]
"""Shows a question and gives the answer; EOFError where there is none any more."""
_KEYS = {"a": "approved", "e": "approved", "r": "rejected"}
_QUESTION = "[a]pprove, [e]dit, [r]eject, [s]kip, [q]uit? "


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is to be judged. `was` is the reply that a correction is to replace."""

    turn_id: int
    person: Person
    platform: str
    message: str
    wording: str
    was: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Reviewed:
    """How many were approved and rejected, and how many still wait."""

    approved: int = 0
    rejected: int = 0
    left: int = 0


def waiting(snapshot: Snapshot, screen: Screen) -> list[Waiting]:
    """What nobody has judged yet, oldest first: words of people who agreed, and of no others."""
    found = [
        Waiting(
            one.turn_id,
            one.person,
            one.rated.spoken.person[0],
            one.rated.spoken.text,
            one.wording,
            one.rated.spoken.reply,
            one.reason,
        )
        for one in standing(snapshot, screen.reason, trigrams)
        if one.state in ("held", "screened")
        and {one.person, one.rated.spoken.person} <= snapshot.agreed
    ]
    for rated in snapshot.rated:
        verdict = snapshot.verdicts.get((rated.spoken.turn_id, NOBODY))
        if verdict and verdict.state == "held" and rated.spoken.person in snapshot.agreed:
            platform, _ = rated.spoken.person
            found.append(
                Waiting(
                    verdict.turn_id, NOBODY, platform, rated.spoken.text, verdict.wording,
                    None, verdict.reason,
                )
            )  # fmt: skip
    return sorted(found, key=lambda one: (one.turn_id, one.person))


async def review(
    learning: Learning, screen: Screen, ask: Ask, tell: Callable[[str], None], reviewer: str
) -> Reviewed:
    """Goes through all that waits. Raises StoreUnavailable."""
    todo = waiting(await learning.snapshot(), screen)
    counts = {"approved": 0, "rejected": 0}
    for number, one in enumerate(todo, start=1):
        tell(_shown(one, number, len(todo)))
        try:
            answer = _answer(ask, tell)
        except EOFError:
            break
        if answer is None:
            break
        state, edited = answer
        if state == "":
            continue
        verdict = Verdict(
            one.turn_id, one.person, one.wording, one.reason, state, edited, reviewer,
            datetime.now(UTC),
        )  # fmt: skip
        if await learning.judge(verdict):
            counts[state] += 1
        else:
            tell("it was taken back meanwhile")
    done = counts["approved"] + counts["rejected"]
    return Reviewed(counts["approved"], counts["rejected"], len(todo) - done)


def _shown(one: Waiting, number: int, of: int) -> str:
    lines = ["", f"{number} of {of}: turn {one.turn_id}, {one.platform}"]
    lines.append(
        f"  why: {one.reason}" if one.reason else "  why: a correction that nobody read yet"
    )
    lines.append(f"  said:    {plain_line(one.message)}")
    if one.was is not None:
        lines.append(f"  she:     {plain_line(one.was)}")
    lines.append(f"  {'reply:  ' if one.was is None else 'better: '} {plain_line(one.wording)}")
    return "\n".join(lines)


def plain_line(text: str) -> str:
    """A text that can neither break the line nor move a terminal's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _answer(ask: Ask, tell: Callable[[str], None]) -> tuple[str, str | None] | None:
    """State and edited wording; the state is empty for what is skipped, None is for quitting."""
    while True:
        key = ask(_QUESTION).strip().casefold()[:1]
        if key == "q":
            return None
        if key == "s":
            return "", None
        if key not in _KEYS:
            continue
        if key != "e":
            return _KEYS[key], None
        wording = ask("wording: ").strip()
        if not wording or plain_reason(wording) is Reason.CONTROL:
            tell("that holds nothing, or control characters")
            continue
        return _KEYS[key], wording
