"""What `train` sets side by side: ways to train the same adapter on the same base, and their clock.

All run on the CPU. None is given more than its users get: each trains as its own defaults or its
documentation have it, but for what must be alike.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import get_peft_model
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, TrainerCallback

from persona.prompt import IGNORED
from trainer.config import RECIPES, Recipe
from trainer.model import adapt, example_losses, load, lora_config, pack_tokens, precision
from trainer.packing import Example
from trainer.train import Step, Trainer

CPU = torch.device("cpu")
EVALUATIONS = 6
"""How often the held-out loss is taken on the way."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned: the base in `folder`, and each epoch's conversations in their order."""

    folder: Path
    recipe: Recipe
    epochs: list[list[Example]]

    def batches(self) -> Iterator[list[Example]]:
        """What each step learns from, as the trainer takes it."""
        size = self.recipe.batch
        for epoch in self.epochs:
            yield from (epoch[first : first + size] for first in range(0, len(epoch), size))


@dataclass(slots=True)
class Held:
    """Conversations to evaluate on; `characters` is the length of their replies together."""

    examples: list[Example]
    characters: int

    def loss(self, causal: Any) -> float:
        """Nats a character of reply, as the trainer takes it."""
        losses = example_losses(causal, self.examples, pack_tokens(CPU, causal.dtype))
        return math.fsum(value for values in losses.values() for value in values) / self.characters


@dataclass(slots=True)
class Meter:
    """Counts what is learned until `limit` seconds are over; it stands still during evaluations."""

    limit: float
    held: Held
    say: Callable[[str], None]
    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    targets: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)
    _causal: Any = None
    _since: float = 0.0

    def begin(self, causal: Any) -> None:
        """Training begins now. `causal` is what learns, the language model without PEFT's hull."""
        self._causal = causal
        self._evaluate()

    def step(self, tokens: int, targets: int) -> bool:
        """Counts a step that ends now; whether there is time for another.

        `tokens` are those of whole conversations, each counted once, padding never.
        """
        self.seconds += time.monotonic() - self._since
        self.steps += 1
        self.tokens += tokens
        self.targets += targets
        if self.seconds >= self.limit * min(1, len(self.curve) / EVALUATIONS):
            self._evaluate()
        self.resume()
        return self.seconds < self.limit

    def resume(self) -> None:
        """What happened since the last step was no training."""
        self._since = time.monotonic()

    def _evaluate(self) -> None:
        loss = self.held.loss(self._causal)
        self.curve.append((self.seconds, loss))
        self.say(f"{self.seconds:.0f} s, {self.steps} steps: {loss:.3f} nats a character")
        self.resume()


def seed(task: Task, meter: Meter) -> None:
    """The first recipe's loop, its labels mended: a padded batch, logits of every position."""
    model = load(task.folder, CPU, torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(model, lora_config(task.recipe))
    model.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    meter.begin(model.get_base_model())
    fixed = replace(task, epochs=task.epochs[:1])
    for batch in cycle(fixed.batches()):
        optimizer = torch.optim.SGD(learned, lr=RECIPES["seed"].rate)  # anew, as it was
        ids, seen, labels = _padded(batch)
        logits = model(input_ids=ids, attention_mask=seen).logits
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        del logits, loss  # else the next step's would stand beside them
        if not meter.step(*_counted(batch)):
            return


def _padded(batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, what of them is no padding, and labels: [B, T] each."""

    def block(rows: list[list[int]], filling: int) -> Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], True, filling)

    ids = block([list(e.ids) for e in batch], 0)
    seen = block([[1] * len(e.ids) for e in batch], 0)
    return ids, seen, block([list(e.labels) for e in batch], IGNORED)


def _counted(batch: Sequence[Example]) -> tuple[int, int]:
    return sum(len(e.ids) for e in batch), sum(e.targets for e in batch)


def ours(task: Task, meter: Meter, dtype: torch.dtype | None = None) -> None:
    """The trainer's loop; without a `dtype` in the machine's precision, as it trains by itself."""
    adapted = adapt(task.folder, task.recipe, 0, CPU, dtype)
    trainer = Trainer(
        adapted,
        # The clock ends it, not an evaluation; those at an epoch's end are of one conversation.
        replace(task.recipe, patience=len(task.epochs) + 1),
        task.epochs,
        meter.held.examples[:1],
        meter.held.characters,
        seed=0,
        pack_tokens=pack_tokens(CPU, dtype),
        accelerator=Accelerator(cpu=True),
    )
    meter.begin(adapted.causal)
    batches = task.batches()
    for event in trainer.run():
        if not isinstance(event, Step):
            meter.resume()
        elif not meter.step(*_counted(next(batches))):
            return


def ours_in_float32(task: Task, meter: Meter) -> None:
    """The trainer's loop in the seed's precision."""
    ours(task, meter, torch.float32)


def trl(task: Task, meter: Meter) -> None:
    """TRL's SFTTrainer with its packing, bfd: whole conversations, the best fitting side by side.

    Without flash attention nothing leaks between them on a CPU either: there is no attention mask,
    so that transformers makes a block-diagonal one for sdpa where positions restart. The other
    strategies cut conversations. A pack is as long as ours: a longer one saves nothing, there is no
    padding, and a dense mask makes its attention dearer. Labels are taken as they are; on a CPU TRL
    makes logits of every position, in pieces, and leaves out what is not learned. Precision is
    mixed as TRL has it by default: base and products in ours, the adapter in float32.
    """
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer, pack_dataset

    disable_progress_bars()
    recipe, learned = task.recipe, task.epochs[0]
    rows = Dataset.from_dict(
        {"input_ids": [list(e.ids) for e in learned], "labels": [list(e.labels) for e in learned]}
    )
    # What is longer would be cut.
    length = max(pack_tokens(CPU), max(len(e.ids) for e in learned))
    packs = len(pack_dataset(rows, length, "bfd"))
    tokens, targets = _counted(learned)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            packing=True,
            packing_strategy="bfd",
            max_length=length,
            per_device_train_batch_size=1,
            # As near to the recipe's conversations a step as whole packs allow.
            gradient_accumulation_steps=max(1, round(recipe.batch * packs / len(learned))),
            num_train_epochs=len(task.epochs),
            learning_rate=recipe.rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup,  # below 1: a share of all
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip,
            bf16=precision(CPU) == torch.bfloat16,
            use_cpu=True,
            gradient_checkpointing=False,
            include_num_input_tokens_seen="all",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SFTTrainer(
            model=load(task.folder, CPU),
            args=config,
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(task.folder, local_files_only=True),
            peft_config=lora_config(recipe),
        )
        trainer.add_callback(_Clock(meter, trainer.model.get_base_model(), targets / tokens))
        trainer.train()


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Tells the meter of TRL's steps, and TRL when time is over.

    TRL tells how many tokens it has read and nothing of targets: they are counted by their `share`.
    """

    def __init__(self, meter: Meter, causal: Any, share: float) -> None:
        self._meter = meter
        self._causal = causal
        self._share = share

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._meter.begin(self._causal)

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        tokens = state.num_input_tokens_seen - self._meter.tokens
        control.should_training_stop = not self._meter.step(tokens, round(tokens * self._share))
