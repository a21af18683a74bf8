"""`python -m benchmarks.train`: training beside the first recipe's loop and TRL, in one run.

On the CPU, the embedded base, the authored rows; each contender for as many seconds in a process of
its own, one after the other, with the same adapter (rank 8, alpha 16, no dropout) and eight
conversations a step. *seed*: the first recipe's loop: float32, padded batches without exemplars,
logits of every position, SGD made anew at each step, one fixed order. Its labels did not fit its
inputs; that is mended, or there would be nothing to compare. *ours, seed's configuration*: our loop
on those conversations in float32. *ours*: our loop as it trains by itself. *trl*: TRL's SFTTrainer
on the conversations of *ours*, in its precision, packed.

Tokens are those of whole conversations, each counted once: no padding, and what a pack shares too.
The held-out loss is that of one reply behind the prompt that the bot would send, for all alike; the
clock stands still while it is taken.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.machine import machine, peak_bytes
from data.config import SettingsError, environment
from data.triples import TriplesError
from persona.card import CardError
from persona.weights import EMBEDDED, Weights, WeightsError
from trainer.config import RECIPES, Recipe, Settings, read
from trainer.preprocess import DatasetError

LABELS = {
    "seed": "seed",
    "ours-as-seed": "ours, seed's configuration",
    "ours": "ours",
    "trl": "trl",
}
GOALS = (
    ("ours-as-seed", "seed", "tokens/s", "at least 2.5"),
    ("ours-as-seed", "seed", "memory", "at most 0.4"),
    ("ours", "trl", "tokens/s", "at least 1.0"),
)
PACKAGES = ("torch", "transformers", "peft", "trl")


@dataclass(frozen=True, slots=True)
class Result:
    """A contender's figures. `curve` is (seconds of training, held-out nats a character).

    `peak_gb` is the most memory (RSS, 10^9 bytes) of its process, loading too.
    """

    contender: str
    steps: int
    seconds: float
    tokens: int
    targets: int
    peak_gb: float
    curve: list[tuple[float, float]]

    def measure(self, name: str) -> float:
        return self.tokens / self.seconds if name == "tokens/s" else self.peak_gb


def recipe_of(contender: str) -> Recipe:
    """How it trains: by its own recipe, but with the adapter that all have."""
    recipe = RECIPES["seed" if contender in ("seed", "ours-as-seed") else "daiyu"]
    return replace(recipe, rank=8, alpha=16, dropout=0.0, batch=8)


def child(contender: str, seconds: float, held: int) -> None:
    """Trains one contender; writes its result, a JSON object on a line."""
    from benchmarks import contenders
    from trainer.alone import TrainingError
    from trainer.loop import preprocessor_for, read_dataset

    ways: dict[str, Callable[[contenders.Task, contenders.Meter], None]] = {
        "seed": contenders.seed,
        "ours-as-seed": contenders.ours_in_float32,
        "ours": contenders.ours,
        "trl": contenders.trl,
    }
    settings = read(Path("config.toml"), environment())
    folder, recipe = base_folder(settings), recipe_of(contender)
    dataset = read_dataset(settings.persona.dialogues, rich=settings.training.rich)
    rows = dataset.sets.talk[:: max(1, len(dataset.sets.talk) // held)][:held]
    learner = preprocessor_for(settings, folder, dataset.rows, recipe.exemplars)
    judge = preprocessor_for(settings, folder, dataset.rows, settings.persona.exemplars)
    meter = contenders.Meter(
        seconds,
        contenders.Held(judge.evaluation(rows), sum(len(row.triple.output) for row in rows)),
        lambda line: print(f"{LABELS[contender]}, {line}", file=sys.stderr, flush=True),
    )
    epochs = [learner.epoch(number, recipe.bare) for number in range(recipe.epochs)]
    try:
        ways[contender](contenders.Task(folder, recipe, epochs), meter)
    except TrainingError as error:
        raise SystemExit(f"daiyu: {error}") from error
    result = Result(
        contender,
        meter.steps,
        meter.seconds,
        meter.tokens,
        meter.targets,
        peak_bytes() / 1e9,
        meter.curve,
    )
    print(json.dumps(asdict(result)), flush=True)


def base_folder(settings: Settings) -> Path:
    """The embedded base, fetched and converted if it is absent. Raises WeightsError."""
    told: set[str] = set()

    def report(step: str, _: float) -> None:
        if step not in told:
            told.add(step)
            print(f"{step} ...", file=sys.stderr)

    weights = Weights(settings.paths.var / "models", list(settings.model.sources), report)
    return weights.for_transformers(weights.base(EMBEDDED))


def result_of(contender: str, options: list[str]) -> Result | None:
    """Runs `child` in a process and reads what it writes; None where it failed."""
    command = [sys.executable, "-m", "benchmarks.train", "--child", contender, *options]
    print(f"{LABELS[contender]} ...", file=sys.stderr)
    result = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"contender"'):  # what libraries print is passed over
                result = Result(**json.loads(line))
    if process.returncode:
        print(f"{LABELS[contender]} ended with code {process.returncode}", file=sys.stderr)
    return result


def show(results: dict[str, Result]) -> None:
    """Prints the table, in Markdown, and the ratios that are aimed at."""
    print("\n| contender | steps | seconds | tokens/s | targets/s | peak GB "
          "| held-out loss, nats a character |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, r in results.items():
        print(f"| {LABELS[name]} | {r.steps} | {r.seconds:.0f} | {r.tokens / r.seconds:.1f} "
              f"| {r.targets / r.seconds:.1f} | {r.peak_gb:.2f} "
              f"| {r.curve[0][1]:.3f} → {r.curve[-1][1]:.3f} |")  # fmt: skip
    for one, other, what, goal in GOALS:
        if one in results and other in results:
            ratio = results[one].measure(what) / results[other].measure(what)
            print(f"\n{LABELS[one]} against {LABELS[other]}, {what}: ×{ratio:.2f} ({goal})")


def plot(results: dict[str, Result], path: Path) -> None:
    """Draws the held-out loss over the time of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=100)
    for name, result in results.items():
        axes.plot(*zip(*result.curve, strict=True), marker="o", markersize=3, label=LABELS[name])
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("held-out loss, nats a character")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--seconds", type=_positive, default=240, help="of training, for each")
    parser.add_argument("--held", type=_positive, default=24, help="rows of the held-out loss")
    parser.add_argument("--contenders", nargs="+", choices=list(LABELS), default=list(LABELS))
    parser.add_argument("--plot", type=Path, default=Path("docs/training.png"), metavar="FILE")
    parser.add_argument("--child", choices=list(LABELS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)  # which argparse tells
    return value


def main() -> int:
    options = parse()
    try:
        if options.child:
            child(options.child, options.seconds, options.held)
            return 0
        base_folder(read(Path("config.toml"), environment()))
    except (SettingsError, WeightsError, TriplesError, CardError, DatasetError) as mistake:
        return _refuse(str(mistake))
    except ImportError as error:
        return _refuse(f"training needs the package {error.name}, which `make bench` installs")
    except OSError as error:
        return _refuse(f"{error.filename or ''}: {error.strerror or error}")
    facts = machine(PACKAGES)
    chosen = list(dict.fromkeys(options.contenders))
    if "trl" in chosen and importlib.util.find_spec("trl") is None:
        print("trl is left out: it is not installed (`make bench` installs it)", file=sys.stderr)
        chosen.remove("trl")
    passed = ["--seconds", str(options.seconds), "--held", str(options.held)]
    results = {name: found for name in chosen if (found := result_of(name, passed))}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if results:
        show(results)
        try:
            plot(results, options.plot)
        except OSError as error:
            return _refuse(f"{options.plot} cannot be written ({error.strerror}); set --plot")
    return 0 if len(results) == len(chosen) else 1


def _refuse(line: str) -> int:
    print(f"daiyu: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
