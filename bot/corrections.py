"""What became of corrections, as their authors and the owner are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bot.learned import Learned
from bot.platforms.base import Incoming
from bot.texts import say
from data.corrections import Correction
from data.store import Store

_SHOWN = 10
_WORDS = 30


async def list_of(
    learned: Learned,
    learners: Callable[[list[int]], Awaitable[list[str]]],
    incoming: Incoming,
    lang: str,
) -> str:
    """A person's newest corrections and what became of each.

    In a group those of that group alone: others read along. Raises StoreUnavailable.
    """
    chat_id = incoming.chat_id if incoming.is_group else None
    found = await learned.corrections(incoming.platform, incoming.user_id, chat_id)
    if not found:
        return say(lang, "corrections_none")
    lines = [say(lang, "corrections", count=len(found))]
    for one in found[:_SHOWN]:
        state = say(lang, f"correction_{one.state}", reason=_reason(one, lang))
        versions = await learners([one.turn_id]) if one.usable else []
        if versions:
            state += say(lang, "correction_learned", versions=", ".join(versions))
        lines.append(
            say(
                lang,
                "correction_line",
                wording=_short(one.wording),
                message=_short(one.rated.spoken.text),
                state=state,
            )
        )
    return "\n".join(lines)


async def usage(store: Store, lang: str) -> str:
    """How often corrections stood before replies and how those were rated; empty without any."""
    uses = await store.learning.uses()
    if not uses:
        return ""
    told = say(
        lang,
        "status_corrections",
        times=sum(use.times for use in uses),
        good=sum(use.good for use in uses),
        bad=sum(use.bad for use in uses),
    )
    if flagged := [str(use.turn_id) for use in uses if use.flagged]:
        told += say(lang, "status_flagged", turns=", ".join(flagged))
    return told


def _reason(one: Correction, lang: str) -> str:
    return say(lang, f"reason_{one.reason}") if one.reason else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WORDS else f"{line[:_WORDS]}…"
