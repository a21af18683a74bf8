"""Text as Telegram counts and parses it: UTF-16 units, HTML, MarkdownV2, what it finds by itself.

The offsets in errors are bytes of UTF-8, as the real server states them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from tests.fakes.limits import ApiError, bad

Entity = dict[str, Any]

LONGEST = 4096
"""UTF-16 units of a message's text, entities parsed."""

_HTML_TAGS = {
    "a": "text_link",
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "u": "underline",
    "ins": "underline",
    "tg-spoiler": "spoiler",
    "tg-emoji": "custom_emoji",
    "span": "spoiler",
    "pre": "pre",
    "code": "code",
    "blockquote": "blockquote",
}
_HTML_NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
_ATTRIBUTE = re.compile(r"""([\w-]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+)))?""")
_REFERENCE = re.compile(r"&(?:#(\d+)|#x([0-9a-fA-F]+)|([a-z]+));")

_RESERVED = "_*[]()~`>#+-=|{}.!"
_MARKS = {
    "__": "underline",
    "_": "italic",
    "*": "bold",
    "~": "strikethrough",
    "||": "spoiler",
    "```": "pre",
    "`": "code",
    "![": "custom_emoji",
    "[": "text_link",
}
_MARK_NAMES = {"pre": "Pre", "code": "Code", "text_link": "TextUrl", "custom_emoji": "CustomEmoji"}

# A mention or command beside a letter of any script, Chinese ones too, is none: `\w` as in TDLib.
_FOUND = {
    "bot_command": re.compile(
        r"(?<![\w/<>])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?![\w/<>])"
    ),
    "mention": re.compile(r"(?<!\w)(?<!/)@[A-Za-z0-9_]{4,32}(?!\w)"),
    "hashtag": re.compile(r"(?<![\w#/])#\w+"),
    "url": re.compile(r"\bhttps?://[^\s<>]+[^\s<>.,!?]"),
}


class Named(Protocol):
    """A person as a mention without a username needs one."""

    first_name: str

    def json(self) -> dict[str, Any]: ...


