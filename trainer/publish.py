"""Publishing: the files of a version, written beside the others and renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from persona.registry import (
    ADAPTER_FILE,
    CONFIG_FILE,
    LINEAGE_FILE,
    Registry,
    RegistryError,
    Version,
)
from trainer.gate import Verdict
from trainer.pairs import paired_turns
from trainer.preprocess import Row, fingerprint
from trainer.run import Run


def dataset_facts(rows: Sequence[Row], shown: Sequence[Row], held: Sequence[Row]) -> dict[str, Any]:
    """What a lineage says of the rows: hash, counts by file, the collected turns that were used,
    and of pairs, where there are any, the turns of both replies, the better one first."""
    files: dict[str, int] = {}
    for row in rows:
        name = row.key.partition(":")[0]
        files[name] = files.get(name, 0) + 1
    pairs = paired_turns(rows)
    turns = [meta["turn"] for row in rows if (meta := row.triple.meta) and "turn" in meta]
    return {
        "hash": fingerprint(rows),
        "rows": len(rows),
        "with_history": sum(bool(row.triple.history) for row in rows),
        "files": files,
        "turns": turns,
        **({"pairs": [list(pair) for pair in pairs.items()]} if pairs else {}),
        "shown": {"hash": fingerprint(shown), "rows": len(shown)},
        "held_out": {"hash": fingerprint(held), "rows": len(held)},
    }


def publish(
    run: Run, registry: Registry, parent: str, verdict: Verdict | None, sheet: str
) -> Version:
    """Makes a run's best adapter a version of the registry. Raises OSError on a full disk.

    `parent` is what it was held against; a version that it was trained on from is it rather.
    """
    now = datetime.now(UTC)
    weights = (run.best / ADAPTER_FILE).read_bytes()
    name = f"{now:%Y%m%dT%H%M%SZ}-{hashlib.sha256(weights).hexdigest()[:8]}"
    goal = registry.folder / name
    part = registry.folder / f"{name}.{os.getpid()}.part"
    for left in registry.folder.glob("*.part"):  # of a trainer that was killed: there is no second
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for file in (ADAPTER_FILE, CONFIG_FILE):
            shutil.copyfile(run.best / file, part / file)
        evaluations = [line for line in run.metrics() if line["kind"] == "evaluation"]
        start = run.facts.get("start")
        lineage = run.facts | {
            "name": name,
            "published": now.isoformat(timespec="seconds"),
            "parent": start["version"] if start else parent,
            "metrics": {"evaluations": evaluations},
            "code": code_version(),
        }
        _write_json(part / LINEAGE_FILE, lineage)
        if verdict is not None:
            _write_json(part / "gate.json", verdict.to_json())
            (part / "samples.md").write_text(sheet, "utf-8")
        run.plot(part / "loss.png")
        (part / "README.md").write_text(model_card(lineage, verdict), "utf-8")
        for written in part.iterdir():
            with written.open("rb") as opened:
                os.fsync(opened.fileno())
        part.rename(goal)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    run.published(name)
    return registry.version(name)


def prune(runs: Path, registry: Registry, keep: int) -> str:
    """Removes runs and versions that are of no more use, see Run and Registry; a line of what was
    removed, or of why it could not be: what was published stands all the same."""
    try:
        old, gone = Run.prune(runs), registry.prune(keep)
    except (OSError, RegistryError) as error:
        return f"earlier runs and versions could not be removed: {error}"
    if not (old or gone):
        return ""
    return f"removed what is of no more use: runs {len(old)}, versions {len(gone)}"


def code_version() -> str:
    """The package's version, and the commit where it runs from a checkout."""
    folder = Path(__file__).parent
    git = shutil.which("git")
    if git:
        command = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return f"{installed('daiyu')}+{found.stdout.strip()}"
    return installed("daiyu")


def model_card(lineage: dict[str, Any], verdict: Verdict | None) -> str:
    """README.md of a version, with the front matter that hubs read."""
    dataset, recipe = lineage["dataset"], lineage["recipe"]
    base = lineage["base"]["name"]
    lines = [
        "---",
        "library_name: peft",
        "license: apache-2.0",
        "language: [zh]",
        *([f"base_model: {base}"] if "/" in base and not base.startswith("/") else []),
        "---",
        "",
        f"# {lineage['name']}",
        "",
        f"A LoRA adapter on `{base}`: {lineage['persona']} for this project's bot.",
        "",
        f"- rows: {dataset['rows']} ({dataset['with_history']} with history), "
        f"hash `{dataset['hash'][:12]}`; {len(dataset['turns'])} of them from rated conversations",
        f"- recipe: rank {recipe['rank']}, alpha {recipe['alpha']}, dropout {recipe['dropout']}, "
        f"rate {recipe['rate']:g}, {recipe['epochs']} epochs at the most, "
        f"{recipe['conversations'] or 'all'} conversations an epoch, {recipe['batch']} a step, "
        f"{recipe['exemplars']} exemplars",
        *_of_pairs(lineage),
        f"- seed {lineage['seed']}, code {lineage['code']}, parent {lineage['parent']}",
        "",
        "![loss](loss.png)",
        "",
        "| epoch | held-out loss, nats a character |",
        "|--:|--:|",
    ]
    lines += [f"| {e['epoch']} | {e['loss']:.3f} |" for e in lineage["metrics"]["evaluations"]]
    if verdict is not None:
        lines += [
            "",
            f"Gate, beside `{verdict.incumbent}`: {'passed' if verdict.passed else 'not passed'}. "
            "Replies side by side: [samples.md](samples.md).",
            "",
            "Nats a character, of which fewer are better:",
            "",
            "| set | rows | candidate | incumbent | difference (95 %) |",
            "|---|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {name} | {d.rows} | {d.candidate:.3f} | {d.incumbent:.3f} "
            f"| {d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f}) |"
            for name, d in verdict.losses.items()
        ]
        if c := verdict.content:
            lines += [
                "",
                f"Of {c.rows} of its own replies {c.candidate:.0%} would content a reader, by "
                f"their wording, of the other's {c.incumbent:.0%}: {c.mean:+.1%} ({c.low:+.1%} to "
                f"{c.high:+.1%}).",
            ]
        lines += ["", *(f"- {reason}" for reason in verdict.reasons)]
    return "\n".join(lines).rstrip() + "\n"


def _of_pairs(lineage: dict[str, Any]) -> list[str]:
    """A line on the pairs that were learned, where there were any."""
    pairs, recipe = lineage["dataset"].get("pairs"), lineage["recipe"]
    if not pairs:
        return []
    return [
        f"- {len(pairs)} down-voted replies beside better ones: weight {recipe['preference']:g}, "
        f"beta {recipe['preference_beta']:g}, reference {lineage['reference']}"
    ]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
