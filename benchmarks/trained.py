"""What nights of training make of the embedded base, for `benchmarks.loop --model`.

The trainer's own preprocessing, loop and settings, on a sample of the authored rows, so that a
night takes minutes, mixed with what was collected. Before the first night the untrained base is
asked what people of the simulation will ask; those of its replies that they then dislike are the
ones of which is counted how many a night's adapter says again, with the same exemplars and at the
same seed: the untrained base says every one of them again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.config import PathsSettings
from persona.card import read_persona_card
from persona.config import PROFILES
from persona.exemplars import SAME, ExemplarIndex, similarity, trigrams
from persona.prompt import PromptBuilder
from persona.serving import Served, budget, load_engine
from persona.weights import EMBEDDED
from trainer import loop
from trainer.config import Settings
from trainer.loop import Dataset
from trainer.preprocess import Row
from trainer.run import Run
from trainer.speech import EvalSets, Subject, speak

_AT_ONCE = 16
_JUDGED_BY = 60


@dataclass(frozen=True, slots=True)
class Learned:
    """What an adapter is. `loss` is of held-out rows, in nats a character."""

    name: str
    rows: int
    collected: int
    poison: int
    loss: float
    disliked: int
    again: int

    def line(self) -> str:
        share = f"{self.again / self.disliked:.0%}" if self.disliked else "-"
        return (
            f"| {self.name} | {self.rows} | {self.collected} | {self.poison} | {self.loss:.3f} "
            f"| {self.again} of {self.disliked} ({share}) |"
        )


class Nights:
    """Trains night after night, below `var`; the models are those of the settings."""

    def __init__(self, settings: Settings, dataset: Dataset, rows: int, var: Path) -> None:
        self._weights = loop.weights(settings, lambda *_: None)
        training = settings.training.model_copy(update=dict(base=EMBEDDED, epochs=1))
        self._settings = replace(settings, paths=PathsSettings(var=var), training=training)
        talk = dataset.sets.talk
        self._dataset = Dataset(
            dataset.rows[:: max(1, len(dataset.rows) // rows)][:rows],
            [],
            EvalSets(talk[:: max(1, len(talk) // _JUDGED_BY)][:_JUDGED_BY]),
        )

    async def untrained(self, messages: Sequence[str]) -> dict[str, str]:
        """What the base says to each of these by itself. Raises WeightsError, EngineError."""
        return await self._says(Served("untrained", EMBEDDED), messages)

    async def learn(
        self,
        name: str,
        collected: Sequence[Row],
        disliked: Mapping[str, str],
        poisoned: Collection[str],
    ) -> Learned:
        """Trains anew; `disliked` are replies by their message, `poisoned` are counted.

        Raises TrainingError, WeightsError, DatasetError, EngineError.
        """
        dataset = self._dataset.mixed(collected, self._settings.training.share)
        run = await asyncio.to_thread(self._train, dataset)
        base = run.facts["base"]
        served = Served(run.folder.name, base["name"], run.best, base["sha256"])
        said = await self._says(served, list(disliked))
        again = sum(
            similarity(trigrams(said[message]), trigrams(reply)) >= SAME
            for message, reply in disliked.items()
        )
        losses = [line["loss"] for line in run.metrics() if line["kind"] == "evaluation"]
        learned = [row for row in dataset.rows if row.triple.meta is not None]
        return Learned(
            name=name,
            rows=len(dataset.rows),
            collected=len(learned),
            poison=sum(row.triple.output in poisoned for row in learned),
            loss=min(losses),
            disliked=len(disliked),
            again=again,
        )

    def _train(self, dataset: Dataset) -> Run:
        return loop.train(
            self._settings,
            dataset,
            self._weights,
            resume=False,
            watch=lambda _: None,
            say=lambda line: print(line, file=sys.stderr),
        )

    async def _says(self, served: Served, messages: Sequence[str]) -> dict[str, str]:
        if not messages:
            return {}
        model, persona = self._settings.model, self._settings.persona
        engine, tokenizer = await load_engine(served, model, self._weights, lambda *_: None)
        rows = [row for row in self._dataset.rows if not row.triple.history]
        subject = Subject(
            name=served.version,
            builder=PromptBuilder(
                tokenizer, read_persona_card(persona.folder), budget(model, persona)
            ),
            engine=engine,
            scorer=_no_scores,
            sampling=PROFILES[model.sampling],
            exemplars=ExemplarIndex([row.exchange for row in rows]),
            exemplar_count=persona.exemplars,
        )
        room = asyncio.Semaphore(_AT_ONCE)

        async def says(message: str) -> str:
            async with room:
                return (await speak(subject, "talk", message, [], "")).text

        try:
            replies = await asyncio.gather(*map(says, messages))
        finally:
            await engine.close()
        return dict(zip(messages, replies, strict=True))


async def _no_scores(_: object) -> list[list[float]]:
    return []
