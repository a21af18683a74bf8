"""Down-votes teach: the loss is DPO's, the margin grows, and off it changes nothing at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from fifty_rows import fifty
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from two_processes import run_together, two_of

from data.triples import Triple
from persona.prompt import IGNORED, PromptBuilder
from trainer import preference
from trainer.alone import TrainingError
from trainer.config import Recipe
from trainer.model import Adapted, adapt, load, load_merged, load_served, pack_losses
from trainer.packing import Example, Pack, Pair
from trainer.preference import Preferred, judge, learn, pair_loss, refer, restored, stored
from trainer.preprocess import Preprocessor, Rejected, Row, replies
from trainer.run import Run
from trainer.train import Evaluation, Step, Trainer

FACTS: dict[str, Any] = {"base": {"name": "small"}, "dataset": {"hash": "0123456789"}}
CPU = torch.device("cpu")
BETA = 0.1
Made = Callable[..., Trainer]


def paired_rows() -> list[Row]:
    """The fifty rows, each sixth of them beside nonsense."""
    return [
        Row(
            f"rows:{n}",
            Triple.model_validate(raw),
            None if n % 6 else Rejected(n, f"{'好的呢亲' * (1 + n % 3)}，还有什么可以帮您。"),
        )
        for n, raw in enumerate(fifty())
    ]


@pytest.fixture
def pairs(builder: PromptBuilder) -> list[Pair]:
    return Preprocessor(builder, paired_rows()[:40], 2).pairs()


@pytest.fixture
def adapted(qwen: Path, recipe: Recipe) -> Adapted:
    """An adapter that has moved from where it was drawn."""
    made = adapt(qwen, recipe, seed=0, device=CPU)
    torch.manual_seed(3)
    for parameter in made.parameters:
        parameter.data.normal_(std=0.1)
    return made


# What is preferred to what.


def test_replies_of_a_pair_stand_behind_the_same_prompt_and_are_all_that_is_learned(
    builder: PromptBuilder, pairs: list[Pair]
) -> None:
    rows = {row.key: row for row in paired_rows()[:40] if row.rejected}
    assert [pair.key for pair in pairs] == list(rows)
    for pair in pairs:
        row = rows[pair.key]
        assert row.rejected
        for example, text in (
            (pair.chosen, row.triple.output),
            (pair.rejected, row.rejected.reply),
        ):
            (places,) = replies(example.labels)
            learned = builder.tokenizer.decode([example.ids[i] for i in places])
            assert learned == f"{text}<|im_end|>"
        (one,), (other,) = replies(pair.chosen.labels), replies(pair.rejected.labels)
        assert pair.chosen.ids[: one[0]] == pair.rejected.ids[: other[0]]
        # As it is served: with its exemplars, never with itself.
        served = builder.tokenizer.decode(list(pair.chosen.ids))
        assert served.count(f"{row.triple.output}<|im_end|>") == 1
        assert served.count("<|im_start|>assistant") == 3 + len(row.triple.history)


@settings(deadline=None)  # the machine may be busy
@given(reply=st.text(min_size=1, max_size=30), worse=st.text(min_size=1, max_size=30))
def test_whatever_the_replies_say_the_prompt_is_read_once_and_each_sees_its_own(
    builder: PromptBuilder, reply: str, worse: str
) -> None:
    triple = Triple.model_construct(
        instruction="今日下雨了", input="", output=reply, system=None, history=[], meta=None
    )
    (pair,) = Preprocessor(builder, [Row("r", triple, Rejected(1, worse))], 0).pairs()
    packed = pair.pack()
    prompt = len(pair.chosen.ids) - len(replies(pair.chosen.labels)[-1]) - 1
    own = len(pair.chosen.ids) + len(pair.rejected.ids) - 2 * prompt
    # The token before a reply is each one's own: its output differs.
    assert len(packed.ids) <= prompt + own + 2
    mask = packed.mask()
    for source, target in zip(packed.sources, packed.targets, strict=True):
        seen = tuple(int(i) for i in packed.ids[mask[source]])
        example = (pair.chosen, pair.rejected)[int(packed.segments[source])]
        assert example.ids[: len(seen)] == seen
        assert example.labels[len(seen)] == target
    assert len(packed.targets) == pair.chosen.targets + pair.rejected.targets


# The loss.


def plain_log_probability(causal: Any, example: Example) -> Tensor:
    """By one full forward pass, without packing."""
    logits = causal(input_ids=torch.tensor([example.ids])).logits[0, :-1]
    labels = torch.tensor(example.labels[1:])
    return -cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")


def plain_loss(causal: Any, reference: Any, pair: Pair, beta: float) -> tuple[Tensor, Tensor]:
    """The loss and the margin, as the formula has them."""
    chosen = plain_log_probability(causal, pair.chosen)
    rejected = plain_log_probability(causal, pair.rejected)
    with torch.no_grad():
        before = [plain_log_probability(reference, e) for e in (pair.chosen, pair.rejected)]
    margin = (chosen - before[0]) - (rejected - before[1])
    return -logsigmoid(beta * margin) - chosen / pair.chosen.targets, margin


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_and_gradients_are_those_of_the_formula(
    adapted: Adapted, qwen: Path, pairs: list[Pair], beta: float
) -> None:
    base = load(qwen, CPU)
    referred = refer(base, pairs)
    for pair in referred:
        loss, margin = pair_loss(adapted.causal, pair, beta)
        expected, expected_margin = plain_loss(adapted.causal, base, pair, beta)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(margin, expected_margin, rtol=1e-4, atol=1e-3)
    sums = learn(adapted.causal, referred, beta, 0.25)
    ours = [p.grad.clone() for p in adapted.parameters if p.grad is not None]
    for parameter in adapted.parameters:
        parameter.grad = None
    both = [plain_loss(adapted.causal, base, pair, beta) for pair in pairs]
    loss = torch.stack([loss for loss, _ in both])
    margins = [float(margin.detach()) for _, margin in both]
    (0.25 * loss.sum()).backward()
    theirs = [p.grad for p in adapted.parameters if p.grad is not None]
    assert len(ours) == len(adapted.parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    told = Preferred.of(len(pairs), sums)
    assert told is not None
    assert told.loss == pytest.approx(float(loss.detach().mean()), rel=1e-4)
    assert told.margin == pytest.approx(sum(margins) / len(pairs), rel=1e-3)
    assert told.accuracy == sum(margin > 0 for margin in margins) / len(pairs)
    # Judged without learning, they are the same.
    assert judge(adapted.causal, referred, beta) == pytest.approx(sums, rel=1e-5)
    assert adapted.causal.training
    assert Preferred.of(0, [0.0] * 3) is None


@pytest.mark.filterwarnings("ignore")
def test_loss_is_that_of_another_library(
    adapted: Adapted, qwen: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Ready(DPOTrainer):
        """Takes token ids as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    def columns(pair: Pair) -> dict[str, list[int]]:
        (one,), (other,) = replies(pair.chosen.labels), replies(pair.rejected.labels)
        return {
            "prompt_ids": list(pair.chosen.ids[: one[0]]),
            # Behind its end a newline follows, which nothing is learned of.
            "chosen_ids": list(pair.chosen.ids[one[0] : one[-1] + 1]),
            "rejected_ids": list(pair.rejected.ids[other[0] : other[-1] + 1]),
        }

    base = load(qwen, CPU)
    referred = refer(base, pairs)
    adapted.save(tmp_path / "adapter", "small")
    rows = [columns(pair) for pair in pairs]
    theirs = Ready(
        load_merged(qwen, tmp_path / "adapter", CPU),
        ref_model=base,
        args=DPOConfig(
            str(tmp_path / "out"),
            beta=BETA,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, preference.SUPERVISED],
            per_device_train_batch_size=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(qwen),
    )
    for pair, row in zip(referred, rows, strict=True):
        with torch.no_grad():
            expected = theirs.compute_loss(theirs.model, theirs.data_collator([row]))
            loss, _ = pair_loss(adapted.causal, pair, BETA)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


