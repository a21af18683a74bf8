"""The screen: what may be learned from, the same for corrections (bot) and collection (trainer).

It leans to alarm: what it names is put aside for a person to judge, never lost. Of the guard, which
stands in persona, it is handed what it needs.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from data.triples import TriplesError
from data.wordings import INCITES, INDECENT, MACHINE, PROFANITY


class Reason(StrEnum):
    """Why a row may not be learned from before a person has read it."""

    CONTROL = "control"
    LINK = "link"
    CONTACT = "contact"
    PERSONAL = "personal"
    SEXUAL = "sexual"
    HARM = "harm"
    PROFANITY = "profanity"
    ASSISTANT = "assistant"
    VOICE = "voice"
    LANGUAGE = "language"
    REPEATS = "repeats"
    LENGTH = "length"


class Guard(Protocol):
    """What the screen needs of persona's guard, each as its alarm's word or None."""

    def before(self, message: str, /) -> str | None: ...

    def after(self, reply: str, message: str = "", /) -> str | None: ...


MAX_MESSAGE = 500
MAX_REPLY = 300
"""Characters. Fewer letters than `_MIN_REPLY` say nothing that could be learned."""
_MIN_REPLY = 2
_LATIN_WORDS = 3
"""Words in letters that a Chinese reply may have."""
_FOREIGN_SHARE = 0.2

_ALARMS = {
    "risk": Reason.HARM,
    "weary": Reason.HARM,
    "sexual": Reason.SEXUAL,
    "assistant": Reason.ASSISTANT,
    "control": Reason.CONTROL,
    "repeats": Reason.REPEATS,
}

_CONTROL = re.compile(
    r"<\|[^|>]{0,40}\|?>|<\|?/?im_(?:start|end|sep)|</?(?:tool_call|tool_response|think|s|unk|pad)>"
    r"|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|^\s*(?:system|user|assistant)\s*[:\n]",
    re.MULTILINE,
)
# What no person types: it hides words from a reader, or an instruction from this screen.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffc\ud800-\udfff\U000e0000-\U000e007f]"
)
# Emoji are joined by it; between letters it hides a word.
_JOINED_LETTERS = re.compile(r"(?<=\w)\u200d|\u200d(?=\w)")
_LINK = re.compile(
    r"https?[:：]?/|[￥$€](?=[a-z]*\d)[a-z0-9]{8,}[￥$€]|www\."
    r"|(?<![a-z0-9])t\.me/|magnet:|(?:点|dot|。)(?:com|cn|net|org)(?![a-z])"
    r"|(?:点|dot|。)(?:cc|top|xyz|vip|info|io)(?![a-z])"
    r"|[a-z0-9-]+\s?\.\s?(?:com|cn|net|org|io|top|xyz|cc|me|info|vip|club|site|shop|app|link|ly|tv"
    r"|co|ru|gg|edu|gov|wang|ink|icu|fun|live|online)(?![a-z0-9])"
)
_MAIL = re.compile(
    r"[a-z0-9._%+-]{2,}\s?(?:@|\(at\)|\[at\]|艾特|＠)\s?[a-z0-9-]+(?:\s?(?:\.|点|dot)\s?[a-z0-9-]+)+"
)
_HANDLE = re.compile(r"(?<![a-z0-9])@[a-z0-9_]{4,}")
_NETWORKS = (
    r"微信|威信|薇信|微芯|v信|wei信|绿泡泡"
    r"|(?<![a-z])(?:vx|wx|wechat|weixin|q{2}|telegram|whatsapp|skype|tg|ins(?![a-z]))"
    r"|扣扣|企鹅号|电报|微博|抖音|快手|陌陌|小红书"
)
_ACCOUNT = re.compile(
    rf"(?:{_NETWORKS})(?:的?(?:号码?|账号|id|群))?(?:是|叫|为|搜|一|索|[:：=\s])*[a-z0-9]"
    r"[a-z0-9_-]{4,}|号码?(?:是|[:：=])\s?[a-z][a-z0-9_-]{4,}"
    r"|[加扣➕+]\s?(?:我|个|下)*(?:[vqw薇]|威|扣)\s?(?:信|号)?\s?[:：=]?"
    r"\s?[a-z0-9][a-z0-9_-]{4,}"
    rf"|(?:加|留|换|互)(?:我|你|个|一?下|他|她|的)*(?:{_NETWORKS}|联系方式|好友)"
    rf"|(?:{_NETWORKS})(?:上)?(?:联系|私聊|找|加)我|(?:进|加)(?:我的|这个|我们的?)?群[:：号]"
    rf"|(?:{_NETWORKS}|手机|电话)(?:号码?)?同号"
)
_NUMBERS = r"[\d零〇一二三四五六七八九十百千]+"
_ADDRESS = re.compile(
    r"(?:省|市|区|县|镇|乡|路|街|大道|巷|弄|胡同|小区|花园|公寓|大厦|家园|新村)"
    rf"[^，。！？,.!?\s]{{0,12}}?{_NUMBERS}(?:号|弄|栋|幢|单元|室|座)"
    rf"|{_NUMBERS}单元{_NUMBERS}|{_NUMBERS}(?:号楼|栋|幢)\s?{_NUMBERS}(?:单元|室|号|0)"
    rf"|(?:住在|家住|住址|地址)[^。！？!?]{{0,15}}?(?:小区|公寓|{_NUMBERS}(?:号|栋|单元|室))"
)
_SECRET = re.compile(r"(?:密码|口令|验证码)锁?(?:就?是|为|[:：=])?\s?\d{4,}|护照.{0,4}[a-z]\d{7,}")
_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][a-z][·\s]?"
    r"(?=[a-z0-9]*\d)[a-z0-9]{5,6}(?![a-z0-9])"
)
_IDENTITY = re.compile(
    r"(?<!\d)\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dx]"
)
_LONG_NUMBER = re.compile(r"\d{7,}")
"""Telephone, account, card and QQ numbers; no date or price of a chat has as many digits."""
_SPELLED = re.compile(r"[\d零〇一二三四五六七八九幺]{7,}")
_SPELLED_DIGITS = str.maketrans("零〇一二三四五六七八九幺", "001234567891")
# What stands in the middle of a word to hide it; commas and stops part words.
_BETWEEN_LETTERS = {ord(c): None for c in ".*·-_~`'\"|/\\+^#@=•…❤♥♡★☆"}
_HEARTS = {ord(c): None for c in "❤♥♡★☆•·*"}
_SENTENCE = re.compile(r"[^。！？.!?\n]+[。！？.!?]*")
_BETWEEN_DIGITS = re.compile(
    r"(?<=[\d零〇一二三四五六七八九幺])[\s\-_.·()/]{1,3}(?=[\d零〇一二三四五六七八九幺])"
    # Where a stop stands between single digits, somebody counts.
    r"|(?<=[\d零〇一二三四五六七八九幺]{2})[,，、]\s?(?=[\d零〇一二三四五六七八九幺]{2})"
)


@dataclass(frozen=True, slots=True)
class Screen:
    """Judges exchanges. `forbidden` are the words that this persona's voice does not have."""

    guard: Guard
    forbidden: tuple[re.Pattern[str], ...] = ()

    def reason(self, message: str, reply: str) -> Reason | None:
        """Why this reply to this message may not be learned from; None where it may."""
        for text in (message, reply):
            if found := plain_reason(text):
                return found
        alarm = self.guard.before(message) or self.guard.after(reply, message)
        if alarm is not None:
            return _ALARMS.get(alarm, Reason.ASSISTANT)
        return self._of_reply(message, reply)

    def _of_reply(self, message: str, reply: str) -> Reason | None:
        folded = folded_text(reply)
        bare = "".join(folded.split())
        plain = bare.translate(_BETWEEN_LETTERS)
        # Fair words around it make a sentence no better.
        parts = {reply, *_SENTENCE.findall(reply)}
        if INCITES.search(plain) or any(self.guard.before(part) == "risk" for part in parts):
            return Reason.HARM
        if any(PROFANITY.search(form) for form in (folded, bare, plain)):
            return Reason.PROFANITY
        if INDECENT.search(plain):
            return Reason.SEXUAL
        if MACHINE.search(plain):
            return Reason.ASSISTANT
        if any(pattern.search(reply) for pattern in self.forbidden):
            return Reason.VOICE
        if len(reply.strip()) > MAX_REPLY or len(message) > MAX_MESSAGE:
            return Reason.LENGTH
        if _wrong_language(message, reply):
            return Reason.LANGUAGE
        return Reason.LENGTH if sum(c.isalnum() for c in reply) < _MIN_REPLY else None


