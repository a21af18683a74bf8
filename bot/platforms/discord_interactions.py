"""Buttons, forms and commands on Discord: acknowledged within 3 seconds, answered where given.

A button's id holds all that pressing it means, and presses are read from the raw interaction: so
they are valid after restarts, and nothing is kept for each message that ever had buttons.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Literal

import discord

from bot.platforms.base import Choices, File, Said, SendError, utf16
from bot.platforms.discord_calls import call
from bot.texts import say

NO_MENTIONS = discord.AllowedMentions.none()
LENGTH = 2000
"""Of a message, in UTF-16 units."""
_BUTTON = re.compile(r"daiyu:(\d*):(/.{1,64})", re.DOTALL)
_FORM = re.compile(r"daiyu-form:(\d+)")
_LINK = re.compile(r"(?<!<)https?://[^\s<>]+")
_LONGEST_WORDING = 300
_BETTER = "/feedback"
"""The action of the button that asks for a better wording: on Discord a form does."""

How = Literal["answer", "replace", "beside"]


@dataclass(frozen=True, slots=True)
class Press:
    """A button that was pressed, or a form that was sent in; `about` is the message it is about."""

    action: str
    about: str

    @property
    def asks_for_form(self) -> bool:
        return self.action == _BETTER


def press_of(interaction: discord.Interaction) -> Press | None:
    """What a press or a form means; None where it is none of ours."""
    data: Mapping[str, Any] = interaction.data or {}
    custom_id = str(data.get("custom_id", ""))
    own = str(interaction.message.id) if interaction.message else ""
    if interaction.type is discord.InteractionType.component:
        found = _BUTTON.fullmatch(custom_id)
        return Press(found[2], found[1] or own) if found else None
    if interaction.type is discord.InteractionType.modal_submit:
        found = _FORM.fullmatch(custom_id)
        return Press(f"{_BETTER} {_written(data)}", found[1]) if found else None
    return None


def _written(form: Mapping[str, Any]) -> str:
    """The one text of a form; Discord wraps it in a label or a row."""
    for part in form.get("components", ()):
        for inner in (part.get("component"), *part.get("components", ())):
            if inner and "value" in inner:
                return str(inner["value"])
    return ""


def buttons(choices: Choices | None, about: str = "") -> discord.ui.View | None:
    """The choices as buttons under a message, about that message or about another."""
    if not choices:
        return None
    view = discord.ui.View(timeout=None)
    for row, line in enumerate(choices):
        for choice in line:
            custom_id = f"daiyu:{about}:{choice.action}"
            view.add_item(discord.ui.Button(label=choice.label, custom_id=custom_id, row=row))
    view.stop()  # the library would keep each of them for ever
    return view


def form(about: str, lang: str) -> discord.ui.Modal:
    """Asks for a better wording of a message."""
    modal = discord.ui.Modal(title=say(lang, "rate_title"), custom_id=f"daiyu-form:{about}")
    field: discord.ui.TextInput[Any] = discord.ui.TextInput(
        style=discord.TextStyle.paragraph, max_length=_LONGEST_WORDING, custom_id="better"
    )
    modal.add_item(discord.ui.Label(text=say(lang, "rate_label"), component=field))
    modal.stop()
    return modal


def as_attachment(file: File) -> discord.File:
    return discord.File(BytesIO(file.content), filename=file.name)


class Pending:
    """An interaction that was acknowledged and waits for its answer.

    It is an answer of its own, seen by the person `alone` or by all; or it replaces the message
    that was pressed; or she speaks in the channel, and only the program's remarks go beside that,
    to the person alone.
    """

    def __init__(self, interaction: discord.Interaction, how: How, *, alone: bool) -> None:
        self._interaction = interaction
        self._how = how
        self._alone = alone
        self._shown: set[str] = set()

    async def acknowledge(self) -> None:
        """Raises SendError: pressed too long ago, or acknowledged already."""
        own = self._how == "answer"
        await call(
            self._interaction.response.defer, once=True, ephemeral=own and self._alone, thinking=own
        )

    def takes(self, said: Said) -> bool:
        return self._how != "beside" or not said.hers

    def has_shown(self, message_id: str) -> bool:
        return message_id in self._shown

    async def send(self, said: Said) -> str:
        if self._how == "replace" or (self._how == "answer" and not self._shown):
            # It completes what is being waited for, and may safely be said twice.
            message = await call(
                self._interaction.edit_original_response,
                content=_without_embeds(said.text),
                view=buttons(said.choices),
                allowed_mentions=NO_MENTIONS,
            )
        else:
            # There is no nonce for these: it is not sent again.
            view = buttons(said.choices)
            message = await call(
                self._interaction.followup.send,
                once=True,
                content=said.text,
                ephemeral=self._alone or self._how == "beside",
                suppress_embeds=True,
                allowed_mentions=NO_MENTIONS,
                wait=True,
                **({"view": view} if view else {}),
            )
        self._shown.add(str(message.id))
        return str(message.id)

    async def edit(self, message_id: str, said: Said) -> None:
        await call(
            self._interaction.followup.edit_message,
            once=said.growing,
            message_id=int(message_id),
            content=_without_embeds(said.text),
            view=buttons(said.choices),
            allowed_mentions=NO_MENTIONS,
        )

    async def hand_over(self, file: File) -> None:
        """Gives a file to the person alone. Raises SendError."""
        if not self._alone:
            raise SendError("others would see it")
        sent = partial(self._interaction.followup.send, file=as_attachment(file), ephemeral=True)
        await call(sent, once=True)

    async def end(self) -> None:
        """Where nothing was said to it, it stops waiting."""
        if self._how == "answer" and not self._shown:
            await call(self._interaction.delete_original_response, once=True)


def _without_embeds(text: str) -> str:
    """What waits for its answer takes no flag against embeds: a link in brackets has none."""
    bare = _LINK.sub(r"<\g<0>>", text)
    return bare if utf16(bare) <= LENGTH else text
