"""The commands of a person at a desk: words read, judged, checked and handed on.

They stand beside the loop: none trains, and none moves what is served.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys

from persona.registry import Registry
from persona.serving import Served, to_serve
from persona.weights import Weights
from trainer.config import Settings
from trainer.lint import lint


def write_dataset(settings: Settings, arguments: argparse.Namespace) -> int:
    """Writes the authored rows for other trainers."""
    from data.triples import read_dialogues
    from persona.card import read_persona_card
    from trainer.export import export

    card = read_persona_card(settings.persona.folder)
    triples = [triple for _, triple in read_dialogues(settings.persona.dialogues)]
    for path in export(triples, arguments.folder, card.fill(card.system_prompt)):
        print(path)
    return 0


def read_aloud(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints what a version says to fixed messages."""
    from trainer import reading
    from trainer.display import Display

    messages = reading.read_messages(arguments.messages)
    conversations = reading.read_conversations(arguments.conversations)
    registry = Registry(settings.paths.var / "adapters")
    with Display() as display:
        if arguments.version:
            version = registry.version(arguments.version)
            served = Served(version.name, version.base, version.path, version.base_hash)
        else:
            served = to_serve(settings.model, settings.persona, registry)
        weights = Weights(
            settings.paths.var / "models", list(settings.model.sources), display.report
        )
        sheet = reading.sheet(settings, served, weights, messages, conversations, display.report)
        told = asyncio.run(sheet)
    print(told, end="")
    return 0


def judge_words(settings: Settings, arguments: argparse.Namespace) -> int:
    """Goes with a person through what was put aside, and corrections."""
    from trainer.collect import harvest
    from trainer.review import review
    from trainer.stored import opened, screen

    def ask(question: str) -> str:
        print(question, end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            raise EOFError
        if not sys.stdin.isatty():
            print(line.rstrip("\n"))
        return line

    async def go() -> str:
        async with opened(settings) as store:
            who = arguments.reviewer or getpass.getuser()
            judge = screen(settings)
            # What would be collected tonight: its doubtful part is put aside by that.
            await harvest(store.learning, judge, settings.training, settings.store)
            done = await review(store.learning, judge, ask, print, who)
        return f"approved {done.approved}, rejected {done.rejected}, still waiting {done.left}"

    print(asyncio.run(go()))
    return 0


def check_rows(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints the faults of authored rows."""
    folder = arguments.folder or settings.persona.dialogues
    rows, faults = lint(folder)
    for fault in faults:
        print(fault)
    print(f"{folder}: {rows} rows, {len(faults)} faults")
    return 1 if faults else 0
