"""What the bot itself says, in Chinese and English; what Daiyu says comes from her persona."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

LANGUAGES = ("zh", "en")
_COMMAND = re.compile(r"^/(\w+)(?: .*?)?? {2,}(.+)$", re.MULTILINE)


@cache
def _texts(lang: str) -> dict[str, str]:
    path = Path(__file__).with_name(f"{lang}.toml")
    return {k: str(v).rstrip("\n") for k, v in tomllib.loads(path.read_text("utf-8")).items()}


def say(lang: str, key: str, **fields: object) -> str:
    """The text of that key in that language, its {fields} filled in."""
    return _texts(lang)[key].format(**fields)


@cache
def menu(lang: str) -> dict[str, str]:
    """The commands, and what the help says of each."""
    return dict(_COMMAND.findall(say(lang, "help")))
