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
    page: int = 1,
) -> str:
    """A person's corrections, newest first, and what became of each; `page` begins with 1.

    Where others read along, those of that chat alone. Raises StoreUnavailable.
    """
    chat_id = incoming.chat_id if incoming.in_public else None
    found = await learned.corrections(incoming.platform, incoming.user_id, chat_id)
    if not found:
        return say(lang, "corrections_none")
    lines = [say(lang, "corrections", count=len(found))]
    page = min(max(page, 1), -(-len(found) // _SHOWN))
    for one in found[(page - 1) * _SHOWN : page * _SHOWN]:
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
    if (left := len(found) - page * _SHOWN) > 0:
        lines.append(say(lang, "corrections_more", left=left, page=page + 1))
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
