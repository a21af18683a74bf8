"""Votes and corrections: what a person thinks of a reply."""

from __future__ import annotations

from bot.platforms.base import Incoming
from bot.texts import say
from data.store import Store, Turn
from persona import guard

MAX_CORRECTION = 300
# What is plainly a verdict must never be stored as a better wording.
_GOOD = frozenset(("good", "great", "好", "很好", "真好", "不错", "太好了", "喜欢", "+1"))
_BAD = frozenset(("bad", "不好", "很差", "差", "不行", "不喜欢", "-1"))


async def rate(store: Store, incoming: Incoming, turn: Turn | None, verdict: str, lang: str) -> str:
    """Stores `good`, `bad` or a better wording for a turn; what to tell the person."""
    if turn is None or turn.state != "done":
        return say(lang, "nothing_to_rate")
    verdict = verdict.strip()
    if not verdict:
        return say(lang, "feedback_usage")
    vote, correction, key = _read(verdict)
    if correction is not None and (len(correction) > MAX_CORRECTION or guard.after(correction)):
        return say(lang, "correction_refused", limit=MAX_CORRECTION)
    earlier = await store.rating(turn.id, incoming.platform, incoming.user_id)
    await store.rate(turn.id, incoming.platform, incoming.user_id, vote, correction)
    told = say(lang, key)
    if earlier and (earlier.vote, earlier.correction) != (vote, correction):
        told += say(lang, "rating_replaced")
    return told


def _read(verdict: str) -> tuple[int, str | None, str]:
    word = verdict.casefold().strip(" !！。.~～…")
    if word in _GOOD or not word.strip("👍❤\ufe0f🌹"):
        return 1, None, "rated_good"
    if word in _BAD or not word.strip("👎"):
        return -1, None, "rated_bad"
    return -1, verdict, "rated_correction"
