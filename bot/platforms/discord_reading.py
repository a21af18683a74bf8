"""From what arrives on Discord to what people say."""

from __future__ import annotations

import re

import discord

from bot.platforms.base import Incoming, Kind
from bot.platforms.discord_calls import PLATFORM
from bot.platforms.discord_servers import Server, Servers
from bot.platforms.reactions import vote_of
from bot.platforms.settings import DiscordSettings

_SAID = (discord.MessageType.default, discord.MessageType.reply)
_EMOJI = re.compile(r"<a?(:\w+:)\d+>")
_LANGS = {"zh-CN": "zh", "zh-TW": "zh", "en-US": "en", "en-GB": "en"}


class Reader:
    """Reads as the bot `me`. Where it does not hear, texts not meant for it arrive empty."""

    def __init__(
        self, me: discord.ClientUser, settings: DiscordSettings, servers: Servers, hears: bool
    ) -> None:
        self._me = me
        self._settings = settings
        self._servers = servers
        self._hears = hears
        self._mention = re.compile(rf"<@!?{me.id}>")
        self._bots = {str(bot) for bot in settings.bots}

    def message(self, message: discord.Message) -> Incoming | None:
        """What a person says by it; None where it is nothing that is said to anybody."""
        author = message.author
        if author.id == self._me.id or message.webhook_id or message.type not in _SAID:
            return None
        if author.bot and str(author.id) not in self._bots:
            return None
        if isinstance(message.channel, discord.VoiceChannel | discord.StageChannel):
            return None
        kind = _kind(message)
        said = "" if kind == "forward" else self._text(message)
        server_id = str(message.guild.id) if message.guild else ""
        server = self._servers.of(server_id)
        reply = message.reference if message.type is discord.MessageType.reply else None
        return Incoming(
            PLATFORM,
            str(message.channel.id),
            str(author.id),
            said,
            user_name=author.display_name,
            message_id=str(message.id),
            is_group=bool(server_id),
            addressed=not server_id or self._is_addressed(message, said, server),
            reply_to=str(reply.message_id) if reply and reply.message_id else None,
            kind=kind,
            sent_at=(message.edited_at or message.created_at).timestamp(),
            server_id=server_id,
            lang=server.lang,
        )

    def reaction(self, change: discord.RawReactionActionEvent) -> Incoming | None:
        """A vote, or its being taken back; None for what is no vote on what she said."""
        vote = vote_of(change.emoji.name or "") if not change.emoji.is_custom_emoji() else ""
        member = change.member
        if not vote or change.user_id == self._me.id or (member and member.bot):
            return None
        if change.message_author_id not in (None, self._me.id):
            return None
        server_id = str(change.guild_id or "")
        gone = "none " if change.event_type == "REACTION_REMOVE" else ""
        return Incoming(
            PLATFORM,
            str(change.channel_id),
            str(change.user_id),
            f"/feedback {gone}{vote}",
            user_name=member.display_name if member else "",
            message_id=f"r{change.message_id}",
            is_group=bool(server_id),
            reply_to=str(change.message_id),
            in_place="reaction",
            server_id=server_id,
            lang=self._servers.of(server_id).lang,
        )

    def interaction(
        self,
        interaction: discord.Interaction,
        text: str,
        *,
        alone: bool,
        about: str | None = None,
        pressed: bool = False,
    ) -> Incoming:
        """A command or a press. `about` is the message that it is about."""
        server_id = str(interaction.guild_id or "")
        theirs = language(interaction) if alone or not server_id else ""
        return Incoming(
            PLATFORM,
            str(interaction.channel_id),
            str(interaction.user.id),
            text,
            user_name=interaction.user.display_name,
            message_id=f"i{interaction.id}",
            is_group=bool(server_id),
            reply_to=about,
            sent_at=interaction.created_at.timestamp(),
            in_place="button" if pressed else "",
            alone=alone,
            server_id=server_id,
            lang=theirs or self._servers.of(server_id).lang,
        )

    def _text(self, message: discord.Message) -> str:
        text = self._mention.sub("", message.content)
        for user in message.mentions:
            text = re.sub(rf"<@!?{user.id}>", lambda _, u=user: f"@{u.display_name}", text)  # type: ignore[misc]
        return _EMOJI.sub(r"\1", text).strip()

    def _is_addressed(self, message: discord.Message, said: str, server: Server) -> bool:
        if not _may_answer(message):
            return False
        if self._is_meant(message):
            return True
        if server.quiet or not self._hears or not (said or _kind(message) != "text"):
            return False
        channel = message.channel
        places = {str(channel.id), str(getattr(channel, "parent_id", None) or "")}
        if places & set(server.channels):
            return True
        names = server.names or self._settings.names
        return any(name.casefold() in said.casefold() for name in names if name)

    def _is_meant(self, message: discord.Message) -> bool:
        """Whether it mentions her, in person or by the role that is hers alone, or replies."""
        if any(user.id == self._me.id for user in message.mentions):
            return True
        if any(role.tags and role.tags.bot_id == self._me.id for role in message.role_mentions):
            return True
        before = message.reference.resolved if message.reference else None
        # Not for a forward, whose reference is another person's message.
        return (
            message.type is discord.MessageType.reply
            and isinstance(before, discord.Message)
            and before.author.id == self._me.id
            and bool(message.content or message.attachments or message.stickers)
        )


def language(interaction: discord.Interaction) -> str:
    """The interface's language of the person, where she speaks it; else ""."""
    return _LANGS.get(interaction.locale.value, "")


def _kind(message: discord.Message) -> Kind:
    if message.message_snapshots:
        return "forward"
    if message.flags.voice:
        return "voice"
    if message.stickers:
        return "sticker"
    if message.poll:
        return "poll"
    for attachment in message.attachments:
        family = (attachment.content_type or "").partition("/")[0]
        return {"image": "picture", "video": "picture", "audio": "voice"}.get(family, "file")  # type: ignore[return-value]
    return "text"


def _may_answer(message: discord.Message) -> bool:
    """Whether she may write there; true where that is not known."""
    channel, guild = message.channel, message.guild
    if guild is None or isinstance(channel, discord.PartialMessageable):
        return True
    try:
        has = channel.permissions_for(guild.me)
    except discord.ClientException:  # a thread of a channel that is not known yet
        return True
    in_thread = isinstance(channel, discord.Thread)
    return has.send_messages_in_threads if in_thread else has.send_messages
