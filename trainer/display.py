"""What a person sees while the trainer works."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trainer.train import Evaluation, Step

_LINE_SECONDS = 30.0


class Display:
    """A live bar at a terminal, a line every half minute elsewhere. Use it as a context manager."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        console = console or Console(stderr=True, highlight=False, quiet=quiet)
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said = 0.0
        self._rate = 0.0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        # No markup: a line that names [training] means it.
        self._console.print(line, soft_wrap=True, markup=False)

    def report(self, step: str, share: float) -> None:
        """How far something other than training is; safe from any thread."""
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=1.0)
            if not self._console.is_terminal:
                self._console.print(f"{step} ...")
        self._bars.update(self._tasks[step], completed=share)

    def watch(self, event: Step | Evaluation) -> None:
        """A step or an evaluation of training."""
        if isinstance(event, Evaluation):
            best = ", the best so far" if event.best else ""
            self.say(f"epoch {event.epoch}: held-out loss {event.loss:.3f} nats a character{best}")
            if (told := event.preferred) is not None:
                self.say(
                    f"  of {told.pairs} pairs the better reply has gained in {told.accuracy:.0%}, "
                    f"by {told.margin:+.2f} nats on average"
                )
            return
        rate = event.tokens / max(event.seconds, 1e-9)
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        line = (
            f"epoch {event.epoch}, step {event.number} of {event.of}: "
            f"loss {event.loss:.3f}, {self._rate:.0f} tokens/s"
        )
        if self._console.is_terminal:
            if "train" not in self._tasks:
                self._tasks["train"] = self._bars.add_task("train", total=1.0)
            share = event.number / event.of
            self._bars.update(self._tasks["train"], description=line, completed=share)
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            left = (event.of - event.number) * event.seconds / 60
            self.say(f"{line}, about {left:.0f} min left")
