"""python -m trainer: the offline refining job. Without a command, the whole loop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
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
from persona.serving import ServingError
from persona.weights import WeightsError
from trainer import desk, nightly
from trainer.config import Settings, read
from trainer.lint import LintError

Command = Callable[[Settings, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code. A mistake of the owner's is one line on standard error."""
    parsed = _parsed(arguments)
    if parsed.nice:
        nightly.lower_priority()
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
    if parsed.run is desk.read_aloud:
        from trainer.preprocess import DatasetError
        from trainer.reading import ReadingError

        mistakes += (DatasetError, ReadingError)
    try:
        command: Command = parsed.run
        return command(read(parsed.config, environment()), parsed)
    except nightly.NothingNew as nothing:
        print(f"daiyu: {nothing}", file=sys.stderr)
        return 0
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


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.schedule is not None:
        if parsed.run is not _loop or parsed.resume:
            parser.error("--schedule runs the whole loop, from its beginning")
        parsed.run = _nights
    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.toml"))
    parser.add_argument("--resume", action="store_true", help="go on with the run that was cut off")
    parser.add_argument(
        "--schedule", type=nightly.time_of_day, metavar="HH:MM", help="each day at this local time"
    )
    parser.add_argument("--nice", action="store_true", help="yield the processor to all others")
    parser.add_argument("--if-new", action="store_true", help="only if there is news to learn")
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
    promote = add("promote", _promote, "serve a version")
    promote.add_argument("version")
    promote.add_argument("--force", metavar="REASON", help="in spite of its gate; is recorded")
    add("rollback", _rollback, "serve what was served before")
    export = add("export", desk.write_dataset, "write the dataset for other trainers")
    export.add_argument("folder", type=Path)
    reading = add(
        "read", desk.read_aloud, "print what a version says to the messages of docs/readings"
    )
    reading.add_argument("version", nargs="?", help="of `list`; without, the one in service")
    reading.add_argument("--messages", type=Path, default=Path("docs/readings/messages.txt"))
    talks = Path("docs/readings/conversations.txt")
    reading.add_argument("--conversations", type=Path, default=talks)
    reviewing = add("review", desk.judge_words, "judge what was put aside, and corrections")
    reviewing.add_argument("--as", dest="reviewer", metavar="NAME", help="who judges; is recorded")
    linted = add("lint", desk.check_rows, "check authored rows")
    linted.add_argument("folder", type=Path, nargs="?")
    return parser


def _loop(settings: Settings, arguments: argparse.Namespace) -> int:
    from trainer.run import only_trainer

    with only_trainer(settings.runs):  # from the first row to the last file
        _train(settings, arguments)
        return _gate(settings, arguments)


def _nights(settings: Settings, arguments: argparse.Namespace) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    command = nightly.trainer_command(arguments.config)
    log = settings.runs / "night.log"
    nightly.each_night(
        arguments.schedule, lambda: nightly.night(command, _registry(settings), log), say
    )
    return 0


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
            consider=nightly.only_news(_registry(settings), loop.incumbent(settings))
            if arguments.if_new
            else lambda _: None,
        )
        display.say(f"trained: {run.best}")
    return 0


def _gate(settings: Settings, _: argparse.Namespace) -> int:
    """Judges the newest run, publishes it, and where it passed promotes it if it is to."""
    from trainer import loop
    from trainer.display import Display
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
        registry.promote(version, "the gate passed it")
        display.say(f"promoted; a running bot takes it over by itself. Read {version.path}")
    return 0


def _registry(settings: Settings) -> Registry:
    return Registry(settings.paths.var / "adapters")


def _list(settings: Settings, _: argparse.Namespace) -> int:
    registry = _registry(settings)
    current = registry.current()
    versions = registry.versions()
    for version in versions:
        mark = "*" if current and version.name == current.name else " "
        rows = version.lineage.get("dataset", {}).get("rows", "?")
        print(f"{mark} {version.name}  {version.base}  {rows} rows  {_judged(version)}")
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
            when = datetime.fromisoformat(promotion["at"]).astimezone()
            forced = ", forced" if promotion["forced"] else ""
            print(f"promoted {when:%Y-%m-%d %H:%M}{forced}: {promotion['reason']}")
    return 0


def _promote(settings: Settings, arguments: argparse.Namespace) -> int:
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
    registry.promote(version, arguments.force if forced else "by hand", forced=forced)
    print(f"{version.name} is served now")
    return 0


def _rollback(settings: Settings, _: argparse.Namespace) -> int:
    previous = _registry(settings).rollback()
    print(f"{previous.name if previous else 'the adapter that ships'} is served now")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service that is stopped
    # A closed pipe (`list | head`) is no error.
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)
