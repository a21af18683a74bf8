"""What people had said, put beside a version's figures: read from the store each time, since a
version, which is never changed, holds none of their words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from trainer.config import Settings
from trainer.judged import Judged, read_judged
from trainer.review import plain_line


def recalled(settings: Settings, report: Mapping[str, Any]) -> list[str]:
    """Lines on the judged turns that a gate's report names, the newest first; none where it names
    none.

    Of words that were erased, or that their people no longer agree to, only the turn is told.
    Raises StoreError, StoreUnavailable, TriplesError.
    """
    people = report.get("people") or {}
    rejected, corrected = (people.get(kind) or {} for kind in ("rejected", "corrected"))
    turns = sorted({*rejected.get("turns", ()), *corrected.get("turns", ())}, reverse=True)
    if not turns:
        return []
    words = {turn.turn_id: turn for turn in asyncio.run(read_judged(settings, turns))}
    # A report from before it held them turn by turn has none.
    near = dict(zip(corrected.get("turns", ()), corrected.get("near", ()), strict=False))
    lines = ["What people had said of earlier replies, as far as it may be shown today:"]
    for turn in turns:
        told = [f"turn {turn}"]
        if turn in rejected.get("turns", ()):
            told.append(_again(turn, rejected))
        if turn in near:
            new, old = near[turn]
            told.append(f"corrected, nearness {new:.2f}, the one before {old:.2f}")
        lines += ["", "; ".join(told), *_words(words.get(turn))]
    return lines


def _again(turn: int, rejected: Mapping[str, Any]) -> str:
    new, old = (turn in rejected.get(side, ()) for side in ("candidate", "incumbent"))
    by = "by both" if new and old else "by it" if new else "by the one before" if old else "by none"
    return f"voted down, said again {by}"


def _words(turn: Judged | None) -> list[str]:
    if turn is None:
        return ["  (no longer kept, or not to be shown)"]
    lines = [f"  said:   {plain_line(turn.message)}"]
    if turn.rejected is not None:
        lines.append(f"  she:    {plain_line(turn.rejected)}")
    if turn.correction is not None:
        lines.append(f"  better: {plain_line(turn.correction)}")
    return lines
