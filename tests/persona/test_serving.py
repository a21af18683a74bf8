"""What is served: the adapter decides the base, and is put on no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from persona.config import ModelSettings, PersonaSettings
from persona.registry import Registry, RegistryError
from persona.serving import (
    UNTRAINED,
    Served,
    ServingError,
    budget,
    content_hash,
    fitting_base,
    load_engine,
    shipped,
    to_serve,
)
from persona.weights import Weights


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return Weights(tmp_path / "models", [])


@pytest.fixture
def persona(tmp_path: Path) -> PersonaSettings:
    (tmp_path / "persona").mkdir()
    return PersonaSettings(folder=tmp_path / "persona")


def put(folder: Path, adapter: Path, base: str, sha256: str, name: str = "") -> None:
    folder.mkdir(parents=True)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(adapter / file, folder / file)
    lineage = {"base": {"name": base, "sha256": sha256}} | ({"name": name} if name else {})
    (folder / "lineage.json").write_text(json.dumps(lineage))


def test_current_comes_before_what_ships_and_that_before_the_bare_base(
    tmp_path: Path, persona: PersonaSettings, adapter: Path
) -> None:
    model, registry = ModelSettings(base="embedded"), Registry(tmp_path / "adapters")
    assert to_serve(model, persona, registry) == Served(UNTRAINED, "embedded")
    put(persona.folder / "adapter", adapter, "other", "1" * 64, "one")
    ships = shipped(model, persona)
    assert (ships.version, ships.base, ships.base_hash) == ("shipped-one", "other", "1" * 64)
    assert to_serve(model, persona, registry) == ships
    put(registry.folder / "v1", adapter, "third", "2" * 64)
    registry.promote(registry.version("v1"), "better")
    found = to_serve(model, persona, registry)
    assert found == Served("v1", "third", registry.folder / "v1", "2" * 64)


def test_base_that_the_settings_name_is_served_bare_where_the_adapter_is_for_another(
    persona: PersonaSettings, adapter: Path
) -> None:
    put(persona.folder / "adapter", adapter, "embedded", "1" * 64, "one")
    assert shipped(ModelSettings(), persona).version == "shipped-one"
    named = ModelSettings(base="Qwen/Qwen2.5-1.5B-Instruct")
    assert shipped(named, persona) == Served(UNTRAINED, "Qwen/Qwen2.5-1.5B-Instruct")


def test_adapter_from_elsewhere_is_put_on_the_base_of_the_settings(
    persona: PersonaSettings, adapter: Path
) -> None:
    put(persona.folder / "adapter", adapter, "x", "y")
    (persona.folder / "adapter" / "lineage.json").unlink()
    assert shipped(ModelSettings(base="mine"), persona).base == "mine"


def test_promoted_version_that_was_spoiled_is_not_served(
    tmp_path: Path, persona: PersonaSettings, adapter: Path
) -> None:
    registry = Registry(tmp_path / "adapters")
    put(registry.folder / "v1", adapter, "b", "2" * 64)
    registry.promote(registry.version("v1"), "better")
    (registry.folder / "v1" / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(RegistryError, match=r"adapter_model\.bin"):
        to_serve(ModelSettings(), persona, registry)


def test_base_of_another_hash_is_refused(weights: Weights, qwen: Path, adapter: Path) -> None:
    base = weights.base(str(qwen))
    right = Served("v1", str(qwen), adapter, content_hash(base))
    assert fitting_base(right, weights) == base
    with pytest.raises(ServingError, match="v1 was trained on another") as refused:
        fitting_base(Served("v1", str(qwen), adapter, "f" * 64), weights)
    assert "\n" not in str(refused.value)


def test_adapter_of_another_shape_is_refused(
    weights: Weights, qwen: Path, adapter: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    file = other / "adapter_model.safetensors"
    save_file({n.replace("layers.1", "layers.7"): t for n, t in load_file(file).items()}, file)
    with pytest.raises(ServingError, match="does not fit"):
        fitting_base(Served("v1", str(qwen), other), weights)


def test_hash_of_a_base_changes_with_its_weights_alone(
    weights: Weights, qwen: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(qwen, copy)
    first = content_hash(weights.base(str(copy)))
    assert first == content_hash(weights.base(str(qwen)))
    assert first == content_hash(weights.base(str(copy)))  # kept beside it
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert content_hash(weights.base(str(copy))) == first
    spoiled = bytearray((copy / "model.safetensors").read_bytes())
    spoiled[-1] ^= 1
    (copy / "model.safetensors").write_bytes(spoiled)
    assert content_hash(weights.base(str(copy))) != first


async def test_echo_engine_needs_no_model(weights: Weights) -> None:
    model = ModelSettings(engine="echo")
    engine, tokenizer = await load_engine(
        Served(UNTRAINED, "embedded"), model, weights, lambda *_: None
    )
    assert engine.stats().name == "echo"
    assert budget(model, PersonaSettings()).total == 4 * model.context
    assert tokenizer.count("ab") == 2
