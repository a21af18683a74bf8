"""What is trained on what: the rows, the base, what is started from, and the run that it makes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from data.triples import RICH, read_dialogues
from persona.card import Card, read_persona_card
from persona.child import Report
from persona.prompt import PromptBuilder, PromptTooLong
from persona.registry import Registry
from persona.serving import Served, budget, content_hash, fitting_base, to_serve
from persona.tokenizer import ChatTokenizer
from persona.weights import EMBEDDED, Base, NoSource, Weights
from trainer.alone import TrainingError
from trainer.config import Settings
from trainer.model import adapt, pack_tokens
from trainer.preprocess import DatasetError, Preprocessor, Row, hold_out, read_rows
from trainer.publish import dataset_facts
from trainer.run import Run
from trainer.speech import EvalSets
from trainer.start import origin, reference_on, referred, to_start_from
from trainer.train import Evaluation, Step, Trainer

Watch = Callable[[Step | Evaluation], None]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows to learn from, rows that only are exemplars, and the frozen ones to judge by, which are
    near to none of these. Collected rows are those with meta."""

    rows: list[Row]
    shown: list[Row]
    sets: EvalSets

    def of(self, rows: Sequence[Row]) -> Dataset:
        """The same with other rows to learn from."""
        return replace(self, rows=list(rows))

    def bare(self) -> Dataset:
        """The authored rows alone."""
        return self.of([row for row in self.rows if row.triple.meta is None])

    def mixed(self, collected: Sequence[Row], share: float, conversations: int = 0) -> Dataset:
        """With the best of the collected rows, given best first, up to a share of all.

        Where authored rows make so many `conversations` at the most, so many are all of them.
        """
        authored = self.bare().rows
        learned = min(len(authored), conversations or len(authored))
        most = len(collected) if share >= 1 else int(share / (1 - share) * learned)
        # In the order of their turns, so that the same ones make the same run.
        chosen = sorted(collected[:most], key=lambda row: int((row.triple.meta or {})["turn"]))
        return self.of([*authored, *chosen])


def read_dataset(folder: Path, rich: bool = False) -> Dataset:
    """The authored rows of a folder, and the frozen sets in eval/.

    Those in rich/ that need no history are learned where `rich` says so; the others are only shown.
    Without eval/talk.jsonl a twentieth of the rows is held out for it. Raises TriplesError,
    DatasetError.
    """
    rows = read_rows(folder)
    shown = [
        Row(key, triple) for key, triple in read_dialogues(folder) if key.startswith(f"{RICH}/")
    ]
    if rich:
        rows += [row for row in shown if not row.triple.history]
        shown = [row for row in shown if row.triple.history]
    frozen: dict[str, list[Row]] = {"talk": [], "safety": [], "sycophancy": []}
    if (folder / "eval").is_dir():
        for row in read_rows(folder / "eval"):
            name = row.key.partition(":")[0]
            if name not in frozen:
                raise DatasetError(
                    f"{folder / 'eval'}: {name}.jsonl is none of {', '.join(frozen)}"
                )
            frozen[name].append(row)
    if not frozen["talk"]:
        rows, frozen["talk"] = hold_out(rows)
    if not rows or not frozen["talk"]:
        raise DatasetError(f"{folder} holds too few rows to train on and to judge by")
    return Dataset(rows, shown, EvalSets(**frozen))


