"""Who speaks, what is said, and the media that people send, as the Bot API's JSON has them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fakes.chats import Chat

# Telegram's own accounts, which stand as `from` where a chat speaks.
_ANONYMOUS = {
    "id": 1087968824,
    "is_bot": True,
    "first_name": "Group",
    "username": "GroupAnonymousBot",
}
_CHANNEL = {"id": 136817688, "is_bot": True, "first_name": "Channel", "username": "Channel_Bot"}


@dataclass(eq=False)
class User:
    id: int
    first_name: str
    username: str | None = None
    language_code: str | None = "zh-hans"
    is_bot: bool = False

    def json(self) -> dict[str, Any]:
        body = {
            "id": self.id,
            "is_bot": self.is_bot,
            "first_name": self.first_name,
            "username": self.username,
            "language_code": self.language_code,
        }
        return {key: value for key, value in body.items() if value is not None}


@dataclass(eq=False)
class Message:
    """What stands in a chat; `content` is its text, medium or service note as the JSON has it."""

    chat: Chat
    id: int
    sender: User | Chat
    content: dict[str, Any]
    date: int
    thread: int | None = None
    topic: bool = False
    reply_to: Message | None = None
    keyboard: list[list[dict[str, Any]]] | None = None
    service: bool = False
    edit_date: int | None = None
    deleted: bool = False
    meant: bool = False
    """Whether privacy mode let it through as meant for the bot; replies to it pass too."""
    reactions: dict[int, list[str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return str(self.content.get("text", self.content.get("caption", "")))

    @property
    def by_bot(self) -> bool:
        return self.sender is self.chat.server.bot

    @property
    def buttons(self) -> list[str]:
        return [button["text"] for row in self.keyboard or [] for button in row]

    def json(self, *, nested: bool = False) -> dict[str, Any]:
        body: dict[str, Any] = {
            "message_id": self.id,
            "date": self.date,
            "chat": self.chat.json(),
            **self._from(),
            **self.content,
        }
        if self.edit_date is not None:
            body["edit_date"] = self.edit_date
        if self.keyboard:
            body["reply_markup"] = {"inline_keyboard": self.keyboard}
        if self.thread is not None:
            body["message_thread_id"] = self.thread
            if self.topic:
                body["is_topic_message"] = True
        if not nested:
            if self.reply_to is not None:
                body["reply_to_message"] = self.reply_to.json(nested=True)
            elif self.topic and (root := self.chat.find(self.thread)) and root is not self:
                # In a topic what answers nothing answers the note that opened the topic.
                body["reply_to_message"] = root.json(nested=True)
        return body

    def _from(self) -> dict[str, Any]:
        if isinstance(self.sender, User):
            return {"from": self.sender.json()}
        chat = {"sender_chat": self.sender.json()}
        if self.chat.type == "channel":
            return chat
        return {"from": _ANONYMOUS if self.sender is self.chat else _CHANNEL, **chat}

    def __repr__(self) -> str:
        who = self.sender.first_name if isinstance(self.sender, User) else self.sender.title
        what = self.text or next(iter(self.content), "")
        return f"{self.id} {who}: {what}" + (f" {self.buttons}" if self.keyboard else "")


@dataclass(frozen=True)
class Shown:
    """Something that could be seen in a chat at a time of the server's clock."""

    at: float
    event: str
    """sent, edited, deleted, draft, action or reaction"""
    text: str
    message: Message | None = None
    by_bot: bool = True


@dataclass
class Draft:
    id: int
    text: str
    until: float


def medium(kind: str, file_id: str) -> dict[str, Any]:
    file = {"file_id": file_id, "file_unique_id": f"u{file_id}", "file_size": 1}
    size = {**file, "width": 512, "height": 512}
    sticker = {"type": "regular", "is_animated": False, "is_video": False, "emoji": "😂"}
    poll = {
        "id": re.sub(r"\D", "", file_id) or "1",
        "question": "赏花还是赏雪？",
        "options": [
            {"text": text, "voter_count": 0, "persistent_id": text} for text in ("花", "雪")
        ],
        "total_voter_count": 0,
        "is_closed": False,
        "is_anonymous": True,
        "type": "regular",
        "allows_multiple_answers": False,
        "allows_revoting": True,
        "members_only": False,
    }
    contents: dict[str, dict[str, Any]] = {
        "photo": {"photo": [size]},
        "sticker": {"sticker": {**size, **sticker}},
        "voice": {"voice": {**file, "duration": 3, "mime_type": "audio/ogg"}},
        "audio": {"audio": {**file, "duration": 3}},
        "video": {"video": {**size, "duration": 3}},
        "video_note": {"video_note": {**file, "duration": 3, "length": 240}},
        "animation": {"animation": {**size, "duration": 3}, "document": file},
        "document": {"document": {**file, "file_name": "诗稿.txt", "mime_type": "text/plain"}},
        "location": {"location": {"latitude": 31.3, "longitude": 120.6}},
        "contact": {"contact": {"phone_number": "+8600000000000", "first_name": "湘云"}},
        "poll": {"poll": poll},
        "dice": {"dice": {"emoji": "🎲", "value": 4}},
    }
    assert kind in contents, f"{kind!r} is none of {', '.join(contents)}"
    return contents[kind]