def units(text: str) -> int:
    """The length as Telegram counts it; an emoji outside the basic plane counts two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def slice_units(text: str, offset: int, length: int) -> str:
    encoded = text.encode("utf-16-le", "surrogatepass")
    return encoded[offset * 2 : (offset + length) * 2].decode("utf-16-le", "surrogatepass")


def found(text: str, mentioned: Sequence[Named] = ()) -> list[Entity]:
    """What Telegram marks by itself in what a person typed, and mentions of people by name."""
    entities: list[Entity] = [
        {"type": kind, "offset": units(text[: match.start()]), "length": units(match.group())}
        for kind, pattern in _FOUND.items()
        for match in pattern.finditer(text)
    ]
    for user in mentioned:
        at = text.index(user.first_name)
        entities.append(
            {
                "type": "text_mention",
                "offset": units(text[:at]),
                "length": units(user.first_name),
                "user": user.json(),
            }
        )
    return sorted(entities, key=lambda entity: (entity["offset"], -entity["length"]))


def parse(text: str, mode: str | None, given: list[Entity] | None) -> tuple[str, list[Entity]]:
    """Text and entities of what a bot sends, trimmed as the server trims them."""
    if not mode:
        plain, entities = text, list(given or [])
        if not entities:
            entities = found(plain)
    elif mode.lower() == "html":
        plain, entities = _html(text)
    elif mode.lower() == "markdownv2":
        plain, entities = _markdown(text)
    elif mode.lower() == "markdown":
        raise NotImplementedError("the legacy Markdown mode; use MarkdownV2 or HTML")
    else:
        raise bad("unsupported parse_mode")
    return _trimmed(plain, entities)


def _trimmed(text: str, entities: list[Entity]) -> tuple[str, list[Entity]]:
    kept = text.strip()
    start = units(text[: len(text) - len(text.lstrip())])
    end = units(kept)
    moved = []
    for entity in entities:
        first = max(entity["offset"] - start, 0)
        last = min(entity["offset"] + entity["length"] - start, end)
        if last > first:
            moved.append({**entity, "offset": first, "length": last - first})
    return kept, sorted(moved, key=lambda entity: (entity["offset"], -entity["length"]))


def _unparsed(why: str) -> ApiError:
    return bad(f"can't parse entities: {why}")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _html(text: str) -> tuple[str, list[Entity]]:
    plain, at = "", 0
    entities: list[Entity] = []
    opened: list[tuple[str, int, dict[str, str]]] = []
    while at < len(text):
        if text[at] == "&" and (match := _REFERENCE.match(text, at)):
            decimal, hexadecimal, name = match.groups()
            if name is None:
                plain += chr(int(decimal) if decimal else int(hexadecimal, 16))
            else:
                plain += _HTML_NAMED.get(name, match.group())
            at = match.end()
        elif text[at] != "<":
            plain += text[at]
            at += 1
        else:
            offset = _bytes(text[:at])
            closing = text.startswith("</", at)
            end = text.find(">", at)
            if end < 0:
                raise _unparsed(
                    f"Unclosed {'end' if closing else 'start'} tag at byte offset {offset}"
                )
            inside = text[at + 1 + closing : end]
            name = re.split(r"\s", inside, maxsplit=1)[0].lower()
            at = end + 1
            if not closing:
                if name not in _HTML_TAGS:
                    raise _unparsed(f'Unsupported start tag "{name}" at byte offset {offset}')
                attributes = {
                    match[1].lower(): match[2] or match[3] or match[4] or ""
                    for match in _ATTRIBUTE.finditer(inside[len(name) :])
                }
                if name == "span" and attributes.get("class") != "tg-spoiler":
                    raise _unparsed(
                        f'Tag "span" must have class "tg-spoiler" at byte offset {offset}'
                    )
                opened.append((name, len(plain), attributes))
                continue
            if not opened:
                raise _unparsed(f"Unexpected end tag at byte offset {offset}")
            tag, start, attributes = opened.pop()
            if name and name != tag:
                raise _unparsed(
                    f"Unmatched end tag at byte offset {offset}, "
                    f'expected "</{tag}>", found "</{name}>"'
                )
            _close(entities, plain, start, _HTML_TAGS[tag], attributes.get("href", ""))
    if opened:
        raise _unparsed(f'Can\'t find end tag corresponding to start tag "{opened[-1][0]}"')
    return plain, entities


def _close(entities: list[Entity], plain: str, start: int, kind: str, url: str = "") -> None:
    inside = plain[start:]
    if kind == "text_link":
        url = url or inside
        if not re.match(r"(https?|tg|mailto|tel):", url):
            return  # the server keeps the text of a link that leads nowhere
    if inside:
        entity: Entity = {
            "type": kind,
            "offset": units(plain[:start]),
            "length": units(inside),
        }
        entities.append({**entity, "url": url} if kind == "text_link" else entity)


def _markdown(text: str) -> tuple[str, list[Entity]]:
    plain, at = "", 0
    entities: list[Entity] = []
    opened: list[tuple[str, int, int]] = []  # the mark, where in the text, where in the plain text
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text) and ord(text[at + 1]) <= 126:
            plain += text[at + 1]
            at += 2
            continue
        top = opened[-1][0] if opened else ""
        if char not in _RESERVED or (top in ("`", "```") and char != "`"):
            plain += char
            at += 1
            continue
        if top and text.startswith(top, at) and top not in ("[", "!["):
            _, _, start = opened.pop()
            _close(entities, plain, start, _MARKS[top])
            at += len(top)
        elif top in ("[", "![") and char == "]":
            _, _, start = opened.pop()
            url, at = _markdown_link(text, at + 1)
            _close(entities, plain, start, _MARKS[top], url)
        elif char == ">" and (not plain or plain.endswith("\n")):
            line = text.find("\n", at)
            opened_before = len(plain)
            inner, nested = _markdown(text[at + 1 : line if line >= 0 else len(text)])
            base = units(plain)
            plain += inner
            entities += [{**entity, "offset": entity["offset"] + base} for entity in nested]
            _close(entities, plain, opened_before, "blockquote")
            at = line if line >= 0 else len(text)
        elif top not in ("`", "```") and (
            mark := next((mark for mark in _MARKS if text.startswith(mark, at)), "")
        ):
            opened.append((mark, at, len(plain)))
            at += len(mark)
            if mark == "```" and (language := re.match(r"[^\s`]*\n", text[at:])):
                at += language.end()
        else:
            raise _unparsed(
                f"Character '{char}' is reserved and must be escaped with the preceding '\\'"
            )
    if opened:
        mark, offset, _ = opened[-1]
        kind = _MARKS[mark]
        raise _unparsed(
            f"Can't find end of {_MARK_NAMES.get(kind, kind.title())} entity "
            f"at byte offset {_bytes(text[:offset])}"
        )
    return plain, entities


def _markdown_link(text: str, at: int) -> tuple[str, int]:
    """The address after a link's words, if any, and where it ends."""
    if not text.startswith("(", at):
        return "", at
    url = ""
    for index in range(at + 1, len(text)):
        if text[index] == ")" and text[index - 1] != "\\":
            return re.sub(r"\\(.)", r"\1", url), index + 1
        url += text[index]
    raise _unparsed(f"Can't find end of a URL at byte offset {_bytes(text[:at])}")