def plain_reason(text: str) -> Reason | None:
    """What is wrong with any text, whoever said it: control tokens, links, personal data."""
    folded = folded_text(text)
    if _INVISIBLE.search(text) or _JOINED_LETTERS.search(text):
        return Reason.CONTROL
    if _CONTROL.search(text.casefold()) or _CONTROL.search(folded):
        return Reason.CONTROL
    if _MAIL.search(folded) or _HANDLE.search(folded) or _ACCOUNT.search(folded):
        return Reason.CONTACT
    if _ACCOUNT.search(folded.translate(_HEARTS)):
        return Reason.CONTACT
    if _LINK.search(folded):
        return Reason.LINK
    numbers = _with_digits(folded)
    if any(_ADDRESS.search(form) for form in (folded, "".join(folded.split()))):
        return Reason.PERSONAL
    if _IDENTITY.search(numbers) or _PLATE.search(folded) or _SECRET.search(numbers):
        return Reason.PERSONAL
    return Reason.CONTACT if _LONG_NUMBER.search(numbers) else None


def folded_text(text: str) -> str:
    """One form for matching: width, case, and the signs that turn digits into pictures."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return text.replace("\ufe0f", "").replace("\u20e3", "").replace("\u200d", "")


def _with_digits(folded: str) -> str:
    """The text with its numbers in digits, and nothing standing between those."""
    closed = _BETWEEN_DIGITS.sub("", folded)
    digits = "".join(
        str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() else c for c in closed
    )
    return _SPELLED.sub(lambda found: found[0].translate(_SPELLED_DIGITS), digits)


def _wrong_language(message: str, reply: str) -> bool:
    """Whether a reply is in another language than Chinese, or than the message's English."""
    han, latin, other = _letters(reply)
    asked_han, asked_latin, asked_other = _letters(message)
    if other > _FOREIGN_SHARE * (han + other) or asked_other > asked_han + asked_latin:
        return True
    if not han:
        return not latin or asked_han > 0
    return len(re.findall(r"[A-Za-z]{2,}", reply)) > _LATIN_WORDS


def _letters(text: str) -> tuple[int, int, int]:
    """How many letters are Chinese, Latin, of another script."""
    han = latin = other = 0
    for c in unicodedata.normalize("NFKC", text):
        if "\u3400" <= c <= "\u9fff" or "\U00020000" <= c <= "\U0003ffff":
            han += 1
        elif c.isalpha():
            if unicodedata.name(c, "").startswith("LATIN"):
                latin += 1
            else:
                other += 1
    return han, latin, other


def compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


def read_forbidden(folder: Path) -> tuple[re.Pattern[str], ...]:
    """What lint.toml of a dataset's folder forbids its replies; nothing where there is none.

    Raises TriplesError.
    """
    path = folder / "lint.toml"
    try:
        return compiled(tomllib.loads(path.read_text("utf-8")).get("forbidden", []))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, re.error, TypeError) as error:
        raise TriplesError(f"{path}: {error}") from error
