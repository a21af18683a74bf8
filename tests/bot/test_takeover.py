"""A running bot takes over what the registry names, and loses no turn by it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from talking import Chat, eventually, opened_chat, settings

from bot import app
from bot import takeover as watching
from persona.engines.base import EngineError
from persona.registry import Registry, Version, read_version


def publish(var: Path, name: str) -> Version:
    """A version as the trainer leaves it, with an adapter of one tiny layer."""
    folder = var / "adapters" / name
    folder.mkdir(parents=True)
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {
            f"{stem}.lora_A.weight": np.zeros((2, 8), np.float32),
            f"{stem}.lora_B.weight": np.zeros((8, 2), np.float32),
        },
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    (folder / "lineage.json").write_text(json.dumps({"base": {"name": "embedded", "sha256": ""}}))
    return read_version(folder)


def look(chat: Chat) -> watching.Takeover:
    return chat.bot._takeover


async def test_a_promoted_version_answers_the_next_turn(tmp_path: Path) -> None:
    async with opened_chat(tmp_path) as chat:
        await chat.say("你好")
        Registry(tmp_path / "adapters").promote(publish(tmp_path, "v1"), "better")

        await look(chat).look()
        await chat.say("还在么")

        assert [turn["adapter"] for turn in chat.turns()] == ["untrained", "v1"]
        assert "v1" in await chat.say("/status")


async def test_a_turn_that_runs_ends_on_the_version_that_began_it(tmp_path: Path) -> None:
    async with opened_chat(tmp_path) as chat:
        closed = asyncio.Event()

        async def close() -> None:
            closed.set()

        chat.engine.close = close  # type: ignore[method-assign]
        chat.engine.delay = 0.01
        saying = chat.saying("说一句长些的话给我听听罢。")
        await chat.mid_reply()
        Registry(tmp_path / "adapters").promote(publish(tmp_path, "v1"), "better")

        await look(chat).look()
        await chat.say("另一处的人", chat_id="2")
        assert not closed.is_set()

        assert await saying == "说一句长些的话给我听听罢。"
        async with asyncio.timeout(5):
            await closed.wait()
        assert [turn["adapter"] for turn in chat.turns()] == ["untrained", "v1"]
        assert {turn["state"] for turn in chat.turns()} == {"done"}


async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_chat(tmp_path) as chat:
        Registry(tmp_path / "adapters").promote(publish(tmp_path, "v1"), "better")

        async def fails(*_: object) -> app.Loaded:
            raise EngineError("no memory left")

        with monkeypatch.context() as patched:
            patched.setattr(app, "load", fails)
            await look(chat).look()
        await chat.say("还在么")

        assert chat.last()["adapter"] == "untrained"
        assert "v1: no memory left" in await chat.say("/status")

        await look(chat).look()
        assert chat.service.version == "v1"
        assert "no memory left" not in await chat.say("/status")


async def test_a_damaged_pointer_leaves_the_old_version(tmp_path: Path) -> None:
    async with opened_chat(tmp_path) as chat:
        registry = Registry(tmp_path / "adapters")
        registry.folder.mkdir()
        registry.pointer.write_text("{")

        await look(chat).look()

        assert await chat.say("你好") == "你好"
        assert "current.json" in await chat.say("/status")


async def test_the_pointer_is_watched_while_the_bot_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.01)
    async with opened_chat(tmp_path) as chat:
        registry = Registry(tmp_path / "adapters")
        registry.promote(publish(tmp_path, "v1"), "better")
        run = asyncio.create_task(look(chat).run())
        await asyncio.sleep(0.05)
        registry.promote(publish(tmp_path, "v2"), "better still")
        await eventually(lambda: chat.service.version == "v2")
        registry.rollback()
        await eventually(lambda: chat.service.version == "v1")
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_a_version_that_cannot_be_served_at_the_start_gives_way_to_what_ships(
    tmp_path: Path,
) -> None:
    chosen = settings(tmp_path)
    registry = Registry(tmp_path / "adapters")
    version = publish(tmp_path, "v1")
    registry.promote(version, "better")
    (version.path / "stray.bin").write_bytes(b"x")

    loaded = await app.load_wanted(chosen, lambda *_: None)

    assert loaded.version.startswith("shipped-")
    assert "stray.bin" in str(loaded.instead_of)


async def test_what_was_promoted_while_the_engine_loaded_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.01)
    async with opened_chat(tmp_path) as chat:
        Registry(tmp_path / "adapters").promote(publish(tmp_path, "v1"), "better")
        run = asyncio.create_task(look(chat).run())
        await eventually(lambda: chat.service.version == "v1")
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_a_version_that_was_just_tried_in_vain_is_not_tried_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.01)
    async with opened_chat(tmp_path) as chat:
        Registry(tmp_path / "adapters").promote(publish(tmp_path, "v1"), "better")
        look(chat).failure = "v1: no memory left"
        run = asyncio.create_task(look(chat).run())
        await asyncio.sleep(0.1)
        assert chat.service.version == "untrained"
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