# The stage in the loop.


@pytest.fixture
def make(qwen: Path, builder: PromptBuilder, recipe: Recipe) -> Made:
    """A trainer over forty rows, seven of them paired; `paired=False` knows of no pairs."""

    def made(paired: bool = True, accelerator: Any = None, **changes: Any) -> Trainer:
        chosen = replace(recipe, **({"preference": 1.0} | changes))
        rows = paired_rows()
        preprocessor = Preprocessor(builder, rows[:40], chosen.exemplars)
        pairs = refer(load(qwen, CPU), preprocessor.pairs()) if paired else []
        return Trainer(
            adapt(qwen, chosen, 0, CPU),
            chosen,
            [preprocessor.epoch(number) for number in range(chosen.epochs)],
            preprocessor.evaluation(rows[40:]),
            sum(len(row.triple.output) for row in rows[40:]),
            seed=0,
            pack_tokens=768,
            accelerator=accelerator or Accelerator(cpu=True),
            pairs=pairs,
        )

    return made


def weights(trainer: Trainer) -> list[Tensor]:
    return [m.detach().clone() for m in trainer.optimizer.masters]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def judged(events: Sequence[Step | Evaluation]) -> list[Preferred]:
    return [e.preferred for e in events if isinstance(e, Evaluation) and e.preferred]


