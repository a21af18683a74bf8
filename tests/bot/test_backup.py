"""`python -m bot backup` and `restore`, as a person starts them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from starting import SLOW, mistake, run, started, tell, turns, until_pending
from talking import settings

from bot.backup import back_up, put_back
from data.backup import BackupError
from persona.registry import Registry


def version(var: Path, name: str) -> None:
    """A folder that passes for a version: what is in it is of no interest here."""
    folder = var / "adapters" / name
    folder.mkdir(parents=True)
    (folder / "lineage.json").write_text('{"base": {"name": "embedded", "sha256": "00"}}')
    (folder / "adapter_model.safetensors").write_bytes(name.encode())


def point(var: Path, *names: str | None, trial: str | None = None) -> None:
    """current.json after these were promoted, one after the other."""
    held = {"promotions": [{"version": name, "at": "", "reason": ""} for name in names]}
    tried = {"version": trial, "share": 0.25, "begun": "2026-01-01T00:00:00+00:00", "hours": 1.0}
    if trial:
        held |= {"trial": tried | {"reason": "", "forced": False}}
    (var / "adapters" / "current.json").write_text(json.dumps(held))


def said(var: Path, *texts: str) -> list[object]:
    """Says it, and tells all that was ever said there."""
    if texts:
        assert run(var, stdin="".join(f"{text}\n" for text in texts)).returncode == 0
    return [turn["text"] for turn in turns(var)]


def test_backup_is_made_while_the_bot_answers(tmp_path: Path) -> None:
    var, copy = tmp_path / "var", tmp_path / "copies" / "today"
    said(var, "先说的")
    with started(var, SLOW, delay=1.0) as process:
        tell(process, "话说到一半")
        until_pending(var, "话说到一半")
        done = run(var, "backup", str(copy))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{copy}: 2 turns and 0 adapter versions" in done.stdout
        mistake(run(var, "restore", str(copy)), "a bot is running", "stop it")
    assert sorted(path.name for path in copy.iterdir()) == ["backup.json", "daiyu.db"]
    assert copy.stat().st_mode & 0o777 == 0o700
    assert not list(copy.parent.glob("*.part"))

    elsewhere = tmp_path / "elsewhere"
    done = run(elsewhere, "restore", str(copy))
    assert (done.returncode, done.stderr) == (0, "")
    assert "with 2 turns" in done.stdout
    assert said(elsewhere, "后来呢") == ["先说的", "话说到一半", "后来呢"]


def test_forgotten_people_do_not_come_back_with_an_older_copy(tmp_path: Path) -> None:
    var, copy = tmp_path / "var", tmp_path / "copy"
    said(var, "只我说过")
    assert run(var, "backup", str(copy)).returncode == 0
    assert said(var, "/forget yes") == []
    done = run(var, "restore", str(copy))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 people and 1 turns that were erased since are erased again" in done.stdout
    assert said(var) == []


def test_without_a_database_to_ask_that_is_told_in_one_line(tmp_path: Path) -> None:
    said(tmp_path / "var", "先说的")
    assert run(tmp_path / "var", "backup", str(tmp_path / "copy")).returncode == 0
    done = run(tmp_path / "elsewhere", "restore", str(tmp_path / "copy"))
    [line] = [line for line in done.stdout.splitlines() if "forgotten" in line]
    assert "has to be forgotten again" in line


def test_copy_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    said(tmp_path / "var", "先说的")
    copy = tmp_path / "copy"
    copy.mkdir()
    mistake(run(tmp_path / "var", "backup", str(copy)), str(copy), "is there already")
    assert list(copy.iterdir()) == []


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_path_is_asked_for(tmp_path: Path, verb: str) -> None:
    done = run(tmp_path, verb)
    assert done.returncode == 2
    assert "PATH" in done.stderr


def test_nothing_to_copy_or_to_put_back_is_one_line(tmp_path: Path) -> None:
    mistake(run(tmp_path / "var", "backup", str(tmp_path / "copy")), "there is no database")
    assert not list(tmp_path.glob("copy*"))
    mistake(run(tmp_path / "var", "restore", str(tmp_path / "none")), "there is no")
    mistake(run(tmp_path / "var", "restore", str(tmp_path)), "no whole backup")


def test_versions_in_service_go_along_and_no_others(tmp_path: Path) -> None:
    var, copy, elsewhere = tmp_path / "var", tmp_path / "copy", tmp_path / "elsewhere"
    said(var, "先说的")
    for name in ("oldest", "older", "served", "tried", "unwanted"):
        version(var, name)
    point(var, "oldest", "older", "served", trial="tried")
    lines: list[str] = []
    back_up(settings(var), copy, lines.append)
    assert "3 adapter versions" in lines[-1]
    held = sorted(path.name for path in (copy / "adapters").iterdir())
    assert held == ["current.json", "older", "served", "tried"]

    put_back(settings(elsewhere), copy, lines.append)
    current = Registry(elsewhere / "adapters").current()
    assert current
    assert current.name == "served"
    assert (current.path / "adapter_model.safetensors").read_bytes() == b"served"
    assert not list((elsewhere / "adapters").glob("*.part"))


def test_version_in_service_stays_when_an_older_copy_is_put_back(tmp_path: Path) -> None:
    var, copy = tmp_path / "var", tmp_path / "copy"
    said(var, "先说的")
    version(var, "first")
    point(var, "first")
    back_up(settings(var), copy, lambda _: None)
    shutil.rmtree(var / "adapters" / "first")
    version(var, "second")
    point(var, "first", "second")
    lines: list[str] = []
    put_back(settings(var), copy, lines.append)
    registry = Registry(var / "adapters")
    assert [found.name for found in registry.versions()] == ["first", "second"]
    assert registry._read().current == "second"
    assert any("stays" in line for line in lines)


def test_damaged_pointer_keeps_no_database_from_being_copied(tmp_path: Path) -> None:
    var, copy = tmp_path / "var", tmp_path / "copy"
    said(var, "先说的")
    (var / "adapters").mkdir()
    (var / "adapters" / "current.json").write_text("{")
    lines: list[str] = []
    back_up(settings(var), copy, lines.append)
    assert "damaged" in lines[0]
    assert (copy / "daiyu.db").exists()


@pytest.mark.parametrize("what", ["changed", "missing", "manifest", "form"])
def test_backup_that_is_not_as_it_was_is_refused(tmp_path: Path, what: str) -> None:
    var, copy = tmp_path / "var", tmp_path / "copy"
    said(var, "先说的")
    version(var, "served")
    point(var, "served")
    back_up(settings(var), copy, lambda _: None)
    tensors, manifest = copy / "adapters/served/adapter_model.safetensors", copy / "backup.json"
    if what == "changed":
        tensors.write_bytes(b"others")
    elif what == "missing":
        tensors.unlink()
    elif what == "manifest":
        manifest.write_text("[]")
    else:
        manifest.write_text(manifest.read_text().replace('"form": 1', '"form": 2'))
    with pytest.raises(BackupError, match=str(copy)):
        put_back(settings(tmp_path / "elsewhere"), copy, lambda _: None)
    assert not (tmp_path / "elsewhere" / "daiyu.db").exists()


def test_bare_copy_of_the_database_is_put_back_too(tmp_path: Path) -> None:
    said(tmp_path / "var", "先说的")
    bare = shutil.copy(tmp_path / "var" / "daiyu.db", tmp_path / "bare.db")
    put_back(settings(tmp_path / "elsewhere"), Path(bare), lambda _: None)
    assert [turn["text"] for turn in turns(tmp_path / "elsewhere")] == ["先说的"]


def test_trainer_at_work_is_not_disturbed(tmp_path: Path) -> None:
    var, copy = tmp_path / "var", tmp_path / "copy"
    said(var, "先说的")
    back_up(settings(var), copy, lambda _: None)
    (var / "training").mkdir()
    with (
        FileLock(var / "training" / ".lock"),
        pytest.raises(BackupError, match="a trainer is at work"),
    ):
        put_back(settings(var), copy, lambda _: None)


def test_database_of_a_server_is_for_its_own_tools(tmp_path: Path) -> None:
    chosen = settings(tmp_path, store__url="postgresql+asyncpg://u@h/d")
    with pytest.raises(BackupError, match="pg_dump"):
        back_up(chosen, tmp_path / "copy", lambda _: None)