def training_base(settings: Settings, weights: Weights, say: Callable[[str], None]) -> Base:
    """The base to train on: the embedded one where no hub can be reached.

    Raises WeightsError, also where a hub answered and has no such model: a name that is mistyped
    must not train another base for an hour.
    """
    name = settings.training.base
    try:
        return weights.base(name)
    except NoSource as error:
        if name == EMBEDDED or not _is_hub_name(name):
            raise
        say(f"{name} cannot be had ({error}); training on the embedded base instead")
        return weights.base(EMBEDDED)


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def train(
    settings: Settings,
    dataset: Dataset,
    weights: Weights,
    *,
    resume: bool,
    watch: Watch,
    say: Callable[[str], None],
    recheck: Callable[[Dataset], Dataset] = lambda dataset: dataset,
    consider: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> Run:
    """Trains an adapter, or goes on with one. Raises TrainingError, WeightsError, DatasetError; and
    what reading the adapter in service raises, where it is started from or compared with.

    `recheck` takes out, once all else is ready, what may not be learned any more. `consider` is
    told the facts that the lineage will hold, and may refuse by raising.
    """
    recipe, training = settings.training.chosen(), settings.training
    if training.threads:
        torch.set_num_threads(training.threads)
    accelerator = Accelerator()
    learns_pairs, from_served = recipe.preference > 0, training.start == "incumbent"
    served = incumbent(settings) if learns_pairs or from_served else None
    start = to_start_from(served, recipe, say) if served and from_served else None
    base = fitting_base(start, weights) if start else training_base(settings, weights, say)
    card = read_persona_card(settings.persona.folder)
    folder = weights.for_transformers(base)
    dataset = _fitting(recheck(dataset), builder_for(settings, folder))
    paired = learns_pairs and any(row.rejected for row in dataset.rows)
    reference = reference_on(base, served) if served and paired else None
    facts = {
        "persona": card.name,
        "card": _card_hash(card),
        "base": {"name": base.name, "sha256": content_hash(base)},
        "dataset": dataset_facts(dataset.rows, dataset.shown, dataset.sets.talk),
        "recipe": recipe.used() | {"name": training.recipe},
        "prompt": asdict(budget(settings.model, settings.persona)),
        "seed": training.seed,
        "start": origin(start),
        "reference": reference.version if reference else None,
    }
    facts = json.loads(json.dumps(facts))  # as they will be read back
    consider(facts)
    preprocessor = preprocessor_for(settings, folder, dataset.rows, recipe.exemplars, dataset.shown)
    pairs = preprocessor.pairs() if paired else []
    epochs = [
        preprocessor.epoch(
            training.seed * 1000 + number,
            recipe.bare,
            recipe.agreeing,
            recipe.kinship,
            recipe.continuing,
            recipe.repeating,
            recipe.conversations,
        )
        for number in range(recipe.epochs)
    ]
    held = preprocessor.evaluation(dataset.sets.talk)
    run = _same_run(accelerator, settings.runs, facts, resume)
    if run.trained:
        return run
    try:
        if reference:
            pairs = referred(run, pairs, folder, reference.adapter, accelerator)
        adapted = adapt(
            folder,
            recipe,
            training.seed,
            accelerator.device,
            start=start.adapter if start else None,
        )
    except (ValueError, AttributeError, SafetensorError) as error:  # damaged, or of other layers
        reason = " ".join(str(error).split())[:300]
        raise TrainingError(f"{base.name} cannot carry the adapter: {reason}") from error
    trainer = Trainer(
        adapted,
        recipe,
        epochs,
        held,
        sum(len(row.triple.output) for row in dataset.sets.talk),
        seed=training.seed,
        pack_tokens=training.pack_tokens or pack_tokens(accelerator.device),
        accelerator=accelerator,
        pairs=pairs,
    )
    if resume:
        run.restore(trainer)
        say(f"going on with {run.folder.name} after step {trainer.progress.step}")
    _run(run, trainer, training.checkpoint_seconds, accelerator.is_main_process, watch)
    return run


def preprocessor_for(
    settings: Settings,
    folder: Path,
    rows: Sequence[Row],
    exemplars: int,
    shown: Sequence[Row] = (),
) -> Preprocessor:
    """Makes conversations of rows as the bot does, for the base in `folder`."""
    return Preprocessor(builder_for(settings, folder), rows, exemplars, shown)


def builder_for(settings: Settings, folder: Path) -> PromptBuilder:
    """Builds prompts as the bot does, for the base in `folder`."""
    return PromptBuilder(
        ChatTokenizer.load(folder / "tokenizer.json"),
        read_persona_card(settings.persona.folder),
        budget(settings.model, settings.persona),
    )


def _fitting(dataset: Dataset, builder: PromptBuilder) -> Dataset:
    """Without collected rows that are too long to be learned; an authored one is a mistake."""

    def fits(row: Row) -> bool:
        try:
            builder.build(row.triple.message, reply=row.triple.output)
        except PromptTooLong:
            return False
        return True

    return dataset.of([row for row in dataset.rows if row.triple.meta is None or fits(row)])


def _same_run(accelerator: Accelerator, runs: Path, facts: dict[str, Any], resume: bool) -> Run:
    """The run to begin or to go on with, the same one in all processes."""
    told = [""]
    if accelerator.is_main_process:
        run = Run.unfinished(runs, facts) if resume else Run.begin(runs, facts)
        told = [str(run.folder)]
    broadcast_object_list(told)
    return Run(Path(told[0]))


def _card_hash(card: Card) -> str:
    return hashlib.sha256(card.model_dump_json().encode()).hexdigest()


def _run(run: Run, trainer: Trainer, pause: float, writes: bool, watch: Watch) -> None:
    kept = time.monotonic()
    for event in trainer.run():
        watch(event)
        if not writes:
            continue
        run.note(event)
        if isinstance(event, Evaluation) and event.best:
            run.keep_best(trainer.adapted)
        if isinstance(event, Evaluation) or time.monotonic() - kept > pause:
            run.checkpoint(trainer)
            kept = time.monotonic()
    if writes:
        run.finish()


def weights(settings: Settings, report: Report) -> Weights:
    """The same models as the bot's."""
    return Weights(settings.paths.var / "models", list(settings.model.sources), report)


def incumbent(settings: Settings) -> Served:
    """What is served now. Raises RegistryError."""
    return to_serve(settings.model, settings.persona, registry(settings))


def registry(settings: Settings) -> Registry:
    """The registry that the bot serves from."""
    return Registry(settings.paths.var / "adapters")
