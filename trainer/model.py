"""The base with a LoRA adapter on it, and the loss of a pack."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from trainer.config import TARGETS, Recipe
from trainer.lora import fuse
from trainer.packing import Example, Pack, fill

_MULTIPLE = 64
"""Lengths of sequences: the CPU's matrix library makes, and keeps, code for each that it meets."""
_ROWS = 128
"""Rows of logits made at a time: 128 of 151,936 take 78 MB in float32."""


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """Summed cross-entropy of hidden states [N, H] under a frozen head [V, H].

    The head learns nothing, so that the gradient of the hidden states is known as soon as their
    logits are: no logits outlive their rows.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        learning = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if learning else hidden
        for start in range(0, len(targets), _ROWS):
            rows = slice(start, start + _ROWS)
            picked = targets[rows, None]
            logs = torch.log_softmax(hidden[rows] @ head.T, -1, dtype=torch.float32)
            losses[rows] = -logs.gather(1, picked).squeeze(1)
            if not learning:
                continue
            probabilities = logs.exp_()
            probabilities.scatter_add_(1, picked, -torch.ones_like(picked, dtype=torch.float32))
            gradient[rows] = probabilities.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype)[:, None], None, None


def pack_losses(model: Any, packed: Pack) -> Tensor:
    """The loss of each learned token of a pack: [N], nats, float32.

    `model` is a causal language model of transformers. Logits are made where something is learned
    and nowhere else.
    """
    device = model.device
    filler = -len(packed.ids) % _MULTIPLE
    # What fills up sees itself alone, and nothing sees it.
    mask = pad(torch.from_numpy(packed.mask()), (0, filler, 0, filler))
    mask.diagonal().fill_(True)
    hidden = model.model(
        input_ids=pad(torch.from_numpy(packed.ids), (0, filler)).to(device)[None],
        position_ids=pad(torch.from_numpy(packed.positions), (0, filler)).to(device)[None],
        attention_mask=mask.to(device)[None, None],
        use_cache=False,
    ).last_hidden_state[0]
    sources = torch.from_numpy(packed.sources).to(device)
    targets = torch.from_numpy(packed.targets).to(device)
    losses: Tensor = _HeadLoss.apply(hidden[sources], model.lm_head.weight, targets)
    return losses


def example_losses(
    model: Any,
    examples: Sequence[Example],
    pack_tokens: int,
    share: Callable[[Sequence[Pack]], Sequence[Pack]] = lambda packs: packs,
) -> dict[tuple[str, ...], list[float]]:
    """The loss of each learned token, in nats, by an example's rows. Nothing is learned.

    `share` picks, of the packs, those that this process takes.
    """
    model.eval()
    losses: dict[tuple[str, ...], list[float]] = {}
    try:
        with torch.inference_mode():
            for packed in share(fill(examples, pack_tokens)):
                values = iter(pack_losses(model, packed).tolist())
                for example in packed.examples:
                    losses[example.rows] = list(islice(values, example.targets))
    finally:
        model.train()
    return losses


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from the screen what the two libraries say about each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@_quiet()
def load_merged(folder: Path, adapter: Path | None, device: torch.device) -> Any:
    """A base, an adapter merged into it, to score with."""
    model = load(folder, device)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, local_files_only=True).merge_and_unload()
    return model


def load(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """A base from a folder of safetensors; without a `dtype` in the machine's precision."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype or precision(device),
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
    )
    return model.to(device)


@dataclass(frozen=True, slots=True)
class Adapted:
    """A base with an adapter, ready to learn: `parameters` are the adapter's, in the base's
    precision, `masters` the same in float32 as they were drawn. `causal` is the language model in
    `model`, PEFT's."""

    model: Any
    causal: Any
    parameters: list[Tensor]
    masters: list[Tensor]

    def save(self, folder: Path, base: str) -> None:
        """Writes adapter_model.safetensors and adapter_config.json as PEFT reads them.

        `base` is the base's name, never a path of this machine.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self.model)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        config = self.model.peft_config["default"].to_dict()
        config |= {"base_model_name_or_path": base, "inference_mode": True}
        config["target_modules"] = sorted(config["target_modules"])
        text = json.dumps(config, indent=2, sort_keys=True, default=str)
        (folder / "adapter_config.json").write_text(text + "\n", "utf-8")


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine computes in it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        # Without the instructions it is emulated, and slower than float32.
        has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has else torch.float32
    return torch.float32


def pack_tokens(device: torch.device, dtype: torch.dtype | None = None) -> int:
    """How many tokens go through the model at once where nothing else is said."""
    if device.type != "cpu":
        return 8192
    return 512 if (dtype or precision(device)).itemsize == 2 else 256


def lora_config(recipe: Recipe) -> LoraConfig:
    """The recipe's adapter as PEFT is told of it."""
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(TARGETS),
        task_type="CAUSAL_LM",
    )


@_quiet()
def adapt(
    folder: Path,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Adapted:
    """Loads a base from a folder of safetensors and puts a fresh adapter on it.

    Without a `dtype` both compute in the machine's precision.
    """
    model = load(folder, device, dtype)
    torch.manual_seed(seed)
    model = get_peft_model(model, lora_config(recipe))  # the adapter is drawn in float32
    fuse(model)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    masters = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.to(model.dtype)
    return Adapted(model, model.get_base_model(), parameters, masters)
