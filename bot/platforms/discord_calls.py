"""Calling Discord: what each refusal means, what is tried again, and how a bot signs in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import discord

from bot.platforms.base import Notice, PlatformError, SendError, Unreachable

log = logging.getLogger(__name__)

# She has no voice, and nobody needs to be warned of that.
discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False

PLATFORM = "discord"
PERMISSIONS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    send_messages_in_threads=True,
    read_message_history=True,
    add_reactions=True,
)
"""All that she needs in a server."""

_FEW = discord.Intents(guilds=True)
"""Whoever only looks receives nothing; without this one the library warns."""
_LONGEST_PAUSE = 30.0
_MUTE = frozenset((10003, 50001, 50007, 50013, 50278, 160005, 340015))
"""What tells that the bot may not write there: unknown channel, no access, no direct messages, no
permission, no server in common, a locked thread, a server that is being left."""
UNANSWERABLE = 160002
"""Where she may not read what was said, she may not answer it as a reply either."""
ACKNOWLEDGED = 40060
"""The refusal of what was acknowledged already."""
_LOST = (OSError, TimeoutError, aiohttp.ClientError)
_INVALID = 4004
"""How the gateway closes where the token is not, or no longer, valid."""
_FOR_GOOD = (_INVALID, 4012, 4013)
"""How it closes where coming back changes nothing."""


class Refused(SendError):
    """Discord refuses a call; `code` is its own number for the reason."""

    def __init__(self, error: discord.HTTPException) -> None:
        super().__init__(_plain(error))
        self.code = error.code


@dataclass(frozen=True, slots=True)
class Application:
    """Who the bot is at Discord. `hears`: it is given the text of messages not meant for it."""

    name: str
    id: int
    hears: bool

    @property
    def invite(self) -> str:
        """The address at which a server's administrator lets her in."""
        scopes = ("bot", "applications.commands")
        return discord.utils.oauth_url(self.id, permissions=PERMISSIONS, scopes=scopes)


async def sign_in(token: str, proxy: str, notice: Notice) -> Application:
    """Waits until Discord can be reached. Raises PlatformError."""
    pause = 1.0
    while True:
        try:
            async with discord.Client(intents=_FEW, proxy=proxy or None) as client:
                return await look(client, token)
        except (*_LOST, discord.HTTPException) as error:
            notice(f"Discord cannot be reached ({_plain(error)}); trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def look(client: discord.Client, token: str) -> Application:
    """Signs in and asks who the bot is. Raises PlatformError, and what the network raises."""
    try:
        await client.login(token)
    except (discord.LoginFailure, ValueError):  # a token may hold what no header takes
        raise refused() from None
    application, user = client.application, client.user
    assert application is not None
    assert user is not None
    flags = application.flags
    hears = flags.gateway_message_content or flags.gateway_message_content_limited
    return Application(str(user), application.id, hears)


async def check(token: str, proxy: str = "") -> str:
    """What `--check` tells: who the bot is, what it may do, how it is let in. PlatformError."""
    try:
        async with discord.Client(intents=_FEW, proxy=proxy or None) as client:
            who = await look(client, token)
            wanting = [line async for line in _wanting(client)]
    except (*_LOST, discord.HTTPException) as error:
        raise PlatformError(f"Discord cannot be reached ({_plain(error)})") from None
    told = [f"{who.name}, {'hears' if who.hears else 'does not hear'} what is not meant for her"]
    return "; ".join([*told, *wanting, f"let her in at {who.invite}"])


async def _wanting(client: discord.Client) -> Any:
    """Of each server, what she may not do there though she needs it."""
    user = client.user
    assert user is not None
    async for server in client.fetch_guilds(limit=50):
        guild = await client.fetch_guild(server.id, with_counts=False)
        has = (await guild.fetch_member(user.id)).guild_permissions
        missing = [name for name, needed in PERMISSIONS if needed and not getattr(has, name)]
        if missing:
            yield f"in {guild.name} she may not {', '.join(missing)}"


def refused() -> PlatformError:
    return PlatformError(
        "Discord refuses DISCORD_TOKEN; the developer portal gives a new one under Bot, Reset Token"
    )


def ended(error: Exception) -> PlatformError | None:
    """Why the connection will not come back; None where it may."""
    if isinstance(error, discord.PrivilegedIntentsRequired):
        return PlatformError(
            "Discord withdrew the Message Content Intent; turn it on in the developer portal under "
            "Bot, or start again without it"
        )
    if isinstance(error, discord.LoginFailure):
        return refused()
    if isinstance(error, discord.ConnectionClosed) and error.code in _FOR_GOOD:
        if error.code == _INVALID:
            return refused()
        return PlatformError(f"Discord closed the connection for good (code {error.code})")
    return None


async def call(
    method: Callable[..., Awaitable[Any]], *, once: bool = False, **arguments: Any
) -> Any:
    """Calls until it is done; with `once`, only as often as the library itself tries.

    What was sent twice must carry a nonce, so that it is shown once. Raises SendError.
    """
    pause = 1.0
    while True:
        try:
            return await method(**arguments)
        except _LOST as error:
            why: Exception = error
        except discord.HTTPException as error:
            if error.status != 429 and error.status < 500 and not _is_signed_out(error):
                raise (_unreachable(error) or Refused(error)) from None
            why = error
        except RuntimeError as error:
            if "closed" not in str(error):
                raise
            why = error  # the library has ended, and the next session does it
        except discord.DiscordException as error:  # answered already, for one
            raise SendError(str(error)) from None
        if once:
            raise SendError(_plain(why)) from None
        log.warning("Discord cannot be reached: %s; again in %.0f s", _plain(why), pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _is_signed_out(error: discord.HTTPException) -> bool:
    """Whether the token is void: what is being said waits for the next start, with another."""
    return error.status == 401 and error.code == 0


def _unreachable(error: discord.HTTPException) -> Unreachable | None:
    return Unreachable(_plain(error)) if error.code in _MUTE else None


def _plain(error: Exception) -> str:
    """One line; what a proxy answers instead of Discord may be a whole page."""
    if isinstance(error, discord.HTTPException):
        return f"{error.status}, {error.code}: {(error.text or '').partition(chr(10))[0][:200]}"
    return str(error).partition("\n")[0][:200] or type(error).__name__
