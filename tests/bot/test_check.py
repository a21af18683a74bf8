"""`python -m bot --check`: tells what is found, and leaves everything as it was."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from starting import (
    ECHO,
    FEW,
    SECONDS,
    SLOW,
    Refused,
    environment,
    run,
    started,
    tell,
    until_pending,
)
from talking import REPO, settings

from bot.app import load_character
from bot.check import check
from persona.engines.echo import byte_tokenizer


def parts(var: Path, **overrides: str) -> tuple[bool, dict[str, str]]:
    """Whether all is well, and the lines by the part that they tell of."""
    lines: list[str] = []
    chosen = {"persona__dialogues": str(FEW)} | overrides
    well = check(settings(var, **chosen), lines.append)
    assert not any("\n" in line for line in lines)
    return well, dict(line.split(None, 1) for line in lines)


def left(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_check_says_what_would_be_done(tmp_path: Path) -> None:
    run(tmp_path, stdin="你好\n")
    done = run(tmp_path, "--check", DAIYU_PERSONA__DIALOGUES="data/daiyu")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert list(lines) == ["persona", "model", "database", "platforms"]
    usable = len(load_character(settings(tmp_path)).exchanges)
    assert usable >= 400
    assert lines["persona"].startswith("林黛玉, ")
    assert f" {usable} dialogues" in lines["persona"]
    assert "echo engine" in lines["model"]
    assert lines["database"] == "up to date, 1 turns in 1 conversations"


def test_check_tells_a_mistake_in_one_line(refused: Refused) -> None:
    assert "DAIYU_MODEL__ENGINE = 'gpu'" in refused("--check", DAIYU_MODEL__ENGINE="gpu")


def test_every_part_is_looked_at_though_one_is_not_well(tmp_path: Path) -> None:
    done = run(tmp_path, "--check", DAIYU_PERSONA__FOLDER=str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert "NOT WELL" in lines[0]
    assert str(tmp_path / "none") in lines[0]
    assert not any("NOT WELL" in line for line in lines[1:])


def test_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m bot --check | true; exec {sys.executable} -m bot --check >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", shell], cwd=REPO, env=environment(tmp_path), capture_output=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, *ECHO, "--check"], cwd=REPO, env=environment(tmp_path), stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


# The database.


def test_nothing_is_made_where_there_is_nothing(tmp_path: Path) -> None:
    well, told = parts(tmp_path / "var")
    assert well
    assert "will be made" in told["database"]
    assert not (tmp_path / "var").exists()


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    well, told = parts(tmp_path / "file" / "var")
    assert not well
    assert "[paths] var" in told["database"]


def test_check_runs_beside_a_bot(tmp_path: Path) -> None:
    with started(tmp_path, SLOW, delay=5.0) as process:
        until_pending(tmp_path, tell(process, "你好"))
        well, told = parts(tmp_path)
        assert process.poll() is None
    assert well
    assert "0 turns in 1 conversations" in told["database"]


def test_database_of_another_version_is_told_and_left(tmp_path: Path) -> None:
    assert run(tmp_path, stdin="你好\n").returncode == 0
    with closing(sqlite3.connect(tmp_path / "daiyu.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = left(tmp_path)
    well, told = parts(tmp_path)
    assert not well
    assert "9999" in told["database"]
    assert left(tmp_path) == before


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty"])
def test_damaged_database_is_told_and_left(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "daiyu.db"
    assert run(tmp_path, stdin="你好\n").returncode == 0
    whole = path.read_bytes()
    content = {"garbage": b"garbage " * 999, "truncated": whole[: len(whole) // 2], "empty": b""}
    path.write_bytes(content[damage])
    well, told = parts(tmp_path)
    assert not well
    assert str(path) in told["database"]
    assert path.read_bytes() == content[damage]
    assert not list(tmp_path.glob("*.damaged-*"))


# The model.


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of a single tensor, with its tokenizer."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    weight = np.zeros((4, 8), np.float32)
    save_file({"model.layers.0.self_attn.q_proj.weight": weight}, folder / "model.safetensors")
    byte_tokenizer().full.save(str(folder / "tokenizer.json"))
    return folder


def persona(tmp_path: Path, width: int) -> Path:
    """Daiyu, with an adapter for a base of that width."""
    folder = tmp_path / "persona"
    shutil.copytree(REPO / "persona" / "daiyu", folder)
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    (folder / "adapter").mkdir()
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    pair = {"lora_A": np.zeros((2, width), np.float32), "lora_B": np.zeros((4, 2), np.float32)}
    save_file(
        {f"{stem}.{name}.weight": value for name, value in pair.items()},
        folder / "adapter" / "adapter_model.safetensors",
    )
    (folder / "adapter" / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    return folder


def test_model_that_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    well, told = parts(tmp_path, model__engine="openvino")
    assert well
    assert "would be fetched" in told["model"]
    assert list(tmp_path.iterdir()) == []


def test_base_and_adapter_are_opened(tmp_path: Path, base: Path) -> None:
    folder = persona(tmp_path, width=8)
    well, told = parts(
        tmp_path, model__engine="openvino", model__base=str(base), persona__folder=str(folder)
    )
    assert well, told
    assert "version shipped, is on this disk and opens" in told["model"]


def test_adapter_for_another_base_is_told(tmp_path: Path, base: Path) -> None:
    folder = persona(tmp_path, width=16)
    well, told = parts(
        tmp_path, model__engine="openvino", model__base=str(base), persona__folder=str(folder)
    )
    assert not well
    assert "for another base" in told["model"]


@pytest.mark.parametrize("broken", ["model.safetensors", "config.json", "tokenizer.json"])
def test_base_that_does_not_open_is_told(tmp_path: Path, base: Path, broken: str) -> None:
    (base / broken).write_bytes(b"{")
    well, told = parts(tmp_path, model__engine="openvino", model__base=str(base))
    assert not well
    assert str(base) in told["model"]


def test_engine_that_is_not_installed_is_told(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.check.find_spec", lambda _: None)
    well, told = parts(tmp_path, model__engine="openvino", model__base=str(base))
    assert not well
    assert "openvino-genai" in told["model"]
