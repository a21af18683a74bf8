"""The store as the trainer sees it: opened beside a bot, collected from, and asked again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from accelerate.utils import broadcast_object_list

from data.database import NoDatabase, OldDatabase
from trainer.alone import TrainingError, is_main
from trainer.collect import Harvest, harvest
from trainer.config import Settings
from trainer.loop import Dataset
from trainer.pairs import paired_turns
from trainer.run import Run
from trainer.stored import opened, screen

Result = TypeVar("Result")
Say = Callable[[str], None]


def with_conversations(settings: Settings, dataset: Dataset, say: Say, resume: bool) -> Dataset:
    """The dataset mixed with what may be learned of the store; the same in all processes.

    A run that is resumed learns the conversations that it began with. Raises StoreError,
    StoreUnavailable, TrainingError where one of those may not be learned any more.
    """
    before = Run.cut_off(settings.runs) if resume else None
    if before is None:
        found = _same_in_all(lambda: asyncio.run(_harvest(settings, dataset, say)))
        training = settings.training
        return dataset.mixed(found.rows, training.share, training.chosen().conversations)
    turns = before.facts["dataset"]["turns"]
    pairs = dict(before.facts["dataset"].get("pairs", []))
    found = _same_in_all(lambda: asyncio.run(_harvest(settings, dataset, say, turns, pairs)))
    gone = set(turns) - set(found.turns)
    if settings.training.preference:  # without, the run is refused for that
        gone |= pairs.keys() - paired_turns(found.rows)
    if gone:
        raise TrainingError(
            f"{len(gone)} of the conversations that the run learns from may not be learned any "
            "more; train anew without --resume"
        )
    return dataset.mixed(found.rows, 1.0)


def still_allowed(settings: Settings, dataset: Dataset, say: Say) -> Dataset:
    """The dataset without the conversations that may not be learned any more.

    Between collecting and training, bases are fetched and converted: time enough to withdraw.
    """
    turns = [row.triple.meta["turn"] for row in dataset.rows if row.triple.meta]
    if not turns:
        return dataset
    pairs = paired_turns(dataset.rows)
    bare = dataset.bare()
    found = _same_in_all(lambda: asyncio.run(_harvest(settings, bare, None, turns, pairs)))
    allowed = {row.key: row for row in found.rows}
    # As they are now: somebody in a row's history may have withdrawn.
    rows = [
        row if row.triple.meta is None else allowed[row.key]
        for row in dataset.rows
        if row.triple.meta is None or row.key in allowed
    ]
    if gone := len(dataset.rows) - len(rows):
        say(f"{gone} conversations were withdrawn meanwhile and are not learned")
    return dataset.of(rows)


async def _harvest(
    settings: Settings,
    dataset: Dataset,
    say: Say | None,
    only: Collection[int] | None = None,
    pairs: Mapping[int, int] | None = None,
) -> Harvest:
    if settings.training.share == 0:
        return Harvest()
    try:
        async with opened(settings) as store:
            found = await harvest(
                store.learning,
                screen(settings),
                settings.training,
                settings.store,
                [*dataset.rows, *dataset.shown],
                [*dataset.sets.talk, *dataset.sets.safety, *dataset.sets.sycophancy],
                only,
                pairs,
            )
    except NoDatabase:
        return Harvest()
    except OldDatabase as error:
        if say:
            say(f"no conversations are learned: {error}")
        return Harvest()
    if say:
        _tell(found, say)
    return found


def _tell(found: Harvest, say: Say) -> None:
    say(f"{len(found.rows)} conversations may be learned")
    if pairs := paired_turns(found.rows):
        say(f"{len(pairs)} of them stand beside a reply that was voted down")
    if found.left:
        say("left out: " + _counted(found.left))
    if found.held:
        held = _counted(Counter(one.reason for one in found.held))
        say(f"waiting for `python -m trainer review`: {held}")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common())


def _same_in_all(collect: Callable[[], Result]) -> Result:
    """What the main process collects, in all that train together."""
    told: list[Result | None] = [collect() if is_main() else None]
    broadcast_object_list(told)
    (found,) = told
    assert found is not None
    return found
