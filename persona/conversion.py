"""The steps that make a base into what an engine loads; each runs in a process of its own.

They write into a folder that the caller renames into place. All raise CheckpointError, OSError.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tokenizers import Tokenizer

from persona import gguf
from persona.checkpoint import (
    GGUFCheckpoint,
    SafetensorsCheckpoint,
    open_checkpoint,
    read_object,
)
from persona.child import Report
from persona.sources import require_space
from persona.tokenizer import read_tokenizer, tokenizer_from_gguf


def _open(base: Path) -> tuple[GGUFCheckpoint | SafetensorsCheckpoint, Tokenizer]:
    checkpoint = open_checkpoint(base)
    if isinstance(checkpoint, GGUFCheckpoint):
        return checkpoint, tokenizer_from_gguf(checkpoint)
    return checkpoint, read_tokenizer(base)


def write_gguf(report: Report, base: Path, adapter: Path | None, folder: Path) -> None:
    checkpoint, tokenizer = _open(base)
    merged = gguf.Adapter(adapter) if adapter else None
    # The graph is made beside the GGUF, and is about as large.
    require_space(folder, 2 * gguf.gguf_size(checkpoint))
    gguf.write_gguf(
        checkpoint, tokenizer, folder / "model.gguf", merged, lambda done: report("convert", done)
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def build_graph(report: Report, folder: Path) -> None:
    from persona.engines import openvino

    report("build", 0.0)
    openvino.build_graph(folder / "model.gguf", folder)
    (folder / "model.gguf").unlink()
    _flush(folder)
    report("build", 1.0)


def write_safetensors(report: Report, base: Path, folder: Path) -> None:
    checkpoint, tokenizer = _open(base)
    assert isinstance(checkpoint, GGUFCheckpoint)
    require_space(folder, gguf.safetensors_size(checkpoint))
    gguf.write_safetensors(checkpoint, tokenizer, folder, lambda done: report("convert", done))
    _flush(folder)


def link_folder(report: Report, base: Path, folder: Path) -> None:
    """The published folder, linked to, with the tokenizer.json that it lacks."""
    for file in base.resolve().iterdir():
        if file.is_file() and file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file)
    read_tokenizer(base).save(str(folder / "tokenizer.json"))
    described = base / "tokenizer_config.json"
    config = read_object(described) if described.is_file() else {}
    config.pop("auto_map", None)  # code of the publisher's, which is not run
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / described.name).write_text(json.dumps(config, ensure_ascii=False), "utf-8")
    _flush(folder)


def _flush(folder: Path) -> None:
    """Puts a folder's files on the disk, so that the rename after it never outlives them."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
