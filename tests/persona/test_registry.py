"""The registry: which adapter speaks, how that came about, and what is never let in."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persona import registry as registry_module
from persona.checkpoint import SafetensorsCheckpoint
from persona.registry import Registry, RegistryError, Version, read_version

Publish = Callable[..., Version]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters")


@pytest.fixture
def publish(registry: Registry, adapter: Path) -> Publish:
    """Puts a version into the registry's folder; keywords replace or add files, None removes."""

    def put(name: str = "20260101T000000Z-aaaaaaaa", **files: Any) -> Version:
        folder = registry.folder / name
        folder.mkdir(parents=True)
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copyfile(adapter / file, folder / file)
        lineage = {"base": {"name": "small", "sha256": "0" * 64}}
        (folder / "lineage.json").write_text(json.dumps(lineage))
        for file, content in files.items():
            path = folder / file.replace("__", ".")
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
        return read_version(folder)

    return put


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


def replace_tensors(version: Version, changed: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    save_file(changed, version.path / "adapter_model.safetensors")


def test_nothing_is_served_before_something_was_promoted(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.current() is None
    with pytest.raises(RegistryError, match="nothing to roll back"):
        registry.rollback()


def test_promoted_version_is_current_and_its_reason_is_kept(
    registry: Registry, publish: Publish
) -> None:
    version = publish()
    registry.promote(version, "好些", forced=True)
    assert registry.current() == version
    (promotion,) = Registry(registry.folder).promotions()
    assert (promotion["version"], promotion["reason"], promotion["forced"]) == (
        version.name,
        "好些",
        True,
    )
    assert list(registry.folder.glob("*.part")) == []


def names(registry: Registry, *moves: str) -> list[str | None]:
    """What is current after each move: a version's letter is promoted, `<` rolls back."""
    told: list[str | None] = []
    for move in moves:
        if move == "<":
            registry.rollback()
        else:
            registry.promote(registry.version(move), "by hand")
        current = registry.current()
        told.append(current.name if current else None)
    return told


@pytest.mark.parametrize(
    ("moves", "served"),
    [
        ("a<", ["a", None]),
        ("ab<<", ["a", "b", "a", None]),
        ("abc<<<", ["a", "b", "c", "b", "a", None]),
        ("ab<c<<", ["a", "b", "a", "c", "a", None]),
        ("aab<<", ["a", "a", "b", "a", None]),
        ("aba<<<", ["a", "b", "a", "b", "a", None]),
        ("a<b<", ["a", None, "b", None]),
    ],
)
def test_each_rollback_goes_further_back(
    registry: Registry, publish: Publish, moves: str, served: list[str | None]
) -> None:
    for name in "abc":
        publish(name)
    assert names(registry, *moves) == served
    if served[-1] is None:
        with pytest.raises(RegistryError, match="nothing to roll back"):
            registry.rollback()


def test_rollback_passes_over_a_version_that_was_removed(
    registry: Registry, publish: Publish
) -> None:
    for name in "abc":
        publish(name)
    names(registry, *"abc")
    shutil.rmtree(registry.folder / "b")
    assert names(registry, *"<<") == ["a", None]


def test_current_that_was_removed_is_one_line_and_can_be_rolled_back(
    registry: Registry, publish: Publish
) -> None:
    for name in "ab":
        publish(name)
    names(registry, *"ab")
    shutil.rmtree(registry.folder / "b")
    with pytest.raises(RegistryError, match="there is no version 'b'"):
        registry.current()
    assert names(registry, "<") == ["a"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"promotions": [1]}',
        b'{"promotions": 3}',
        b'{"promotions": {"version": 1}}',
        b'{"promotions": [{"version": 7}]}',
        b'{"promotions": [], "trial": 3}',
        b'{"promotions": [], "trial": {"version": "a"}}',
        b'{"promotions": [], "ended_trials": [{}]}',
        b'{"promotions": [], "ended_trials": 3}',
        b"\xff\xfe",
    ],
)
def test_damaged_pointer_is_one_line_that_says_what_to_do(
    registry: Registry, publish: Publish, content: bytes
) -> None:
    version = publish()
    registry.pointer.write_bytes(content)
    for use in (
        registry.current,
        registry.rollback,
        registry.promotions,
        lambda: registry.promote(version, "x"),
    ):
        with pytest.raises(RegistryError) as refused:
            use()
        assert str(registry.pointer) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert registry.pointer.read_bytes() == content