def test_margin_grows_with_the_stage_and_hardly_without(make: Made) -> None:
    with_it = make(epochs=4, patience=9, preference=4.0)
    beside = make(epochs=4, patience=9, preference=0.0)
    first, *_, last = judged(list(with_it.run()))
    *_, untaught = judged(list(beside.run()))
    assert last.pairs == 7
    assert last.accuracy == 1.0
    assert last.margin > first.margin > 0
    assert last.margin > 1.5 * untaught.margin
    assert last.loss < first.loss


def test_each_pair_is_learned_once_an_epoch_spread_over_its_steps(
    make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, taken = make(epochs=2, patience=9), list[list[str]]()

    def spied(causal: Any, pairs: Sequence[Pair], *rest: Any) -> list[float]:
        taken.append([pair.key for pair in pairs])
        return learn(causal, pairs, *rest)

    monkeypatch.setattr("trainer.train.learn", spied)
    steps = [e for e in trainer.run() if isinstance(e, Step)]
    half = len(steps) // 2
    keys = sorted(pair.key for pair in trainer._pairs)
    for epoch in (taken[:half], taken[half:]):
        assert sorted(key for step in epoch for key in step) == keys
        assert max(map(len, epoch)) - min(map(len, epoch)) <= 1
    assert taken[:half] != taken[half:]
    assert [s.preferred.pairs if s.preferred else 0 for s in steps] == [len(t) for t in taken]


def test_without_pairs_a_run_is_the_same_to_the_last_bit(make: Made) -> None:
    with_stage, without = make(paired=False, preference=3.0), make(paired=False, preference=0.0)
    events, plain = list(with_stage.run()), list(without.run())
    assert same(weights(with_stage), weights(without))
    for ours, theirs in zip(events, plain, strict=True):
        assert (ours.loss, ours.preferred) == (theirs.loss, None)
    assert not same(weights(make_run(make())), weights(without))


def make_run(trainer: Trainer) -> Trainer:
    list(trainer.run())
    return trainer


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_run_cut_off_after_any_event_ends_as_the_unbroken_one(
    make: Made, tmp_path: Path, dropout: float
) -> None:
    unbroken = make(dropout=dropout)
    events = list(unbroken.run())
    run = Run.begin(tmp_path, FACTS)
    resumed: Trainer | None = None
    for number in range(len(events)):
        resumed = make(dropout=dropout)
        if number:
            run.restore(resumed)
        event = next(iter(resumed.run()))
        assert (event.loss, event.preferred) == (events[number].loss, events[number].preferred)
        run.checkpoint(resumed)
        run = Run(run.folder)
    assert resumed is not None
    assert same(weights(resumed), weights(unbroken))


def test_two_processes_share_the_pairs(make: Made) -> None:
    alone = make(epochs=1)
    expected = list(alone.run())
    both = two_of(lambda beside: make(epochs=1, accelerator=beside))
    found = run_together(both)
    assert same(weights(both[0]), weights(both[1]))
    for ours, theirs in zip(found[0], expected, strict=True):
        assert (ours.preferred is None) == (theirs.preferred is None)
        if ours.preferred and theirs.preferred:
            assert ours.preferred.pairs == theirs.preferred.pairs
            assert ours.preferred.loss == pytest.approx(theirs.preferred.loss, rel=1e-3)
            assert ours.preferred.accuracy == pytest.approx(theirs.preferred.accuracy)
    torch.testing.assert_close(weights(both[0]), weights(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_what_is_no_number_in_a_pair_stops_with_one_line(
    make: Made, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def spoiled(causal: Any, packed: Pack) -> Tensor:
        return pack_losses(causal, packed) * math.nan

    trainer = make(epochs=1)
    kept = weights(trainer)
    if where == "step":
        monkeypatch.setattr(preference, "pack_losses", spoiled)
    else:
        monkeypatch.setattr("trainer.train.judge", lambda *_: [math.nan] * 3)
    with pytest.raises(TrainingError) as stopped:
        list(trainer.run())
    line = str(stopped.value)
    assert "\n" not in line
    assert "not a number" in line
    assert "preference below 1" in line
    assert same(weights(trainer), kept) == (where == "step")


def test_memory_that_ends_at_a_pair_is_one_line(
    make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*_: object) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    trainer = make()
    monkeypatch.setattr(preference, "pack_losses", scarce)
    with pytest.raises(TrainingError, match=r"^memory does not suffice for a conversation of \d+"):
        list(trainer.run())


def test_metrics_tell_of_the_pairs(make: Made, tmp_path: Path) -> None:
    run, trainer = Run.begin(tmp_path, FACTS), make(epochs=1)
    for event in trainer.run():
        run.note(event)
    *steps, evaluation = run.metrics()
    assert sum(s["preferred"]["pairs"] for s in steps if s["preferred"]) == 7
    assert set(evaluation["preferred"]) == {"pairs", "loss", "margin", "accuracy"}


# The reference.


def test_reference_is_the_adapter_in_service_as_it_learns(
    adapted: Adapted, qwen: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    adapted.save(tmp_path / "served", "small")
    referred = refer(load_served(qwen, tmp_path / "served", CPU), pairs)
    for pair in referred:
        _, margin = pair_loss(adapted.causal, pair, BETA)
        assert float(margin.detach()) == pytest.approx(0.0, abs=1e-4)
    bare = refer(load_served(qwen, None, CPU), pairs)
    assert all(a.reference != b.reference for a, b in zip(referred, bare, strict=True))


def test_reference_comes_back_as_it_was_kept(pairs: list[Pair], tmp_path: Path) -> None:
    run = Run.begin(tmp_path, FACTS)
    assert run.reference() is None
    referred = [replace(pair, reference=(-1 / (3 + n), -7.1 * n)) for n, pair in enumerate(pairs)]
    run.keep_reference(stored(referred))
    kept = Run(run.folder).reference()
    assert kept is not None
    assert restored(pairs, kept) == referred
    (run.folder / "reference.json").write_text(json.dumps({pairs[0].key: [1.0]}))
    with pytest.raises((KeyError, ValueError)):
        restored(pairs, Run(run.folder).reference() or {})
    (run.folder / "reference.json").write_text("{")
    assert run.reference() is None
