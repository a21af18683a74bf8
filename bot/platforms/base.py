"""The contract between a platform and the bot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message from a person. `addressed` is whether it is meant for her.

    `reply_to` is the id of the message that it answers, if any.
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


@dataclass(frozen=True, slots=True)
class Said:
    """Something to show. `hers` is whether she speaks; otherwise it is the program."""

    text: str
    hers: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """What a platform allows. `length` is in characters, as `measure` counts them.

    `edit_interval` is the least time between edits of a message, in seconds; None where a message
    that was sent cannot be changed.
    """

    length: int
    edit_interval: float | None
    typing_interval: float | None = None
    measure: Callable[[str], int] = len


Handler = Callable[[Incoming], Awaitable[None]]
Lang = Callable[[Incoming], Awaitable[str]]
"""Tells the interface's language where a message comes from; only its place counts."""

STOPPED = "stopped by the person"
"""What a platform cancels a handler with, `task.cancel(STOPPED)`, where the person asked for it."""


class Platform(Protocol):
    """Sends, edits, types and states its limits. Each of its calls may raise SendError."""

    name: str
    limits: Limits

    async def run(self, handle: Handler) -> None:
        """Receives messages until the person or the bot ends it."""

    async def send(self, to: Incoming, said: Said) -> str:
        """Answers a message; the id of what was sent."""

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None: ...

    async def typing(self, to: Incoming) -> None: ...


class SendError(Exception):
    """A message could not be sent or edited, and trying again at once would not help."""