@pytest.mark.parametrize("name", ["../a", "..", ".", "", "a/../../b", "/etc", "missing"])
def test_name_leads_nowhere_else(registry: Registry, publish: Publish, name: str) -> None:
    publish("a")
    with pytest.raises(RegistryError, match="there is no version"):
        registry.version(name)
    registry.pointer.write_text(json.dumps({"promotions": [{"version": name}]}))
    with pytest.raises(RegistryError, match="there is no version"):
        registry.current()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"adapter_model__safetensors": None}, "lacks adapter_model.safetensors"),
        ({"adapter_config__json": None}, "lacks adapter_config.json"),
        ({"adapter_model__bin": b"pickle"}, "no part of one: adapter_model.bin"),
        ({"adapter_config__json": b"{"}, "is not JSON"),
        ({"adapter_config__json": b"[]"}, "no JSON object"),
        ({"adapter_config__json": b'{"r": 0, "lora_alpha": 1}'}, "has the shape"),
        ({"adapter_config__json": b'{"r": 4}'}, "no usable r and lora_alpha"),
        (
            {"adapter_config__json": b'{"r": 4, "lora_alpha": 8, "use_dora": true}'},
            "use_dora is set",
        ),
        ({"adapter_config__json": b'{"r": 8, "lora_alpha": 8}'}, "has the shape"),
        ({"adapter_model__safetensors": b"junk"}, "not a readable safetensors"),
    ],
)
def test_version_with_missing_or_foreign_parts_is_never_served(
    registry: Registry, publish: Publish, files: dict[str, bytes | None], told: str
) -> None:
    version = publish(**files)
    with pytest.raises(RegistryError, match=told) as refused:
        registry.promote(version, "x")
    assert version.name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert registry.current() is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(
    registry: Registry, publish: Publish, value: float
) -> None:
    version = publish()
    held = tensors(version.path)
    name = sorted(held)[3]
    held[name] = held[name].copy()
    held[name][0, 0] = value
    replace_tensors(version, held)
    with pytest.raises(RegistryError, match="not finite"):
        registry.promote(version, "x")


def flat(held: dict[str, Any], name: str) -> None:
    held[name] = held[name].reshape(-1)


def empty(held: dict[str, Any], name: str) -> None:
    held[name] = np.zeros((4, 0), np.float32)


def alone(held: dict[str, Any], name: str) -> None:
    del held[name]


def strange(held: dict[str, Any], name: str) -> None:
    held["base_model.model.lm_head.weight"] = held.pop(name)


@pytest.mark.parametrize("change", [flat, empty, alone, strange, lambda held, _: held.clear()])
def test_tensors_of_no_known_shape_are_refused(
    registry: Registry, publish: Publish, change: Callable[[dict[str, Any], str], None]
) -> None:
    version = publish()
    held = tensors(version.path)
    change(held, sorted(held)[0])
    replace_tensors(version, held)
    with pytest.raises(RegistryError):
        registry.promote(version, "x")


def test_tensors_are_held_against_the_base(publish: Publish, qwen: Path) -> None:
    base = SafetensorsCheckpoint(qwen)
    version = publish("a")
    version.check(base)
    held = tensors(version.path)
    name = next(name for name in sorted(held) if "lora_B" in name)
    held[name] = np.zeros((held[name].shape[0] + 32, 4), np.float32)
    replace_tensors(version, held)
    with pytest.raises(RegistryError, match="it is for another base"):
        version.check(base)
    version = publish("b")
    held = {n.replace("layers.1.", "layers.9."): t for n, t in tensors(version.path).items()}
    replace_tensors(version, held)
    with pytest.raises(RegistryError, match="which the base lacks"):
        version.check(base)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"base": "x"}', b'{"base": {}}'])
def test_damaged_lineage_is_one_line(registry: Registry, publish: Publish, content: bytes) -> None:
    version = publish()
    (version.path / "lineage.json").write_bytes(content)
    with pytest.raises(RegistryError, match=r"lineage\.json"):
        registry.version(version.name)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_damaged_verdict_is_one_line(publish: Publish, content: bytes) -> None:
    version = publish(gate__json=content)
    with pytest.raises(RegistryError, match=r"gate\.json"):
        version.gate()
    assert publish("b").gate() is None


