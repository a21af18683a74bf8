"""The training loop: an adapter on a frozen base, resumable at any moment.

Only the adapter learns. A step's loss is the mean over all its learned tokens, however they were
packed and on however many devices: gradients are summed, never averaged.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from persona.memory import give_back
from trainer.alone import TrainingError
from trainer.config import Recipe
from trainer.model import Adapted, example_losses, pack_losses
from trainer.optimizer import MasterAdamW
from trainer.packing import Example, Pack, Pair, fill
from trainer.preference import FIGURES, Preferred, judge, learn

Shared = TypeVar("Shared", Pack, Pair)


@dataclass(frozen=True, slots=True)
class Step:
    """What is known after an optimizer step. `loss` is that of the conversations, nats a token,
    `rate` the one it used, `preferred` how its pairs stood, where it had any."""

    number: int
    of: int
    epoch: int
    loss: float
    rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    preferred: Preferred | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The loss on rows that are not learned, in nats a character of reply; and how all pairs,
    which are learned, stand."""

    epoch: int
    loss: float
    seconds: float
    best: bool
    preferred: Preferred | None = None


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


class Trainer:
    """One run over given epochs of conversations.

    `epochs[i]` are the conversations of epoch i in their order; `held` are evaluated after each
    epoch, `characters` is the length of their replies together. Each of the `pairs` is learned once
    an epoch, spread evenly over its steps, where it weighs as a conversation of the step does,
    times the recipe's `preference`.
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
        pairs: Sequence[Pair] = (),
    ) -> None:
        self.adapted = adapted
        self._recipe = recipe
        self._epochs = epochs
        self._held = held
        self._characters = characters
        self._pairs = pairs
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
                examples = epoch[begin : begin + self._recipe.batch]
                yield self._step(examples, self._dealt(number, step, steps), number)
            first += steps
            if self.progress.evaluated < number:
                yield self._evaluate(number)
            if self.progress.worse >= self._recipe.patience:
                return

    def _dealt(self, epoch: int, step: int, steps: int) -> list[Pair]:
        """The pairs of one of an epoch's steps. They depend on nothing else, so that a resumed run
        deals as the unbroken one."""
        order = list(self._pairs)
        random.Random(self._seed * 1000 + epoch).shuffle(order)  # noqa: S311 - no secret
        return order[len(order) * step // steps : len(order) * (step + 1) // steps]

    def _step(self, examples: Sequence[Example], pairs: Sequence[Pair], epoch: int) -> Step:
        started = time.monotonic()
        progress, accelerator = self.progress, self._accelerator
        rate = self._rate(progress.step)
        targets = sum(example.targets for example in examples)
        total, *figures = self._summed(examples, pairs, lambda: self._learn(examples, pairs))
        loss, preferred = total / targets, Preferred.of(len(pairs), figures)
        norm = self.optimizer.step(rate, lambda t: _reduced(accelerator, t))
        if not all(math.isfinite(value) for value in (total, *figures, norm)):
            raise TrainingError(self._not_a_number(f"at step {progress.step + 1}"))
        give_back()  # packs differ in size: over some hundred of them glibc's heap grows by half
        progress.step += 1
        seconds = time.monotonic() - started
        progress.seconds += seconds
        tokens = sum(len(example.ids) for example in examples)
        tokens += sum(len(pair.pack().ids) for pair in pairs)
        return Step(progress.step, self._steps, epoch, loss, rate, norm, tokens, seconds, preferred)

    def _not_a_number(self, when: str) -> str:
        lower = f"rate below {self._recipe.rate:g}"
        if self._pairs:
            lower += f" or preference below {self._recipe.preference:g}"
        return (
            f"the loss is not a number any more {when}; "
            f"set [training] {lower}, and train without --resume"
        )

    def _rate(self, step: int) -> float:
        """Warm-up to the recipe's rate, then half a cosine down to a twentieth of it."""
        warmup = max(1, round(self._recipe.warmup * self._steps))
        if step < warmup:
            return self._recipe.rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self._steps - warmup)
        return self._recipe.rate * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)

    def _learn(self, examples: Sequence[Example], pairs: Sequence[Pair]) -> list[float]:
        """Adds up this process's gradients of a step; its part of the loss, summed, and of what is
        told of pairs."""
        # Dropout depends on the step alone, so that a resumed run is the unbroken one.
        torch.manual_seed(self._seed * 1_000_003 + self.progress.step)
        total, targets = 0.0, sum(example.targets for example in examples)
        for packed in self._share(fill(examples, self.progress.pack_tokens)):
            losses = pack_losses(self.adapted.causal, packed)
            (losses.sum() / targets).backward()
            total += float(losses.detach().sum())
        weight = self._recipe.preference / len(examples)
        beta = self._recipe.preference_beta
        return [total, *learn(self.adapted.causal, self._share(pairs), beta, weight)]

    def _summed(
        self,
        examples: Sequence[Example],
        pairs: Sequence[Pair],
        work: Callable[[], list[float]],
    ) -> list[float]:
        """What `work` gives in all processes together; done anew, with the packs halved, where the
        memory of one of them ends."""
        while True:
            own, short = [0.0] * (1 + FIGURES), False
            try:
                own = work()
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                short = True
            # All halve together: what each takes of the packs depends on there being the same ones.
            told = torch.tensor([*own, float(short)], device=self._device)
            *sums, failed = _reduced(self._accelerator, told).tolist()
            if not failed:
                return [float(value) for value in sums]
            self.optimizer.forget()
            lengths = [len(example.ids) for example in examples]
            self._halve(max([*lengths, *(len(pair.pack().ids) for pair in pairs)]))

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

    def _share(self, packs: Sequence[Shared]) -> Sequence[Shared]:
        """What this process takes of them."""
        return packs[self._accelerator.process_index :: self._accelerator.num_processes]

    def _evaluate(self, epoch: int) -> Evaluation:
        started = time.monotonic()
        progress = self.progress

        def work() -> list[float]:
            causal = self.adapted.causal
            losses = example_losses(causal, self._held, progress.pack_tokens, self._share)
            total = math.fsum(value for values in losses.values() for value in values)
            beta = self._recipe.preference_beta
            return [total, *judge(causal, self._share(self._pairs), beta)]

        total, *figures = self._summed(self._held, self._pairs, work)
        loss = total / self._characters
        if not all(math.isfinite(value) for value in (loss, *figures)):
            raise TrainingError(self._not_a_number(f"after epoch {epoch}"))
        best = loss < progress.best
        if best:
            progress.best, progress.best_epoch, progress.worse = loss, epoch, 0
        else:
            progress.worse += 1
        progress.evaluated = epoch
        seconds = time.monotonic() - started
        progress.seconds += seconds
        preferred = Preferred.of(len(self._pairs), figures)
        return Evaluation(epoch, loss, seconds, best, preferred)


def _reduced(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    return tensor if accelerator.num_processes == 1 else accelerator.reduce(tensor, "sum")


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    ways = ("can't allocate memory", "not enough memory", "out of memory")
    return any(way in str(error) for way in ways)
