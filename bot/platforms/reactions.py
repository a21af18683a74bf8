"""What a reaction says of a reply."""

from __future__ import annotations

import re

_GOOD = frozenset("👍❤🔥🥰👏😁🎉🤩🙏👌😍💯🤣🏆🤗😘😇🆒💘😎")
_BAD = frozenset("👎💩🤮😡🤬🖕🥱🤡")
_SHADES = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")
"""The choice between text and picture, and the tones of skin."""


def vote_of(emoji: str) -> str:
    """`good`, `bad`, or "" for what is no verdict."""
    bare = _SHADES.sub("", emoji)
    return "good" if bare in _GOOD else "bad" if bare in _BAD else ""
