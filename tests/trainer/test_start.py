"""What a run starts from and compares its pairs with, and what its lineage says of that."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from fifty_rows import Configured
from safetensors.torch import load_file
from village import Village, founded

from persona.registry import Registry, Version
from persona.serving import Served
from persona.weights import Base
from trainer import loop
from trainer.__main__ import main
from trainer.alone import TrainingError
from trainer.config import Recipe
from trainer.model import adapt
from trainer.publish import publish
from trainer.run import Run
from trainer.start import origin, reference_on, to_start_from

RAIN, BAD, GOOD = "今日下雨了", "我不知道你说的什么。", "雨打芭蕉，倒也好听。"


@pytest_asyncio.fixture
async def village(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    (tmp_path / "var").mkdir()
    async with founded(tmp_path / "var" / "daiyu.db", monkeypatch) as made:
        yield made


def train(path: Path, *arguments: str) -> int:
    return main(["--config", str(path), "train", *arguments])


def newest(tmp_path: Path) -> Run:
    *_, folder = sorted((tmp_path / "var" / "training").glob("*-*"))
    return Run(folder)


def serve(tmp_path: Path) -> Version:
    """Publishes the newest run, and has it served."""
    registry = Registry(tmp_path / "var" / "adapters")
    version = publish(newest(tmp_path), registry, "untrained", None, "")
    registry.promote(version, "a test")
    return version


def steps(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.metrics() if line["kind"] == "step"]


# From the adapter in service.


def test_training_goes_on_from_the_adapter_in_service_on_its_base(
    configured: Configured, tmp_path: Path
) -> None:
    assert train(configured(epochs=3, rate=1e-2)) == 0
    fresh = steps(newest(tmp_path))
    parent = serve(tmp_path)
    # Another base in the settings changes nothing: the adapter decides.
    assert train(configured(start="incumbent", base="/nowhere/at/all", rate=1e-3)) == 0
    run = newest(tmp_path)
    assert run.facts["start"] == {"version": parent.name, "turns": []}
    assert run.facts["base"] == parent.lineage["base"]
    assert steps(run)[0]["loss"] < 0.8 * fresh[0]["loss"]
    child = publish(run, Registry(tmp_path / "var" / "adapters"), "what it was beside", None, "")
    assert child.lineage["parent"] == parent.name
    assert f"parent {parent.name}" in (child.path / "README.md").read_text("utf-8")


def test_taken_over_adapter_begins_with_its_weights(
    configured: Configured, tmp_path: Path, qwen: Path
) -> None:
    assert train(configured()) == 0
    best = newest(tmp_path).best
    recipe = Recipe(rank=4, alpha=32, dropout=0.0, rate=1e-3, epochs=1)
    adapted = adapt(qwen, recipe, 9, torch.device("cpu"), start=best)
    held = load_file(best / "adapter_model.safetensors")
    names = [n for n, p in adapted.model.named_parameters() if p.requires_grad]
    assert len(names) == len(held)
    for name, parameter, master in zip(names, adapted.parameters, adapted.masters, strict=True):
        assert torch.equal(parameter, held[name.replace(".default", "")])
        assert torch.equal(master, held[name.replace(".default", "")])
    with pytest.raises(ValueError, match="another rank"):
        adapt(qwen, Recipe(2, 32, 0.0, 1e-3, 1), 9, torch.device("cpu"), start=best)


@pytest.mark.parametrize("changes", [{"rank": 2}, {"lora_alpha": 8}])
def test_adapter_of_another_shape_is_one_line(
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, int],
) -> None:
    assert train(configured()) == 0
    version = serve(tmp_path)
    capsys.readouterr()
    if "lora_alpha" in changes:
        config = version.path / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | changes))
        changes = {}
    assert train(configured(start="incumbent", **changes)) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{version.name} has rank 4, alpha" in told
    assert 'or start = "base"' in told


def test_where_no_adapter_is_in_service_training_starts_from_the_base(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(configured(start="incumbent")) == 0
    assert "no adapter is in service yet" in capsys.readouterr().err
    assert newest(tmp_path).facts["start"] is None


def test_resuming_from_another_start_is_refused(
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert train(configured()) == 0
    serve(tmp_path)
    interrupted(monkeypatch)
    path = configured(start="incumbent", epochs=3, checkpoint_seconds=1e-9)
    assert train(path) == 1
    monkeypatch.undo()
    capsys.readouterr()
    assert train(configured(epochs=3), "--resume") == 1
    assert "was begun with another start;" in capsys.readouterr().err
    assert train(configured(start="incumbent", epochs=3), "--resume") == 0


def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after two steps."""
    note: Callable[..., None] = loop.Run.note
    seen = []

    def noted(run: Run, event: Any) -> None:
        note(run, event)
        seen.append(event)
        if len(seen) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Run, "note", noted)
    monkeypatch.setattr("trainer.model.precision", lambda _: torch.float32)


