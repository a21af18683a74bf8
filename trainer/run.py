"""A training run on disk: what it is, how far it came, its best weights, its figures.

`run.json` says what is trained on what; `metrics.jsonl` has a line a step; `checkpoint/` is
replaced as a whole, so that a run killed at any moment goes on from a checkpoint that is whole;
`best/` holds the adapter of the best evaluation; `reference.json` what pairs are compared with.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer.alone import TrainingError
from trainer.model import Adapted
from trainer.train import Evaluation, Progress, Step, Trainer


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("checkpoint", "best"):
            _settle(folder / name)
        try:
            self.facts: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
        except ValueError as error:
            raise TrainingError(
                f"{folder / 'run.json'} is damaged ({error}); remove {folder}"
            ) from error

    @classmethod
    def begin(cls, runs: Path, facts: dict[str, Any]) -> Run:
        """A new run; `facts` say what is trained on what, and with which recipe."""
        now = datetime.now(UTC)
        folder = runs / f"{now:%Y%m%dT%H%M%S%f}-{facts['dataset']['hash'][:8]}"
        with _writing(folder):
            folder.mkdir(parents=True)
        _write(folder / "run.json", json.dumps(facts | {"begun": now.isoformat()}, indent=2))
        return cls(folder)

    @classmethod
    def unfinished(cls, runs: Path, facts: dict[str, Any]) -> Run:
        """The newest run that was cut off, if it is of the same facts. Raises TrainingError."""
        run = cls.cut_off(runs)
        if run is None:
            raise TrainingError(f"{runs} holds no run to resume; train without --resume")
        differing = [key for key, value in facts.items() if run.facts.get(key) != value]
        if differing:
            raise TrainingError(
                f"{run.folder.name} was begun with another {' and '.join(differing)}; "
                "undo that change, or train anew without --resume"
            )
        return run

    @classmethod
    def cut_off(cls, runs: Path) -> Run | None:
        """The newest run that can be gone on with, if there is one. Raises TrainingError."""
        for folder in _newest_first(runs):
            if not (folder / "run.json").is_file() or (folder / "published").exists():
                continue
            run = cls(folder)
            # Killed before its first checkpoint: nothing to go on from.
            if run.trained or (folder / "checkpoint").is_dir():
                return run
        return None

    @classmethod
    def unpublished(cls, runs: Path) -> Run:
        """The newest run that is trained and not published. Raises TrainingError."""
        for folder in _newest_first(runs):
            if (folder / "trained").exists() and not (folder / "published").exists():
                return cls(folder)
        raise TrainingError(f"{runs} holds no trained run; `python -m trainer train` makes one")

    @staticmethod
    def prune(runs: Path) -> list[str]:
        """Removes the published runs but for the newest one; their names. Raises OSError."""
        for left in runs.glob("*-*.part"):  # of a trainer that was killed: there is no second
            shutil.rmtree(left)
        done = [folder for folder in _newest_first(runs) if (folder / "published").exists()]
        for folder in done[1:]:
            # At once no run any more: half of one could pass for one that is not published.
            shutil.rmtree(folder.rename(f"{folder}.part"))
        return [folder.name for folder in done[1:]]

    @property
    def trained(self) -> bool:
        """Whether training came to its end."""
        return (self.folder / "trained").exists()

    @property
    def best(self) -> Path:
        """The adapter of the best evaluation."""
        return self.folder / "best"

    def note(self, event: Step | Evaluation) -> None:
        """Adds a line to metrics.jsonl."""
        kind = "step" if isinstance(event, Step) else "evaluation"
        path = self.folder / "metrics.jsonl"
        with _writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **asdict(event)}) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, of a step done twice the later one."""
        try:
            text = (self.folder / "metrics.jsonl").read_text("utf-8")
        except FileNotFoundError:
            return []
        lines: dict[tuple[str, int], dict[str, Any]] = {}
        for line in text.splitlines():
            try:
                read = json.loads(line)
            except ValueError:  # the line that a killed run was writing
                continue
            lines[read["kind"], read["number" if read["kind"] == "step" else "epoch"]] = read
        return list(lines.values())

    def keep_best(self, adapted: Adapted) -> None:
        """Makes the present weights the best ones."""
        with _replacing(self.best) as part:
            adapted.save(part, self.facts["base"]["name"])

    def keep_reference(self, kept: Mapping[str, Sequence[float]]) -> None:
        """Keeps the reference's log p of each pair, by the keys of their rows."""
        _write(self.folder / "reference.json", json.dumps(kept))

    def reference(self) -> dict[str, Any] | None:
        """What was kept of the reference; None where that is nothing that can be read."""
        try:
            read = json.loads((self.folder / "reference.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return read if isinstance(read, dict) else None

    def checkpoint(self, trainer: Trainer) -> None:
        """Keeps all that resuming needs, in place of the checkpoint before."""
        with _replacing(self.folder / "checkpoint") as part:
            save_file(trainer.optimizer.tensors(), part / "optimizer.safetensors")
            _write(part / "progress.json", trainer.progress.to_json())

    def restore(self, trainer: Trainer) -> None:
        """Puts a trainer where the last checkpoint stood. Raises TrainingError."""
        folder = self.folder / "checkpoint"
        try:
            held = load_file(folder / "optimizer.safetensors")
            trainer.progress = Progress.from_json((folder / "progress.json").read_text("utf-8"))
            trainer.optimizer.restore(held)
        # RuntimeError: tensors of another shape.
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"{folder} cannot be read ({error!r}); train without --resume"
            ) from error
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n")  # ends the line that a killed run was writing

    def finish(self) -> None:
        """Marks it as trained; its checkpoint is of no more use."""
        _write(self.folder / "trained", "")
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)

    def published(self, version: str) -> None:
        """Marks it as done: there is a version of it."""
        _write(self.folder / "published", version)

    def plot(self, path: Path) -> None:
        """Draws the loss of steps and evaluations as a PNG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        lines = self.metrics()
        steps = [line for line in lines if line["kind"] == "step"]
        evaluations = [line for line in lines if line["kind"] == "evaluation"]
        figure, left = pyplot.subplots(figsize=(7, 4), dpi=100)
        losses = [line["loss"] for line in steps]
        left.plot([s["number"] for s in steps], losses, color="0.8", linewidth=0.8)
        left.plot([s["number"] for s in steps], _smoothed(losses), color="tab:blue")
        left.set_xlabel("step")
        left.set_ylabel("training loss, nats a token", color="tab:blue")
        if evaluations:
            last = {s["epoch"]: s["number"] for s in steps}
            right = left.twinx()
            right.plot(
                [last.get(e["epoch"], 0) for e in evaluations],
                [e["loss"] for e in evaluations],
                color="tab:red",
                marker="o",
            )
            right.set_ylabel("held-out loss, nats a character", color="tab:red")
        figure.tight_layout()
        figure.savefig(path, metadata={"Software": None})
        pyplot.close(figure)


def _newest_first(runs: Path) -> list[Path]:
    return sorted((run for run in runs.glob("*-*") if run.suffix != ".part"), reverse=True)


def _smoothed(values: list[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smoothed, average = [], 0.0
    for number, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**number))
    return smoothed


def _write(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with _writing(path):
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Makes one line of a disk that is full. Raises TrainingError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise TrainingError(
            f"{path} cannot be written ({reason}); free some space, then go on with --resume"
        ) from error


def _settle(goal: Path) -> None:
    """Undoes a replacement that was killed between its two renames."""
    old = goal.with_name(f"{goal.name}.old")
    if not goal.exists() and old.exists():
        old.rename(goal)


@contextmanager
def _replacing(goal: Path) -> Iterator[Path]:
    """A folder to fill that then takes the place of `goal`; killed at any moment, one of the two
    is there whole."""
    part, old = goal.with_name(f"{goal.name}.part"), goal.with_name(f"{goal.name}.old")
    _settle(goal)
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with _writing(goal):
            part.mkdir()
            yield part
            for file in part.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            if goal.exists():
                goal.rename(old)
            part.rename(goal)
    finally:
        _settle(goal)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
