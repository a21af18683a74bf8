"""The commands on Discord: what it offers, in both languages, told it once when they changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import discord
from discord import app_commands
from discord.app_commands import Choice, locale_str

from bot.texts import menu, say

_LANGS = {
    discord.Locale.chinese: "zh",
    discord.Locale.taiwan_chinese: "zh",
    discord.Locale.american_english: "en",
    discord.Locale.british_english: "en",
}

_RATINGS = ("good", "bad", "none", "list")

Run = Callable[..., Awaitable[None]]
"""Given an interaction, what it is as good as saying, and whether the person alone is answered."""


class Admin(Protocol):
    """What the commands do that only Discord has."""

    async def rate(self, interaction: discord.Interaction, message: discord.Message) -> None: ...

    async def settings(
        self,
        interaction: discord.Interaction,
        channel: Any,
        language: str | None,
        names: str | None,
        quiet: bool | None,
    ) -> None: ...


class _Words(app_commands.Translator):
    async def translate(
        self,
        string: locale_str,
        locale: discord.Locale,
        context: app_commands.TranslationContextTypes,
    ) -> str | None:
        lang, key = _LANGS.get(locale), string.extras.get("key")
        return _said(lang, key) if lang and key else None


def _said(lang: str, key: str) -> str:
    return menu(lang).get(key) or say(lang, key)


def make_tree(
    client: discord.Client, run: Run, admin: Admin, lang: str
) -> app_commands.CommandTree[Any]:
    """The commands; `lang` is for those whose Discord is in neither language."""
    tree: app_commands.CommandTree[Any] = app_commands.CommandTree(
        client,
        allowed_contexts=app_commands.AppCommandContext(
            guild=True, dm_channel=True, private_channel=False
        ),
        allowed_installs=app_commands.AppInstallationType(guild=True, user=False),
    )

    def word(key: str) -> locale_str:
        return locale_str(_said(lang, key), key=key)

    def plain(name: str, alone: bool) -> None:
        async def callback(interaction: discord.Interaction) -> None:
            await run(interaction, f"/{name}", alone=alone)

        tree.add_command(app_commands.Command(name=name, description=word(name), callback=callback))

    for name in ("reset", "retry", "undo"):
        plain(name, alone=False)
    for name in ("forget", "status", "help"):
        plain(name, alone=True)

    @tree.command(name="chat", description=word("slash_chat"))
    @app_commands.describe(message=word("slash_chat_message"))
    async def chat(interaction: discord.Interaction, message: str) -> None:
        # A command within it would be answered before all, private matters too.
        said = message.strip()
        said = f"/{said}" if said.startswith("/") else said
        await run(interaction, said, alone=False)

    @tree.command(name="feedback", description=word("feedback"))
    @app_commands.describe(
        rating=word("slash_feedback_rating"), better=word("slash_feedback_better")
    )
    @app_commands.choices(
        rating=[Choice(name=word(f"choice_{name}"), value=name) for name in _RATINGS]
    )
    async def feedback(
        interaction: discord.Interaction, rating: str | None = None, better: str | None = None
    ) -> None:
        await run(interaction, f"/feedback {better or rating or ''}".strip(), alone=True)

    @tree.command(name="privacy", description=word("privacy"))
    @app_commands.describe(answer=word("slash_privacy_answer"))
    @app_commands.choices(
        answer=[Choice(name=word(f"choice_{name}"), value=name) for name in ("yes", "no")]
    )
    async def privacy(interaction: discord.Interaction, answer: str | None = None) -> None:
        await run(interaction, f"/privacy {answer or ''}".strip(), alone=True)

    @tree.command(name="lang", description=word("lang"))
    @app_commands.describe(language=word("slash_lang_language"))
    @app_commands.choices(
        language=[Choice(name=word(f"choice_{name}"), value=name) for name in ("zh", "en")]
    )
    async def language_of_chat(interaction: discord.Interaction, language: str) -> None:
        await run(interaction, f"/lang {language}", alone=True)

    @tree.command(name="settings", description=word("slash_settings"))
    @app_commands.default_permissions(manage_guild=True)
    @app_commands.guild_only()
    @app_commands.describe(
        channel=word("slash_settings_channel"),
        language=word("slash_settings_language"),
        names=word("slash_settings_names"),
        quiet=word("slash_settings_quiet"),
    )
    @app_commands.choices(
        language=[Choice(name=word(f"choice_{name}"), value=name) for name in ("zh", "en")]
    )
    async def settings(
        interaction: discord.Interaction,
        channel: discord.TextChannel | discord.Thread | discord.ForumChannel | None = None,
        language: str | None = None,
        names: str | None = None,
        quiet: bool | None = None,
    ) -> None:
        await admin.settings(interaction, channel, language, names, quiet)

    @tree.context_menu(name=word("rate_menu"))
    async def rate(interaction: discord.Interaction, message: discord.Message) -> None:
        await admin.rate(interaction, message)

    return tree


async def sync(tree: app_commands.CommandTree[Any], known: str | None) -> str:
    """Tells Discord the commands where they differ from those `known`; what they are known by.

    Raises discord.DiscordException, and what the network raises.
    """
    translator = _Words()
    await tree.set_translator(translator)
    offered = [await one.get_translated_payload(tree, translator) for one in tree.get_commands()]
    written = json.dumps(offered, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(written.encode()).hexdigest()
    if digest != known:
        await tree.sync()
    return digest
