"""What the first start is busy with, shown on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_STEPS = {
    "zh": {
        "download": "取模型", "verify": "核对", "convert": "转换", "build": "编译", "load": "载入",
    },
    "en": {
        "download": "download", "verify": "verify", "convert": "convert", "build": "build",
        "load": "load",
    },
}  # fmt: skip


class StartProgress:
    """A bar a step at a terminal, a line a step elsewhere. Use it as a context manager."""

    def __init__(self, lang: str, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._steps = _STEPS[lang]
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> StartProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, step: str, share: float) -> None:
        """Reports a step; safe from any thread."""
        if step not in self._tasks:
            name = self._steps.get(step, step)
            self._tasks[step] = self._bars.add_task(name, total=1.0)
            if not self._console.is_terminal:
                self._console.print(f"{name} …")
        self._bars.update(self._tasks[step], completed=share)
