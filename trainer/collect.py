"""Collecting: rated conversations of the store, screened and consented to, as rows to learn from.

Every rule is here; data reads and keeps, the screen judges words. What a rule finds doubtful goes
to the quarantine with its reason; what it has no right to is passed over and only counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache

from data.config import StoreSettings
from data.corrections import ALIKE, RECORD, Correction, is_young, standing
from data.learning import NOBODY, Learning, Person, Rated, Snapshot, Spoken
from data.near import Near
from data.screen import Screen
from data.triples import Triple
from persona.exemplars import trigrams
from trainer.config import TrainingSettings
from trainer.pairs import with_rejected
from trainer.preprocess import Row
from trainer.raters import Weights, distrusted, weigh

BURST = "burst"
_HOUR = timedelta(hours=1)
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Held:
    """Words that a person has to judge before they may be learned."""

    turn_id: int
    person: Person
    wording: str
    reason: str


@dataclass(frozen=True, slots=True)
class Harvest:
    """What a store gives: rows, best first; what waits for review; why the rest was left."""

    rows: list[Row] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)

    @property
    def turns(self) -> list[int]:
        return [int((row.triple.meta or {})["turn"]) for row in self.rows]


@dataclass(frozen=True, slots=True)
class _Candidate:
    rated: Rated
    reply: str
    votes: float
    correction: Correction | None

    @property
    def people(self) -> set[Person]:
        """Whose words it holds."""
        own = {self.rated.spoken.person}
        return own | {self.correction.person} if self.correction else own

    @property
    def rank(self) -> tuple[bool, bool, float, int]:
        """What outranks what: approved corrections, corrections, votes; then the newest."""
        correction = self.correction
        approved = correction is not None and correction.state == "approved"
        return approved, correction is not None, self.votes, self.rated.spoken.turn_id


async def harvest(
    learning: Learning,
    screen: Screen,
    training: TrainingSettings,
    store: StoreSettings,
    authored: Iterable[Row] = (),
    frozen: Iterable[Row] = (),
    only: Collection[int] | None = None,
    pairs: Mapping[int, int] | None = None,
) -> Harvest:
    """Collects from a store, and puts aside there what has to be reviewed.

    Raises StoreUnavailable.
    """
    snapshot = await learning.snapshot(training.history)
    found = collect(snapshot, screen, training, store, authored, frozen, only, pairs)
    for held in found.held:
        await learning.hold(held.turn_id, held.person, held.wording, held.reason)
    return found


def collect(
    snapshot: Snapshot,
    screen: Screen,
    training: TrainingSettings,
    store: StoreSettings,
    authored: Iterable[Row] = (),
    frozen: Iterable[Row] = (),
    only: Collection[int] | None = None,
    pairs: Mapping[int, int] | None = None,
) -> Harvest:
    """The rows that a snapshot gives.

    A reply near to an `authored` one says nothing new; near to the `frozen` rows, which are judged
    by, none may be in any way. `only` names the turns that are asked about; all else is left out.
    `pairs` are the turns that were paired before; without, each row takes its own rejected reply.
    """
    made = Harvest()
    reason = lru_cache(_REMEMBERED)(screen.reason)
    corrections: defaultdict[int, list[Correction]] = defaultdict(list)
    for correction in standing(snapshot, reason, trigrams, store.agreement):
        corrections[correction.turn_id].append(correction)
    doubted = distrusted(snapshot, corrections, reason)
    weights = weigh(snapshot, corrections, doubted)
    doubtful = bursts(snapshot, training.burst)
    candidates = []
    for rated in snapshot.rated:
        turn_id = rated.spoken.turn_id
        if only is not None and turn_id not in only:
            continue
        if why := barred(snapshot, rated, training, store):
            made.left[why] += 1
            continue
        burst = BURST if turn_id in doubtful else None
        ours = [c for c in corrections[turn_id] if c.person in snapshot.agreed]
        if chosen := _chosen(made, ours, weights, training.approved_only, burst, doubted):
            candidates.append(_Candidate(rated, chosen.wording, 0.0, chosen))
        elif one := _voted(made, snapshot, rated, weights, training.score, reason, burst, doubted):
            candidates.append(one)
    kept = _capped(made, _folded(made, candidates, authored, frozen), training)
    rows = [_row(snapshot, candidate, reason) for candidate in kept]
    if training.preference:
        rows = with_rejected(
            snapshot,
            rows,
            lambda r: r.spoken.turn_id not in doubtful and not barred(snapshot, r, training, store),
            lambda r: score(r, weights),
            training.score,
            pairs,
        )
    made.rows.extend(rows)
    return made


def barred(
    snapshot: Snapshot, rated: Rated, training: TrainingSettings, store: StoreSettings
) -> str | None:
    """Why nothing of a turn may be learned, whatever was thought of it."""
    platform = rated.spoken.person[0]
    if platform not in training.platforms:
        return "platform"
    if platform == "discord" and not store.discord_permission.strip():
        return "discord without permission"
    if rated.spoken.turn_id in snapshot.erased:
        return "erased"
    if rated.spoken.person not in snapshot.agreed:
        return "consent"
    if rated.undone:
        return "undone"
    return "guarded" if rated.spoken.guarded else None


def _chosen(
    made: Harvest,
    corrections: list[Correction],
    weights: Weights,
    approved_only: bool,
    burst: str | None,
    doubted: Collection[Person],
) -> Correction | None:
    """The correction to learn of those of one turn: an approved one, that of the best rater."""
    usable = []
    for one in corrections:
        doubt = burst or (RECORD if one.person in doubted else None)
        if one.state == "rejected":
            made.left["rejected"] += 1
        elif one.state == "held":
            made.held.append(Held(one.turn_id, one.person, one.wording, one.reason))
        elif one.state == "screened" and doubt:
            made.held.append(Held(one.turn_id, one.person, one.wording, doubt))
        elif approved_only and one.state == "screened":
            made.left["not approved yet"] += 1
        else:
            usable.append(one)
    return max(
        usable,
        key=lambda c: (c.state == "approved", weights(c.person), c.at),
        default=None,
    )


def _voted(
    made: Harvest,
    snapshot: Snapshot,
    rated: Rated,
    weights: Weights,
    least: float,
    reason: Callable[[str, str], str | None],
    burst: str | None,
    doubted: Collection[Person],
) -> _Candidate | None:
    """A reply that was voted good, where that suffices and nothing speaks against it."""
    spoken = rated.spoken
    votes = score(rated, weights)
    if votes < (least if rated.is_group else 1.0):
        made.left["votes"] += 1
        return None
    verdict = snapshot.verdicts.get((spoken.turn_id, NOBODY))
    if verdict is not None and verdict.state == "rejected":
        made.left["rejected"] += 1
        return None
    if verdict is not None and verdict.state == "approved":
        return _Candidate(rated, verdict.edited or spoken.reply, votes, None)
    # What was put aside once stays there until it is judged.
    earlier = verdict.reason if verdict else None
    record = RECORD if spoken.person in doubted and not rated.is_group else None
    if why := earlier or reason(spoken.text, spoken.reply) or burst or record:
        made.held.append(Held(spoken.turn_id, NOBODY, spoken.reply, why))
        return None
    return _Candidate(rated, spoken.reply, votes, None)


def score(rated: Rated, weights: Weights) -> float:
    """The net votes, each weighing what its rater's record is worth; alone, one's own counts."""
    if not rated.is_group:
        return float(sum(j.vote for j in rated.judgements if j.person == rated.spoken.person))
    return sum(j.vote * weights(j.person) for j in rated.judgements)


def bursts(snapshot: Snapshot, least: int) -> set[int]:
    """The turns that were rated in a chat within an hour in which `least` young accounts rated."""
    chats = defaultdict(list)
    for rated in snapshot.rated:
        for judgement in rated.judgements:
            young = is_young(snapshot, judgement.person, judgement.at)
            chats[rated.chat].append(
                (judgement.at, judgement.person if young else None, rated.spoken.turn_id)
            )
    found: set[int] = set()
    for ratings in chats.values():
        ratings.sort(key=lambda rating: rating[0])
        first = 0
        for last, (at, _, _) in enumerate(ratings):
            while ratings[first][0] < at - _HOUR:
                first += 1
            hour = ratings[first : last + 1]
            if len({person for _, person, _ in hour} - {None}) >= least:
                found.update(turn_id for _, _, turn_id in hour)
    return found


def _folded(
    made: Harvest, candidates: list[_Candidate], authored: Iterable[Row], frozen: Iterable[Row]
) -> Iterator[_Candidate]:
    """The candidates, best first, without those that say what a better one says already.

    What is asked often may be answered in many ways, but once by each person.
    """
    replies, judged_by = Near[int](trigrams, ALIKE), Near[int](trigrams, ALIKE)
    messages: defaultdict[Person, Near[int]] = defaultdict(lambda: Near(trigrams, ALIKE))
    for number, row in enumerate(authored):
        replies.add(row.triple.output, -number)
    for number, row in enumerate(frozen):
        judged_by.add(row.triple.output, -number)
        judged_by.add(row.triple.message, -number)
    for candidate in sorted(candidates, key=lambda c: c.rank, reverse=True):
        spoken = candidate.rated.spoken
        own = messages[spoken.person]
        if judged_by.find(candidate.reply) or judged_by.find(spoken.text):
            made.left["near to a frozen row"] += 1
        elif replies.find(candidate.reply) or own.find(spoken.text):
            made.left["near-duplicate"] += 1
        else:
            replies.add(candidate.reply, spoken.turn_id)
            own.add(spoken.text, spoken.turn_id)
            yield candidate


def _capped(
    made: Harvest, candidates: Iterable[_Candidate], training: TrainingSettings
) -> Iterator[_Candidate]:
    """At most so many rows of a person, and of a chat."""
    people: Counter[Person] = Counter()
    chats: Counter[tuple[str, str]] = Counter()
    for candidate in candidates:
        if any(people[person] >= training.person_rows for person in candidate.people):
            made.left["cap of a person"] += 1
        elif chats[candidate.rated.chat] >= training.chat_rows:
            made.left["cap of a chat"] += 1
        else:
            people.update(candidate.people)
            chats[candidate.rated.chat] += 1
            yield candidate


def _row(
    snapshot: Snapshot, candidate: _Candidate, reason: Callable[[str, str], str | None]
) -> Row:
    rated = candidate.rated
    meta = {
        "turn": rated.spoken.turn_id,
        "platform": rated.spoken.person[0],
        "adapter": rated.adapter,
        "votes": sum(judgement.vote for judgement in rated.judgements),
        "corrected": candidate.correction is not None,
    }
    triple = Triple(
        instruction=rated.spoken.text,
        output=candidate.reply,
        history=history_of(snapshot, rated, reason),
        meta=meta,
    )
    return Row(f"turn:{rated.spoken.turn_id}", triple)


def history_of(
    snapshot: Snapshot, rated: Rated, reason: Callable[[str, str], str | None]
) -> list[tuple[str, str]]:
    """The exchanges before a turn that may be brought along, message and reply, oldest first."""
    return [
        (earlier.text, earlier.reply)
        for earlier in rated.history
        if _may_stand(snapshot, earlier) and reason(earlier.text, earlier.reply) is None
    ]


def _may_stand(snapshot: Snapshot, earlier: Spoken) -> bool:
    """Whether an earlier exchange may be brought along: of somebody who agreed, not the guard's."""
    return (
        earlier.person in snapshot.agreed
        and earlier.turn_id not in snapshot.erased
        and not earlier.guarded
    )
