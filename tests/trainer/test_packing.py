"""Packing: side by side in one sequence, each example is what it is alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.prompt import IGNORED
from trainer.config import Recipe
from trainer.model import Adapted, adapt, example_losses, pack_losses
from trainer.packing import Example, Pack, fill, pack


@st.composite
def example_lists(draw: st.DrawFn) -> list[Example]:
    """Examples that may share a beginning, may repeat each other, and learn here and there."""
    shared = draw(st.lists(st.integers(0, 3), max_size=6))
    made = []
    for number in range(draw(st.integers(1, 6))):
        own = draw(st.lists(st.integers(0, 3), min_size=2, max_size=8))
        ids = (*shared, *own)
        learned = draw(st.sets(st.integers(1, len(ids) - 1), min_size=1))
        labels = tuple(token if i in learned else IGNORED for i, token in enumerate(ids))
        made.append(Example(ids, labels, (f"row:{number}",)))
    return made


def seen(packed: Pack, place: int) -> list[int]:
    """The places that a token may look at."""
    return [int(i) for i in np.flatnonzero(packed.mask()[place])]


@settings(deadline=None)  # the machine may be busy
@given(example_lists())
def test_token_sees_the_shared_beginning_and_its_own_example_alone(examples: list[Example]) -> None:
    packed = pack(examples)
    for place, segment in enumerate(packed.segments):
        earlier = range(place + 1)
        assert seen(packed, place) == [i for i in earlier if packed.segments[i] in (-1, segment)]


@settings(deadline=None)  # the machine may be busy
@given(example_lists())
def test_every_learned_token_is_predicted_once_behind_its_own_beginning(
    examples: list[Example],
) -> None:
    packed = pack(examples)
    found = []
    for source, target in zip(packed.sources, packed.targets, strict=True):
        context = tuple(int(packed.ids[i]) for i in seen(packed, source))
        found.append((int(packed.segments[source]), context, int(target)))
        assert [int(packed.positions[i]) for i in seen(packed, source)] == list(range(len(context)))
    wanted = []
    for number, example in enumerate(examples):
        own = number if len(examples) > 1 or packed.segments[0] != -1 else -1
        for i, label in enumerate(example.labels):
            if label != IGNORED:
                wanted.append((own, example.ids[:i], label))
    assert found == wanted
    assert packed.ids.dtype == packed.positions.dtype == packed.sources.dtype == np.int64


@settings(deadline=None)  # the machine may be busy
@given(example_lists())
def test_ids_come_back_for_each_example(examples: list[Example]) -> None:
    packed = pack(examples)
    for number, example in enumerate(packed.examples):
        last = int(np.flatnonzero(packed.segments == number)[-1])
        assert tuple(int(packed.ids[i]) for i in seen(packed, last)) == example.ids


@settings(deadline=None)  # the machine may be busy
@given(example_lists(), st.integers(1, 40))
def test_filling_keeps_every_example_and_the_room(examples: list[Example], room: int) -> None:
    packs = fill(examples, room)
    assert sorted(e.rows for p in packs for e in p.examples) == sorted(e.rows for e in examples)
    for packed in packs:
        assert len(packed.ids) <= room or len(packed.examples) == 1
    assert sum(len(p.targets) for p in packs) == sum(e.targets for e in examples)


def conversations() -> list[Example]:
    draw = np.random.default_rng(0)
    head = tuple(int(i) for i in draw.integers(0, 400, 9))
    made = []
    for number, length in enumerate((7, 19, 3, 12, 30)):
        ids = (*head, *(int(i) for i in draw.integers(0, 400, length)))
        learned = {*range(len(ids) - length // 2 - 1, len(ids)), len(head) + 1}
        labels = tuple(t if i in learned else IGNORED for i, t in enumerate(ids))
        made.append(Example(ids, labels, (f"row:{number}",)))
    return made


@pytest.fixture
def adapted(qwen: Path, recipe: Recipe) -> Adapted:
    made = adapt(qwen, recipe, seed=0, device=torch.device("cpu"))
    torch.manual_seed(2)
    for parameter in made.parameters:  # B is drawn as zero: nothing would flow to A
        parameter.data.normal_(std=0.1)
    return made


def gradients(adapted: Adapted, packs: list[Pack]) -> list[torch.Tensor]:
    for parameter in adapted.parameters:
        parameter.grad = None
    for packed in packs:
        pack_losses(adapted.causal, packed).sum().backward()
    return [p.grad.clone() for p in adapted.parameters if p.grad is not None]


@pytest.mark.parametrize("room", [20, 40, 400])
def test_losses_and_gradients_are_those_of_each_example_alone(adapted: Adapted, room: int) -> None:
    examples = conversations()
    together = example_losses(adapted.causal, examples, room)
    for example in examples:
        ids = torch.tensor([example.ids])
        logits = adapted.causal(input_ids=ids).logits[0, :-1].detach()
        labels = torch.tensor(example.labels[1:])
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        alone = losses[labels != IGNORED]
        torch.testing.assert_close(
            torch.tensor(together[example.rows]), alone, rtol=1e-5, atol=1e-5
        )
    whole = gradients(adapted, fill(examples, room))
    single = gradients(adapted, [pack([example]) for example in examples])
    assert len(whole) == len(adapted.parameters)
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)
