"""The people's side: chats in which they speak, press, react and leave, and what stands there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tests.fakes.entities import Entity, found, slice_units
from tests.fakes.limits import bad, forbidden
from tests.fakes.members import GONE, member
from tests.fakes.messages import Draft, Message, Shown, User, medium

if TYPE_CHECKING:
    from tests.fakes.bot_api import BotAPI

T = TypeVar("T")

DRAFT_LIFE = 30.0
"""Seconds that a draft stands after its last change."""


@dataclass(eq=False)
class Press:
    """A button that was pressed; `answer` is what answerCallbackQuery said, if it did."""

    id: str
    data: str
    at: float
    answer: dict[str, Any] | None = None


class Place:
    """Where one speaks: a chat, or one topic of it."""

    thread: int | None = None

    @property
    def chat(self) -> Chat:
        raise NotImplementedError

    @property
    def messages(self) -> list[Message]:
        """What stands here now, oldest first, with edits applied."""
        return [
            message
            for message in self.chat.everything
            if not message.deleted and self.thread in (None, message.thread)
        ]

    @property
    def from_bot(self) -> list[Message]:
        return [message for message in self.messages if message.by_bot]

    @property
    def draft(self) -> str | None:
        """The text of the bot's draft that stands here now."""
        draft = self.chat.drafts.get(self.thread)
        return draft.text if draft and draft.until > self.chat.server.now() else None

    async def say(
        self,
        user: User | Chat,
        text: str,
        *,
        reply_to: Message | int | None = None,
        mention: Sequence[User] = (),
        entities: list[Entity] | None = None,
        **extra: Any,
    ) -> Message:
        """A person speaks; a Chat instead of one is an anonymous admin, or a channel.

        `mention` are people mentioned by name, `entities` replace what would be found, `extra` goes
        into the JSON as it is.
        """
        marked = found(text, mention) if entities is None else entities
        content = {"text": text, **({"entities": marked} if marked else {}), **extra}
        return await self.chat.enter(user, content, reply_to=reply_to, thread=self.thread)

    async def send(
        self,
        user: User | Chat,
        kind: str,
        *,
        caption: str | None = None,
        reply_to: Message | int | None = None,
        data: bytes = b"",
        **extra: Any,
    ) -> Message:
        """A person sends a photo, sticker, voice, video, animation, audio, document, video_note,
        location, contact, poll or dice; `data` is what getFile leads to."""
        content = medium(kind, self.chat.server.file(data or kind.encode(), kind))
        if caption is not None:
            content["caption"] = caption
            if marked := found(caption):
                content["caption_entities"] = marked
        return await self.chat.enter(
            user, {**content, **extra}, reply_to=reply_to, thread=self.thread
        )

    async def forward(self, user: User, text: str, origin: User | Chat | str) -> Message:
        """Forwards what a person, a channel, or somebody who hides their account wrote."""
        server = self.chat.server
        where: dict[str, Any]
        if isinstance(origin, User):
            where = {"type": "user", "sender_user": origin.json()}
        elif isinstance(origin, Chat):
            where = {"type": "channel", "chat": origin.json(), "message_id": 1}
        else:
            where = {"type": "hidden_user", "sender_user_name": origin}
        return await self.say(user, text, forward_origin={**where, "date": server.date() - 60})

    async def until(self, predicate: Callable[[Place], T], timeout: float = 20.0) -> T:
        """What the predicate gives once it is true; fails with what stands here."""
        return await self.chat.server.until(
            lambda: predicate(self), timeout, lambda: f"in vain; here stands:\n{self}"
        )

    def __str__(self) -> str:
        return "\n".join(map(repr, self.messages))


