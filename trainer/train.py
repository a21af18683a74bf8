"""The training loop: an adapter on a frozen base, resumable at any moment.

Only the adapter learns. Its working copy has the base's precision, so that no layer keeps a wider
copy of its input; the optimizer holds it in float32 beside that. A step's loss is the mean over all
its learned tokens, however they were packed and on however many devices: gradients are summed,
never averaged.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from persona.memory import give_back
from trainer.config import Recipe
from trainer.model import Adapted, example_losses, pack_losses
from trainer.packing import Example, Pack, fill


class TrainingError(Exception):
    """Training cannot go on; one line for the person who started it, with what to do next."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is known after an optimizer step. `loss` is nats a token, `rate` the one it used."""

    number: int
    of: int
    epoch: int
    loss: float
    rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The loss on rows that are not learned, in nats a character of reply."""

    epoch: int
    loss: float
    seconds: float
    best: bool


@dataclass(slots=True)
class Progress:
    """Where a run stands; with the optimizer's tensors, all that resuming needs.

    `step` counts the optimizer steps done. `worse` counts the evaluations since the best one.
    """

    step: int = 0
    best: float = math.inf
    best_epoch: int = 0
    worse: int = 0
    pack_tokens: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_json(cls, text: str) -> Progress:
        return cls(**json.loads(text))


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


class Trainer:
    """One run over given epochs of conversations.

    `epochs[i]` are the conversations of epoch i in their order; `held` are evaluated after each
    epoch, `characters` is the length of their replies together.
    """

    def __init__(
        self,
        adapted: Adapted,
        recipe: Recipe,
        epochs: Sequence[Sequence[Example]],
        held: Sequence[Example],
        characters: int,
        *,
        seed: int,
        pack_tokens: int,
        accelerator: Accelerator,
    ) -> None:
        self.adapted = adapted
        self._recipe = recipe
        self._epochs = epochs
        self._held = held
        self._characters = characters
        self._seed = seed
        self._accelerator = accelerator
        self.optimizer = MasterAdamW(adapted.parameters, adapted.masters, recipe)
        self.progress = Progress(pack_tokens=pack_tokens)
        self._steps = sum(self._steps_in(epoch) for epoch in epochs)

    def _steps_in(self, epoch: Sequence[Example]) -> int:
        return -(-len(epoch) // self._recipe.batch)

    def run(self) -> Iterator[Step | Evaluation]:
        """Trains from where `progress` stands to the end; yields after each step and evaluation.

        Whoever iterates may keep a checkpoint at any yield, and takes the best weights at an
        evaluation that says so. Raises TrainingError.
        """
        first = 0
        for number, epoch in enumerate(self._epochs, start=1):
            steps = self._steps_in(epoch)
            for step in range(max(self.progress.step - first, 0), steps):
                begin = step * self._recipe.batch
                yield self._step(epoch[begin : begin + self._recipe.batch], number)
            first += steps
            if self.progress.evaluated < number:
                yield self._evaluate(number)
            if self.progress.worse >= self._recipe.patience:
                return

    def _step(self, examples: Sequence[Example], epoch: int) -> Step:
        started = time.monotonic()
        progress, accelerator = self.progress, self._accelerator
        rate = self._rate(progress.step)
        targets = sum(example.targets for example in examples)
        loss = self._summed(examples, lambda: self._learn(examples, targets)) / targets
        norm = self.optimizer.step(rate, lambda t: _reduced(accelerator, t))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(self._not_a_number(f"at step {progress.step + 1}"))
        give_back()  # packs differ in size: over some hundred of them glibc's heap grows by half
        progress.step += 1
        seconds = time.monotonic() - started
        progress.seconds += seconds
        tokens = sum(len(example.ids) for example in examples)
        return Step(progress.step, self._steps, epoch, loss, rate, norm, tokens, seconds)

    def _not_a_number(self, when: str) -> str:
        return (
            f"the loss is not a number any more {when}; "
            f"set [training] rate below {self._recipe.rate:g}, and train without --resume"
        )

    def _rate(self, step: int) -> float:
        """Warm-up to the recipe's rate, then half a cosine down to a twentieth of it."""
        warmup = max(1, round(self._recipe.warmup * self._steps))
        if step < warmup:
            return self._recipe.rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self._steps - warmup)
        return self._recipe.rate * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)

    def _learn(self, examples: Sequence[Example], targets: int) -> float:
        """Adds up this process's gradients of a step; its part of the loss, summed."""
        # Dropout depends on the step alone, so that a resumed run is the unbroken one.
        torch.manual_seed(self._seed * 1_000_003 + self.progress.step)
        total = 0.0
        for packed in self._share(fill(examples, self.progress.pack_tokens)):
            losses = pack_losses(self.adapted.causal, packed)
            (losses.sum() / targets).backward()
            total += float(losses.detach().sum())
        return total

    def _summed(self, examples: Sequence[Example], work: Callable[[], float]) -> float:
        """What `work` gives in all processes together; done anew, with the packs halved, where the
        memory of one of them ends."""
        while True:
            own, short = 0.0, False
            try:
                own = work()
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                short = True
            # All halve together: what each takes of the packs depends on there being the same ones.
            told = torch.tensor([own, float(short)], device=self._device)
            total, failed = _reduced(self._accelerator, told).tolist()
            if not failed:
                return float(total)
            self.optimizer.forget()
            self._halve(max(len(example.ids) for example in examples))

    @property
    def _device(self) -> Any:
        return self._accelerator.device

    def _halve(self, longest: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self.progress.pack_tokens <= longest:
            raise TrainingError(
                f"memory does not suffice for a conversation of {longest} tokens; "
                "close other programs, or set [training] base to a smaller model"
            )
        self.progress.pack_tokens = max(longest, self.progress.pack_tokens // 2)

    def _share(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """What this process takes of them."""
        return packs[self._accelerator.process_index :: self._accelerator.num_processes]

    def _evaluate(self, epoch: int) -> Evaluation:
        started = time.monotonic()
        progress = self.progress

        def judge() -> float:
            losses = example_losses(
                self.adapted.causal, self._held, progress.pack_tokens, self._share
            )
            return math.fsum(value for values in losses.values() for value in values)

        loss = self._summed(self._held, judge) / self._characters
        if not math.isfinite(loss):
            raise TrainingError(self._not_a_number(f"after epoch {epoch}"))
        best = loss < progress.best
        if best:
            progress.best, progress.best_epoch, progress.worse = loss, epoch, 0
        else:
            progress.worse += 1
        progress.evaluated = epoch
        seconds = time.monotonic() - started
        progress.seconds += seconds
        return Evaluation(epoch, loss, seconds, best)


def _reduced(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    return tensor if accelerator.num_processes == 1 else accelerator.reduce(tensor, "sum")


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    ways = ("can't allocate memory", "not enough memory", "out of memory")
    return any(way in str(error) for way in ways)
