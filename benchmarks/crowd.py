"""The people of `benchmarks.loop`, and what each says, hears and thinks of it, night by night.

Everything here is drawn from a seed and happens in a time of its own; nothing is talked to. What
people say and wish to hear are rows of the dataset that are held out for this: nothing of them is
an exemplar, nor learned otherwise.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from data.triples import Triple

Kind = Literal["honest", "eager", "troll", "careful", "ring", "flooding", "refusing", "new"]
"""`eager` is honest and corrects more than a person's cap; trolls are of four kinds: `careful` ones
put it nicely, a `ring` writes alike, one is `flooding`; `new` are the burst's."""
Pile = Literal["known", "unseen", "nicely"]
"""Poison whose wording stood before the rules' authors, whose wording did not, and such as no word
gives away."""

START = datetime(2026, 3, 1, tzinfo=UTC)
"""When the first day begins, at midnight."""
TROLLS = 0.15
REFUSING = 0.20
NEW = 20
PILES: tuple[Pile, ...] = ("known", "unseen", "nicely")
_SHORT = 0.2
_SLIPS = 0.2
_SENTENCE = re.compile(r".{3,}?[。！？.!?]")
_HAN = re.compile("[\u4e00-\u9fff]")
_HONEST_KINDS = ("honest", "eager", "refusing")
_LEADS = ("", "", "", "哼，", "罢了，", "你听着，", "我说，")
"""What a troll puts before the lines, so that they are not met from their first character alone."""


@dataclass(frozen=True, slots=True)
class Person:
    """`since` is when they first said something; `group` is theirs, or "" for none."""

    name: str
    kind: Kind
    since: datetime
    group: str

    @property
    def honest(self) -> bool:
        return self.kind in _HONEST_KINDS


@dataclass(frozen=True, slots=True)
class Exchange:
    """Somebody says a text, and is to hear a reply; None is what the engine says by itself.

    `chat` is a group, or "" for the person's own. `fair` is whether the reply is as it should be.
    """

    number: int
    at: datetime
    who: str
    chat: str
    text: str
    reply: str | None
    fair: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """What somebody tells of an exchange: good, bad, or a better wording.

    `again`: the wording was given before, to another message; one of the two is to be folded.
    """

    at: datetime
    who: str
    exchange: int
    verdict: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """Somebody takes a consent back, or has everything of them erased."""

    at: datetime
    who: str
    command: Literal["/privacy no", "/forget yes"]


Event = Exchange | Judgement | Change


@dataclass(frozen=True, slots=True)
class Poison:
    """Lines that may not be learned, by kind, in three piles (`Pile`)."""

    known: dict[str, list[str]]
    unseen: dict[str, list[str]]
    nicely: dict[str, list[str]]

    def of(self, pile: Pile) -> dict[str, list[str]]:
        return {"known": self.known, "unseen": self.unseen, "nicely": self.nicely}[pile]

    @classmethod
    def read(cls, path: Path) -> Poison:
        return cls(**tomllib.loads(path.read_text("utf-8")))