class Topic(Place):
    def __init__(self, chat: Chat, title: str, thread: int) -> None:
        self._chat, self.title, self.thread = chat, title, thread
        self.closed = False

    @property
    def chat(self) -> Chat:
        return self._chat

    async def close(self, by: User) -> None:
        self.closed = True
        await self._note(by, "forum_topic_closed")

    async def reopen(self, by: User) -> None:
        self.closed = False
        await self._note(by, "forum_topic_reopened")

    async def delete(self) -> None:
        """Its messages go with it; the bot is told nothing."""
        assert self.thread is not None
        for message in self.messages:
            message.deleted = True
        del self.chat.topics[self.thread]

    async def _note(self, by: User, what: str) -> None:
        await self.chat.enter(by, {what: {}}, thread=self.thread, service=True)


class Chat(Place):
    def __init__(
        self,
        server: BotAPI,
        chat_id: int,
        kind: str,
        title: str,
        people: Sequence[User],
        *,
        bot: str = "member",
        username: str | None = None,
        forum: bool = False,
    ) -> None:
        self.server, self.id, self.type, self.title = server, chat_id, kind, title
        self.people = list(people)
        self.bot_status = bot
        self.username = username
        self.forum = forum
        self.started = True
        """Whether the person of a private chat ever wrote; before that a bot may not."""
        self.everything: list[Message] = []
        self.history: list[Shown] = []
        """All that was ever to be seen, by time."""
        self.drafts: dict[int | None, Draft] = {}
        self.topics: dict[int, Topic] = {}
        self.migrated_to: Chat | None = None
        self._last_bot: User | None = None
        self._last_id = 0

    @property
    def chat(self) -> Chat:
        return self

    @property
    def is_group(self) -> bool:
        return self.type in ("group", "supergroup")

    @property
    def user(self) -> User:
        assert len(self.people) == 1, f"name one of {[user.first_name for user in self.people]}"
        return self.people[0]

    def json(self) -> dict[str, Any]:
        if self.type == "private":
            body: dict[str, Any] = {"id": self.id, "type": "private", **self.user.json()}
            body.pop("is_bot")
            body.pop("language_code", None)
            return body
        body = {"id": self.id, "type": self.type, "title": self.title}
        if self.username:
            body["username"] = self.username
        return {**body, "is_forum": True} if self.forum else body

    def find(self, message_id: int | None) -> Message | None:
        """A message that still stands."""
        return next(
            (one for one in self.everything if one.id == message_id and not one.deleted), None
        )

    def member(self, user: User) -> dict[str, Any]:
        """A ChatMember."""
        status = "left"
        if user is self.server.bot:
            status = self.bot_status
        elif user in self.people:
            status = "creator" if self.is_group and user is self.people[0] else "member"
        return member(user, status, channel=self.type == "channel")

    def show(
        self, event: str, text: str, message: Message | None = None, by_bot: bool = True
    ) -> None:
        self.history.append(Shown(self.server.now(), event, text, message, by_bot))
        self.server.changed()

    def add(
        self,
        sender: User | Chat,
        content: dict[str, Any],
        *,
        reply_to: Message | None = None,
        thread: int | None = None,
        service: bool = False,
        keyboard: list[list[dict[str, Any]]] | None = None,
    ) -> Message:
        """Puts a message here, whoever sends it."""
        # Supergroups and channels count for themselves, all other chats of a bot together.
        if self.type in ("supergroup", "channel"):
            self._last_id += 1
            message_id = self._last_id
        else:
            message_id = self.server.next_message_id()
        topic = thread in self.topics
        if thread is None and reply_to is not None and self.type == "supergroup":
            # Replies are threads of their own, unless they stand in a topic.
            thread, topic = reply_to.thread, reply_to.topic
            if thread is None:
                thread = reply_to.id
        message = Message(
            self, message_id, sender, content, self.server.date(), thread, topic, reply_to, keyboard
        )
        message.service = service
        if isinstance(sender, User) and sender.is_bot:
            self._last_bot = sender
        self.everything.append(message)
        self.show("sent", message.text, message, message.by_bot)
        return message

    async def enter(
        self,
        sender: User | Chat,
        content: dict[str, Any],
        *,
        reply_to: Message | int | None = None,
        thread: int | None = None,
        service: bool = False,
    ) -> Message:
        """A message of a person, or a service note, with its update."""
        if isinstance(reply_to, int):
            assert self.find(reply_to), f"no message {reply_to} among\n{self}"
            reply_to = self.find(reply_to)
        if self.type == "channel":
            sender = self
        elif isinstance(sender, User) and sender not in self.people and not service:
            self.people.append(sender)
        self.started = True
        message = self.add(sender, content, reply_to=reply_to, thread=thread, service=service)
        self._deliver("channel_post" if self.type == "channel" else "message", message)
        return message

    async def edit(self, message: Message, text: str) -> None:
        """A person changes what they wrote, or the caption of it."""
        key = "text" if "text" in message.content else "caption"
        message.content.pop("entities", None)
        message.content[key] = text
        if marked := found(text):
            message.content["entities" if key == "text" else "caption_entities"] = marked
        message.edit_date = self.server.date()
        self.show("edited", text, message, by_bot=False)
        self._deliver(
            "edited_channel_post" if self.type == "channel" else "edited_message", message
        )

    async def delete(self, message: Message) -> None:
        """A person removes a message; bots are not told."""
        message.deleted = True
        self.show("deleted", message.text, message, by_bot=False)

    async def press(self, message: Message | int, button: str, *, by: User | None = None) -> Press:
        """Presses the button of that label, or of that data."""
        message_id = message if isinstance(message, int) else message.id
        pressed = next(one for one in self.everything if one.id == message_id)
        buttons = [one for row in pressed.keyboard or [] for one in row]
        chosen = next(
            (one for one in buttons if button in (one["text"], one.get("callback_data"))), None
        )
        assert chosen, f"no {button!r} under {pressed!r}"
        query = self.server.query(chosen["callback_data"])
        gone = {"chat": self.json(), "message_id": message_id, "date": 0}
        self.server.updates.push(
            "callback_query",
            {
                "id": query.id,
                "from": (by or self.user).json(),
                "message": gone if pressed.deleted else pressed.json(),
                "chat_instance": str(self.id),
                "data": query.data,
            },
        )
        return query

    async def react(
        self, message: Message, *emojis: str, by: User | None = None, anonymous: bool = False
    ) -> None:
        """Sets a person's reactions to a message; none takes them away."""
        actor: User | Chat = self if anonymous else (by or self.user)
        old = message.reactions.get(actor.id, [])
        message.reactions[actor.id] = list(emojis)
        self.show("reaction", "".join(emojis), message, by_bot=False)
        unseen = self.is_group and self.bot_status != "administrator"
        if unseen or self.bot_status in GONE or (isinstance(actor, User) and actor.is_bot):
            return
        self.server.updates.push(
            "message_reaction",
            {
                "chat": self.json(),
                "message_id": message.id,
                "actor_chat" if anonymous else "user": actor.json(),
                "date": self.server.date(),
                "old_reaction": [{"type": "emoji", "emoji": emoji} for emoji in old],
                "new_reaction": [{"type": "emoji", "emoji": emoji} for emoji in emojis],
            },
        )

    async def block(self) -> None:
        """The person of a private chat blocks the bot."""
        await self.set_bot("kicked", by=self.user)

    async def unblock(self) -> None:
        await self.set_bot("member", by=self.user)

    async def set_bot(self, status: str, *, by: User) -> None:
        """Makes the bot member, administrator, restricted, left or kicked."""
        old = self.member(self.server.bot)
        self.bot_status = status
        self.server.updates.push(
            "my_chat_member",
            {
                "chat": self.json(),
                "from": by.json(),
                "date": self.server.date(),
                "old_chat_member": old,
                "new_chat_member": self.member(self.server.bot),
            },
        )
        if self.is_group and old["status"] in GONE and status not in GONE:
            await self._note(by, new_chat_members=[self.server.bot.json()])

    async def join(self, user: User) -> None:
        self.people.append(user)
        await self._note(user, new_chat_members=[user.json()])

    async def leave(self, user: User) -> None:
        self.people.remove(user)
        await self._note(user, left_chat_member=user.json())

    async def pin(self, by: User, message: Message) -> None:
        await self._note(by, pinned_message=message.json(nested=True))

    async def rename(self, by: User, title: str) -> None:
        self.title = title
        await self._note(by, new_chat_title=title)

    async def upgrade(self) -> Chat:
        """A group becomes a supergroup, of another id; the old one answers with that."""
        new = self.server.supergroup(self.title, *self.people, bot=self.bot_status)
        self.migrated_to = new
        await self._note(self.people[0], migrate_to_chat_id=new.id)
        await new._note(self.people[0], migrate_from_chat_id=self.id)
        return new

    async def topic(self, title: str, by: User | None = None) -> Topic:
        """Opens a topic of a forum."""
        assert self.forum, "only a supergroup(…, forum=True) has topics"
        thread = self._last_id + 1
        opened = self.topics[thread] = Topic(self, title, thread)
        content = {"forum_topic_created": {"name": title, "icon_color": 7322096}}
        await self.enter(by or self.people[0], content, thread=thread, service=True)
        return opened

    def menu(self, user: User) -> list[str]:
        """The names of the commands that the person is offered here."""
        admin = self.is_group and user is self.people[0]
        scopes: list[tuple[Any, ...]] = [("default",)]
        if self.type == "private":
            scopes = [("chat", self.id), ("all_private_chats",), *scopes]
        else:
            one = [("chat_administrators", self.id)] if admin else []
            all_of_them = [("all_chat_administrators",)] if admin else []
            scopes = [
                ("chat_member", self.id, user.id),
                *one,
                ("chat", self.id),
                *all_of_them,
                ("all_group_chats",),
                *scopes,
            ]
        for scope in scopes:
            for language in ((user.language_code or "")[:2], ""):
                if commands := self.server.commands.get((scope, language)):
                    return [command["command"] for command in commands]
        return []

    def require_bot(self, *, sending: bool = False) -> None:
        """Refuses a call that the bot's standing here does not allow."""
        if self.migrated_to is not None:
            raise bad(
                "group chat was upgraded to a supergroup chat",
                migrate_to_chat_id=self.migrated_to.id,
            )
        if self.type == "private":
            if self.bot_status == "kicked":
                raise forbidden("bot was blocked by the user")
            if not self.started:
                raise forbidden("bot can't initiate conversation with a user")
            return
        kind = f"{self.type} chat"
        if self.bot_status == "kicked":
            raise forbidden(f"bot was kicked from the {kind}")
        if self.bot_status == "left":
            raise forbidden(f"bot is not a member of the {kind}")
        if sending and self.type == "channel" and self.bot_status != "administrator":
            raise bad("need administrator rights in the channel chat")
        if sending and self.bot_status == "restricted":
            raise bad("not enough rights to send text messages to the chat")

    async def _note(self, by: User, **content: Any) -> None:
        await self.enter(by, content, service=True)

    def _deliver(self, kind: str, message: Message) -> None:
        message.meant = self._is_meant(message)
        if self._reaches_bot(message):
            self.server.updates.push(kind, message.json())

    def _reaches_bot(self, message: Message) -> bool:
        if self.bot_status in GONE:
            return False
        if not self.is_group or message.service:
            return True
        if isinstance(message.sender, User) and message.sender.is_bot:
            return False
        return not self.server.privacy or self.bot_status == "administrator" or message.meant

    def _is_meant(self, message: Message) -> bool:
        if message.reply_to and (message.reply_to.by_bot or message.reply_to.meant):
            return True
        name = f"@{self.server.bot.username}".lower()
        for entity in [
            *message.content.get("entities", []),
            *message.content.get("caption_entities", []),
        ]:
            words = slice_units(message.text, entity["offset"], entity["length"]).lower()
            if entity["type"] == "bot_command":
                # A bare command goes to the bot that spoke last.
                bare = "@" not in words and self._last_bot in (None, self.server.bot)
                if bare or words.endswith(name):
                    return True
            elif entity["type"] in ("mention", "text_mention") and self.server.mentions_pass:
                mine = entity.get("user", {}).get("id") == self.server.bot.id
                if mine or words == name:
                    return True
        return False
