"""Votes and corrections: what a person thinks of a reply, and whether it may be learned from."""

from __future__ import annotations

from bot.learned import Learned
from bot.platforms.base import Choice, Choices, Incoming, Said
from bot.texts import say
from data.messages import Turn
from data.store import Store
from persona import guard

MAX_CORRECTION = 300
# What is plainly a verdict must never be stored as a better wording.
_GOOD = frozenset(("good", "great", "好", "很好", "真好", "不错", "太好了", "喜欢", "+1"))
_NONE = frozenset(("none", "cancel", "撤回", "取消", "算了"))
_BAD = frozenset(("bad", "不好", "很差", "差", "不行", "不喜欢", "-1"))
_TAKEN_BACK = {"none good": 1, "none bad": -1}
"""Where a platform tells which of a person's reactions is gone, and not what is left."""


RATING: Choices = (
    (
        Choice("👍", "/feedback good"),
        Choice("👎", "/feedback bad"),
        Choice("✍️", "/feedback"),
        Choice("↻", "/retry"),
    ),
)
"""The buttons under her last reply."""


def consent_choices(lang: str) -> Choices:
    return (
        (Choice(say(lang, "agree"), "/privacy yes"), Choice(say(lang, "refuse"), "/privacy no")),
    )


async def rate(
    store: Store, learned: Learned, incoming: Incoming, turn: Turn | None, verdict: str, lang: str
) -> Said:
    """Stores `good`, `bad`, a better wording or its taking back; what to tell the person.

    Raises StoreUnavailable.
    """
    if turn is None or turn.state != "done":
        if incoming.in_place == "reaction":  # to something else that stands there
            return Said("", hers=False)
        return _told(lang, "nothing_to_rate")
    if not incoming.user_id:
        return _told(lang, "no_vote")
    verdict = verdict.strip()
    if not verdict:
        return _told(lang, "feedback_usage")
    earlier = await store.rating(turn.id, incoming.platform, incoming.user_id)
    taken_back = _TAKEN_BACK.get(verdict)
    if taken_back is not None and (earlier is None or earlier.vote != taken_back):
        return Said("", hers=False)  # another vote has taken its place
    if taken_back is not None or verdict.casefold() in _NONE:
        # Taking a reaction back says nothing about words that were written.
        if earlier and not (incoming.in_place and earlier.correction):
            await store.unrate(turn.id, incoming.platform, incoming.user_id)
            await learned.refresh()
        return _told(lang, "rating_cancelled")
    vote, correction, key = _read(verdict)
    if correction is not None and (len(correction) > MAX_CORRECTION or guard.after(correction)):
        return _told(lang, "correction_refused", limit=MAX_CORRECTION)
    await store.rate(turn.id, incoming.platform, incoming.user_id, vote, correction)
    if correction is not None and (reason := learned.reason(turn.text, correction)):
        person = (incoming.platform, incoming.user_id)
        await store.learning.hold(turn.id, person, correction, reason)
        key = "correction_waits"
    if correction is not None or (earlier and earlier.correction is not None):
        await learned.refresh()
    told = say(lang, key)
    if earlier and (earlier.vote, earlier.correction) != (vote, correction):
        told += say(lang, "rating_replaced")
    elif not earlier and await _first(store, incoming):
        return _with_question(incoming, told, lang)
    return Said(told, hers=False)


async def _first(store: Store, incoming: Incoming) -> bool:
    """Whether it was this person's first rating, and they were never asked."""
    if await store.people.agreed(incoming.platform, incoming.user_id) is not None:
        return False
    return (await store.people.kept(incoming.platform, incoming.user_id)).ratings == 1


def _with_question(incoming: Incoming, told: str, lang: str) -> Said:
    choices = None
    if not incoming.in_public:  # there, others would see the buttons too
        stay = incoming.in_place == "button" and not incoming.alone
        choices = (*(RATING if stay else ()), *consent_choices(lang))
    return Said(f"{told}\n{say(lang, 'consent')}", hers=False, choices=choices)


def _told(lang: str, key: str, **fields: object) -> Said:
    return Said(say(lang, key, **fields), hers=False)


def _read(verdict: str) -> tuple[int, str | None, str]:
    word = verdict.casefold().strip(" !！。.~～…")
    if word in _GOOD or not word.strip("👍❤\ufe0f🌹"):
        return 1, None, "rated_good"
    if word in _BAD or not word.strip("👎"):
        return -1, None, "rated_bad"
    return -1, verdict, "rated_correction"
