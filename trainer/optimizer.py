"""The optimizer: AdamW in float32 over an adapter that computes in the base's precision.

So no layer keeps a wider copy of its input, and no update is lost to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.config import Recipe


class MasterAdamW:
    """AdamW on float32 copies of parameters that may be narrower."""

    def __init__(self, parameters: Sequence[Tensor], masters: Sequence[Tensor], recipe: Recipe):
        self._parameters = list(parameters)
        self.masters = [m.detach().clone().float().requires_grad_() for m in masters]
        self._adamw = torch.optim.AdamW(
            self.masters, lr=recipe.rate, weight_decay=recipe.weight_decay
        )
        self._clip = recipe.clip

    def step(self, rate: float, reduce: Callable[[Tensor], Tensor]) -> float:
        """One update from the gradients, which are then gone; their norm before clipping.

        `reduce` sums a tensor over all processes.
        """
        gradients = [
            torch.zeros_like(m) if p.grad is None else p.grad.float()
            for p, m in zip(self._parameters, self.masters, strict=True)
        ]
        flat = reduce(torch.cat([g.flatten() for g in gradients]))
        sizes = [m.numel() for m in self.masters]
        for master, piece in zip(self.masters, flat.split(sizes), strict=True):
            master.grad = piece.view_as(master)
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, self._clip))
        if math.isfinite(norm):
            for group in self._adamw.param_groups:
                group["lr"] = rate
            self._adamw.step()
            self._write_back()
        self.forget()
        return norm

    def forget(self) -> None:
        """Drops all gradients."""
        for tensor in (*self._parameters, *self.masters):
            tensor.grad = None

    def _write_back(self) -> None:
        with torch.no_grad():
            for parameter, master in zip(self._parameters, self.masters, strict=True):
                parameter.copy_(master)

    def tensors(self) -> dict[str, Tensor]:
        """Masters and moments, by name: what a checkpoint holds."""
        held: dict[str, Tensor] = {}
        for number, master in enumerate(self.masters):
            held[f"{number}.master"] = master.detach()
            for name, value in self._adamw.state.get(master, {}).items():
                held[f"{number}.{name}"] = value
        return {name: tensor.contiguous().cpu() for name, tensor in held.items()}

    def restore(self, held: dict[str, Tensor]) -> None:
        """Takes back what `tensors` gave."""
        with torch.no_grad():
            for number, master in enumerate(self.masters):
                master.copy_(held[f"{number}.master"])
                prefix = f"{number}."
                state = {
                    name.removeprefix(prefix): tensor.clone()
                    for name, tensor in held.items()
                    if name.startswith(prefix) and not name.endswith(".master")
                }
                if state:
                    self._adamw.state[master] = {
                        name: value if name == "step" else value.to(master.device)
                        for name, value in state.items()
                    }
        self._write_back()
