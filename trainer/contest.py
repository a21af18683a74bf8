"""The gate on the real stack: a run's best adapter and the one in service, each as it is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from persona.card import read_persona_card
from persona.child import Report
from persona.config import PROFILES
from persona.engines.base import EngineError
from persona.engines.openvino_score import score
from persona.exemplars import ExemplarIndex
from persona.prompt import IGNORED, PromptBuilder
from persona.sense import Sense
from persona.serving import Served, budget, engine_name, fitting_base, load_engine
from persona.weights import Weights
from trainer.config import Settings
from trainer.gate import Measured, Verdict, compare, measure, samples
from trainer.judged import Judged, read_judged
from trainer.judgements import sheet
from trainer.lint import read_rules
from trainer.loop import Dataset, incumbent
from trainer.model import example_losses, load_merged, pack_tokens
from trainer.packing import Example
from trainer.run import Run
from trainer.speech import Subject


async def gate(
    settings: Settings, dataset: Dataset, weights: Weights, run: Run, report: Report
) -> tuple[Verdict, str]:
    """Holds a run's best adapter against what is served; the verdict and the sample sheet.

    Raises EngineError, WeightsError, CheckpointError, RegistryError, DatasetError, StoreError,
    StoreUnavailable.
    """
    if engine_name(settings.model) == "echo":
        raise EngineError('[model] engine = "echo" has no weights that could be judged')
    base = run.facts["base"]
    candidate = Served(run.folder.name, base["name"], run.best, base["sha256"])
    dataset = dataset.bare()  # no correction among the exemplars that it is judged with
    judged = await read_judged(settings)
    ours = await _measured(settings, dataset, judged, weights, candidate, report)
    theirs = await _measured(settings, dataset, judged, weights, incumbent(settings), report)
    # Asked again: what was withdrawn or erased meanwhile is not counted.
    still = await read_judged(settings, [turn.turn_id for turn in judged]) if judged else []
    judged = [turn for turn in judged if turn in still]
    ours, theirs = ours.of(judged), theirs.of(judged)
    verdict = compare(ours, theirs)
    return verdict, f"{samples(ours, theirs)}\n{sheet(verdict.people)}"


async def _measured(
    settings: Settings,
    dataset: Dataset,
    judged: Sequence[Judged],
    weights: Weights,
    served: Served,
    report: Report,
) -> Measured:
    engine, tokenizer = await load_engine(served, settings.model, weights, report)
    try:
        subject = Subject(
            name=served.version,
            builder=PromptBuilder(
                tokenizer,
                read_persona_card(settings.persona.folder),
                budget(settings.model, settings.persona),
            ),
            engine=engine,
            scorer=partial(_scored, _scorer(settings, weights, served, report)),
            sampling=PROFILES[settings.model.sampling],
            exemplars=ExemplarIndex(
                [row.exchange for row in (*dataset.rows, *dataset.shown) if not row.triple.history]
            ),
            exemplar_count=settings.persona.exemplars,
            forbidden=read_rules(settings.persona.dialogues).forbidden,
            sense=Sense(
                reply for row in (*dataset.rows, *dataset.shown) for reply in row.triple.replies
            ),
        )
        return await measure(subject, dataset.sets, report, judged)
    finally:
        await engine.close()


_Sequences = Sequence[tuple[Sequence[int], int]]


async def _scored(
    scorer: Callable[[_Sequences], list[list[float]]], sequences: _Sequences
) -> list[list[float]]:
    return await asyncio.to_thread(scorer, sequences)


def _scorer(
    settings: Settings, weights: Weights, served: Served, report: Report
) -> Callable[[_Sequences], list[list[float]]]:
    """Log p under what the engine itself computes with."""
    base = fitting_base(served, weights)
    if engine_name(settings.model) == "openvino":
        folder = weights.for_openvino(base, served.adapter)
        return lambda sequences: score(folder, sequences, report)
    return partial(_torch_scores, weights.for_transformers(base), served.adapter, settings)


def _torch_scores(
    folder: Path, adapter: Path | None, settings: Settings, sequences: _Sequences
) -> list[list[float]]:
    accelerator = Accelerator()
    model = load_merged(folder, adapter, accelerator.device)
    examples = [
        Example(tuple(ids), (*[IGNORED] * first, *ids[first:]), (str(number),))
        for number, (ids, first) in enumerate(sequences)
    ]
    losses = example_losses(model, examples, pack_tokens(accelerator.device))
    return [[-value for value in losses[str(number),]] for number in range(len(sequences))]
