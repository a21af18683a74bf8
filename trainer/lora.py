"""A LoRA layer in one piece: the frozen product and the low-rank one, with nothing between.

PEFT's own layer makes the low-rank product, scales it and adds it, each a pass over an output that
may be 4,864 wide, and its backward does the same again; on a CPU these passes cost as much as the
products. Here they are folded into the products. Numbers are those of PEFT's layer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor
from torch.nn import functional


class _LoraLinear(torch.autograd.Function):  # type: ignore[misc]
    """x W^T + bias + scale (x A^T) B^T, of x [.., I], W [O, I], A [r, I], B [O, r]; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.flatten(0, -2)
        low = rows @ a.T
        out = functional.linear(rows, weight, bias)
        out.addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        to_low = (gradient @ b).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (gradient @ weight).addmm_(to_low, a).view(*gradients[0].shape[:-1], -1)
        return to_x, None, None, to_low.T @ rows, (gradient.T @ low).mul_(ctx.scale), None


def fuse(model: torch.nn.Module, adapter: str = "default") -> int:
    """Gives a PEFT model's LoRA layers the one-piece forward; how many there were.

    Layers with dropout keep PEFT's own: what is dropped differs between the two inputs there.
    """
    fused = 0
    for module in model.modules():
        if not isinstance(module, Linear):
            continue
        if isinstance(module.lora_dropout[adapter], torch.nn.Dropout):
            continue
        module.forward = partial(_forward, module, adapter)
        fused += 1
    return fused


def _forward(module: Linear, adapter: str, x: Tensor, *_: Any, **__: Any) -> Tensor:
    base = module.get_base_layer()
    out: Tensor = _LoraLinear.apply(
        x,
        base.weight,
        base.bias,
        module.lora_A[adapter].weight,
        module.lora_B[adapter].weight,
        module.scaling[adapter],
    )
    return out
