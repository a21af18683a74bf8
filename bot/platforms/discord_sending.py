"""Showing on Discord what is said: within its limits, ringing nobody, and each thing once."""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from functools import partial
from typing import Any

import discord

from bot.platforms.base import Choices, File, Incoming, Limits, Said, SendError, utf16
from bot.platforms.discord_calls import UNANSWERABLE, Refused, call
from bot.platforms.discord_interactions import (
    LENGTH,
    NO_MENTIONS,
    Pending,
    as_attachment,
    buttons,
)
from bot.platforms.discord_servers import Servers
from bot.platforms.settings import DiscordSettings

_TYPING = 8.0
"""Seconds between two signs of typing, each of which stands for ten."""
_NOTED = "✍️"
_UNKNOWN_MESSAGE = 10008
_PACES = 10_000


class Sender:
    """Sends to where things came from: a channel, or an interaction that waits for its answer."""

    def __init__(self, client: discord.Client, settings: DiscordSettings, servers: Servers) -> None:
        self._client = client
        self._settings = settings
        self._servers = servers
        self._pending: dict[str, Pending] = {}
        self._shown: dict[str, list[str]] = {}
        """The messages that answer what is being dealt with."""
        self._edited_at: dict[str, float] = {}

    def expect(self, incoming: Incoming, pending: Pending) -> None:
        """What is said to it is the answer of an interaction."""
        self._pending[incoming.message_id or ""] = pending

    async def end(self, to: Incoming) -> None:
        """All is said to it."""
        if pending := self.leave(to):
            with contextlib.suppress(SendError):
                await pending.end()

    def leave(self, to: Incoming) -> Pending | None:
        """Nothing more is said to it in this session; what waits is left as it is."""
        self._shown.pop(to.message_id or "", None)
        return self._pending.pop(to.message_id or "", None)

    async def take_back(self, to: Incoming) -> None:
        """Nobody is to read half an answer to a message that is gone."""
        for message_id in self._shown.get(to.message_id or "", ()):
            with contextlib.suppress(SendError):
                await call(self._message(to, message_id).delete, once=True)

    def limits(self, to: Incoming) -> Limits:
        if to.alone or (to.in_place and not to.text.startswith("/retry")):
            return Limits(LENGTH, edit_interval=None, measure=utf16)
        settings = self._settings
        interval = settings.group_edit_interval if to.is_group else settings.edit_interval
        # Until a command is answered, Discord shows that it is thought about.
        typing = None if to.message_id in self._pending and not to.in_place else _TYPING
        return Limits(LENGTH, interval, typing, measure=utf16)

    async def send(self, to: Incoming, said: Said) -> str:
        pending = self._pending.get(to.message_id or "")
        if pending and pending.takes(said):
            message_id = await pending.send(said)
            await self._set_choices(to, said.beneath)
            return message_id
        if to.in_place == "reaction" and (to.is_group or said.choices is None):
            await self._acknowledge(to)
            await self._set_choices(to, said.choices)
            return to.message_id or ""
        await self._set_choices(to, said.beneath)
        if to.alone or (to.in_place == "button" and not said.hers):
            return to.message_id or ""  # the person waits no longer, and nobody else is to see it
        shown = self._shown.setdefault(to.message_id or "", [])
        message = await self._post(to, said, len(shown))
        shown.append(str(message.id))
        self._edited_at[to.chat_id] = time.monotonic()
        return str(message.id)

    async def _post(self, to: Incoming, said: Said, number: int) -> discord.Message:
        """Sends a message. Of one nonce Discord shows one, a process before this included."""
        arguments: dict[str, Any] = {
            "content": said.text,
            "nonce": f"{to.message_id}{'e' if to.edited else '-'}{number}",
            "view": buttons(said.choices),
            "reference": self._reference(to),
            "mention_author": False,
            "allowed_mentions": NO_MENTIONS,
            "suppress_embeds": True,
            "silent": self._servers.of(to.server_id).quiet,
        }
        channel = self._channel(to)
        while True:
            try:
                message: discord.Message = await call(channel.send, once=said.growing, **arguments)
                break
            except Refused as error:
                if error.code == UNANSWERABLE and arguments["reference"] is not None:
                    arguments["reference"] = None
                elif error.code == _UNKNOWN_MESSAGE and not str(arguments["nonce"]).endswith("!"):
                    # The one of that nonce was deleted.
                    arguments["nonce"] = f"{secrets.token_hex(8)}!"
                else:
                    raise
        if message.content.strip() != said.text.strip():
            await self.edit(to, str(message.id), said)  # sent by a process that ended before
        return message

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None:
        if said.growing:
            self._pace(to)
        pending = self._pending.get(to.message_id or "")
        if pending and pending.has_shown(message_id):
            await pending.edit(message_id, said)
            return
        await call(
            self._message(to, message_id).edit,
            once=said.growing,
            content=said.text,
            view=buttons(said.choices),
            allowed_mentions=NO_MENTIONS,
        )

    def _pace(self, to: Incoming) -> None:
        """A channel's growing replies share its limit. Raises SendError where it is too soon."""
        now = time.monotonic()
        interval = self.limits(to).edit_interval or 0.0
        if now < self._edited_at.get(to.chat_id, -math.inf) + 0.9 * interval:
            raise SendError("it would be too soon")
        if len(self._edited_at) > _PACES:
            self._edited_at.clear()
        self._edited_at[to.chat_id] = now

    async def _set_choices(self, to: Incoming, choices: Choices | None) -> None:
        """Has these buttons stand under what was pressed or reacted to; None leaves them."""
        if choices is not None and to.reply_to:
            await call(self._message(to, to.reply_to).edit, view=buttons(choices))

    async def strip(self, to: Incoming, message_id: str) -> None:
        await call(self._message(to, message_id).edit, once=True, view=None)

    async def hand_over(self, to: Incoming, file: File) -> None:
        """Raises SendError; also where others would see it."""
        if pending := self._pending.get(to.message_id or ""):
            await pending.hand_over(file)
            return
        if to.is_group:
            raise SendError("the person waits no longer, and nobody else is to see it")
        attached = as_attachment(file)
        await call(partial(self._channel(to).send, file=attached), once=True)

    async def typing(self, to: Incoming) -> None:
        await call(self._channel(to).typing, once=True)

    async def _acknowledge(self, to: Incoming) -> None:
        """Shows by a reaction that one was noted."""
        message, me = self._message(to, to.reply_to or "0"), self._client.user
        assert me is not None
        with contextlib.suppress(SendError):  # not every server lets her react
            if to.text.startswith("/feedback none"):
                await call(partial(message.remove_reaction, _NOTED, me), once=True)
            else:
                await call(partial(message.add_reaction, _NOTED), once=True)

    def _channel(self, to: Incoming) -> discord.PartialMessageable:
        guild_id = int(to.server_id) if to.server_id else None
        return self._client.get_partial_messageable(int(to.chat_id), guild_id=guild_id)

    def _message(self, to: Incoming, message_id: str) -> discord.PartialMessage:
        return self._channel(to).get_partial_message(int(message_id))

    def _reference(self, to: Incoming) -> discord.MessageReference | None:
        """In a server, and where it is about an earlier message, it shows what it answers."""
        number = to.message_id or ""
        if not number.isdigit() or to.in_place or not (to.is_group or to.edited):
            return None
        return discord.MessageReference(
            message_id=int(number), channel_id=int(to.chat_id), fail_if_not_exists=False
        )
