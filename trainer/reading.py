"""Reading sheets: what a version says to fixed messages, for a person to judge.

The sheet goes through the whole service, guard and exemplars included, as people meet her. Messages
and conversations stand in docs/readings/, so that the next version is read on the same ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from data.triples import read_dialogues
from persona.card import read_persona_card
from persona.child import Report
from persona.config import PROFILES
from persona.exemplars import SAME, ExemplarIndex, similarity, trigrams
from persona.guard import AuthoredReplies
from persona.prompt import Exchange, PromptBuilder
from persona.sense import Sense
from persona.service import InferenceService
from persona.serving import Served, budget, load_engine
from persona.weights import Weights
from trainer.config import Settings

_SEED = 7
_AT_ONCE = 4
"""Few enough that each reply is chosen from as many candidates as in a quiet chat."""


class ReadingError(Exception):
    """The messages cannot be read; one line."""


def read_messages(path: Path) -> list[str]:
    """A file of messages, one a line; lines that begin with # are headings. Raises ReadingError."""
    return [line for line in _lines(path) if line]


def read_conversations(path: Path) -> list[list[str]]:
    """A file of conversations, a person's messages one a line, parted by empty lines."""
    conversations: list[list[str]] = [[]]
    for line in _lines(path):
        if line:
            conversations[-1].append(line)
        elif conversations[-1]:
            conversations.append([])
    return [conversation for conversation in conversations if conversation]


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReadingError(f"{path}: {error}") from error
    return [line.strip() for line in lines if not line.startswith("#")]


async def sheet(
    settings: Settings,
    served: Served,
    weights: Weights,
    messages: Sequence[str],
    conversations: Sequence[Sequence[str]],
    report: Report,
) -> str:
    """The sheet as Markdown: every message with the reply, and room for a verdict.

    Raises EngineError, WeightsError, CheckpointError, ServingError.
    """
    engine, tokenizer = await load_engine(served, settings.model, weights, report)
    persona, model = settings.persona, settings.model
    rows = dict(read_dialogues(persona.dialogues))
    exchanges = {
        name: Exchange(row.message, row.output, name)
        for name, row in rows.items()
        if not row.history
    }
    service = InferenceService(
        engine,
        PromptBuilder(tokenizer, read_persona_card(persona.folder), budget(model, persona)),
        ExemplarIndex(list(exchanges.values())),
        AuthoredReplies(persona.folder / "guard.toml", persona.help_lines),
        replace(PROFILES[model.sampling], seed=_SEED),
        exemplar_count=persona.exemplars,
        sense=Sense(reply for row in rows.values() for reply in row.replies),
        candidates=model.candidates,
        version=served.version,
    )
    done = 0
    places = asyncio.Semaphore(_AT_ONCE)

    async def talk(said: Sequence[str]) -> list[tuple[str, str]]:
        nonlocal done
        async with places:
            told = await _talk(service, said, exchanges.get)
        done += 1
        report("read", done / (len(messages) + len(conversations)))
        return told

    try:
        alone = await asyncio.gather(*(talk([message]) for message in messages))
        whole = await asyncio.gather(*(talk(said) for said in conversations))
    finally:
        await service.close()
    return _markdown(served.version, [turns[0] for turns in alone], whole)


async def _talk(
    service: InferenceService, said: Sequence[str], exemplar: Callable[[str], Exchange | None]
) -> list[tuple[str, str]]:
    """A conversation: each message, and her reply with what is to be known of it."""
    history: list[Exchange] = []
    told = []
    for message in said:
        reply = service.reply(message, history)
        async for _ in reply:
            pass
        outcome = reply.outcome
        shown = [found for key in outcome.exemplars if (found := exemplar(key))]
        own = trigrams(outcome.text)
        mark = ""
        if outcome.guarded:
            mark = f" (guard: {outcome.guarded})"
        elif any(similarity(own, trigrams(e.reply)) >= SAME for e in shown):
            mark = " (near-copy)"
        history.append(Exchange(message, outcome.text))
        told.append((message, outcome.text + mark))
    return told


def _markdown(
    version: str,
    alone: Sequence[tuple[str, str]],
    whole: Sequence[Sequence[tuple[str, str]]],
) -> str:
    lines = [f"# Reading sheet: {version}", ""]
    lines += ["| # | message | reply | verdict |", "|--:|---|---|---|"]
    lines += [
        f"| {number} | {_cell(message)} | {_cell(reply)} | |"
        for number, (message, reply) in enumerate(alone, start=1)
    ]
    for number, turns in enumerate(whole, start=1):
        lines += ["", f"## Conversation {number}", ""]
        for message, reply in turns:
            lines += [f"- {_line(message)}", f"  - {_line(reply)}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
