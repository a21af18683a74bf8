"""Sources: what is fetched of a repository, checked and resumed, with the hubs' own clients."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, serving, sha256

from persona import hubs, network, sources
from persona.child import ChildError, Stopped
from persona.network import SourceError
from persona.sources import Source, fetch_gguf, fetch_repository, open_source
from persona.weights import NoSource, Weights, WeightsError
from persona.wheels import PackageIndex, Part

Usage = namedtuple("Usage", "total used free")
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "tokenizer.json": b"tokens",
    "tokenizer.model": b"pieces",
    "LICENSE": b"Apache-2.0",
    "README.md": b"long",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.safetensors": b"other",
}
KEPT = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "LICENSE"}
NEVER = threading.Event()
HUBS = pytest.mark.parametrize("source", ["modelscope", "huggingface"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with serving(dict(FILES)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        yield server


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients in this process: starting one for each question takes most of a second."""

    def run(
        report: Callable[..., None], step: Callable[..., Any], *arguments: object, **_: object
    ) -> Any:
        return step(report, *arguments)

    monkeypatch.setattr(hubs, "in_child", run)


@pytest.fixture
def goal(tmp_path: Path) -> Path:
    folder = tmp_path / "goal"
    folder.mkdir()
    return folder


def fetch(
    folder: Path, source: str, report: Callable[[str, float], None] = lambda *_: None
) -> None:
    fetch_repository("owner/model", folder, open_source(source, NEVER), report, NEVER)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@HUBS
@pytest.mark.usefixtures("here")
def test_of_a_repository_only_what_is_needed_is_fetched(
    hub: HubServer, source: str, goal: Path
) -> None:
    told: list[float] = []
    fetch(goal, source, lambda what, share: told.append(share))
    assert content(goal) == {name: FILES[name] for name in KEPT}
    assert hub.names() == KEPT
    assert (told[0], told[-1]) == (0.0, 1.0)


@HUBS
@pytest.mark.usefixtures("here")
def test_files_that_are_there_are_not_fetched_again(
    hub: HubServer, source: str, goal: Path
) -> None:
    (goal / "model.safetensors").write_bytes(FILES["model.safetensors"])
    (goal / "tokenizer.json").write_bytes(b"cut sho")
    (goal / "LICENSE").write_bytes(b"Apac")
    fetch(goal, source)
    assert "model.safetensors" not in hub.names()
    assert content(goal) == {name: FILES[name] for name in KEPT}


@HUBS
@pytest.mark.usefixtures("here")
def test_a_file_goes_on_where_it_was_broken_off(hub: HubServer, source: str, goal: Path) -> None:
    (goal / "model.safetensors.incomplete").write_bytes(FILES["model.safetensors"][:4000])
    fetch(goal, source)
    assert ("model.safetensors", 4000) in hub.asked
    assert content(goal) == {name: FILES[name] for name in KEPT}


@HUBS
@pytest.mark.usefixtures("here")
def test_a_beginning_of_another_file_is_not_gone_on_with_for_ever(
    hub: HubServer, source: str, goal: Path
) -> None:
    (goal / "model.safetensors.incomplete").write_bytes(b"?" * 4000)
    with pytest.raises(SourceError):
        fetch(goal, source)
    fetch(goal, source)
    assert content(goal) == {name: FILES[name] for name in KEPT}


@HUBS
@pytest.mark.usefixtures("here")
def test_a_file_of_another_hash_is_refused_and_removed(
    hub: HubServer, source: str, goal: Path
) -> None:
    hub.stated["model.safetensors"] = sha256(b"what the publisher made")
    with pytest.raises(SourceError, match=r"model\.safetensors does not have the hash"):
        fetch(goal, source)
    assert not (goal / "model.safetensors").exists()


@HUBS
@pytest.mark.usefixtures("here")
def test_a_repository_of_pickles_is_refused(hub: HubServer, source: str, goal: Path) -> None:
    del hub.files["model.safetensors"], hub.files["onnx/model.safetensors"]
    with pytest.raises(SourceError, match="owner/model publishes no safetensors"):
        fetch(goal, source)
    assert hub.asked == []


@HUBS
@pytest.mark.usefixtures("here")
def test_a_repository_that_is_not_there_is_one_line(
    hub: HubServer, source: str, goal: Path
) -> None:
    with pytest.raises(SourceError) as raised:
        fetch_repository("owner/absent", goal, open_source(source, NEVER), lambda *_: None, NEVER)
    assert "\n" not in str(raised.value)
    assert "404" in str(raised.value)


@HUBS
@pytest.mark.usefixtures("here")
def test_the_embedded_model_from_a_hub_is_checked_and_renamed(
    hub: HubServer, source: str, goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "EMBEDDED_REPOSITORY", "owner/model")
    hub.files = {sources.EMBEDDED_FILE: b"GGUF"}
    hub.stated = {sources.EMBEDDED_FILE: sha256(b"GGUF")}
    with pytest.raises(SourceError, match="does not have the hash"):
        fetch_gguf(goal, open_source(source, NEVER), lambda *_: None, NEVER)
    assert list(goal.iterdir()) == []

    monkeypatch.setattr(sources, "EMBEDDED_SHA256", sha256(b"GGUF"))
    fetch_gguf(goal, open_source(source, NEVER), lambda *_: None, NEVER)
    assert content(goal) == {"model.gguf": b"GGUF"}


@HUBS
@pytest.mark.usefixtures("here")
def test_the_space_is_asked_for_that_is_still_needed(
    hub: HubServer, source: str, goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(len(FILES[name]) for name in KEPT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, needed - 1))
    with pytest.raises(OSError, match=r"0\.00 GB free and 0\.00 GB are needed") as raised:
        fetch(goal, source)
    assert raised.value.errno == errno.ENOSPC
    assert hub.asked == []

    (goal / "model.safetensors.incomplete").write_bytes(FILES["model.safetensors"][:1])
    fetch(goal, source)
    assert content(goal) == {name: FILES[name] for name in KEPT}


