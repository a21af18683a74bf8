"""Calling Telegram: what each refusal means, what is tried again, and how a bot signs in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from telegram import User
from telegram.error import (
    BadRequest,
    ChatMigrated,
    Forbidden,
    InvalidToken,
    NetworkError,
    TelegramError,
)
from telegram.ext import ExtBot
from telegram.request import HTTPXRequest

from bot.platforms.base import Moved, Notice, PlatformError, SendError, Unreachable
from bot.platforms.telegram_inbox import PLATFORM
from bot.platforms.telegram_limits import OPTIONAL, RateLimiter

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 30.0
_MUTE = (
    "not enough rights", "no rights to send", "administrator rights", "chat not found",
    "chat_write_forbidden", "chat_restricted", "peer_id_invalid", "user is deactivated",
    "topic_closed", "thread not found",
)  # fmt: skip
"""Of a bad request, what tells that the bot may not write there."""


class _Bot(ExtBot[str]):
    """The library's, which shows its token to whoever prints it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}[{self.token.partition(':')[0]}]"


class _Polling(HTTPXRequest):
    """Asks for updates, and knows whether Telegram gave an answer to that the last time."""

    well = True

    async def do_request(self, *arguments: Any, **options: Any) -> tuple[int, bytes]:
        try:
            status, body = await super().do_request(*arguments, **options)
        except TelegramError:
            self.well = False
            raise
        self.well = status == HTTPStatus.OK
        return status, body


def polled_well(bot: ExtBot[str]) -> bool:
    """Whether the last time that updates were asked for, if any, there was an answer."""
    polling = bot._request[0]  # the library hands it out nowhere
    return not isinstance(polling, _Polling) or polling.well


def make_bot(token: str, base_url: str, limiter: RateLimiter | None = None) -> ExtBot[str]:
    # A server of one's own may speak plain HTTP, for which no certificates need to be read.
    client = {"verify": not base_url.startswith("http:")}
    return _Bot(
        token,
        base_url=f"{base_url.rstrip('/')}/bot",
        # Patient, so that what is merely slow is not sent a second time.
        request=HTTPXRequest(
            64, read_timeout=30.0, write_timeout=30.0, pool_timeout=30.0, httpx_kwargs=client
        ),
        get_updates_request=_Polling(1, read_timeout=10.0, httpx_kwargs=client),
        rate_limiter=limiter or RateLimiter(),
    )


async def sign_in(bot: ExtBot[str], notice: Notice) -> User:
    """Waits until Telegram can be reached. Raises PlatformError."""
    pause = 1.0
    while True:
        try:
            await bot.initialize()
            return bot.bot
        except InvalidToken:
            raise refused() from None
        except TelegramError as error:
            notice(f"Telegram cannot be reached ({error.message}); trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def check(token: str, base_url: str) -> str:
    """What `--check` tells: who the bot is, and what it hears. Raises PlatformError."""
    bot = make_bot(token, base_url)
    try:
        await bot.initialize()
        me = bot.bot
    except InvalidToken:
        raise refused() from None
    except TelegramError as error:
        raise PlatformError(f"Telegram cannot be reached ({error.message})") from None
    finally:
        with contextlib.suppress(TelegramError):
            await bot.shutdown()
    hears = "everything" if me.can_read_all_group_messages else "mentions, replies and commands"
    return f"@{me.username}, in groups it gets {hears}"


def refused() -> PlatformError:
    return PlatformError(
        "Telegram refuses TELEGRAM_TOKEN; @BotFather shows the right one with /mybots"
    )


async def call(
    method: Callable[..., Awaitable[Any]],
    moved: Moved,
    *,
    growing: bool = False,
    **arguments: Any,
) -> Any:
    """Calls until it is done; what is `growing` once, and only if it need not wait.

    A call of which nobody knows whether it was carried out is made again: said twice is better than
    never. None where there was nothing to change. Raises SendError.
    """
    pause = 1.0
    while True:
        try:
            return await method(**arguments, rate_limit_args=OPTIONAL if growing else None)
        except ChatMigrated as migrated:
            await moved(PLATFORM, str(arguments["chat_id"]), str(migrated.new_chat_id))
            arguments["chat_id"] = migrated.new_chat_id
        except Forbidden as error:
            raise Unreachable(error.message) from None
        except BadRequest as error:
            why = error.message.casefold()
            if "not modified" in why:
                return None
            mute = any(reason in why for reason in _MUTE)
            raise (Unreachable if mute else SendError)(error.message) from None
        except NetworkError as error:
            if growing:
                raise SendError(error.message) from None
            log.warning("Telegram cannot be reached: %s; again in %.0f s", error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        except TelegramError as error:
            raise SendError(error.message) from None
