"""python -m trainer: the offline refining job. Without a command, the whole loop."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from data.config import SettingsError, environment
from data.database import StoreError
from data.transactions import StoreUnavailable
from data.triples import TriplesError
from persona.card import CardError
from persona.checkpoint import CheckpointError
from persona.child import ChildError
from persona.engines.base import EngineError
from persona.guard import GuardError
from persona.registry import Registry, RegistryError, Version
from persona.serving import Served, ServingError, to_serve
from persona.weights import Weights, WeightsError
from trainer.config import Settings, read
from trainer.lint import LintError, lint

Command = Callable[[Settings, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code. A mistake of the owner's is one line on standard error."""
    parsed = _parser().parse_args(arguments)
    # Imported late, so that `list` and `lint` need no torch: these two live beside it.
    mistakes: tuple[type[Exception], ...] = (
        SettingsError, TriplesError, CardError, CheckpointError, EngineError, RegistryError,
        ServingError, WeightsError, ChildError, GuardError, LintError, StoreError,
        StoreUnavailable,
    )  # fmt: skip
    if parsed.run in (_loop, _train, _gate):
        try:
            from trainer.preprocess import DatasetError
            from trainer.train import TrainingError
        except ImportError as error:
            return _refuse(f"training needs the package {error.name}, which `make train` installs")
        mistakes += (DatasetError, TrainingError)
    if parsed.run is _read:
        from trainer.preprocess import DatasetError
        from trainer.reading import ReadingError

        mistakes += (DatasetError, ReadingError)
    try:
        command: Command = parsed.run
        return command(read(parsed.config, environment()), parsed)
    except mistakes as error:
        return _refuse(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        resumable = parsed.run in (_loop, _train)
        return _refuse("stopped" + "; `--resume` goes on from the last checkpoint" * resumable)


def _refuse(line: str) -> int:
    print(f"daiyu: {line}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.toml"))
    parser.add_argument("--resume", action="store_true", help="go on with the run that was cut off")
    parser.set_defaults(run=_loop)
    commands = parser.add_subparsers(title="commands", metavar="")

    def add(name: str, run: Command, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(run=run)
        return made

    train = add("train", _train, "train an adapter, and neither judge nor publish it")
    train.add_argument("--resume", action="store_true", default=argparse.SUPPRESS)
    add("gate", _gate, "hold the newest trained run against what is served, and publish it")
    add("list", _list, "list the adapter versions")
    show = add("show", _show, "show a version's lineage and its gate's verdict")
    show.add_argument("version", nargs="?")
    promote = add("promote", _promote, "serve a version, first in a share of the chats")
    promote.add_argument("version")
    promote.add_argument("--force", metavar="REASON", help="in spite of its gate; is recorded")
    promote.add_argument("--whole", action="store_true", help="in all chats, without a trial")
    add("rollback", _rollback, "end the trial, or serve what was served before")
    export = add("export", _export, "write the dataset for other trainers")
    export.add_argument("folder", type=Path)
    reading = add("read", _read, "print what a version says to the messages of docs/readings")
    reading.add_argument("version", nargs="?", help="of `list`; without, the one in service")
    reading.add_argument("--messages", type=Path, default=Path("docs/readings/messages.txt"))
    talks = Path("docs/readings/conversations.txt")
    reading.add_argument("--conversations", type=Path, default=talks)
    reviewing = add("review", _review, "judge what was put aside, and corrections")
    reviewing.add_argument("--as", dest="reviewer", metavar="NAME", help="who judges; is recorded")
    linted = add("lint", _lint, "check authored rows")
    linted.add_argument("folder", type=Path, nargs="?")
    return parser


def _loop(settings: Settings, arguments: argparse.Namespace) -> int:
    _train(settings, arguments)
    return _gate(settings, arguments)


def _train(settings: Settings, arguments: argparse.Namespace) -> int:
    from trainer import loop
    from trainer.conversations import still_allowed, with_conversations
    from trainer.display import Display
    from trainer.run import is_main, only_trainer

    with Display(quiet=not is_main()) as display, only_trainer(settings.runs):
        dataset = loop.read_dataset(settings.persona.dialogues, rich=settings.training.rich)
        dataset = with_conversations(settings, dataset, display.say, arguments.resume)
        display.say(f"{len(dataset.rows)} rows, {len(dataset.sets.talk)} to judge by")
        run = loop.train(
            settings,
            dataset,
            loop.weights(settings, display.report),
            resume=arguments.resume,
            watch=display.watch,
            say=display.say,
            recheck=lambda ready: still_allowed(settings, ready, display.say),
        )
        display.say(f"trained: {run.best}")
    return 0


def _gate(settings: Settings, _: argparse.Namespace) -> int:
    """Judges the newest run, publishes it, and where it passed promotes it if it is to."""
    from trainer import loop
    from trainer.display import Display
    from trainer.introduce import introduce
    from trainer.publish import publish
    from trainer.run import Run, is_main, only_trainer

    if not is_main():
        return 0
    with Display() as display, only_trainer(settings.runs):
        run = Run.unpublished(settings.runs)
        dataset = loop.read_dataset(settings.persona.dialogues, rich=settings.training.rich)
        made = loop.weights(settings, display.report)
        parent = loop.incumbent(settings).version
        verdict, sheet = asyncio.run(loop.gate(settings, dataset, made, run, display.report))
        registry = loop.registry(settings)
        version = publish(run, registry, parent, verdict, sheet)
        talk = verdict.losses["talk"]
        display.say(
            f"{version.name}: {talk.candidate:.3f} nats a character, "
            f"{verdict.incumbent} {talk.incumbent:.3f}; "
            f"difference {talk.mean:+.3f} ({talk.low:+.3f} to {talk.high:+.3f})"
        )
        if not verdict.passed:
            for reason in verdict.reasons:
                display.say(f"- {reason}")
            display.say(f"not promoted; read {version.path / 'samples.md'}")
            return 2
        if not settings.training.promote:
            display.say(
                f"passed. Read {version.path / 'samples.md'}; if it reads better, "
                f"`python -m trainer promote {version.name}`"
            )
            return 0
        done = introduce(settings, registry, version, "the gate passed it", waits=True)
        display.say(f"{done}. Read {version.path}")
    return 0


def _registry(settings: Settings) -> Registry:
    return Registry(settings.paths.var / "adapters")


def _list(settings: Settings, _: argparse.Namespace) -> int:
    registry = _registry(settings)
    current = registry.current()
    versions, trial = registry.versions(), registry.trial()
    for version in versions:
        mark = "*" if current and version.name == current.name else " "
        mark = "~" if trial and version.name == trial.version else mark
        rows = version.lineage.get("dataset", {}).get("rows", "?")
        print(f"{mark} {version.name}  {version.base}  {rows} rows  {_judged(version)}")
    if trial:
        print(f"~ is on trial in {trial.share:.0%} of the chats until {_local(trial.ends)}")
    if not versions:
        print("no versions yet; `python -m trainer` makes one")
    return 0


def _judged(version: Version) -> str:
    report = version.gate()
    if report is None:
        return "not judged"
    return "gate passed" if report.get("passed") else "gate not passed"


def _show(settings: Settings, arguments: argparse.Namespace) -> int:
    registry = _registry(settings)
    version = registry.version(arguments.version) if arguments.version else registry.current()
    if version is None:
        raise RegistryError("no version was promoted; name one of `list`")
    print((version.path / "README.md").read_text("utf-8"))
    for promotion in registry.promotions():
        if promotion["version"] == version.name:
            when = _local(datetime.fromisoformat(promotion["at"]))
            forced = ", forced" if promotion["forced"] else ""
            print(f"promoted {when}{forced}: {promotion['reason']}")
    for ended in registry.ended_trials():
        if ended.trial.version == version.name:
            tried = f"on trial from {_local(ended.trial.begun)} to {_local(ended.at)}"
            print(f"{tried}, then {ended.outcome}: {ended.why}")
            for side, counts in ended.figures.items():
                print(f"  {side}: " + ", ".join(f"{key} {n}" for key, n in counts.items()))
    return 0


def _local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


def _promote(settings: Settings, arguments: argparse.Namespace) -> int:
    from trainer.introduce import introduce

    registry = _registry(settings)
    version = registry.version(arguments.version)
    report = version.gate()
    passed = bool(report and report.get("passed"))
    forced = arguments.force is not None
    if forced and not arguments.force.strip():
        raise RegistryError("--force needs a reason, which is recorded")
    if not passed and not forced:
        reasons = "; ".join(report.get("reasons", [])) if report else "it was not judged"
        raise RegistryError(
            f"{version.name} did not pass its gate ({reasons}); "
            'to serve it all the same: --force "<reason>"'
        )
    reason = arguments.force if forced else "by hand"
    if arguments.whole:
        registry.promote(version, reason, forced=forced)
        print(f"{version.name} is served now")
    else:
        print(introduce(settings, registry, version, reason, forced=forced))
    return 0


def _rollback(settings: Settings, _: argparse.Namespace) -> int:
    previous = _registry(settings).rollback()
    print(f"{previous.name if previous else 'the adapter that ships'} is served now")
    return 0


def _export(settings: Settings, arguments: argparse.Namespace) -> int:
    from data.triples import read_dialogues
    from persona.card import read_persona_card
    from trainer.export import export

    card = read_persona_card(settings.persona.folder)
    triples = [triple for _, triple in read_dialogues(settings.persona.dialogues)]
    for path in export(triples, arguments.folder, card.fill(card.system_prompt)):
        print(path)
    return 0


def _read(settings: Settings, arguments: argparse.Namespace) -> int:
    from trainer import reading
    from trainer.display import Display

    messages = reading.read_messages(arguments.messages)
    conversations = reading.read_conversations(arguments.conversations)
    with Display() as display:
        if arguments.version:
            version = _registry(settings).version(arguments.version)
            served = Served(version.name, version.base, version.path, version.base_hash)
        else:
            served = to_serve(settings.model, settings.persona, _registry(settings))
        weights = Weights(
            settings.paths.var / "models", list(settings.model.sources), display.report
        )
        sheet = reading.sheet(settings, served, weights, messages, conversations, display.report)
        told = asyncio.run(sheet)
    print(told, end="")
    return 0


def _review(settings: Settings, arguments: argparse.Namespace) -> int:
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


def _lint(settings: Settings, arguments: argparse.Namespace) -> int:
    folder = arguments.folder or settings.persona.dialogues
    rows, faults = lint(folder)
    for fault in faults:
        print(fault)
    print(f"{folder}: {rows} rows, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    # A closed pipe (`list | head`) is no error.
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)
