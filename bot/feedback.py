"""Votes and corrections: what a person thinks of a reply, and whether it may be learned from."""

from __future__ import annotations

import re
from collections.abc import Callable

from bot.learned import Learned
from bot.platforms.base import Choice, Choices, Incoming, Said
from bot.texts import say
from data.messages import Turn
from data.store import Store
from persona import guard

MAX_CORRECTION = 300
# What is plainly a verdict must never be stored as a better wording.
_IT = r"(?:她|这|那|这句话?|那句话?|这话|上一?句)"
_OF = rf"(?:(?:{_IT}|你|我)*(?:觉得|写|说|答|讲|回答?|回复)(?:得|的)?|{_IT}|我(?=不?喜欢))?"
# Of one way only to read each piece: with two, a long row of 真是 would take for ever.
_VERY = r"(?:真|很|太|挺|蛮|还|非常|特别|有点儿?|不大|不太|不怎么|不够|实在|都?是)*"
_END = r"(?:了|啊|呀|吧|呢|的|极了|得很)*"
_GOOD = re.compile(
    rf"{_OF}(?!.*不[大太怎够]){_VERY}(?:好|不错|不赖|妙|棒|赞|喜欢|满意|可以|精彩|有意思|像她|对){_END}"
    r"|(?:very )?(?:good|great|nice|perfect|well said|i? ?(?:like|love) (?:it|this))|ok(?:ay)?|\+1"
)
_NONE = frozenset(("none", "cancel", "撤回", "取消", "算了"))
_BAD = re.compile(
    rf"{_OF}{_VERY}(?:差|差劲|坏|糟|糟糕|烂|难听|无聊|没意思|啰嗦|一般|跑题|答非所问|文不对题"
    rf"|太长|太短|[不没](?:太|大|怎么|够)?(?:好|行|对|像|像她|通|喜欢|满意|可以|有意思|懂)){_END}"
    r"|(?:very |too |so )?(?:bad|awful|terrible|wrong|poor|boring|long|short)|not (?:very )?good"
    r"|i? ?(?:don't|do not) like (?:it|this)|-1"
)
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


def question_for_all(lang: str) -> Choices:
    """The question where others see it too: it names nobody, and whoever answers does so for
    themselves, unseen. The first button tells the whole of it."""
    return ((Choice(say(lang, "consent_short"), "/privacy ask"),), *consent_choices(lang))


async def standing_choices(store: Store, turn: Turn, message_id: str | None) -> Choices:
    """What stands under a message of a reply when nothing is asked there."""
    return RATING if message_id == await store.messages.last_reply(turn.id) else ()


async def rate(
    store: Store,
    learned: Learned,
    asked: set[tuple[str, str]],
    incoming: Incoming,
    turn: Turn | None,
    verdict: str,
    lang: str,
    noted: Callable[[str], None],
) -> Said:
    """Stores `good`, `bad`, a better wording or its taking back; what to tell the person.

    `asked` are the people who were asked, in this process, whether they may be learned from;
    `noted` hears what became of it, as a key of the texts.
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
            noted("rating_cancelled")
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
    noted(key)
    told = say(lang, key)
    if earlier and (earlier.vote, earlier.correction) != (vote, correction):
        told += say(lang, "rating_replaced")
    elif (not earlier or incoming.again) and await _first(store, asked, incoming):
        asked.add((incoming.platform, incoming.user_id))
        choices = await _question(store, incoming, turn, lang)
        return Said(f"{told}\n{say(lang, 'consent')}", hers=False, choices=choices)
    return Said(told, hers=False)


async def _first(store: Store, asked: set[tuple[str, str]], incoming: Incoming) -> bool:
    """Whether it was this person's first rating, and they were never asked."""
    person = (incoming.platform, incoming.user_id)
    if person in asked or await store.people.agreed(*person) is not None:
        return False
    return (await store.people.kept(*person)).ratings == 1


async def _question(store: Store, incoming: Incoming, turn: Turn, lang: str) -> Choices | None:
    """The buttons that ask; in a group under what was rated, and no message names the rater."""
    if not incoming.in_public:
        stay = incoming.in_place == "button" and not incoming.alone
        return (*(RATING if stay else ()), *consent_choices(lang))
    if not incoming.in_place:  # the answer is a message of its own, and anybody could press there
        return None
    standing = await standing_choices(store, turn, incoming.reply_to)
    return (*standing, *question_for_all(lang))


def _told(lang: str, key: str, **fields: object) -> Said:
    return Said(say(lang, key, **fields), hers=False)


def _read(verdict: str) -> tuple[int, str | None, str]:
    word = verdict.casefold().strip(" !！。.~～…")
    if _GOOD.fullmatch(word) or not word.strip("👍❤\ufe0f🌹"):
        return 1, None, "rated_good"
    if _BAD.fullmatch(word) or not word.strip("👎"):
        return -1, None, "rated_bad"
    return -1, verdict, "rated_correction"
