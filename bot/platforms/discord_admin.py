"""What only Discord has: a server's settings, and rating from a message's menu."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import discord

from bot.platforms.base import Choice, Choices, Said, SendError
from bot.platforms.discord_calls import call
from bot.platforms.discord_interactions import NO_MENTIONS, Pending, buttons
from bot.platforms.discord_reading import language
from bot.platforms.discord_servers import MAX_NAME, MAX_NAMES, Server, Servers, names_in
from bot.texts import say

log = logging.getLogger(__name__)

_VERDICTS: Choices = (
    (
        Choice("👍", "/feedback good"),
        Choice("👎", "/feedback bad"),
        Choice("✍️", "/feedback"),
    ),
)


class Administration:
    """`names` are those that she answers to where a server has set none."""

    def __init__(
        self, servers: Servers, names: list[str], lang: str, hears: bool, me: Callable[[], int]
    ) -> None:
        self._servers = servers
        self._names = names
        self._default_lang = lang
        self._hears = hears
        self._me = me

    def lang(self, interaction: discord.Interaction) -> str:
        """The language for what a person alone sees."""
        server = self._servers.of(str(interaction.guild_id or ""))
        return language(interaction) or server.lang or self._default_lang

    async def rate(self, interaction: discord.Interaction, message: discord.Message) -> None:
        """Asks how a reply was, whichever message it is."""
        lang = self.lang(interaction)
        hers = message.author.id == self._me()
        view = buttons(_VERDICTS, str(message.id)) if hers else None
        with contextlib.suppress(SendError):  # asked too long ago
            await call(
                interaction.response.send_message,
                once=True,
                content=say(lang, "rate_ask" if hers else "not_hers"),
                ephemeral=True,
                allowed_mentions=NO_MENTIONS,
                **({"view": view} if view else {}),
            )

    async def settings(
        self,
        interaction: discord.Interaction,
        channel: Any,
        language: str | None,
        names: str | None,
        quiet: bool | None,
    ) -> None:
        """Changes what is given, and shows what holds now."""
        pending = Pending(interaction, "answer", alone=True)
        try:
            await pending.acknowledge()
            await pending.send(Said(await self._set(interaction, channel, language, names, quiet)))
        except SendError as error:
            log.info("settings could not be answered: %s", error)

    async def _set(
        self,
        interaction: discord.Interaction,
        channel: Any,
        language: str | None,
        names: str | None,
        quiet: bool | None,
    ) -> str:
        lang, server_id = self.lang(interaction), str(interaction.guild_id or "")
        before = self._servers.of(server_id)
        server = before
        if names is not None:
            chosen = names_in(names)
            if chosen is None:
                return say(lang, "settings_refused", count=MAX_NAMES, limit=MAX_NAME)
            server = replace(server, names=chosen)
        if channel is not None:
            left = tuple(one for one in server.channels if one != str(channel.id))
            added = (str(channel.id),) if left == server.channels else ()
            server = replace(server, channels=(*left, *added))
        server = replace(server, lang=language) if language is not None else server
        server = replace(server, quiet=quiet) if quiet is not None else server
        if server != before:
            try:
                await self._servers.set(server_id, server)
            except Exception as error:
                log.error("a server's settings could not be kept: %s", error)
                return say(lang, "store_failed")
        return self._shown(server, lang)

    def _shown(self, server: Server, lang: str) -> str:
        shown = say(
            lang,
            "settings_shown",
            channels=" ".join(f"<#{one}>" for one in server.channels) or say(lang, "nowhere"),
            language=say(lang, f"choice_{server.lang or self._default_lang}"),
            names=" ".join(server.names or self._names) or say(lang, "nowhere"),
            quiet=say(lang, "switched_on" if server.quiet else "switched_off"),
        )
        return shown if self._hears else f"{shown}\n{say(lang, 'settings_unheard')}"
