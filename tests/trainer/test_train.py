"""The loop: it learns, the base does not, and nothing that happens on the way is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from fifty_rows import fifty
from torch import Tensor
from two_processes import run_together, two_of

from data.triples import Triple
from persona.prompt import PromptBuilder
from trainer import train as training
from trainer.alone import TrainingError
from trainer.config import Recipe
from trainer.model import adapt, pack_losses
from trainer.packing import Example, Pack
from trainer.preprocess import Preprocessor, Row
from trainer.run import Run
from trainer.train import Evaluation, Step, Trainer

FACTS: dict[str, Any] = {"base": {"name": "small"}, "dataset": {"hash": "0123456789"}}
Made = Callable[..., Trainer]


@pytest.fixture
def make(qwen: Path, builder: PromptBuilder, recipe: Recipe) -> Made:
    """A trainer over the fifty rows, forty of them learned."""
    rows = [Row(f"rows:{n}", Triple.model_validate(r)) for n, r in enumerate(fifty())]

    def made(
        seed: int = 0, pack_tokens: int = 768, accelerator: Any = None, **changes: Any
    ) -> Trainer:
        chosen = replace(recipe, **changes)
        preprocessor = Preprocessor(builder, rows[:40], chosen.exemplars)
        return Trainer(
            adapt(qwen, chosen, seed, torch.device("cpu")),
            chosen,
            [preprocessor.epoch(number) for number in range(chosen.epochs)],
            preprocessor.evaluation(rows[40:]),
            sum(len(row.triple.output) for row in rows[40:]),
            seed=seed,
            pack_tokens=pack_tokens,
            accelerator=accelerator or Accelerator(cpu=True),
        )

    return made


def weights(trainer: Trainer) -> list[Tensor]:
    return [m.detach().clone() for m in trainer.optimizer.masters]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def steps(events: Sequence[Step | Evaluation]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def evaluations(events: Sequence[Step | Evaluation]) -> list[Evaluation]:
    return [event for event in events if isinstance(event, Evaluation)]


def test_loss_falls_and_the_base_stays_as_it_was(make: Made) -> None:
    trainer = make(epochs=6, rate=2e-2, patience=9)
    frozen = {n: p.clone() for n, p in trainer.adapted.model.named_parameters() if "lora" not in n}
    events = list(trainer.run())
    taken = steps(events)
    assert taken[-1].loss < 0.6 * taken[0].loss
    assert [s.number for s in taken] == list(range(1, taken[-1].of + 1))
    assert all(s.tokens > 0 and math.isfinite(s.gradient_norm) for s in taken)
    judged = evaluations(events)
    assert [e.epoch for e in judged] == list(range(1, len(judged) + 1))
    assert judged[0].best
    for name, parameter in trainer.adapted.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
            assert parameter.grad is None


def test_loss_reported_is_the_mean_over_learned_tokens(make: Made) -> None:
    trainer = make(epochs=1)
    first = trainer._epochs[0][:8]
    ids = [torch.tensor([e.ids]) for e in first]
    total, count = 0.0, 0
    with torch.no_grad():
        for example, row in zip(first, ids, strict=True):
            logits = trainer.adapted.causal(input_ids=row).logits[0, :-1]
            labels = torch.tensor(example.labels[1:])
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += example.targets
    step = next(iter(trainer.run()))
    assert isinstance(step, Step)
    assert step.loss == pytest.approx(total / count, rel=1e-4)


def test_warm_up_and_cosine(make: Made) -> None:
    trainer = make(epochs=1, batch=1, warmup=0.25)
    count = trainer._steps
    rates = [trainer._rate(step) for step in range(count)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1e-2)
    assert top == round(0.25 * count) - 1
    assert rates[0] == pytest.approx(1e-2 / round(0.25 * count))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0.05e-2 < rates[-1] < 0.07e-2
    taken = steps(list(trainer.run()))
    assert [s.rate for s in taken] == pytest.approx(rates)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_run_cut_off_after_any_event_ends_as_the_unbroken_one(
    make: Made, tmp_path: Path, dropout: float
) -> None:
    unbroken = make(dropout=dropout)
    events = list(unbroken.run())
    run = Run.begin(tmp_path, FACTS)
    resumed: Trainer | None = None
    for number in range(len(events)):  # killed after every event, with a checkpoint at each
        resumed = make(dropout=dropout)
        if number:
            run.restore(resumed)
        event = next(iter(resumed.run()))
        assert type(event) is type(events[number])
        assert event.loss == events[number].loss
        run.checkpoint(resumed)
        run = Run(run.folder)
    assert resumed is not None
    assert same(weights(resumed), weights(unbroken))
    assert resumed.progress.best == unbroken.progress.best
    last = make(dropout=dropout)
    run.restore(last)
    assert list(last.run()) == []


def test_resuming_in_bfloat16_goes_on_from_the_float32_weights(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.model.precision", lambda _: torch.bfloat16)
    unbroken = make()
    list(unbroken.run())
    run, begun, resumed = Run.begin(tmp_path, FACTS), make(), make()
    events = begun.run()
    for _ in range(3):
        next(events)
    run.checkpoint(begun)
    run.restore(resumed)
    assert same(weights(resumed), weights(begun))
    list(resumed.run())
    for a, b in zip(weights(resumed), weights(unbroken), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class Scarce:
    """Fails as torch does on a CPU wherever a pack is larger than `most` tokens."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.sizes: list[int] = []

    def __call__(self, causal: Any, packed: Pack) -> Tensor:
        self.sizes.append(len(packed.ids))
        losses = pack_losses(causal, packed)
        if len(packed.ids) > self.most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you ...")
        return losses