def put(folder: Path, name: str, **lineage: Any) -> Path:
    """As much of a version as a lineage is."""
    path = folder / name
    path.mkdir(parents=True)
    facts = {"base": {"name": "b", "sha256": "0"}} | lineage
    (path / "lineage.json").write_text(json.dumps(facts), "utf-8")
    return path


def test_what_its_parents_learned_is_in_a_versions_weights(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    put(tmp_path, "1", dataset={"turns": [1, 2], "pairs": [[2, 7]]})
    start = origin(Served("1", "b", tmp_path / "1"))
    assert start == {"version": "1", "turns": [1, 2, 7]}
    put(tmp_path, "2", dataset={"turns": [3], "pairs": []}, start=start)
    put(tmp_path, "3", dataset={"turns": [4]}, start=origin(Served("2", "b", tmp_path / "2")))
    put(tmp_path, "4", dataset={"turns": [4]}, start=None)
    put(tmp_path, "5")

    def names(*turns: int) -> list[str]:
        return [version.name for version in registry.trained_on(turns)]

    assert names(7) == names(1) == ["1", "2", "3"]
    assert names(3) == ["2", "3"]
    assert names(4) == ["3", "4"]
    assert names(5) == []
    assert origin(None) is None


def test_adapter_that_says_nothing_of_itself_has_learned_nothing_known(tmp_path: Path) -> None:
    assert origin(Served("shipped", "b", tmp_path)) == {"version": "shipped", "turns": []}


# What pairs are compared with.


def test_reference_is_never_put_on_another_base(tmp_path: Path) -> None:
    (tmp_path / "base.gguf").write_bytes(b"weights")
    base = Base("here", tmp_path / "base.gguf", "0")
    known = Served("v", "here", tmp_path, "e" * 64)
    assert reference_on(base, known) == Served("untrained", "here", None, "e" * 64)
    brought = Served("shipped", "here", tmp_path)
    assert reference_on(base, brought) == brought
    assert reference_on(base, Served("shipped", "there", tmp_path)).adapter is None


async def pair(village: Village, who: str, message: str = RAIN, better: str = GOOD) -> int:
    """Somebody corrects a reply."""
    bad = await village.say(who, message, BAD)
    await village.rate(who, bad, better=better)
    await village.agree(who)
    return bad


async def test_run_with_pairs_names_them_and_what_they_were_compared_with(
    village: Village, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turn = await pair(village, "甲")
    path = configured(preference=2.0)
    assert await asyncio.to_thread(train, path) == 0
    run = newest(tmp_path)
    assert run.facts["dataset"]["turns"] == [turn]
    assert run.facts["dataset"]["pairs"] == [[turn, turn]]
    assert run.facts["reference"] == "untrained"
    assert run.facts["recipe"]["preference"] == 2.0
    assert list(run.reference() or {}) == [f"turn:{turn}"]
    assert BAD not in "".join(f.read_text("utf-8") for f in run.folder.glob("*.json*"))
    told = capsys.readouterr().err
    assert "1 of them stand beside a reply that was voted down" in told
    line = r"  of 1 pairs the better reply has gained in (0|100)%, by [+-]\d+\.\d\d nats on average"
    assert re.search(f"^{line}$", told, re.MULTILINE)
    version = serve(tmp_path)
    assert "1 down-voted replies" in (version.path / "README.md").read_text("utf-8")
    # The next run compares with it, from wherever it starts.
    assert await asyncio.to_thread(train, path) == 0
    again = newest(tmp_path)
    assert again.facts["reference"] == version.name
    assert again.reference() != run.reference()
    # Started from it, nothing is gained or lost yet.
    path = configured(preference=2.0, start="incumbent", rate=1e-9)
    assert await asyncio.to_thread(train, path) == 0
    run = newest(tmp_path)
    assert run.facts["start"] == {"version": version.name, "turns": [turn]}
    (first,) = [line["preferred"] for line in steps(run) if line["preferred"]]
    assert first["margin"] == pytest.approx(0.0, abs=0.01)


async def test_without_the_setting_down_votes_are_in_no_lineage(
    village: Village, configured: Configured, tmp_path: Path
) -> None:
    await pair(village, "甲")
    assert await asyncio.to_thread(train, configured()) == 0
    run = newest(tmp_path)
    assert run.facts["reference"] is None
    assert "pairs" not in run.facts["dataset"]
    assert "preference" not in run.facts["recipe"]
    assert run.reference() is None
    assert all(line["preferred"] is None for line in run.metrics())


def changed(tmp_path: Path, statement: str) -> None:
    """As a bot does it that runs beside."""
    with closing(sqlite3.connect(tmp_path / "var" / "daiyu.db")) as bot:
        bot.execute(statement)
        bot.commit()


@pytest.mark.parametrize("damaged", [False, True])
async def test_resuming_goes_on_with_the_pairs_it_began_with(
    village: Village,
    configured: Configured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damaged: bool,
) -> None:
    first, second = (
        await pair(village, "甲"),
        await pair(village, "乙", "灯要灭了", "剪一剪便亮了。"),
    )
    path = configured(preference=2.0, epochs=2, checkpoint_seconds=1e-9)
    assert await asyncio.to_thread(train, path) == 0
    unbroken = newest(tmp_path)
    interrupted(monkeypatch)
    assert await asyncio.to_thread(train, path) == 1
    monkeypatch.undo()
    monkeypatch.setattr("trainer.model.precision", lambda _: torch.float32)
    run = newest(tmp_path)
    kept = run.reference()
    if damaged:
        (run.folder / "reference.json").write_text("{")
    # What is voted down meanwhile is for the next run.
    await pair(village, "丙", "墨磨好了么", "砚台里早干了。")
    assert await asyncio.to_thread(train, path, "--resume") == 0
    resumed = newest(tmp_path)
    assert resumed.facts["dataset"]["pairs"] == [[first, first], [second, second]]
    assert resumed.reference() == kept == unbroken.reference()
    for line, expected in zip(resumed.metrics(), unbroken.metrics(), strict=True):
        assert line | {"seconds": 0} == expected | {"seconds": 0}
    a, b = (load_file(r.best / "adapter_model.safetensors") for r in (resumed, unbroken))
    assert all(torch.equal(a[name], b[name]) for name in b)


async def test_resuming_with_a_down_vote_that_was_taken_back_is_refused(
    village: Village,
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turn = await pair(village, "甲")
    path = configured(preference=2.0, epochs=2, checkpoint_seconds=1e-9)
    interrupted(monkeypatch)
    assert await asyncio.to_thread(train, path) == 1
    monkeypatch.undo()
    changed(tmp_path, f"UPDATE ratings SET vote = 1 WHERE turn_id = {turn}")
    capsys.readouterr()
    assert await asyncio.to_thread(train, path, "--resume") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "1 of the conversations that the run learns from may not be learned any more" in told


async def test_down_vote_taken_back_while_the_base_is_fetched_counts(
    village: Village, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await pair(village, "甲")
    fetch = loop.training_base

    def slow(*arguments: Any) -> Any:
        changed(tmp_path, "UPDATE ratings SET vote = 1")
        return fetch(*arguments)

    monkeypatch.setattr(loop, "training_base", slow)
    assert await asyncio.to_thread(train, configured(preference=2.0)) == 0
    facts = newest(tmp_path).facts["dataset"]
    assert facts["turns"] == [turn]
    assert "pairs" not in facts


def test_shapes_are_compared_whatever_their_order(tmp_path: Path) -> None:
    recipe = Recipe(rank=4, alpha=8, dropout=0.0, rate=1e-3, epochs=1)
    layers = ["down_proj", "k_proj", "q_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]
    config = {"r": 4, "lora_alpha": 8, "target_modules": layers}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    served = Served("v", "b", tmp_path)
    assert to_start_from(served, recipe, pytest.fail) == served
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"target_modules": layers[:2]})
    )
    with pytest.raises(TrainingError, match="v has rank 4, alpha 8 on down_proj, k_proj, the rec"):
        to_start_from(served, recipe, pytest.fail)