@HUBS
def test_a_download_is_stopped_at_once_and_goes_on_later(
    hub: HubServer, source: str, goal: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.files["model.safetensors"] = weights = bytes(3 << 20)
    hub.stated["model.safetensors"] = sha256(weights)
    hub.stall_after = (2 << 20) + 9
    stopped = threading.Event()
    told: list[float] = []

    def stop() -> None:
        hub.stalled.wait(20)
        end = time.monotonic() + 5
        while told[-1] < 0.3 and time.monotonic() < end:
            time.sleep(0.02)
        times.append(time.monotonic())
        stopped.set()

    times: list[float] = []
    thread = threading.Thread(target=stop)
    thread.start()
    opened = open_source(source, stopped)
    with pytest.raises(Stopped):
        fetch_repository("owner/model", goal, opened, lambda _, share: told.append(share), stopped)
    assert time.monotonic() - times[0] < 1
    thread.join()
    assert 0.3 < told[-1] < 1  # by bytes: one file only is large
    assert not (goal / "model.safetensors").exists()

    hub.stall_after = None
    hub.released.set()
    fetch(goal, source)
    assert max(start for _, start in hub.asked) >= 1 << 20
    assert (goal / "model.safetensors").read_bytes() == weights
    assert capfd.readouterr() == ("", "")  # the screen is ours


def test_a_download_that_no_longer_moves_is_given_up(
    hub: HubServer, goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "STALL_SECONDS", 3.0)
    hub.stall_after = 7
    with pytest.raises(SourceError, match="no byte has come for 3 s"):
        fetch(goal, "huggingface")


@HUBS
def test_a_hub_that_does_not_answer_is_not_asked(
    source: str, goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hubs, "in_child", pytest.fail)
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        fetch_gguf(goal, open_source(source, NEVER), lambda *_: None, NEVER)
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch(goal, source)


@HUBS
def test_a_hub_that_answers_and_has_no_such_model_was_asked(
    source: str, hub: HubServer, here: None, tmp_path: Path
) -> None:
    weights = Weights(tmp_path / "models", ["wheels", source])
    with pytest.raises(WeightsError) as refused:
        weights.base("owner/mistyped")
    assert not isinstance(refused.value, NoSource)


def test_without_a_source_that_can_be_asked_nothing_is_known_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for named in ([], ["wheels"], ["huggingface"]):
        with pytest.raises(NoSource, match="check the network"):
            Weights(tmp_path / "models", named).base("owner/model")


def test_a_full_disk_is_told_as_such_and_all_else_as_one_line(
    monkeypatch: pytest.MonkeyPatch, goal: Path
) -> None:
    files = [hubs.HubFile("config.json", 2)]
    answers: list[Exception] = [OSError(errno.ENOSPC, "full"), RuntimeError("gone\nRequest id: 1")]

    def fail(*_: object) -> None:
        raise answers.pop(0)

    monkeypatch.setattr(hubs, "_from_huggingface", fail)
    with pytest.raises(OSError, match="No space"):
        hubs._download(lambda *_: None, "huggingface", "owner/model", files, goal)
    with pytest.raises(ChildError, match=r"^gone$"):
        hubs._download(lambda *_: None, "huggingface", "owner/model", files, goal)


# --- wheels ---


class Wheels(PackageIndex):
    """An index that is there and whose wheels are files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, joined: bytes) -> None:
        monkeypatch.setattr(sources, "PARTS", (Part("part", "data.bin", 4, sha256(b"GGUF")),))
        monkeypatch.setattr(sources, "EMBEDDED_SIZE", 4)
        monkeypatch.setattr(sources, "EMBEDDED_SHA256", sha256(b"GGUF"))
        self._joined = joined

    def require_reachable(self) -> None:
        if not self._joined:
            raise SourceError("cannot be reached")


def test_a_whole_of_another_hash_is_refused_and_removed(
    goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (goal / "model.gguf.joined").write_bytes(b"else")
    with pytest.raises(SourceError, match="does not have the hash"):
        fetch_gguf(goal, Wheels(monkeypatch, b""), lambda *_: None, NEVER)
    assert list(goal.iterdir()) == []


def test_what_was_joined_before_needs_no_network(
    goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (goal / "model.gguf.joined").write_bytes(b"GGUF")
    fetch_gguf(goal, Wheels(monkeypatch, b""), lambda *_: None, NEVER)
    assert content(goal) == {"model.gguf": b"GGUF"}


def test_wheels_need_the_rest_and_room_for_two_of_them(
    goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (goal / "model.gguf.joined").write_bytes(b"G")
    needed: list[int] = []

    def full(_: Path, size: int) -> None:
        needed.append(size)
        raise OSError(errno.ENOSPC, "full")

    index = Wheels(monkeypatch, b"G")
    monkeypatch.setattr(sources, "require_space", full)
    with pytest.raises(OSError, match="full"):
        fetch_gguf(goal, index, lambda *_: None, NEVER)
    assert needed == [3 + 2 * 4]


def test_wheels_hold_the_embedded_model_only(goal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index: Source = Wheels(monkeypatch, b"")
    with pytest.raises(SourceError, match="embedded model only"):
        fetch_repository("owner/model", goal, index, lambda *_: None, NEVER)


def test_an_unknown_source_is_told_which_are_known() -> None:
    with pytest.raises(SourceError, match="known are wheels, modelscope and huggingface"):
        open_source("gopher", NEVER)
