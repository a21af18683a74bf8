"""Settings of the training, its recipes, and the whole that the trainer's root reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from data.config import PathsSettings, StoreSettings, database_url, read_settings
from persona.config import ModelSettings, PersonaSettings
from persona.trial import MOST_HOURS

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The layers that carry the adapter: all linear ones of a decoder block."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained.

    `exemplars` stand before each message, as they do when it is served; `bare` is the share of
    conversations that are learned without any, `agreeing` that of those whose nearest exemplar says
    nearly what is to be learned. An epoch takes `conversations` of the authored rows, drawn anew,
    and whatever was collected; 0 is all. A `continuing` share of them has a history; of a
    `repeating` share the nearest exemplar says the reply as it stands; the others have `kinship`
    with another row (character 3-gram Jaccard of the replies), as long as there are such. A step
    learns from `batch`.
    """

    rank: int
    alpha: int
    dropout: float
    rate: float
    epochs: int
    batch: int = 8
    exemplars: int = 3
    bare: float = 0.0
    agreeing: float = 0.0
    kinship: float = 0.0
    continuing: float = 0.0
    repeating: float = 0.0
    conversations: int = 0
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    patience: int = 1
    """Evaluations in a row that may be no better before it stops."""
    preference: float = 0.0
    """What a pair of replies weighs beside a conversation; 0 learns from no pairs."""
    preference_beta: float = 0.1
    """How hard pairs hold to the reference: the higher, the sooner a margin in nats suffices."""

    def used(self) -> dict[str, Any]:
        """As a lineage has it: without pairs, nothing of them."""
        values = asdict(self)
        if not self.preference:
            del values["preference"], values["preference_beta"]
        return values


RECIPES = {
    # The first recipe's own values; its faults are mended all the same (docs/recipe.md).
    "seed": Recipe(rank=8, alpha=32, dropout=0.1, rate=5e-4, epochs=1, exemplars=0),
    # Chosen by loss and by reading.
    "daiyu": Recipe(
        rank=16,
        alpha=32,
        dropout=0.0,
        rate=3e-4,
        epochs=1,
        agreeing=0.6,
        kinship=0.15,
        continuing=0.15,
        repeating=0.25,
        conversations=1100,
    ),
}


class TrainingSettings(BaseModel):
    """[training]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = "Qwen/Qwen2.5-0.5B-Instruct"
    """What is trained on; where no hub is reached, the embedded base."""
    recipe: Literal["daiyu", "seed"] = "daiyu"
    """The named recipe."""
    epochs: int | None = Field(default=None, ge=1)
    """Overrides the recipe's."""
    rate: float | None = Field(default=None, gt=0, le=1)
    """The highest learning rate; overrides the recipe's."""
    rank: int | None = Field(default=None, ge=1, le=256)
    """The adapter's rank; overrides the recipe's."""
    start: Literal["base", "incumbent"] = "base"
    """What training begins from: a fresh adapter on `base`, or the adapter in service on its own
    base, where one is."""
    rich: bool = True
    """Whether the rows in rich/ that need no history are learned too, or only shown."""
    promote: bool = True
    """Whether a version that passed its gate is served by itself, or waits for somebody to read it:
    the gate sees whether replies have sense, not whether they answer."""
    trial_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the chats that get a version first; 0 serves it everywhere at once."""
    trial_hours: float = Field(default=20.0, gt=0, le=MOST_HOURS)
    """After which a version that those chats found no worse is served everywhere. Below 24, so that
    one night's is through before the next night's comes."""
    trial_chats: int = Field(default=8, ge=2)
    """Chats that were active in the last seven days; with fewer a trial tells nothing, and a
    version is served everywhere at once."""
    keep: int = Field(default=30, ge=3)
    """Versions that stay, the newest; beside them those that were served before, so many of them,
    and what is on trial. Earlier ones are removed once another is published."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the adapter's first values, the order of rows, and dropout."""
    pack_tokens: int = Field(default=0, ge=0)
    """Tokens that go through the model at once; 0 is 512 on a CPU and 8192 on a GPU. Halved by
    itself where memory does not suffice."""
    threads: int = Field(default=0, ge=0)
    """Threads that training computes with; 0 is one a core."""
    checkpoint_seconds: float = Field(default=300.0, gt=0)
    """Between two checkpoints; an interrupted run goes on from the last one with --resume."""
    platforms: list[Literal["telegram", "terminal", "discord"]] = ["telegram", "terminal"]
    """Where conversations are learned from; Discord's also needs [store] discord_permission."""
    share: float = Field(default=0.25, ge=0, lt=1)
    """Of what is learned, what may come from conversations; 0 learns the authored rows alone."""
    score: float = Field(default=2.0, gt=0)
    """Net votes of distinct people that a reply in a group needs; in a private chat its person's
    own suffices."""
    approved_only: bool = False
    """Whether corrections are learned only once `python -m trainer review` approved them."""
    person_rows: int = Field(default=50, ge=0)
    """Rows that may hold one person's words."""
    chat_rows: int = Field(default=200, ge=0)
    """Rows that may come from one chat."""
    burst: int = Field(default=5, ge=2)
    """Young accounts (a day or less) rating in one chat within one hour, from which on all that was
    rated there in that hour waits for review."""
    history: int = Field(default=4, ge=0)
    """Earlier exchanges that a learned one brings along."""
    preference: float = Field(default=0.0, ge=0, le=100)
    """What a down-voted reply and its better weigh beside a conversation; 0 learns nothing from
    down-votes."""
    preference_beta: float = Field(default=0.1, gt=0, le=10)
    """DPO's beta: the higher, the smaller the margin over the reference that suffices."""

    def chosen(self) -> Recipe:
        """The recipe with what is overridden."""
        recipe = RECIPES[self.recipe]
        return replace(
            recipe,
            epochs=self.epochs or recipe.epochs,
            rate=self.rate or recipe.rate,
            rank=self.rank or recipe.rank,
            preference=self.preference,
            preference_beta=self.preference_beta,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the trainer reads of config.toml."""

    paths: PathsSettings
    store: StoreSettings
    model: ModelSettings
    persona: PersonaSettings
    training: TrainingSettings

    @property
    def runs(self) -> Path:
        """Where training runs keep their checkpoints."""
        return self.paths.var / "training"

    @property
    def database_url(self) -> str:
        return database_url(self.paths, self.store)


_SECTIONS: dict[str, type[BaseModel]] = {
    "paths": PathsSettings,
    "store": StoreSettings,
    "model": ModelSettings,
    "persona": PersonaSettings,
    "training": TrainingSettings,
}
_FOREIGN = frozenset({"bot", "telegram", "discord", "operations"})


def read(path: Path, env: Mapping[str, str]) -> Settings:
    """Reads config.toml and the environment. Raises data.config.SettingsError."""
    sections = read_settings(path, _SECTIONS, env, _FOREIGN)
    return Settings(
        paths=cast(PathsSettings, sections["paths"]),
        store=cast(StoreSettings, sections["store"]),
        model=cast(ModelSettings, sections["model"]),
        persona=cast(PersonaSettings, sections["persona"]),
        training=cast(TrainingSettings, sections["training"]),
    )
