"""The contract between a platform and the bot."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Kind = Literal[
    "text", "picture", "sticker", "voice", "file", "place", "card", "poll", "forward", "missed"
]
"""What a message holds beside its text: something that she cannot see or hear. `missed` stands for
messages that were too old to be answered."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message from a person. `addressed` is whether it is meant for her.

    `reply_to` is the id of the message that it answers, if any. `user_id` is empty where the person
    is hidden, as anonymous admins of a group are: such a one has no vote. `sent_at` is when it was
    said, in seconds since 1970; 0 where nobody knows.

    `edited`: it was said before, and reads so now. `again`: it may have been handed in before, by a
    process that ended too early. `in_place`: a button or a reaction stands for it; what the program
    says to it is shown where it was pressed, or not at all, and in a group never as a new message.
    `alone`: nobody but this person sees the answer, though it is given in a group.

    `server_id` is the community that a chat belongs to, where a platform has such. `lang` is the
    interface's language there, until the chat chooses one; "" is the bot's own. `arrived` is when
    this process took it up, by a clock of its own.
    """

    platform: str
    chat_id: str
    user_id: str
    text: str
    thread_id: str = ""
    user_name: str = ""
    message_id: str | None = None
    is_group: bool = False
    addressed: bool = True
    reply_to: str | None = None
    kind: Kind = "text"
    sent_at: float = 0.0
    edited: bool = False
    again: bool = False
    in_place: Literal["", "button", "reaction"] = ""
    alone: bool = False
    server_id: str = ""
    lang: str = ""
    arrived: float = field(default_factory=time.monotonic, compare=False, repr=False)

    @property
    def in_public(self) -> bool:
        """Whether others see the answer."""
        return self.is_group and not self.alone


@dataclass(frozen=True, slots=True)
class Choice:
    """A button. Pressing it is as good as saying `action`, a command of at most 64 bytes."""

    label: str
    action: str


Choices = tuple[tuple[Choice, ...], ...]
"""Buttons, row by row."""


@dataclass(frozen=True, slots=True)
class File:
    """A file for one person. `instead` is what is said where it cannot be sent."""

    name: str
    content: bytes
    instead: str


@dataclass(frozen=True, slots=True)
class Said:
    """Something to show. `hers` is whether she speaks; otherwise it is the program.

    `choices` stand under it where the platform has buttons; of an answer in place, they replace
    those under the message that was pressed or reacted to, and None leaves them. `beneath` does
    that where the answer itself is told to the person alone, elsewhere. `growing`: more is to come.
    `file` follows it, where nobody but the person sees the answer.
    """

    text: str
    hers: bool = True
    choices: Choices | None = None
    growing: bool = False
    file: File | None = None
    beneath: Choices | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a platform allows. `length` is in characters, as `measure` counts them.

    `edit_interval` is the least time between edits of a message, in seconds; None where a message
    that was sent cannot be changed. `drafts`: a growing reply is shown by `draft` instead.
    """

    length: int
    edit_interval: float | None
    typing_interval: float | None = None
    measure: Callable[[str], int] = len
    drafts: bool = False


Handler = Callable[[Incoming], Awaitable[None]]
Lang = Callable[[Incoming], Awaitable[str]]
"""Tells the interface's language where a message comes from; only its place counts."""
Moved = Callable[[str, str, str], Awaitable[None]]
"""Told that a chat, of a platform, has another id from now on: platform, old id, new id."""
Notice = Callable[[str], None]
"""Tells the person who runs the bot one line."""

STOPPED = "stopped by the person"
"""What a platform cancels a handler with, `task.cancel(STOPPED)`, where the person asked for it."""


class Platform(Protocol):
    """Sends, edits, types and states its limits. Each of its calls may raise SendError.

    `strip` takes the buttons from under a message; `draft` shows a reply while it grows and is
    asked for only where the limits say so; `hand_over` gives a file to the person who asked for it.
    """

    name: str

    @property
    def online(self) -> bool:
        """Whether it hears what people say, as far as it knows."""

    def limits(self, to: Incoming) -> Limits:
        """The limits where that message comes from."""

    async def run(self, handle: Handler) -> None:
        """Receives messages until the person or the bot ends it. May raise PlatformError."""

    async def send(self, to: Incoming, said: Said) -> str:
        """Answers a message; the id of what was sent."""

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None: ...

    async def draft(self, to: Incoming, said: Said) -> None: ...

    async def strip(self, to: Incoming, message_id: str) -> None: ...

    async def typing(self, to: Incoming) -> None: ...

    async def hand_over(self, to: Incoming, file: File) -> None: ...


class Waiting(Protocol):
    """An update in the inbox that was not dealt with yet."""

    @property
    def update_id(self) -> int: ...
    @property
    def payload(self) -> str: ...
    @property
    def received_at(self) -> datetime: ...


class Inbox(Protocol):
    """Where a platform writes down what it was handed before it confirms it.

    What any of these raises means that nothing was written.
    """

    async def put(
        self, platform: str, bot_id: str, update_id: int, user_id: str, payload: str
    ) -> bool:
        """Writes an update down; false where it is there already."""

    async def done(self, platform: str, bot_id: str, update_id: int) -> None: ...

    async def waiting(self, platform: str, bot_id: str) -> Sequence[Waiting]: ...


class Notes(Protocol):
    """What a platform writes down for itself, by name; what it raises means that nothing was."""

    async def read(self, platform: str, bot_id: str) -> Mapping[str, str]: ...

    async def write(self, platform: str, bot_id: str, written: Mapping[str, str]) -> None: ...

    async def forget(self, platform: str, bot_id: str, names: Iterable[str]) -> None: ...


def utf16(text: str) -> int:
    """A text's length as Telegram and Discord's clients count it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class SendError(Exception):
    """A message could not be sent or edited, and trying again at once would not help."""


class Unreachable(SendError):
    """The person or the chat wants nothing from the bot any more: blocked, kicked or muted."""


class PlatformError(Exception):
    """The platform cannot be used; one line for the person who runs the bot."""
