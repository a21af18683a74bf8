"""The command line: a mistake is one line, and what needs no torch runs without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fifty_rows import Configured, write_rows
from rich.console import Console

from trainer.__main__ import main
from trainer.display import Display
from trainer.train import Evaluation, Step

REPO = Path(__file__).parents[2]


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail with exit code 1; its one line."""

    def run(path: Path, *arguments: str) -> str:
        capsys.readouterr()
        assert main(["--config", str(path), *arguments]) == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told
        (line,) = (line for line in told.splitlines() if line.startswith("daiyu: "))
        return line

    return run


def test_bad_configuration(refused: Refused, tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "none.toml", "list")
    path = tmp_path / "config.toml"
    path.write_text("[training]\nrat = 1\n")
    assert "[training] rat: not a setting" in refused(path, "list")


def test_empty_dataset(refused: Refused, configured: Configured, dialogues: Path) -> None:
    path = configured()
    (dialogues / "rows.jsonl").write_text("\n")
    assert "holds no rows" in refused(path)
    shutil.rmtree(dialogues)
    assert "there is no such folder" in refused(path, "train")
    assert "there is no such folder" in refused(path, "lint")


def test_malformed_row_is_named_by_file_and_line(
    refused: Refused, configured: Configured, dialogues: Path
) -> None:
    path, rows = configured(), dialogues / "rows.jsonl"
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"instruction": "问", "outptu": "答"}\n')
    for command in ((), ("train",), ("export", str(dialogues.parent / "out"))):
        assert f"{rows}:51: " in refused(path, *command)


@pytest.mark.parametrize("command", ["show", "promote"])
def test_unknown_version(refused: Refused, configured: Configured, command: str) -> None:
    assert "there is no version '../x'" in refused(configured(), command, "../x")
    assert "no version was promoted" in refused(configured(), "show")
    assert "nothing to roll back" in refused(configured(), "rollback")


def test_forcing_needs_a_reason(
    refused: Refused, configured: Configured, tmp_path: Path, adapter: Path
) -> None:
    put_version(tmp_path, adapter)
    path = configured()
    assert "needs a reason" in refused(path, "promote", "v1", "--force", " ")
    line = refused(path, "promote", "v1")
    assert "v1 did not pass its gate (too dull)" in line
    assert '--force "<reason>"' in line


def test_base_that_does_not_fit(
    refused: Refused, configured: Configured, tmp_path: Path, qwen: Path
) -> None:
    assert "there is nothing at" in refused(configured(base="./nowhere"), "train")
    folder = tmp_path / "empty"
    folder.mkdir()
    assert f"{folder} lacks config.json" in refused(configured(base=str(folder)), "train")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"junk")
    assert f"{folder} has no tokenizer" in refused(configured(base=str(folder)), "train")
    shutil.copyfile(qwen / "tokenizer.json", folder / "tokenizer.json")
    shutil.copyfile(qwen / "config.json", folder / "config.json")
    line = refused(configured(base=str(folder)), "train")
    assert f"{folder} cannot carry the adapter" in line


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_base_with_other_layers_is_one_line(
    refused: Refused, configured: Configured, tmp_path: Path, qwen: Path
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        folder
    )
    shutil.copyfile(qwen / "tokenizer.json", folder / "tokenizer.json")
    line = refused(configured(base=str(folder)), "train")
    assert f"{folder} cannot carry the adapter" in line


def test_echo_engine_cannot_be_judged(
    refused: Refused, configured: Configured, tmp_path: Path
) -> None:
    run = tmp_path / "var" / "training" / "20260101T000000Z-01234567"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"base": {"name": "x", "sha256": "y"}}))
    (run / "trained").write_text("")
    assert 'engine = "echo" has no weights' in refused(configured("echo"), "gate")


def put_version(tmp_path: Path, adapter: Path) -> None:
    folder = tmp_path / "var" / "adapters" / "v1"
    folder.mkdir(parents=True)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(adapter / file, folder / file)
    lineage = {"base": {"name": "small", "sha256": "0"}, "dataset": {"rows": 50}}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    (folder / "gate.json").write_text(json.dumps({"passed": False, "reasons": ["too dull"]}))
    (folder / "README.md").write_text("# v1\n")


WITHOUT_TORCH = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
for name in ("torch", "transformers", "peft", "accelerate", "safetensors"):
    sys.modules[name] = None
from trainer.__main__ import main
ended = []
for arguments in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = exit.code
    ended.append((code, out.getvalue(), errors.getvalue()))
json.dump(ended, sys.stdout)
"""


def without_torch(path: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Runs commands where torch and its company cannot be imported: end, output and errors."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps([["--config", str(path), *command] for command in commands]),
        cwd=REPO,
        env=os.environ | {"DAIYU_MODEL__ENGINE": "echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return [tuple(end) for end in json.loads(done.stdout)]


def test_commands_that_need_no_torch_run_without(
    configured: Configured, tmp_path: Path, adapter: Path, dialogues: Path
) -> None:
    put_version(tmp_path, adapter)
    write_rows(
        dialogues / "rows.jsonl",
        [{"instruction": "窗前的竹子可要修剪？", "output": "不必，我爱它遮着窗。"}],
    )
    path = configured()
    expected: list[tuple[list[str], int, str]] = [
        (["--help"], 0, "hold the newest trained run against what is served"),
        (["promote", "--help"], 0, "in spite of its gate"),
        (["list"], 0, "v1  small  50 rows  gate not passed"),
        (["show", "v1"], 0, "# v1"),
        (["promote", "v1", "--force", "I read it"], 0, "v1 is served now"),
        (["rollback"], 0, "the adapter that ships is served now"),
        (["export", str(tmp_path / "out")], 0, "dataset_info.json"),
        (["lint"], 0, "7 rows, 0 faults"),
        (["train"], 1, "training needs the package"),
    ]
    ended = without_torch(path, *(arguments for arguments, _, _ in expected))
    for (arguments, code, told), (end, output, errors) in zip(expected, ended, strict=True):
        assert end == code, (arguments, errors)
        assert told in output + errors, (arguments, output, errors)
        assert code == 0 or len(errors.splitlines()) == 1


def test_reader_that_goes_away_is_no_error(configured: Configured) -> None:
    command = (
        f"{sys.executable} -m trainer --config {configured()} list | true; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 141)
    assert done.stderr == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_are_shown_as_they_are(terminal: bool) -> None:
    import io

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=200, highlight=False)
    with Display(console) as display:
        display.say("set [training] rate below [/x] 0.01")
        display.report("convert [x]", 0.5)
        display.watch(Step(1, 9, 1, 2.5, 1e-4, 1.0, 100, 0.1))
        display.watch(Evaluation(1, 3.5, 0.1, True))
    shown = screen.getvalue()
    assert "set [training] rate below [/x] 0.01" in shown
    assert "epoch 1, step 1 of 9: loss 2.500, 1000 tokens/s" in shown
    assert "epoch 1: held-out loss 3.500 nats a character, the best so far" in shown
