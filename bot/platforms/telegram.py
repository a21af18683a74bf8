"""Telegram: private chats, groups and topics.

Beside it: telegram_updates reads what people do, telegram_receiving gets it, telegram_inbox sees
that none of it is lost, telegram_calls knows the refusals, telegram_limits holds calls back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zlib
from functools import partial
from typing import Any

from telegram import (
    BotCommand,
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputFile,
    ReplyParameters,
    User,
)
from telegram.constants import FileSizeLimit, MessageLimit
from telegram.error import BadRequest, InvalidToken, TelegramError

from bot.platforms.base import (
    Choices,
    File,
    Handler,
    Inbox,
    Incoming,
    Limits,
    Moved,
    Notice,
    Said,
    SendError,
    utf16,
)
from bot.platforms.settings import TelegramSettings
from bot.platforms.telegram_calls import call, make_bot, sign_in
from bot.platforms.telegram_inbox import PLATFORM
from bot.platforms.telegram_limits import OPTIONAL, RateLimiter
from bot.platforms.telegram_receiving import Receiver
from bot.texts import LANGUAGES, menu

log = logging.getLogger(__name__)

_TYPING = 4.5
"""Seconds between two signs of typing, each of which stands for five."""
_TOAST, _ALERT = 200, 30
"""UTF-16 units that the answer to a press may have, and from which it stays until it is closed."""
_MEMBER_SECONDS = 600.0
_NOTED = "✍"
_ONLY_PRIVATE = frozenset(("start", "status"))


class TelegramPlatform:
    """One bot on Telegram. `lang` is the menu's language for those who speak none that it knows."""

    name = PLATFORM

    def __init__(
        self,
        settings: TelegramSettings,
        token: str,
        inbox: Inbox,
        moved: Moved,
        notice: Notice,
        lang: str = "zh",
        limiter: RateLimiter | None = None,
    ) -> None:
        self._settings = settings
        self._inbox = inbox
        self._moved = moved
        self._notice = notice
        self._menu_lang = lang
        self._bot = make_bot(token, settings.base_url, limiter)
        self._receiver: Receiver | None = None
        self._drafts = settings.drafts
        self._pressed: set[str] = set()
        """Presses that were not answered yet."""
        self._members: dict[tuple[str, str], tuple[float, bool]] = {}

    @property
    def online(self) -> bool:
        return self._receiver is not None and self._receiver.online

    async def run(self, handle: Handler) -> None:
        offering: asyncio.Task[None] | None = None
        try:
            me = await sign_in(self._bot, self._notice)
            offering = asyncio.create_task(self._offer_commands())
            self._tell(me)
            self._receiver = Receiver(
                self._bot, self._settings, self._inbox, self._moved, self._notice
            )
            await self._receiver.run(partial(self._deal, handle))
        finally:
            if offering:
                offering.cancel()
                await asyncio.gather(offering, return_exceptions=True)
            with contextlib.suppress(TelegramError):
                await self._bot.shutdown()

    def _tell(self, me: User) -> None:
        told = f"@{me.username} is on Telegram"
        if not me.can_read_all_group_messages:
            told += (
                "; in groups it gets mentions, replies and commands only, and does not hear its "
                "names: @BotFather's /setprivacy changes that"
            )
        self._notice(told)

    async def _offer_commands(self) -> None:
        """Gives the menu of commands, by language and kind of chat."""
        languages = {None: self._menu_lang} | {lang: lang for lang in LANGUAGES}
        try:
            for code, lang in languages.items():
                offered = list(menu(lang).items())
                group = [entry for entry in offered if entry[0] not in _ONLY_PRIVATE]
                for entries, scope in (
                    (offered, BotCommandScopeAllPrivateChats()),
                    (group, BotCommandScopeAllGroupChats()),
                ):
                    commands = [BotCommand(name, told) for name, told in entries]
                    await self._call(
                        self._bot.set_my_commands,
                        commands=commands,
                        scope=scope,
                        language_code=code,
                    )
        except SendError as error:
            log.warning("the menu of commands could not be set: %s", error)

    async def _deal(self, handle: Handler, incoming: Incoming) -> None:
        if incoming.in_place == "button" and incoming.message_id:
            self._pressed.add(incoming.message_id)
        if await self._may_vote(incoming):
            await handle(incoming)
        await self._answer_press(incoming)

    async def _may_vote(self, incoming: Incoming) -> bool:
        """Whoever reads a public group can press its buttons: only members count."""
        if not incoming.is_group or not incoming.in_place:
            return True
        key = (incoming.chat_id, incoming.user_id)
        until, member = self._members.get(key, (0.0, False))
        if until < time.monotonic():
            member = await self._is_member(*key)
            if len(self._members) > 10_000:
                self._members.clear()
            self._members[key] = (time.monotonic() + _MEMBER_SECONDS, member)
        return member

    async def _is_member(self, chat_id: str, user_id: str) -> bool:
        try:
            found = await self._call(
                self._bot.get_chat_member, chat_id=int(chat_id), user_id=int(user_id)
            )
        except SendError:
            return False
        # Of somebody restricted only the field tells whether they are still there.
        return found.status not in ("left", "kicked") and getattr(found, "is_member", True)

    # What the bot asks of a platform.

    def limits(self, to: Incoming) -> Limits:
        settings, length = self._settings, MessageLimit.MAX_TEXT_LENGTH
        if _is_vote(to):
            return Limits(length, edit_interval=None, measure=utf16)
        interval = settings.group_edit_interval if to.is_group else settings.edit_interval
        drafts = self._drafts and not to.is_group
        return Limits(length, interval, _TYPING, measure=utf16, drafts=drafts)

    async def send(self, to: Incoming, said: Said) -> str:
        if to.message_id and to.in_place and self._is_said_in_place(to, said):
            await self._acknowledge(to, said)
            return to.message_id
        await self._answer_press(to)
        sent = await self._call(
            self._bot.send_message,
            growing=said.growing,
            text=said.text,
            reply_markup=_keyboard(said.choices),
            reply_parameters=_reply_parameters(to),
            **_place(to),
        )
        return str(sent.message_id)

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None:
        await self._call(
            self._bot.edit_message_text,
            growing=said.growing,
            chat_id=int(to.chat_id),
            message_id=int(message_id),
            text=said.text,
            reply_markup=_keyboard(said.choices),
        )

    async def draft(self, to: Incoming, said: Said) -> None:
        # The same number for all of one reply: its drafts take each other's place.
        number = zlib.crc32((to.message_id or "").encode()) & 0x7FFFFFFF or 1
        try:
            await self._bot.send_message_draft(
                draft_id=number, text=said.text, rate_limit_args=OPTIONAL, **_place(to)
            )
        except (BadRequest, InvalidToken) as error:  # a server without the method says 404
            log.warning("edits instead of drafts from now on: %s", error)
            self._drafts = False
            raise SendError(str(error)) from None
        except TelegramError as error:
            raise SendError(str(error)) from None

    async def strip(self, to: Incoming, message_id: str) -> None:
        await self._set_choices(to, message_id, ())

    async def typing(self, to: Incoming) -> None:
        await self._call(self._bot.send_chat_action, growing=True, action="typing", **_place(to))

    async def hand_over(self, to: Incoming, file: File) -> None:
        if len(file.content) > FileSizeLimit.FILESIZE_UPLOAD:
            raise SendError("it is larger than Telegram takes")
        document = InputFile(file.content, filename=file.name)
        await self._call(self._bot.send_document, document=document, **_place(to))

    async def _call(self, method: Any, **arguments: Any) -> Any:
        return await call(method, self._moved, **arguments)

    # Votes and other presses, answered where they were made.

    def _is_said_in_place(self, to: Incoming, said: Said) -> bool:
        if not _is_vote(to):
            return not said.hers and to.message_id in self._pressed
        # In a private chat a question to somebody who reacted is a message.
        return to.is_group or to.in_place == "button" or said.choices is None

    async def _acknowledge(self, to: Incoming, said: Said) -> None:
        if to.in_place == "button":
            await self._answer_press(to, said.text)
        else:
            with contextlib.suppress(SendError):  # a group may not allow that reaction
                await self._call(
                    self._bot.set_message_reaction,
                    chat_id=int(to.chat_id),
                    message_id=int(to.reply_to or 0),
                    reaction=None if to.text.endswith("none") else _NOTED,
                )
        if said.choices is not None and to.reply_to:
            await self._set_choices(to, to.reply_to, said.choices)

    async def _answer_press(self, to: Incoming, text: str = "") -> None:
        """Answers a press, once: until then the button shows that it is at work."""
        if to.message_id is None or to.message_id not in self._pressed:
            return
        self._pressed.discard(to.message_id)
        while utf16(text) > _TOAST:
            text = text[:-2] + "…"
        with contextlib.suppress(SendError):  # pressed too long ago
            await self._call(
                self._bot.answer_callback_query,
                callback_query_id=to.message_id[1:],
                text=text or None,
                show_alert=utf16(text) > _ALERT,
            )

    async def _set_choices(self, to: Incoming, message_id: str, choices: Choices) -> None:
        await self._call(
            self._bot.edit_message_reply_markup,
            chat_id=int(to.chat_id),
            message_id=int(message_id),
            reply_markup=_keyboard(choices),
        )


def _is_vote(to: Incoming) -> bool:
    """Whether something was pressed whose answer is no reply of hers."""
    return bool(to.in_place) and not to.text.startswith("/retry")


def _place(to: Incoming) -> dict[str, Any]:
    thread = int(to.thread_id) if to.thread_id else None
    return {"chat_id": int(to.chat_id), "message_thread_id": thread}


def _reply_parameters(to: Incoming) -> ReplyParameters | None:
    """In a group, and where it is about an earlier message, it shows what it answers."""
    number = to.message_id if not to.in_place else None
    if number is None or not (to.is_group or to.edited):
        return None
    return ReplyParameters(int(number), allow_sending_without_reply=True)


def _keyboard(choices: Choices | None) -> InlineKeyboardMarkup | None:
    if not choices:
        return None
    return InlineKeyboardMarkup(
        [
            [InlineKeyboardButton(choice.label, callback_data=choice.action) for choice in row]
            for row in choices
        ]
    )