def test_out_of_memory_halves_the_packs_and_learns_the_same(
    make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    ample, tight = make(epochs=1), make(epochs=1)
    longest = max(len(e.ids) for e in tight._epochs[0])
    expected = steps(list(ample.run()))
    scarce = Scarce(max(longest, 200))
    monkeypatch.setattr(training, "pack_losses", scarce)
    found = steps(list(tight.run()))
    assert max(scarce.sizes) > scarce.most
    assert tight.progress.pack_tokens <= scarce.most < ample.progress.pack_tokens
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
    torch.testing.assert_close(weights(tight), weights(ample), rtol=1e-3, atol=1e-4)


def test_memory_that_holds_not_one_conversation_is_one_line(
    make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "pack_losses", Scarce(0))
    with pytest.raises(TrainingError, match=r"^memory does not suffice for a conversation of \d+"):
        list(make().run())


def test_memory_that_ends_while_judging_halves_too(
    make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, calls = training.example_losses, []

    def scarce(model: Any, examples: Any, room: int, share: Any) -> Any:
        calls.append(room)
        if len(calls) == 1:
            raise MemoryError
        return judge(model, examples, room, share)

    monkeypatch.setattr(training, "example_losses", scarce)
    (judged,) = evaluations(list(make(epochs=1).run()))
    assert math.isfinite(judged.loss)
    assert calls == [768, 384]


def test_other_errors_are_not_taken_for_want_of_memory(
    make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(training, "pack_losses", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        list(make().run())


@pytest.mark.parametrize("where", ["loss", "gradient", "evaluation"])
def test_what_is_no_number_stops_with_one_line_and_harms_no_weights(
    make: Made, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    trainer = make(epochs=1)
    events = trainer.run()
    next(events)
    kept = weights(trainer)

    def spoiled(causal: Any, packed: Pack) -> Tensor:
        losses = pack_losses(causal, packed)
        return losses * math.nan if where == "loss" else losses * 1e38 * 1e38

    if where == "evaluation":
        monkeypatch.setattr(training, "example_losses", lambda *_: {("r",): [math.nan]})
    else:
        monkeypatch.setattr(training, "pack_losses", spoiled)
    with pytest.raises(TrainingError) as stopped:
        list(events)
    line = str(stopped.value)
    assert "\n" not in line
    assert "not a number" in line
    assert "[training] rate below 0.01" in line
    if where == "evaluation":
        assert trainer.progress.best == math.inf
    else:
        assert same(weights(trainer), kept)


def test_early_stop_keeps_the_best_weights(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([30.0, 20.0, 25.0, 26.0, 10.0])
    monkeypatch.setattr(training, "example_losses", lambda *_: {("row",): [next(told)]})
    trainer = make(epochs=5, patience=2)
    run = Run.begin(tmp_path, FACTS)
    best: list[Tensor] = []
    judged = []
    for event in trainer.run():
        if isinstance(event, Evaluation):
            judged.append(event)
            if event.best:
                best = [p.detach().clone() for p in trainer.adapted.parameters]
                run.keep_best(trainer.adapted)
    assert [e.best for e in judged] == [True, True, False, False]
    assert trainer.progress.best_epoch == 2
    from safetensors.torch import load_file

    held = load_file(run.best / "adapter_model.safetensors")
    names = [n for n, p in trainer.adapted.model.named_parameters() if p.requires_grad]
    for name, tensor in zip(names, best, strict=True):
        assert torch.equal(held[name.replace(".default", "")], tensor)
    assert not same(best, trainer.adapted.parameters)


def test_gradients_are_clipped(make: Made) -> None:
    trainer = make(epochs=1, clip=0.01)
    adamw = trainer.optimizer._adamw
    norms: list[float] = []
    step = adamw.step

    def spied(*arguments: Any) -> Any:
        squares = [float(m.grad.square().sum()) for m in trainer.optimizer.masters]
        norms.append(math.sqrt(sum(squares)))
        return step(*arguments)

    adamw.step = spied
    first = next(iter(trainer.run()))
    assert isinstance(first, Step)
    assert first.gradient_norm > 0.01
    assert norms == [pytest.approx(0.01, rel=1e-3)]


@pytest.mark.parametrize("short", [False, True])
def test_two_processes_learn_what_one_does(
    make: Made, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    """With `short`, the memory of one of the two suffices only for half of a pack."""
    alone = make(epochs=1, pack_tokens=400)
    expected = list(alone.run())
    both = two_of(lambda beside: make(epochs=1, pack_tokens=400, accelerator=beside))
    if short:
        scarce = Scarce(max(len(e.ids) for e in alone._epochs[0]) + 10)

        def losses(causal: Any, packed: Pack) -> Tensor:
            second = causal is both[1].adapted.causal
            return scarce(causal, packed) if second else pack_losses(causal, packed)

        monkeypatch.setattr(training, "pack_losses", losses)
    found = run_together(both)
    assert same(weights(both[0]), weights(both[1]))
    assert (both[0].progress.pack_tokens < 400) == short
    assert both[0].progress.pack_tokens == both[1].progress.pack_tokens
    for ours, theirs in zip(found[0], expected, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
    torch.testing.assert_close(weights(both[0]), weights(alone), rtol=1e-3, atol=1e-4)


def test_small_model_learns_to_stop(make: Made, builder: PromptBuilder, qwen: Path) -> None:
    trainer = make(epochs=6, patience=9, rate=2e-2)
    examples: Iterator[Example] = iter(trainer._epochs[0])
    list(trainer.run())
    example = next(examples)
    ends = [i for i, label in enumerate(example.labels) if label == builder.tokenizer.im_end]
    ids = torch.tensor([example.ids])
    with torch.no_grad():
        likely = trainer.adapted.causal(input_ids=ids).logits[0].softmax(-1)
    for end in ends:
        assert float(likely[end - 1, builder.tokenizer.im_end]) > 0.5
