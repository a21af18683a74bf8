"""Pairs: the replies that people voted down, each beside the better one that is learned.

The better one is a collected row, an approved or screened correction or a reply that was voted up:
all the rules of collecting have passed it. The worse one is only ever moved away from, so that it
needs no screen; but it was said to somebody, who must have agreed to that too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from data.learning import Rated, Snapshot
from trainer.preprocess import Rejected, Row


def with_rejected(
    snapshot: Snapshot,
    rows: Iterable[Row],
    may: Callable[[Rated], bool],
    score: Callable[[Rated], float],
    least: float,
    begun: Mapping[int, int] | None = None,
) -> list[Row]:
    """The rows, each with the worst answer that its message had beside it, where one was voted
    down.

    `may` says whether a turn may be used at all, `score` gives its net votes: `least` of them
    against it are needed in a group, in a private chat its person's own. Where a run goes on,
    `begun` gives the rejected turn that each row's turn was paired with then; no other will do.
    """
    answers: defaultdict[int, list[Rated]] = defaultdict(list)
    message_of: dict[int, int] = {}
    for rated in snapshot.rated:
        message_of[rated.spoken.turn_id] = rated.message
        if score(rated) <= (-least if rated.is_group else -1.0) and may(rated):
            answers[rated.message].append(rated)

    def paired(row: Row) -> Row:
        turn = int((row.triple.meta or {})["turn"])
        worse = [
            rated
            for rated in answers[message_of[turn]]
            if rated.spoken.reply.strip() not in ("", row.triple.output.strip())
            and (begun is None or begun.get(turn) == rated.spoken.turn_id)
        ]
        if not worse:
            return row
        # One for each row, so that nobody gains weight by asking again: what was corrected itself,
        # else what most are against; then the newest.
        worst = max(
            worse, key=lambda r: (r.spoken.turn_id == turn, -score(r), r.spoken.turn_id)
        ).spoken
        return replace(row, rejected=Rejected(worst.turn_id, worst.reply))

    return [paired(row) for row in rows]


def paired_turns(rows: Iterable[Row]) -> dict[int, int]:
    """The turns of the pairs: that of the row, and that of the reply it is better than."""
    return {
        int((row.triple.meta or {})["turn"]): row.rejected.turn_id
        for row in rows
        if row.rejected is not None
    }
