"""A chat of the fake server as a picture: what stands in it, as SVG."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from html import escape

from tests.fakes.messages import Message, User

Line = Message | str
"""A message, as it stands in the end; or a note of what happened, which nobody said."""

_WIDTH, _MARGIN = 440, 12
_ROOM = 300
"""The widest that a row may be, in pixels as all here; a closing mark may stand beyond it."""
_SIZE, _SMALL = 15, 12
_LEADING = 1.5
"""The height of a line, by the size of its letters."""
_PADDING = 10
_HEAD = 48
_FONT = "PingFang SC, Noto Sans CJK SC, Noto Sans SC, Microsoft YaHei, sans-serif"
_BACK, _TOP, _BOT, _PERSON, _BUTTON = "#dfe7d8", "#5b7f6b", "#ffffff", "#e3f6cd", "#b9cdb2"
_INK, _PALE, _NAME = "#1d2420", "#5d6b63", "#8a4b5f"
_NOT_FIRST = "，。！？；：、”’）》」』…—,.!?;:)"
_UNWRAPPED = re.compile(r"[!-~]{1,24}\s?|.", re.DOTALL)
"""What a row is never broken in: a word of Latin letters, if not too long, or one character."""
_MEDIA = {"photo": "〔图片〕", "sticker": "〔贴纸〕", "voice": "〔语音〕", "document": "〔文件〕"}


def svg(title: str, lines: Sequence[Line]) -> str:
    """What stands, from the first line to the last, under a title."""
    shapes: list[str] = []
    y = float(_HEAD + _MARGIN)
    for line in lines:
        drawn, height = _note(line, y) if isinstance(line, str) else _message(line, y)
        shapes += drawn
        y += height + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y:g}" '
            f'width="{_WIDTH}" height="{y:g}" font-family="{_FONT}">',
            f"<title>{escape(title)}</title>",
            _box(0, 0, _WIDTH, y, _BACK, 10),
            _box(0, 0, _WIDTH, _HEAD, _TOP, 10),
            _box(0, _HEAD / 2, _WIDTH, _HEAD / 2, _TOP, 0),
            _text(_MARGIN * 1.5, _HEAD / 2 + 6, title, _SIZE + 2, "#ffffff", bold=True),
            *shapes,
            "</svg>\n",
        ]
    )


def _message(message: Message, y: float) -> tuple[list[str], float]:
    """A bubble, with the name, what it answers, reactions and buttons; and its height."""
    said = _rows(_said(message), _SIZE)
    head = [] if message.chat.type == "private" else [_who(message)]
    quoted = [f"│ {_cut(_said(message.reply_to), 18)}"] if message.reply_to else []
    marks = [mark for given in message.reactions.values() for mark in given]
    widths = [
        *(_wide(row, _SIZE) for row in said),
        *(_wide(row, _SMALL) for row in (*head, *quoted, "".join(marks))),
    ]
    keyboard = message.keyboard or []
    labels = [len(row) * (_wide(button["text"], _SMALL) + 20) for row in keyboard for button in row]
    width = max(*widths, *(min(label, _ROOM) for label in labels), 40) + 2 * _PADDING
    x = _MARGIN if message.by_bot else _WIDTH - _MARGIN - width
    rows = [
        *((row, _SMALL, _NAME, True) for row in head),
        *((row, _SMALL, _PALE, False) for row in quoted),
        *((row, _SIZE, _INK, False) for row in said),
        *([("  ".join(marks), _SMALL + 2, _PALE, False)] if marks else []),
    ]
    shapes, at = [], y + _PADDING
    for row, size, color, bold in rows:
        shapes.append(_text(x + _PADDING, at + size, row, size, color, bold=bold))
        at += size * _LEADING
    height = at + _PADDING / 2 - y
    shapes.insert(0, _box(x, y, width, height, _BOT if message.by_bot else _PERSON, 10))
    for buttons in keyboard:
        height += 4
        each = (width - 4 * (len(buttons) - 1)) / len(buttons)
        for number, button in enumerate(buttons):
            left = x + number * (each + 4)
            shapes.append(_box(left, y + height, each, 28, _BUTTON, 6))
            middle = left + each / 2
            shapes.append(
                _text(middle, y + height + 19, button["text"], _SMALL, _INK, anchor="middle")
            )
        height += 28
    return shapes, height


def _note(note: str, y: float) -> tuple[list[str], float]:
    shapes, at = [], y
    for row in _rows(note, _SMALL):
        at += _SMALL * _LEADING
        shapes.append(_text(_WIDTH / 2, at, row, _SMALL, _PALE, anchor="middle"))
    return shapes, at - y


def _who(message: Message) -> str:
    sender = message.sender
    return sender.first_name if isinstance(sender, User) else sender.title


def _said(message: Message) -> str:
    medium = next((sign for kind, sign in _MEDIA.items() if kind in message.content), "")
    return f"{medium}{message.text}"


def _cut(text: str, most: int) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _rows(text: str, size: int) -> list[str]:
    """The rows that a text takes; none begins with a closing mark."""
    rows = []
    for paragraph in text.splitlines():
        row = ""
        for piece in _UNWRAPPED.findall(paragraph):
            if row and _wide(row + piece.rstrip(), size) > _ROOM and piece not in _NOT_FIRST:
                rows.append(row)
                row = ""
            row += piece
        rows.append(row)
    return rows or [""]


def _wide(text: str, size: int) -> float:
    """About how wide a text is drawn; what is wide is as wide as it is high."""
    return size * sum(map(_share, text))


def _share(char: str) -> float:
    kind = unicodedata.category(char)
    if kind == "Mn":
        return 0.0
    return 1.0 if kind == "So" or unicodedata.east_asian_width(char) in "WFA" else 0.56


def _box(x: float, y: float, width: float, height: float, color: str, round_: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="{round_:g}" fill="{color}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    size: int,
    color: str,
    *,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" '
        f'text-anchor="{anchor}"{weight}>{escape(text)}</text>'
    )