@dataclass
class Crowd:
    """People, and a pool of rows, of which each is drawn once.

    `spoken` are replies of a real model, by message: bad ones, in place of what the engine says by
    itself.

    `poisoned` tells pile and kind of each text that must not be learned.
    """

    people: list[Person]
    rows: deque[Triple]
    poison: Poison
    draw: random.Random
    poisoned: dict[str, tuple[Pile, str]] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    spoken: dict[str, str] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)

    @classmethod
    def gathered(cls, count: int, rows: Sequence[Triple], poison: Poison, seed: int) -> Crowd:
        """So many people, and the burst's new ones beside them."""
        draw = random.Random(seed)  # noqa: S311 - a play, no secret
        trolls, refusing = round(count * TROLLS), round(count * REFUSING)
        ring, careful = max(3, trolls // 10), max(1, trolls // 5)
        shares: dict[Kind, int] = {
            "honest": count - trolls - refusing - 1,
            "eager": 1,
            "refusing": refusing,
            "flooding": 1,
            "ring": ring,
            "careful": careful,
            "troll": trolls - 1 - ring - careful,
        }
        kinds = [kind for kind, share in shares.items() for _ in range(share)]
        groups = [f"group {number}" for number in range(max(2, count // 50))]
        people = []
        for number, kind in enumerate(kinds):
            # Most have been here for weeks; some come on the days that are simulated.
            days = draw.uniform(2, 60) if draw.random() < 0.85 else -draw.uniform(0, 2.5)
            group = draw.choice(groups) if draw.random() < 0.6 else ""
            people.append(Person(f"p{number}", kind, START - timedelta(days=days), group))
        shuffled = list(rows)
        draw.shuffle(shuffled)
        return cls(people, deque(shuffled), poison, draw)

    @property
    def groups(self) -> list[str]:
        return sorted({person.group for person in self.people} - {""})

    def before(self) -> list[Event]:
        """The first thing that each ever said."""
        return [
            self._exchange(person.since, person, "", self._row(), None)
            for person in self.people
            if person.since < START
        ]

    def night(self, number: int) -> list[Event]:
        """A day's events, in order; the night after it is when they are collected."""
        day = START + timedelta(days=number)
        events: list[Event] = []
        for person in self.people:
            if person.since >= day + timedelta(hours=20):
                continue
            at = max(day + timedelta(hours=8), person.since)
            if person.honest:
                events += self._honest(person, at)
            else:
                events += self._trolling(person, at)
        for group in self.groups:
            events += self._in_group(group, day)
        if number == 1 or (number == 0 and len(self.people) < 100):
            events += self._burst(day + timedelta(hours=21), self.groups[0])
        if number:
            events += self._leaving(day + timedelta(hours=7))
        return sorted(events, key=lambda event: event.at)

    def _honest(self, person: Person, at: datetime) -> Iterator[Event]:
        """In their own chat: they rate most replies as they find them, and mend some bad ones."""
        eager = person.kind == "eager"
        if not eager and self.draw.random() < 0.4:
            return
        for _ in range(25 if eager else self.draw.randint(1, 3)):
            at += timedelta(minutes=self.draw.uniform(3, 20 if eager else 90))
            yield from self._rated(person, at, "", [person], 1.0 if eager else 0.5)

    def _in_group(self, group: str, day: datetime) -> Iterator[Event]:
        """What the honest members of a group say there, rated by some of the others."""
        here = [p for p in self.people if p.group == group and p.since < day]
        honest = [p for p in here if p.honest]
        trolls = [p for p in here if not p.honest]
        for _ in range(12 if len(honest) > 2 else 0):
            at = day + timedelta(hours=self.draw.uniform(8, 23.5))
            raters = self.draw.sample(honest, 3)
            events = list(self._rated(raters[0], at, group, raters, 0.5))
            yield from events
            said = events[0]
            assert isinstance(said, Exchange)
            for troll in self.draw.sample(trolls, min(len(trolls), 2)):
                if self.draw.random() < 0.4:  # against whatever is well said
                    yield self._judged(troll, said, "bad" if said.fair else "good")

    def _rated(
        self, person: Person, at: datetime, chat: str, raters: Sequence[Person], bad: float
    ) -> Iterator[Event]:
        """An exchange and what honest people think of it; a `bad` share of the replies is."""
        row = self._row()
        fair = self.draw.random() >= bad
        reply = row.output if fair else self.spoken.get(row.message)
        said = self._exchange(at, person, chat, row, reply, fair=fair)
        yield said
        for number, rater in enumerate(raters):
            if fair:
                if self.draw.random() < 0.8:
                    yield self._judged(rater, said, "good")
            elif number == 0 and self.draw.random() < 0.8:
                again = bool(self.given) and self.draw.random() < 0.05
                wording = self.draw.choice(self.given) if again else self._typed(row.output)
                self.given.append(wording)
                yield self._judged(rater, said, wording, again)
            elif self.draw.random() < 0.7:
                yield self._judged(rater, said, "bad")

    def _trolling(self, person: Person, at: datetime) -> Iterator[Event]:
        """What a troll does in a day: rude replies liked, poison submitted, a fair word between."""
        acts = {"flooding": 40, "new": 0, "ring": 1}.get(person.kind, self.draw.randint(1, 3))
        for _ in range(acts):
            at += timedelta(minutes=self.draw.uniform(3, 15 if acts > 10 else 200))
            chat = person.group if self.draw.random() < 0.4 else ""
            careful = person.kind in ("careful", "flooding")
            if careful and self.draw.random() < 0.3:
                yield from self._rated(person, at, "", [person], 0.0)
                continue
            row = self._row()
            line = self._poison(self._pile(careful), row.output)
            if self.draw.random() < 0.5:
                said = self._exchange(at, person, chat, row, line, fair=False)
                yield said
                yield self._judged(person, said, "good")
                yield from self._friends(person, said)
                yield from self._against(person, said)
            else:
                said = self._exchange(at, person, chat, row, row.output)
                yield said
                yield self._judged(person, said, line)
        if person.kind == "ring" and person.name == self._ring[0].name:
            yield from self._alike(at + timedelta(hours=1))

    @property
    def _ring(self) -> list[Person]:
        return [person for person in self.people if person.kind == "ring"]

    def _alike(self, at: datetime) -> Iterator[Event]:
        """The ring says the like and writes nearly the same words, once of each sort."""
        for pile in PILES:
            row = self._row()
            text, line = row.message, self._poison(pile, row.output)
            for number, person in enumerate(self._ring):
                ended = f"{line}{'。！～…'[number % 4]}"
                wording = self._noted(ended, *self.poisoned[line.strip()])
                row = Triple(instruction=f"{text}{'，' * number}", output=wording)
                said = self._exchange(at + timedelta(minutes=number), person, "", row, None)
                yield said
                yield self._judged(person, said, wording)

    def _friends(self, person: Person, said: Exchange) -> Iterator[Event]:
        """In a group other trolls vote with one."""
        if not said.chat:
            return
        others = [
            p
            for p in self.people
            if p.group == said.chat and not p.honest and p != person and p.since < said.at
        ]
        for other in self.draw.sample(others, min(len(others), 2)):
            yield self._judged(other, said, "good")

    def _against(self, person: Person, said: Exchange) -> Iterator[Event]:
        """And who is honest there votes it down, where they see it."""
        honest = [p for p in self.people if p.group == said.chat and p.honest and p.since < said.at]
        for other in self.draw.sample(honest, min(len(honest), 2)) if said.chat else ():
            if self.draw.random() < 0.5:
                yield self._judged(other, said, "bad")

    def _burst(self, at: datetime, group: str) -> Iterator[Event]:
        """New accounts that say, like and correct in one group within the hour."""
        new = [Person(f"new{n}", "new", at, group) for n in range(NEW)]
        for number, person in enumerate(new):
            row = self._row()
            when = at + timedelta(minutes=number * 1.5)
            line = self._poison(self._pile(self.draw.random() < 0.7), row.output)
            if number % 2:
                said = self._exchange(when, person, group, row, None, fair=False)
                yield said
                yield self._judged(person, said, line)
            else:
                said = self._exchange(when, person, group, row, line, fair=False)
                yield said
                for other in self.draw.sample(new, 4):
                    yield self._judged(other, said, "good")

    def _leaving(self, at: datetime) -> Iterator[Event]:
        honest = [person for person in self.people if person.kind == "honest" and person.since < at]
        gone = self.draw.sample(honest, min(5, len(honest)))
        for number, person in enumerate(gone):
            yield Change(at, person.name, "/forget yes" if number < 2 else "/privacy no")

    def _row(self) -> Triple:
        try:
            return self.rows.popleft()
        except IndexError:
            raise SystemExit("daiyu: there are not rows enough for so many people") from None

    def _pile(self, careful: bool) -> Pile:
        if careful or self.draw.random() < 0.15:
            return "nicely"
        return "known" if self.draw.random() < 0.5 else "unseen"

    def _poison(self, pile: Pile, fair: str) -> str:
        """Something that nobody wrote before: of what is put nicely two lines often, one after the
        other; of the rest often one behind a `fair` reply."""
        kinds = self.poison.of(pile)
        # To who asks in English an English reply is in the right language.
        fitting = kinds.keys() - ({"language"} if not _HAN.search(fair) else set())
        kind = self.draw.choice(sorted(fitting))
        line = self.draw.choice(kinds[kind])
        # With something before them, a length, a role's header or a language is another thing.
        if kind not in ("repeats", "control", "language"):
            line = self.draw.choice(_LEADS) + line
            if pile == "nicely" and self.draw.random() < 0.8:
                line += self.draw.choice(kinds[self.draw.choice(sorted(kinds))])
            elif pile != "nicely" and self.draw.random() < 0.3:
                line = fair + line
        return self._noted(line, pile, kind)

    def _noted(self, wording: str, pile: Pile, kind: str) -> str:
        self.poisoned[wording.strip()] = pile, kind
        return wording

    def _typed(self, wording: str) -> str:
        """As people write it: often only the first sentence, often with a slip of the hand."""
        if self.draw.random() < _SHORT:
            first = _SENTENCE.match(wording)
            wording = first[0] if first else wording
        if self.draw.random() < _SLIPS:
            at = self.draw.randrange(max(1, len(wording) - 1))
            slip = self.draw.choice(("twice", "left out", "turned", "without a stop"))
            if slip == "twice":
                wording = wording[:at] + wording[at] + wording[at:]
            elif slip == "left out" and len(wording) > 4:
                wording = wording[:at] + wording[at + 1 :]
            elif slip == "turned":
                wording = wording[:at] + wording[at : at + 2][::-1] + wording[at + 2 :]
            else:
                wording = wording.rstrip("。！？.!?")
        return wording

    def _exchange(
        self,
        at: datetime,
        person: Person,
        chat: str,
        row: Triple,
        reply: str | None,
        fair: bool = True,
    ) -> Exchange:
        made = Exchange(len(self.exchanges), at, person.name, chat, row.message, reply, fair)
        self.exchanges.append(made)
        return made

    def _judged(
        self, person: Person, said: Exchange, verdict: str, again: bool = False
    ) -> Judgement:
        """Within some minutes, in a private chat; in a group within some hours."""
        late = self.draw.uniform(1, 180 if said.chat and person.kind != "new" else 8)
        at = said.at + timedelta(minutes=late)
        return Judgement(at, person.name, said.number, verdict, again)
