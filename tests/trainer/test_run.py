"""A run on disk: whole at every moment, and honest about what it cannot go on with."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from fifty_rows import Configured, fifty, write_rows
from safetensors import SafetensorError

from trainer import run as run_module
from trainer.__main__ import main
from trainer.alone import TrainingError, only_trainer
from trainer.run import Run, _replacing
from trainer.train import Evaluation, Progress, Step

FACTS: dict[str, Any] = {"base": {"name": "small"}, "dataset": {"hash": "0123456789"}}
STEP = Step(1, 9, 1, 2.5, 1e-4, 1.0, 100, 0.1)


class Held:
    """As much of a trainer as a checkpoint needs."""

    def __init__(self, value: float) -> None:
        self.progress = Progress(step=int(value))
        self.optimizer = self
        self.value = torch.full((4,), value)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"0.master": self.value}

    def restore(self, held: dict[str, torch.Tensor]) -> None:
        self.value.copy_(held["0.master"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.begin(tmp_path / "runs", FACTS)


def restored(run: Run) -> float:
    held: Any = Held(0)
    Run(run.folder).restore(held)
    assert held.progress.step == held.value[0]
    return float(held.value[0])


def keep(run: Run, value: float) -> None:
    held: Any = Held(value)
    run.checkpoint(held)


class Killed(BaseException):
    """The process ends here: nothing after it runs."""


@pytest.mark.parametrize("moment", range(8))
def test_checkpoint_is_whole_wherever_its_replacement_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    keep(run, 1)
    moments = 0

    def killing(name: str, module: Any) -> None:
        real = getattr(module, name)

        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal moments
            moments += 1
            if moments > moment:
                raise Killed
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, step)

    for name, module in (
        ("mkdir", Path), ("rename", Path), ("fsync", os), ("save_file", run_module),
        ("rmtree", run_module.shutil), ("replace", Path),
    ):  # fmt: skip
        killing(name, module)
    try:
        keep(run, 2)
    except Killed:
        pass
    finally:
        monkeypatch.undo()
    assert restored(run) in (1.0, 2.0)
    keep(run, 3)
    assert restored(run) == 3.0
    assert {p.name for p in run.folder.iterdir()} <= {"run.json", "checkpoint", "metrics.jsonl"}


def test_kill_between_the_two_renames_loses_nothing(run: Run) -> None:
    keep(run, 1)
    (run.folder / "checkpoint").rename(run.folder / "checkpoint.old")
    assert restored(run) == 1.0
    keep(run, 2)
    assert restored(run) == 2.0


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError('Error while serializing: I/O error: "No space left on device"'),
    ],
)
def test_full_disk_is_one_line_and_the_old_checkpoint_stays(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    keep(run, 1)

    def full(_: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(run_module, "save_file", full)
    with pytest.raises(TrainingError) as refused:
        keep(run, 2)
    line = str(refused.value)
    assert "\n" not in line
    assert str(run.folder / "checkpoint") in line
    assert "No space left on device" in line
    assert "--resume" in line
    assert not (run.folder / "checkpoint.part").exists()
    assert restored(run) == 1.0


@pytest.mark.parametrize("file", ["optimizer.safetensors", "progress.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_damaged_checkpoint_is_one_line(run: Run, file: str, damage: str) -> None:
    keep(run, 1)
    path = run.folder / "checkpoint" / file
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif file == "progress.json":
        path.write_text('{"stepp": 1}')
    else:
        run_module.save_file({"0.master": torch.zeros(3)}, path)
    with pytest.raises(TrainingError) as refused:
        restored(run)
    assert str(run.folder / "checkpoint") in str(refused.value)
    assert "without --resume" in str(refused.value)


def test_run_killed_before_its_first_line_was_written_is_passed_over(run: Run) -> None:
    later = run.folder.with_name("29990101T000000Z-01234567")
    later.mkdir()
    (later / "run.json.part").write_text('{"ba')
    keep(run, 1)
    assert Run.unfinished(run.folder.parent, FACTS).folder == run.folder


def test_damaged_run_is_one_line(run: Run) -> None:
    (run.folder / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json is damaged"):
        Run.unfinished(run.folder.parent, FACTS)


def test_metrics_survive_a_kill_and_a_second_telling(run: Run) -> None:
    keep(run, 0)
    run.note(STEP)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "numb')
    restored(run)
    run.note(Step(2, 9, 1, 2.0, 1e-4, 1.0, 100, 0.1))
    run.note(Step(1, 9, 1, 2.25, 1e-4, 1.0, 100, 0.1))
    run.note(Evaluation(1, 3.5, 0.1, True))
    assert [(m["kind"], m["loss"]) for m in run.metrics()] == [
        ("step", 2.25),
        ("step", 2.0),
        ("evaluation", 3.5),
    ]


@pytest.mark.parametrize("events", [[], [STEP], [STEP, Evaluation(1, 3.5, 0.1, True)]])
def test_plot_is_drawn_from_whatever_was_noted(
    run: Run, events: list[Step | Evaluation], tmp_path: Path
) -> None:
    for event in events:
        run.note(event)
    run.plot(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


SECOND = """
import sys
from pathlib import Path
from trainer.alone import TrainingError, only_trainer
try:
    with only_trainer(Path(sys.argv[1])):
        print("begun")
