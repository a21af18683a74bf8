"""python -m trainer: the offline refining job. Without a command, the whole loop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
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
from persona.registry import Registry, RegistryError
from persona.serving import ServingError
from persona.weights import WeightsError
from trainer import desk, nightly, versions
from trainer.alone import TrainingError, is_main, only_trainer
from trainer.config import Settings, read
from trainer.lint import LintError
from trainer.preprocess import DatasetError

Command = Callable[[Settings, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code. A mistake of the owner's is one line on standard error."""
    parsed = _parsed(arguments)
    if parsed.nice:
        nightly.lower_priority()
    mistakes: tuple[type[Exception], ...] = (
        SettingsError, TriplesError, CardError, CheckpointError, EngineError, RegistryError,
        ServingError, WeightsError, ChildError, GuardError, LintError, StoreError,
        StoreUnavailable, DatasetError, TrainingError,
    )  # fmt: skip
    if parsed.run is desk.read_aloud:
        from trainer.reading import ReadingError

        mistakes += (ReadingError,)
    try:
        command: Command = parsed.run
        return command(read(parsed.config, environment()), parsed)
    except nightly.NothingNew as nothing:
        print(f"daiyu: {nothing}", file=sys.stderr)
        return 0
    except mistakes as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        if parsed.run not in (_loop, _train, _gate):
            raise
        return _refuse(f"training needs the package {error.name}, which `make train` installs")
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
    add("list", versions.list_versions, "list the adapter versions")
    show = add("show", versions.show, "show a version's lineage and its gate's verdict")
    show.add_argument("version", nargs="?")
    promote = add("promote", versions.promote, "serve a version, first in a share of the chats")
    promote.add_argument("version")
    promote.add_argument("--force", metavar="REASON", help="in spite of its gate; is recorded")
    promote.add_argument("--whole", action="store_true", help="in all chats, without a trial")
    add("rollback", versions.rollback, "end the trial, or serve what was served before")
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
    with only_trainer(settings.runs):  # from the first row to the last file
        try:
            _train(settings, arguments)
        except nightly.NothingNew as nothing:
            return _catch_up(settings, nothing)
        return _gate(settings, arguments)


def _catch_up(settings: Settings, nothing: nightly.NothingNew) -> int:
    """Serves what passed its gate in an earlier night that did not come to serving it."""
    from trainer.introduce import introduce, passed_over

    registry = _registry(settings)
    if not (settings.training.promote and passed_over(registry, nothing.version)):
        raise nothing
    done = introduce(settings, registry, nothing.version, "the gate passed it", waits=True)
    print(f"daiyu: {done}", file=sys.stderr)
    return 0


def _nights(settings: Settings, arguments: argparse.Namespace) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    command = nightly.trainer_command(arguments.config)
    log = settings.runs / "night.log"
    nightly.each_night(
        arguments.schedule, lambda: nightly.night(command, _registry(settings), log), say
    )
    return 0


# What needs torch is imported late: `list` and `lint` go without, and a second trainer is refused
# at once.


def _train(settings: Settings, arguments: argparse.Namespace) -> int:
    from trainer import loop
    from trainer.conversations import still_allowed, with_conversations
    from trainer.display import Display

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
    from trainer import contest, loop
    from trainer.display import Display
    from trainer.introduce import introduce
    from trainer.publish import prune, publish
    from trainer.run import Run

    if not is_main():
        return 0
    with Display() as display, only_trainer(settings.runs):
        run = Run.unpublished(settings.runs)
        dataset = loop.read_dataset(settings.persona.dialogues, rich=settings.training.rich)
        made = loop.weights(settings, display.report)
        parent = loop.incumbent(settings).version
        verdict, sheet = asyncio.run(contest.gate(settings, dataset, made, run, display.report))
        registry = loop.registry(settings)
        version = publish(run, registry, parent, verdict, sheet)
        if gone := prune(settings.runs, registry, settings.training.keep):
            display.say(gone)
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
