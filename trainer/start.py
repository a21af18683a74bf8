"""What a run starts from, and what its pairs are compared with: the adapter in service, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from persona.checkpoint import read_object
from persona.memory import give_back
from persona.registry import CONFIG_FILE, LINEAGE_FILE, read_version
from persona.serving import UNTRAINED, Served, content_hash
from persona.weights import Base
from trainer.alone import TrainingError
from trainer.config import TARGETS, Recipe
from trainer.model import load_served
from trainer.packing import Pair
from trainer.preference import refer, restored, stored
from trainer.run import Run


def to_start_from(served: Served, recipe: Recipe, say: Callable[[str], None]) -> Served | None:
    """What is served, if an adapter is, as what to train on from.

    Raises TrainingError where its shape is not the recipe's, CheckpointError where it cannot be
    read.
    """
    if served.adapter is None:
        say("no adapter is in service yet; training starts from [training] base")
        return None
    config = read_object(served.adapter / CONFIG_FILE)
    found = (config.get("r"), config.get("lora_alpha"), config.get("target_modules"))
    wanted = (recipe.rank, recipe.alpha, list(TARGETS))
    if _shape(*found) != _shape(*wanted):
        raise TrainingError(
            f"{served.version} has {_shape(*found)}, the recipe {_shape(*wanted)}; set [training] "
            'recipe and rank to those of the adapter, or start = "base"'
        )
    return served


def _shape(rank: Any, alpha: Any, targets: Any) -> str:
    layers = ", ".join(sorted(targets)) if isinstance(targets, list) else targets
    return f"rank {rank}, alpha {alpha} on {layers}"


def origin(start: Served | None) -> dict[str, Any] | None:
    """What a lineage says of it: the version, and every turn that had gone into its weights."""
    if start is None or start.adapter is None:
        return None
    known = (start.adapter / LINEAGE_FILE).is_file()
    turns = sorted(read_version(start.adapter).turns) if known else []
    return {"version": start.version, "turns": turns}


def reference_on(base: Base, served: Served) -> Served:
    """What pairs are compared with: what is served, or the bare base where that is on another."""
    same = served.base_hash == content_hash(base) if served.base_hash else served.base == base.name
    return served if same else replace(served, version=UNTRAINED, base=base.name, adapter=None)


def referred(
    run: Run,
    pairs: Sequence[Pair],
    folder: Path,
    adapter: Path | None,
    accelerator: Accelerator,
) -> list[Pair]:
    """The pairs with the reference's log p, which a run keeps from its beginning.

    `folder` is the base's, `adapter` that of the reference on it. The model is gone afterwards.
    """
    if not pairs:
        return []
    kept = run.reference()
    if kept is not None:
        try:
            return restored(pairs, kept)
        except (KeyError, ValueError, TypeError):
            pass  # damaged: the same is computed anew
    causal = load_served(folder, adapter, accelerator.device)
    made = refer(causal, pairs)
    del causal
    give_back()
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    if accelerator.is_main_process:
        run.keep_reference(stored(made))
    return made
