"""What the bot itself says, in Chinese and English; what Daiyu says comes from her persona."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

LANGUAGES = ("zh", "en")


@cache
def _texts(lang: str) -> dict[str, str]:
    path = Path(__file__).with_name(f"{lang}.toml")
    return {k: str(v).strip("\n") for k, v in tomllib.loads(path.read_text("utf-8")).items()}


def say(lang: str, key: str, **fields: object) -> str:
    """The text of that key in that language, its {fields} filled in."""
    return _texts(lang)[key].format(**fields)
