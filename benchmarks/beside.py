"""`python -m benchmarks.beside`: a chat on a machine that trains meanwhile, on the CPU, in one run.

The chat is the *turn* workload of `benchmarks.serve` on openvino, one message after the other, so
that it never rests; a process of its own for each row. Beside it `python -m trainer train` trains
on the embedded base, from its first step on, in a folder of its own that is then removed: at low
priority, as at night; the same with one thread fewer than there are cores; at ordinary priority.
The chat's own priority is that of this benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.serve import Result, results_of
from data.config import SettingsError, environment
from trainer.config import read

ROWS = ("alone", "beside, low priority", "beside, low priority, a thread fewer", "beside, ordinary")
PACKAGES = ("openvino-genai", "torch")
PATIENCE = 900.0
"""Seconds until training must have begun."""


@dataclass(slots=True)
class Training:
    """A trainer at work; `metrics` are the lines of its steps so far."""

    process: subprocess.Popen[bytes]
    runs: Path

    def metrics(self) -> list[dict[str, Any]]:
        lines = [
            line
            for path in self.runs.glob("*/metrics.jsonl")
            for line in path.read_text("utf-8").splitlines(keepends=True)
            if line.endswith("\n")  # the last one may be in the making
        ]
        return [step for line in lines if (step := json.loads(line))["kind"] == "step"]


@contextlib.contextmanager
def training(models: Path, nice: bool, threads: int) -> Iterator[Training]:
    """Trains until the context ends; entered once it has made its first step."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(models.resolve())
        env = os.environ | {
            "DAIYU_PATHS__VAR": folder,
            "DAIYU_TRAINING__BASE": "embedded",
            "DAIYU_TRAINING__THREADS": str(threads),
        }
        command = [sys.executable, "-m", "trainer", *(["--nice"] if nice else []), "train"]
        log = Path(folder) / "log"
        with log.open("wb") as said:
            # As nightly.py starts it, and as a service is: in a session of its own.
            process = subprocess.Popen(
                command, env=env, stdout=said, stderr=said, start_new_session=True
            )
        trainer = Training(process, Path(folder) / "training")
        try:
            end = time.monotonic() + PATIENCE
            while not trainer.metrics():
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"daiyu: training did not begin: {log.read_text()[-500:]}")
                time.sleep(0.5)
            yield trainer
        finally:
            process.kill()
            process.wait()


def measured(models: Path, row: str, replies: int) -> tuple[Result, float | None]:
    """A row's figures, and the tokens a second of the training beside."""
    options = ["--chats", "1", "--alone", str(replies)]
    if row == ROWS[0]:
        (result,) = results_of("openvino", "turn", options)
        return result, None
    threads = max(1, (os.cpu_count() or 2) - 1) if row == ROWS[2] else 0
    with training(models, row != ROWS[3], threads) as trainer:
        before = len(trainer.metrics())
        (result,) = results_of("openvino", "turn", options)
        steps = trainer.metrics()[before:]
    seconds = sum(step["seconds"] for step in steps)
    return result, sum(step["tokens"] for step in steps) / seconds if steps else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("--replies", type=int, default=24, help="for each row")
    options = parser.parse_args()
    try:
        models = read(Path("config.toml"), environment()).paths.var / "models"
    except SettingsError as mistake:
        print(f"daiyu: {mistake}", file=sys.stderr)
        return 1
    facts = machine(PACKAGES) | {"niceness": str(os.getpriority(os.PRIO_PROCESS, 0))}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("\n| trainer | first token p50 / p95, s | reply p50, s | chat tok/s | training tok/s |")
    print("|---|--:|--:|--:|--:|", flush=True)
    for row in ROWS:
        result, rate = measured(models, row, options.replies)
        f, trained = result.figures, "" if rate is None else f"{rate:.0f}"
        print(f"| {row} | {f.first_p50:.2f} / {f.first_p95:.2f} | {f.reply_p50:.2f} "
              f"| {f.tokens_per_second:.1f} | {trained} |", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
