"""What is served: which adapter on which base, and the engine that both are loaded into.

The adapter decides the base. `current` of the registry comes first, then the adapter that ships
with the persona, then the bare base of the settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ParamSpec, TypeVar

from persona.checkpoint import CheckpointError, open_checkpoint
from persona.child import Report
from persona.config import ModelSettings, PersonaSettings
from persona.engines.base import Engine
from persona.engines.echo import EchoEngine, byte_tokenizer
from persona.engines.openvino import OpenVINOEngine
from persona.engines.transformers import TransformersEngine
from persona.gguf import Adapter
from persona.prompt import Budget
from persona.registry import ADAPTER_FILE, LINEAGE_FILE, Registry, Version, read_version
from persona.tokenizer import ChatTokenizer
from persona.weights import EMBEDDED, Base, Weights

Params = ParamSpec("Params")
Result = TypeVar("Result")

UNTRAINED = "untrained"


class ServingError(Exception):
    """An adapter that does not belong on its base; one line, with what to do next."""


@dataclass(frozen=True, slots=True)
class Served:
    """A version by name, its base by name, and the adapter's folder; None for the bare base.

    `base_hash` is what the base must hash to; "" where the adapter does not say.
    """

    version: str
    base: str
    adapter: Path | None = None
    base_hash: str = ""


def shipped(model: ModelSettings, persona: PersonaSettings) -> Served:
    """The adapter that ships with the persona, else the bare base. Raises RegistryError.

    Somebody whose settings name another base than the adapter's wants that one, bare.
    """
    folder = persona.folder / "adapter"
    if not (folder / ADAPTER_FILE).is_file():
        return Served(UNTRAINED, model.base)
    if not (folder / LINEAGE_FILE).is_file():  # one that was brought from elsewhere
        return Served("shipped", model.base, folder)
    version = read_version(folder)
    if model.base not in (EMBEDDED, version.base):
        return Served(UNTRAINED, model.base)
    name = f"shipped-{version.lineage.get('name', '')}".rstrip("-")
    return Served(name, version.base, folder, version.base_hash)


def to_serve(model: ModelSettings, persona: PersonaSettings, registry: Registry) -> Served:
    """What is to be served now. Raises RegistryError."""
    version = registry.current()
    return shipped(model, persona) if version is None else as_served(version)


def as_served(version: Version) -> Served:
    """A version of the registry. Raises RegistryError for one that is unfit."""
    version.check()
    return Served(version.name, version.base, version.path, version.base_hash)


def engine_name(model: ModelSettings) -> str:
    """Which engine serves: `auto` is transformers on an NVIDIA GPU with torch, else openvino."""
    if model.engine != "auto":
        return model.engine
    return "transformers" if shutil.which("nvidia-smi") and find_spec("torch") else "openvino"


def budget(model: ModelSettings, persona: PersonaSettings) -> Budget:
    """What may enter a prompt."""
    # Every byte is a token of the echo engine's: its budget is wider, so that it shows the same.
    scale = 4 if engine_name(model) == "echo" else 1
    return Budget(
        total=model.context * scale,
        lore=persona.lore_tokens * scale,
        exemplars=persona.exemplar_tokens * scale,
        introduction=160 * scale,
    )


async def load_engine(
    served: Served, model: ModelSettings, weights: Weights, report: Report
) -> tuple[Engine, ChatTokenizer]:
    """The engine, ready, and its tokenizer.

    Raises WeightsError, CheckpointError, EngineError, ServingError.
    """
    name = engine_name(model)
    if name == "echo":
        echo = EchoEngine()
        await echo.load(Path(), served.adapter)
        return echo, byte_tokenizer()
    base = await _stoppable(weights, fitting_base, served, weights)
    engine: OpenVINOEngine | TransformersEngine
    if name == "openvino":
        folder = await _stoppable(weights, weights.for_openvino, base, served.adapter)
        engine, adapter = OpenVINOEngine(model.cache_tokens, model.max_chats), None
    else:
        folder = await _stoppable(weights, weights.for_transformers, base)
        engine = TransformersEngine(model.device, model.cache_tokens, model.max_chats)
        adapter = served.adapter
    report("load", 0.0)
    await engine.load(folder, adapter)
    report("load", 1.0)
    assert engine.tokenizer is not None
    return engine, engine.tokenizer


async def _stoppable(
    weights: Weights,
    step: Callable[Params, Result],
    *arguments: Params.args,
    **keywords: Params.kwargs,
) -> Result:
    """Runs a long step in a thread; cancelled, it stops it and lets the thread end first."""
    work = asyncio.ensure_future(asyncio.to_thread(step, *arguments, **keywords))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        weights.stop()
        await asyncio.gather(work, return_exceptions=True)  # Stopped, most likely
        raise


def fitting_base(served: Served, weights: Weights) -> Base:
    """The base, fetched where it is not here, that the adapter was trained on.

    Raises WeightsError, CheckpointError, ServingError.
    """
    base = weights.base(served.base)
    if served.adapter is None:
        return base
    if served.base_hash and (found := content_hash(base)) != served.base_hash:
        raise ServingError(
            f"{served.version} was trained on another {served.base} "
            f"({served.base_hash[:12]}, here {found[:12]}); roll back, or train anew"
        )
    try:
        Adapter(served.adapter).check(open_checkpoint(base.path))
    except CheckpointError as error:
        raise ServingError(f"{served.version} does not fit {served.base}: {error}") from error
    return base


def content_hash(base: Base) -> str:
    """SHA-256 of a base's weights. Kept beside them, so that a start need not read gigabytes."""
    files = sorted(base.path.glob("*.safetensors")) if base.path.is_dir() else [base.path]
    facts = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    kept = (base.path if base.path.is_dir() else base.path.parent) / ".sha256.json"
    try:
        known = json.loads(kept.read_text("utf-8"))
        if known["files"] == facts:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent, or of other files: made anew
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    with contextlib.suppress(OSError):  # a base on a disk that cannot be written
        kept.write_text(json.dumps({"files": facts, "sha256": digest.hexdigest()}), "utf-8")
    return digest.hexdigest()