except TrainingError as error:
    print(error)
"""


def test_second_trainer_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    def second() -> str:
        command = [sys.executable, "-c", SECOND, str(tmp_path / "runs")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with only_trainer(tmp_path / "runs"), only_trainer(tmp_path / "runs"):  # a step in a step
        assert "another trainer is at work" in second()
    assert second() == "begun\n"


def test_failure_inside_a_replacement_leaves_what_was_there(tmp_path: Path) -> None:
    goal = tmp_path / "best"
    with _replacing(goal) as part:
        (part / "file").write_text("old")
    with suppress(KeyError), _replacing(goal) as part:
        (part / "file").write_text("new")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    assert (goal / "file").read_text() == "old"


@pytest.fixture
def cut_off(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Configured:
    """A run of two steps with a checkpoint, stopped as by Ctrl-C."""
    path = configured(checkpoint_seconds=1e-6)
    count = 0

    def interrupt(run: Run, event: Step | Evaluation) -> None:
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "note", interrupt)
        assert main(["--config", str(path), "train"]) == 1
    assert "stopped; `--resume` goes on" in capsys.readouterr().err
    return configured


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, None),
        ({"rate": 1e-3}, "recipe"),
        ({"seed": 5}, "seed"),
        ({"checkpoint_seconds": 9.0, "pack_tokens": 300}, None),
    ],
)
def test_resuming_another_run_is_refused_and_names_what_differs(
    cut_off: Configured,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    named: str | None,
) -> None:
    code = main(["--config", str(cut_off(**changed)), "train", "--resume"])
    told = capsys.readouterr().err
    if named is None:
        assert code == 0
        assert "after step 2" in told
    else:
        assert code == 1
        assert f"was begun with another {named};" in told


@pytest.mark.parametrize("what", ["dataset", "card", "base"])
def test_resuming_with_other_files_is_refused(
    cut_off: Configured, dialogues: Path, tmp_path: Path, qwen: Path, what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    changed = {}
    if what == "dataset":
        write_rows(dialogues / "rows.jsonl", fifty()[:-1])
    elif what == "card":
        card = tmp_path / "persona" / "card.json"
        described = json.loads(card.read_text("utf-8"))
        described["data"]["system_prompt"] = "你是林姑娘。"
        card.write_text(json.dumps(described), "utf-8")
    else:
        other = tmp_path / "other"
        other.mkdir()
        for file in qwen.iterdir():
            if file.name != ".sha256.json":
                (other / file.name).write_bytes(file.read_bytes())
        changed = {"base": str(other)}
    assert main(["--config", str(cut_off(**changed)), "train", "--resume"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"was begun with another {what};" in told


def stood(tmp_path: Path, *published: bool) -> list[Run]:
    """Runs that were trained, one after another, and published or not."""
    runs = []
    for done in published:
        run = Run.begin(tmp_path / "runs", FACTS)
        run.finish()
        if done:
            run.published("a version")
        runs.append(run)
    return runs


def test_published_runs_go_but_for_the_newest_and_others_stay(tmp_path: Path) -> None:
    runs = stood(tmp_path, True, False, True, True, False)
    assert Run.prune(tmp_path / "runs") == [runs[2].folder.name, runs[0].folder.name]
    assert [run.folder.exists() for run in runs] == [False, True, False, True, True]
    assert Run.prune(tmp_path / "runs") == []
    assert Run.prune(tmp_path / "none") == []


def test_killed_while_it_is_removed_a_run_is_none_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = stood(tmp_path, True, True)

    def dying(folder: Path) -> None:
        (folder / "published").unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", dying)
        with pytest.raises(Killed):
            Run.prune(tmp_path / "runs")
    with pytest.raises(TrainingError, match="no trained run"):
        Run.unpublished(tmp_path / "runs")
    assert Run.cut_off(tmp_path / "runs") is None
    assert len(list((tmp_path / "runs").glob("*-*"))) == 2
    Run.prune(tmp_path / "runs")
    assert not first.folder.exists()
    assert len(list((tmp_path / "runs").glob("*-*"))) == 1


def test_resuming_where_there_is_nothing_is_one_line(
    configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(configured()), "train", "--resume"]) == 1
    assert "holds no run to resume" in capsys.readouterr().err
    assert main(["--config", str(configured()), "gate"]) == 1
    assert "holds no trained run" in capsys.readouterr().err


def test_full_disk_on_the_way_is_one_line_and_the_run_goes_on_later(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured(epochs=3)
    real, calls = run_module.save_file, []

    def filling(tensors: Any, file: Path) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise SafetensorError("No space left on device")
        real(tensors, file)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "save_file", filling)
        assert main(["--config", str(path), "train"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("then go on with --resume")
    assert main(["--config", str(path), "train", "--resume"]) == 0