def test_versions_are_listed_oldest_first_and_half_written_ones_are_not(
    registry: Registry, publish: Publish
) -> None:
    publish("20260102T000000Z-bbbbbbbb")
    publish("20260101T000000Z-aaaaaaaa")
    publish("20260103T000000Z-cccccccc.77.part")
    (registry.folder / "empty").mkdir()
    assert [v.name[:8] for v in registry.versions()] == ["20260101", "20260102"]


def night(number: int) -> str:
    """The name of the version that a night's training made."""
    return f"202601{number:02}T000000Z-{number:08x}"


def nights(registry: Registry) -> list[int]:
    """The nights whose versions are there."""
    return [int(version.name[6:8]) for version in registry.versions()]


def test_newest_versions_stay_and_what_the_pointer_may_ask_for(
    registry: Registry, publish: Publish
) -> None:
    versions = {number: publish(night(number)) for number in range(1, 13)}
    publish("put here by hand")
    for number in (1, 2, 3, 4, 5):
        registry.promote(versions[number], "x")
    for number in (6, 7):  # the first of these trials is ended by the second
        registry.begin_trial(versions[number], 0.5, 1.0, "x")
    removed = registry.prune(3)
    assert removed == [night(number) for number in (1, 8, 9)]
    (registry.folder / "put here by hand").rename(registry.folder.parent / "aside")
    assert nights(registry) == [2, 3, 4, 5, 6, 7, 10, 11, 12]
    assert list(registry.folder.glob("*.part")) == []
    assert registry.prune(3) == []
    for before in (5, 4, 3, 2, None):  # the first ends the trial
        assert registry.rollback() == (versions[before] if before else None)


def test_what_ended_on_trial_long_ago_goes(registry: Registry, publish: Publish) -> None:
    versions = {number: publish(night(number)) for number in range(1, 7)}
    for number in (1, 2):
        trial = registry.begin_trial(versions[number], 0.5, 1.0, "x")
        registry.end_trial(trial, "dropped", "it was worse", {})
    assert registry.prune(3) == [night(1), night(3)]


def test_killed_while_it_removes_no_version_is_seen_half(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        publish(night(number))

    class KilledError(Exception):
        pass

    def dying(folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        raise KilledError

    monkeypatch.setattr(shutil, "rmtree", dying)
    with pytest.raises(KilledError):
        registry.prune(3)
    assert nights(registry) == [3, 4, 5]
    for left in registry.folder.glob("*.part"):
        with pytest.raises(RegistryError, match="there is no version"):
            registry.version(left.name)
    assert registry.trained_on([7]) == []


def test_reader_of_versions_is_not_troubled_by_their_removal(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        publish(night(number))
    real = registry_module.read_version

    def late(path: Path) -> Version:
        """Between what a reader sees and what it reads, the trainer removes."""
        Registry(registry.folder).prune(3)
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(registry_module, "read_version", late)
        assert nights(registry) == [3, 4, 5]


def test_version_that_was_removed_meanwhile_is_not_promoted(
    registry: Registry, publish: Publish
) -> None:
    versions = [publish(night(number)) for number in range(1, 6)]
    registry.prune(3)
    with pytest.raises(RegistryError, match="No such file"):
        registry.promote(versions[0], "x")
    with pytest.raises(RegistryError, match="No such file"):
        registry.begin_trial(versions[0], 0.5, 1.0, "x")
    assert (registry.current(), registry.trial()) == (None, None)


def test_reader_never_sees_half_a_pointer(registry: Registry, publish: Publish) -> None:
    versions = [publish(name) for name in "ab"]
    registry.promote(versions[0], "first")
    done = threading.Event()
    seen: set[str] = set()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                current = Registry(registry.folder).current()
                assert current is not None
                seen.add(current.name)
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        registry.promote(versions[number % 2], "again")
    done.set()
    reader.join()
    assert failed == []
    assert seen <= {"a", "b"}


def test_folder_that_cannot_be_written_is_one_line(registry: Registry, publish: Publish) -> None:
    version = publish()
    registry.pointer.mkdir()
    with pytest.raises(RegistryError, match=r"current\.json"):
        registry.promote(version, "x")
