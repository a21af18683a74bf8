"""Buttons, forms and commands on Discord: acknowledged within 3 seconds, answered where given.

A button's id holds all that pressing it means, and presses are read from the raw interaction: so
they are valid after restarts, and nothing is kept for each message that ever had buttons.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Literal, Self

import discord

from bot.platforms.base import Choices, File, Said, SendError, utf16
from bot.platforms.discord_calls import ACKNOWLEDGED, Refused, call
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

_ACKNOWLEDGING = 60.0
"""Seconds: Discord waits for three, and then still tells whether it was acknowledged in time."""

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

    def __init__(
        self, interaction: discord.Interaction, how: How, *, alone: bool, again: bool = False
    ) -> None:
        """`again`: an earlier session may have acknowledged and answered it."""
        self._interaction = interaction
        self._how = how
        self._alone = alone
        self._again = again
        self._shown: set[str] = set()

    @property
    def ticket(self) -> dict[str, Any]:
        """What it takes to answer it later, within the 15 minutes that Discord allows for that."""
        interaction = self._interaction
        return {
            "application": interaction.application_id,
            "token": interaction.token,
            "type": interaction.type.value,
            "how": self._how,
            "alone": self._alone,
        }

    @classmethod
    def of(cls, client: discord.Client, number: int, ticket: Mapping[str, Any]) -> Self:
        """The one that an earlier session left. Raises LookupError where it knows it not."""
        data: Any = {
            "id": number,
            "application_id": ticket["application"],
            "token": ticket["token"],
            "type": ticket["type"],
            "version": 1,
            "attachment_size_limit": 0,
        }
        # The library makes them of events alone; no other call of it answers for another session.
        interaction: Any = discord.Interaction(data=data, state=client._connection)
        return cls(interaction, ticket["how"], alone=ticket["alone"], again=True)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any longer."""
        return self._interaction.is_expired()

    async def acknowledge(self) -> None:
        """Raises SendError: asked too long ago, or acknowledged by somebody else."""
        own = self._how == "answer"
        defer = partial(
            self._interaction.response.defer, ephemeral=own and self._alone, thinking=own
        )
        try:
            # Again and again: a second time it does nothing, and tells how the first one went.
            async with asyncio.timeout(_ACKNOWLEDGING):
                await call(defer)
        except TimeoutError:
            raise SendError("Discord cannot be reached") from None
        except Refused as error:
            if error.code != ACKNOWLEDGED or not (error.perhaps_done or self._again):
                raise

    def takes(self, said: Said) -> bool:
        return self._how != "beside" or not said.hers

    def has_shown(self, message_id: str) -> bool:
        # Of what an earlier session said only the ids are known that the turn was linked to.
        return message_id in self._shown or (self._again and self._how == "answer")

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
        self._shown.add(message_id)
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
