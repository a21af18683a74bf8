"""Settings of the training, its recipes, and the whole that the trainer's root reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from data.config import PathsSettings, StoreSettings, database_url, read_settings
from persona.config import ModelSettings, PersonaSettings

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The layers that carry the adapter: all linear ones of a decoder block."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained.

    `exemplars` stand before each message, as they do when it is served; `bare` is the share of
    conversations that are learned without any, `agreeing` that of those whose nearest exemplar says
    nearly what is to be learned. An epoch takes `conversations` of the authored rows, drawn anew,
    and whatever was collected; 0 is all. A `continuing` share of them has a history, the others
    have `kinship` with another row (character 3-gram Jaccard of the replies), as long as there are
    such. A step learns from `batch`.
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
    conversations: int = 0
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    patience: int = 1
    """Evaluations in a row that may be no better before it stops."""


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
    rich: bool = True
    """Whether the rows in rich/ that need no history are learned too, or only shown."""
    promote: bool = True
    """Whether a version that passed its gate is served at once, or waits for somebody to read it:
    the gate sees whether replies have sense, not whether they answer."""
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

    def chosen(self) -> Recipe:
        """The recipe with what is overridden."""
        recipe = RECIPES[self.recipe]
        return replace(
            recipe,
            epochs=self.epochs or recipe.epochs,
            rate=self.rate or recipe.rate,
            rank=self.rank or recipe.rank,
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
_FOREIGN = frozenset({"bot", "telegram", "discord"})


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
