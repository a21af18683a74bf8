"""From Telegram's updates to what people say."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from telegram import (
    CallbackQuery,
    Message,
    MessageReactionUpdated,
    ReactionType,
    ReactionTypeEmoji,
    Update,
    User,
)
from telegram.constants import ChatType, MessageEntityType

from bot.platforms.base import Incoming, Kind
from bot.platforms.reactions import vote_of
from bot.platforms.telegram_inbox import PLATFORM

_GROUPS = (ChatType.GROUP, ChatType.SUPERGROUP)
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("photo", "picture"),
    ("animation", "picture"),
    ("video", "picture"),
    ("video_note", "picture"),
    ("story", "picture"),
    ("sticker", "sticker"),
    ("dice", "sticker"),
    ("voice", "voice"),
    ("audio", "voice"),
    ("document", "file"),
    ("venue", "place"),
    ("location", "place"),
    ("contact", "card"),
    ("poll", "poll"),
    ("checklist", "poll"),
)
"""By what a message holds; whatever holds none of these and no text is a service message."""
_ALBUMS = 200


class Reader:
    """Reads updates as `me`, a bot that answers to `names`."""

    def __init__(self, me: User, names: Sequence[str]) -> None:
        self._me = me
        self._names = [name.casefold() for name in names if name]
        # People write it right before a Chinese character too, where Telegram marks no mention.
        self._mention = re.compile(
            rf"@{re.escape(me.username or '')}(?![A-Za-z0-9_])", re.IGNORECASE
        )
        self._albums: deque[str] = deque(maxlen=_ALBUMS)

    def read(self, update: Update) -> Incoming | None:
        """What a person says by it; None where it is nothing that is said to anybody."""
        if update.callback_query:
            return self._press(update.callback_query)
        if update.message_reaction:
            return self._reaction(update.message_reaction, update.update_id)
        if update.edited_message:
            incoming = self._message(update.edited_message)
            return incoming and replace(incoming, edited=True)
        return self._message(update.message) if update.message else None

    def _press(self, query: CallbackQuery) -> Incoming | None:
        message = query.message
        # A client may be made to send any data: it counts as said, and only commands do.
        if message is None or not query.data or not query.data.startswith("/"):
            return None
        return Incoming(
            PLATFORM,
            str(message.chat.id),
            str(query.from_user.id),
            query.data,
            thread_id=_thread(message) if isinstance(message, Message) else "",
            user_name=query.from_user.full_name,
            message_id=f"q{query.id}",
            is_group=message.chat.type in _GROUPS,
            reply_to=str(message.message_id),
            in_place="button",
        )

    def _reaction(self, change: MessageReactionUpdated, update_id: int) -> Incoming | None:
        """The difference that it makes to a vote; the latest state of a person is what counts."""
        person = change.user
        if person is None or person.is_bot or change.chat.type == ChatType.CHANNEL:
            return None
        before, now = _vote(change.old_reaction), _vote(change.new_reaction)
        if before == now:
            return None
        return Incoming(
            PLATFORM,
            str(change.chat.id),
            str(person.id),
            f"/feedback {now or 'none'}",
            user_name=person.full_name,
            message_id=f"r{update_id}",
            is_group=change.chat.type in _GROUPS,
            reply_to=str(change.message_id),
            in_place="reaction",
        )

    def _message(self, message: Message) -> Incoming | None:
        kind = _kind(message)
        if kind is None or message.chat.type == ChatType.CHANNEL or self._is_no_person(message):
            return None
        is_group = message.chat.type in _GROUPS
        # What somebody else said must not pass for this person's own words.
        said = "" if kind == "forward" else message.text or message.caption or ""
        if not self._first_of_album(message, said):
            return None
        hidden = message.sender_chat is not None
        user = message.from_user
        name = message.sender_chat.title if message.sender_chat else user and user.full_name
        replied = message.reply_to_message
        if replied and replied.forum_topic_created:  # all in a topic answers its first message
            replied = None
        return Incoming(
            PLATFORM,
            str(message.chat.id),
            "" if hidden or user is None else str(user.id),
            self._mention.sub("", said).strip() if is_group else said,
            thread_id=_thread(message),
            user_name=name or "",
            message_id=str(message.message_id),
            is_group=is_group,
            addressed=not is_group or self._is_addressed(message, said, replied),
            reply_to=str(replied.message_id) if replied else None,
            kind=kind,
            sent_at=(message.edit_date or message.date).timestamp(),
        )

    def _is_no_person(self, message: Message) -> bool:
        """Bots, and channels that speak in a group; an anonymous admin speaks as the group."""
        if message.is_automatic_forward or message.from_user is None:
            return True
        if message.sender_chat is not None:
            return message.sender_chat.id != message.chat.id
        return message.from_user.is_bot

    def _first_of_album(self, message: Message, said: str) -> bool:
        """Of an album's pictures, which come one by one, one is answered."""
        if message.media_group_id is None:
            return True
        seen = message.media_group_id in self._albums
        self._albums.append(message.media_group_id)
        return bool(said) or not seen

    def _is_addressed(self, message: Message, said: str, replied: Message | None) -> bool:
        if said.startswith("/"):
            _, at, whom = said.split(None, 1)[0].partition("@")
            return not at or whom.casefold() == (self._me.username or "").casefold()
        if replied and replied.from_user and replied.from_user.id == self._me.id:
            return True
        texts: list[str | None] = [MessageEntityType.TEXT_MENTION]
        entities = message.parse_entities(texts) | message.parse_caption_entities(texts)
        if any(entity.user and entity.user.id == self._me.id for entity in entities):
            return True
        if self._mention.search(said):
            return True
        return any(name in said.casefold() for name in self._names)


def _kind(message: Message) -> Kind | None:
    text: Kind | None = "text" if message.text else None
    held = (kind for attribute, kind in _KINDS if getattr(message, attribute, None))
    kind = next(held, text)
    return "forward" if kind and message.forward_origin else kind


def _thread(message: Message) -> str:
    return str(message.message_thread_id or "") if message.is_topic_message else ""


def _vote(reactions: Sequence[ReactionType]) -> str:
    emojis = [one.emoji for one in reactions if isinstance(one, ReactionTypeEmoji)]
    votes = [vote for emoji in emojis if (vote := vote_of(emoji))]
    return votes[-1] if votes else ""
