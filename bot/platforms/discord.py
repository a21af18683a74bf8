"""Discord: private chats, and servers with their channels, threads and forum posts.

A thread has an id of its own there, as a channel has: it is a chat of its own here too.

Beside it: discord_client is the library's client, discord_reading reads what people do,
discord_receiving sees that none of it is lost, discord_sending shows what is said to it,
discord_interactions answers buttons and commands, discord_asking sees that none of these is lost,
discord_commands offers them, discord_admin and discord_servers are for those who run a server,
discord_missed looks for what came while she was away, discord_calls knows the refusals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial

import discord

from bot.platforms.base import (
    STOPPED,
    File,
    Handler,
    Inbox,
    Incoming,
    Limits,
    Notes,
    Notice,
    PlatformError,
    Said,
    SendError,
)
from bot.platforms.discord_admin import Administration
from bot.platforms.discord_asking import Asking
from bot.platforms.discord_calls import PLATFORM, call, ended, sign_in
from bot.platforms.discord_client import Client
from bot.platforms.discord_commands import make_tree, sync
from bot.platforms.discord_interactions import How, Pending, form, press_of
from bot.platforms.discord_reading import Reader
from bot.platforms.discord_receiving import Receiver
from bot.platforms.discord_sending import Sender
from bot.platforms.discord_servers import Servers
from bot.platforms.settings import DiscordSettings

log = logging.getLogger(__name__)

_COMMANDS = "commands"
"""The note of the commands that Discord was told."""
_LONGEST_PAUSE = 120.0
"""Seconds between two sessions that fail: Discord allows a bot a thousand a day."""
_CUT = 1.0
"""Seconds for what needs no connection, as votes do."""
_STEADY = 600.0
"""Seconds after which a session counts as having held."""


class DiscordPlatform:
    """One bot on Discord. `lang` is for those whose Discord is in a language that it knows not."""

    name = PLATFORM

    def __init__(
        self,
        settings: DiscordSettings,
        token: str,
        inbox: Inbox,
        notes: Notes,
        notice: Notice,
        lang: str = "zh",
    ) -> None:
        self._settings = settings
        self._token = token
        self._inbox = inbox
        self._notes = notes
        self._notice = notice
        self._lang = lang
        self._servers = Servers(notes)
        self._told = False
        self._session: Client | None = None
        self._receiver: Receiver | None = None
        self._asking: Asking | None = None

    @property
    def online(self) -> bool:
        return self._session is not None and self._session.online

    async def run(self, handle: Handler) -> None:
        hears, pause = True, 1.0
        while True:
            began = time.monotonic()
            try:
                who = await sign_in(self._token, self._settings.proxy, self._notice)
                hears = hears and who.hears
                await self._connect(handle, hears)
                why = "Discord closed the connection"
            except PlatformError:
                raise
            except discord.PrivilegedIntentsRequired as error:
                if not hears:
                    raise ended(error) or error from None
                hears, self._told = False, False  # the line at the start says what is off
                why = "Discord withdrew the Message Content Intent"
            except Exception as error:
                if final := ended(error):
                    raise final from None
                # What nobody foresaw ends the library, and must not end the bot.
                log.exception("the connection to Discord broke")
                why = f"The connection to Discord broke ({type(error).__name__})"
            self._notice(f"{why}; trying again")
            pause = 1.0 if time.monotonic() > began + _STEADY else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _connect(self, handle: Handler, hears: bool) -> None:
        """One client, until the library gives it up: it reconnects and resumes by itself."""
        async with self.make_client(handle, hears=hears) as client:
            self._session = client
            try:
                await client.login(self._token)
                await client.connect()
            finally:
                self._session = None
                # Nothing can be sent once the library has ended: the next client does the rest.
                await self.end(cut=client.is_closed())

    def make_client(self, handle: Handler, *, hears: bool) -> Client:
        """The library's client, all set up and not signed in."""
        self._handle = handle
        self._hears = hears
        self._client = Client(self, hears=hears, proxy=self._settings.proxy)
        self._sender = Sender(self._client, self._settings, self._servers)
        self._admin = Administration(
            self._servers, self._settings.names, self._lang, hears, lambda: self._me.id
        )
        self._client.tree = make_tree(self._client, self._command, self._admin, self._lang)
        return self._client

    async def end(self, *, cut: bool = False) -> None:
        """Lets the replies under way come to their end; `cut` leaves them to the next session."""
        if self._asking:
            await self._asking.end()
        if self._receiver:
            await self._receiver.end(_CUT if cut else self._settings.drain)

    @property
    def _me(self) -> discord.ClientUser:
        assert self._client.user is not None
        return self._client.user

    # What arrives.

    async def begin(self) -> None:
        bot_id = str(self._me.id)
        notes = await self._notes.read(PLATFORM, bot_id)
        self._servers.load(bot_id, notes)
        self._reader = Reader(self._me, self._settings, self._servers, self._hears)
        self._receiver = Receiver(
            self._client, self._settings, self._inbox, self._notes, self._reader, bot_id, self._deal
        )
        self._asking = Asking(self._client, self._receiver, self._sender)
        self._asking.take_up(await self._receiver.begin(notes))
        await self._offer_commands(bot_id, notes.get(_COMMANDS))

    async def _offer_commands(self, bot_id: str, known: str | None) -> None:
        assert self._client.tree is not None
        try:
            offered = await sync(self._client.tree, known)
            if offered != known:
                await self._notes.write(PLATFORM, bot_id, {_COMMANDS: offered})
        except Exception as error:  # she talks without them too
            log.warning("the commands could not be set: %s", error)

    def connected(self, shard_id: int) -> None:
        self._of_receiver.missed.connected(shard_id)

    async def ready(self, shard_id: int, guilds: list[discord.Guild], *, private: bool) -> None:
        if not self._told:
            self._told = True
            deaf = (
                "; it hears mentions, replies, commands and private chats only: for names and for "
                "channels where it answers everything, turn the Message Content Intent on in the "
                "developer portal, under Bot"
            )
            self._notice(f"{self._me} is on Discord{'' if self._hears else deaf}")
        await self._of_receiver.missed.catch_up(shard_id, guilds, private=private)

    @property
    def _of_receiver(self) -> Receiver:
        assert self._receiver is not None
        return self._receiver

    def message(self, message: discord.Message) -> None:
        self._of_receiver.message(message)

    def edited(self, message: discord.Message) -> None:
        self._of_receiver.edited(message)

    def deleted(self, message_ids: list[int]) -> None:
        self._of_receiver.deleted(message_ids)

    def reacted(self, change: discord.RawReactionActionEvent) -> None:
        if vote := self._reader.reaction(change):
            self._of_receiver.talk(vote)

    async def interacted(self, interaction: discord.Interaction) -> None:
        press = press_of(interaction)
        if press is None:
            return
        if press.asks_for_form:
            asked = form(press.about, self._admin.lang(interaction))
            with contextlib.suppress(SendError):  # pressed too long ago
                await call(partial(interaction.response.send_modal, asked), once=True)
            return
        again = press.action.startswith("/retry")
        alone = bool(interaction.message and interaction.message.flags.ephemeral)
        how: How = "beside" if again else "replace" if alone else "answer"
        await self._take_up(interaction, press.action, how, not again, press.about, pressed=True)

    async def _command(self, interaction: discord.Interaction, text: str, *, alone: bool) -> None:
        await self._take_up(interaction, text, "answer", alone)

    async def _take_up(
        self,
        interaction: discord.Interaction,
        text: str,
        how: How,
        alone: bool,
        about: str | None = None,
        *,
        pressed: bool = False,
    ) -> None:
        incoming = self._reader.interaction(
            interaction, text, alone=alone, about=about, pressed=pressed
        )
        assert self._asking is not None
        await self._asking.take(interaction, incoming, Pending(interaction, how, alone=alone))

    async def _deal(self, incoming: Incoming) -> None:
        try:
            await self._handle(incoming)
        except asyncio.CancelledError as cancelled:
            if STOPPED in cancelled.args:
                await self._sender.take_back(incoming)
            raise
        else:
            await self._sender.end(incoming)
        finally:
            self._sender.leave(incoming)  # cut off, the next session goes on with it

    # What the bot asks of a platform.

    def limits(self, to: Incoming) -> Limits:
        return self._sender.limits(to)

    async def send(self, to: Incoming, said: Said) -> str:
        return await self._sender.send(to, said)

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None:
        await self._sender.edit(to, message_id, said)

    async def draft(self, to: Incoming, said: Said) -> None:
        raise SendError("Discord knows no drafts")

    async def strip(self, to: Incoming, message_id: str) -> None:
        await self._sender.strip(to, message_id)

    async def typing(self, to: Incoming) -> None:
        await self._sender.typing(to)

    async def hand_over(self, to: Incoming, file: File) -> None:
        await self._sender.hand_over(to, file)
