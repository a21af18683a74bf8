"""The Bot API's methods, with the checks and the wording of the real server's refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from telegram.constants import ChatAction, ReactionEmoji

from tests.fakes.chats import DRAFT_LIFE, Chat
from tests.fakes.entities import LONGEST, Entity, parse, units
from tests.fakes.limits import ApiError, bad
from tests.fakes.members import ADMINS, GONE
from tests.fakes.messages import Draft, Message, User

if TYPE_CHECKING:
    from tests.fakes.bot_api import BotAPI

Keyboard = list[list[dict[str, Any]]]

DAYS_TO_DELETE = 2
_ACTIONS = {str(action) for action in ChatAction}
_REACTIONS = {str(emoji) for emoji in ReactionEmoji}
_MARKUPS = ("inline_keyboard", "keyboard", "remove_keyboard", "force_reply")
_BUTTON_KINDS = [
    "callback_data",
    "url",
    "web_app",
    "login_url",
    "switch_inline_query",
    "switch_inline_query_current_chat",
    "switch_inline_query_chosen_chat",
    "copy_text",
    "callback_game",
    "pay",
]


class Params(dict[str, Any]):
    """A call's parameters: strings of a form, or values of a JSON body; and files of the form."""

    files: Mapping[str, tuple[str, bytes]] = MappingProxyType({})
    """Name and content, by the form's field."""

    def text(self, name: str) -> str:
        return str(self.get(name, ""))

    def number(self, name: str) -> int | None:
        value = self.get(name)
        if value is None or value == "":
            return None
        try:
            return int(value)
        except ValueError:
            raise bad(f'parameter "{name}" must be an integer') from None

    def flag(self, name: str) -> bool:
        return str(self.get(name, "")).lower() in ("true", "1", "yes")

    def value(self, name: str) -> Any:
        value = self.get(name)
        if not isinstance(value, str) or not value:
            return value or None
        try:
            return json.loads(value)
        except ValueError:
            raise bad(f"can't parse {name.replace('_', ' ')} JSON object") from None


class Methods:
    """One method a call, by its name in snake case."""

    def __init__(self, server: BotAPI) -> None:
        self._server = server
        self._by_name: dict[str, Callable[[Params], Any]] = {
            name.replace("_", ""): getattr(self, name)
            for name in vars(Methods)
            if not name.startswith("_") and name != "find"
        }

    def find(self, method: str) -> Callable[[Params], Any] | None:
        return self._by_name.get(method)

    def get_me(self, params: Params) -> dict[str, Any]:
        return {
            **self._server.bot.json(),
            "can_join_groups": True,
            "can_read_all_group_messages": not self._server.privacy,
            "supports_inline_queries": False,
            "can_connect_to_business": False,
            "has_main_web_app": False,
        }

    def send_message(self, params: Params) -> dict[str, Any]:
        if not params.text("text"):
            raise bad("message text is empty")
        chat = self._chat(params, sending=True)
        self._admit(chat)
        content = self._content(params, "message is too long")
        keyboard = self._keyboard(params, chat)
        reply_to = self._reply(params, chat)
        thread = self._thread(params, chat)
        if thread is None and reply_to is not None and reply_to.topic:
            thread = reply_to.thread
        message = chat.add(
            self._server.bot, content, reply_to=reply_to, thread=thread, keyboard=keyboard
        )
        chat.drafts.pop(params.number("message_thread_id"), None)
        return message.json()

    def send_document(self, params: Params) -> dict[str, Any]:
        chat = self._chat(params, sending=True)
        self._admit(chat)
        name, content = self._uploaded(params, "document")
        file = {"file_id": self._server.file(content), "file_unique_id": "u", "file_name": name}
        thread = self._thread(params, chat)
        return chat.add(self._server.bot, {"document": file}, thread=thread).json()

    def send_message_draft(self, params: Params) -> bool:
        chat = self._chat(params, sending=True)
        draft_id = params.number("draft_id")
        if chat.type != "private":
            raise bad("TEXTDRAFT_PEER_INVALID")
        if not draft_id:
            raise bad("RANDOM_ID_INVALID")
        self._admit(chat, counted=False)
        text, _ = self._parsed(params)
        if units(text) > LONGEST:
            raise bad("message is too long")
        until = self._server.now() + DRAFT_LIFE
        chat.drafts[params.number("message_thread_id")] = Draft(draft_id, text, until)
        chat.show("draft", text)
        return True

    def edit_message_text(self, params: Params) -> dict[str, Any]:
        if not params.text("text"):
            raise bad("message text is empty")
        chat, message = self._own(params)
        self._admit(chat)
        if "text" not in message.content:
            raise bad("there is no text in the message to edit")
        content = self._content(params, "MESSAGE_TOO_LONG")
        # An edit with no keyboard takes the keyboard away.
        return self._edited(message, content, self._keyboard(params, chat))

    def edit_message_reply_markup(self, params: Params) -> dict[str, Any]:
        chat, message = self._own(params)
        self._admit(chat)
        return self._edited(message, message.content, self._keyboard(params, chat))

    def delete_message(self, params: Params) -> bool:
        chat = self._chat(params)
        message = chat.find(params.number("message_id"))
        if message is None:
            raise bad("message to delete not found")
        mine = message.by_bot or chat.type == "private"
        if not mine and chat.bot_status != "administrator":
            raise bad("message can't be deleted")
        if message.date < self._server.date() - DAYS_TO_DELETE * 86400 and mine:
            raise bad("message can't be deleted for everyone")
        message.deleted = True
        chat.show("deleted", message.text, message)
        return True

    def send_chat_action(self, params: Params) -> bool:
        chat = self._chat(params, sending=True)
        self._thread(params, chat)
        action = params.text("action").lower()
        if action not in _ACTIONS:
            raise bad("wrong parameter action in request")
        chat.show("action", action)
        return True

    def answer_callback_query(self, params: Params) -> bool:
        query = self._server.queries.get(params.text("callback_query_id"))
        late = query is None or self._server.now() - query.at > self._server.query_life
        if query is None or late or query.answer is not None:
            raise bad("query is too old and response timeout expired or query ID is invalid")
        if units(params.text("text")) > 200:
            raise bad("MESSAGE_TOO_LONG")
        query.answer = {"text": params.text("text"), "show_alert": params.flag("show_alert")}
        self._server.changed()
        return True

    def set_my_commands(self, params: Params) -> bool:
        commands = params.value("commands")
        if not isinstance(commands, list):
            raise bad("can't parse commands: expected an Array of BotCommand")
        if len(commands) > 100:
            raise bad("BOT_COMMANDS_TOO_MUCH")
        for command in commands:
            if not re.fullmatch(r"[a-z0-9_]{1,32}", command.get("command", "").lstrip("/")):
                raise bad("BOT_COMMAND_INVALID")
            if not 1 <= units(command.get("description", "").strip()) <= 256:
                raise bad("BOT_COMMAND_DESCRIPTION_INVALID")
        self._server.commands[self._scope(params)] = commands
        return True

    def get_my_commands(self, params: Params) -> list[dict[str, Any]]:
        return self._server.commands.get(self._scope(params), [])

    def delete_my_commands(self, params: Params) -> bool:
        self._server.commands.pop(self._scope(params), None)
        return True

    def set_message_reaction(self, params: Params) -> bool:
        chat = self._chat(params)
        message = chat.find(params.number("message_id"))
        if message is None:
            raise bad("message to react not found")
        reactions = [one.get("emoji", "") for one in params.value("reaction") or []]
        if any(emoji not in _REACTIONS for emoji in reactions):
            raise bad("REACTION_INVALID")
        if len(reactions) > 1:
            raise bad("REACTIONS_TOO_MANY")
        message.reactions[self._server.bot.id] = reactions
        chat.show("reaction", "".join(reactions), message)
        return True

    def get_chat(self, params: Params) -> dict[str, Any]:
        return {
            **self._chat(params).json(),
            "accent_color_id": 0,
            "max_reaction_count": 11,
            "accepted_gift_types": dict.fromkeys(
                (
                    "unlimited_gifts",
                    "limited_gifts",
                    "unique_gifts",
                    "premium_subscription",
                    "gifts_from_channels",
                ),
                False,
            ),
        }

    def get_chat_member(self, params: Params) -> dict[str, Any]:
        chat = self._chat(params)
        user = self._server.users.get(params.number("user_id") or 0)
        if user is None:
            raise bad("user not found" if chat.type == "private" else "member not found")
        return chat.member(user)

    def get_chat_administrators(self, params: Params) -> list[dict[str, Any]]:
        chat = self._chat(params)
        if chat.type == "private":
            raise bad("there are no administrators in the private chat")
        members = [chat.member(user) for user in (*chat.people, self._server.bot)]
        return [one for one in members if one["status"] in ADMINS]

    def get_chat_member_count(self, params: Params) -> int:
        chat = self._chat(params)
        return len(chat.people) + (chat.bot_status not in GONE)

    def leave_chat(self, params: Params) -> bool:
        chat = self._chat(params)
        if chat.type == "private":
            raise bad("chat member status can't be changed in private chats")
        chat.bot_status = "left"
        self._server.changed()
        return True

    def get_file(self, params: Params) -> dict[str, Any]:
        file = self._server.files.get(params.text("file_id"))
        if file is None:
            raise bad("wrong file_id or the file is temporarily unavailable")
        path, content = file
        if len(content) > 20 * 1024 * 1024:
            raise bad("file is too big")
        file_id = params.text("file_id")
        return {
            "file_id": file_id,
            "file_unique_id": f"u{file_id}",
            "file_size": len(content),
            "file_path": path,
        }

    def _chat(self, params: Params, *, sending: bool = False) -> Chat:
        name = params.text("chat_id")
        if not name:
            raise bad("chat_id is empty")
        chat = self._server.chat(name)
        if chat is None:
            raise bad("chat not found")
        chat.require_bot(sending=sending)
        return chat

    def _own(self, params: Params) -> tuple[Chat, Message]:
        chat = self._chat(params)
        message = chat.find(params.number("message_id"))
        if message is None:
            raise bad("message to edit not found")
        if not message.by_bot:
            raise bad("message can't be edited")
        return chat, message

    def _admit(self, chat: Chat, *, counted: bool = True) -> None:
        if self._server.rates is not None:
            self._server.rates.admit(
                self._server.now(), chat.id, group=chat.is_group, counted=counted
            )

    def _parsed(self, params: Params) -> tuple[str, list[Entity]]:
        return parse(params.text("text"), params.get("parse_mode"), params.value("entities"))

    def _content(self, params: Params, too_long: str) -> dict[str, Any]:
        text, entities = self._parsed(params)
        if not text:
            raise bad("text must be non-empty")
        if units(text) > LONGEST:
            raise bad(too_long)
        return {"text": text, **({"entities": entities} if entities else {})}

    def _keyboard(self, params: Params, chat: Chat) -> Keyboard | None:
        markup = params.value("reply_markup")
        if markup is None:
            return None
        if not isinstance(markup, dict) or not any(kind in markup for kind in _MARKUPS):
            raise bad("object expected as reply markup")
        rows: Keyboard = [row for row in markup.get("inline_keyboard", []) if row]
        for button in (button for row in rows for button in row):
            if not button.get("text"):
                raise bad('can\'t parse inline keyboard button: Field "text" must be non-empty')
            kinds = [kind for kind in _BUTTON_KINDS if kind in button]
            if not kinds:
                raise bad(
                    "can't parse inline keyboard button: "
                    "Text buttons are unallowed in the inline keyboard"
                )
            data = button.get("callback_data")
            if data is not None and not 1 <= len(data.encode()) <= 64:
                raise bad("BUTTON_DATA_INVALID")
        return rows or None

    def _reply(self, params: Params, chat: Chat) -> Message | None:
        reply = params.value("reply_parameters")
        if reply is None:
            # Before Bot API 7.0 these were parameters of the call.
            reply = {
                "message_id": params.number("reply_to_message_id"),
                "allow_sending_without_reply": params.flag("allow_sending_without_reply"),
            }
        wanted = reply.get("message_id")
        if wanted is None:
            return None
        where = self._server.chat(str(reply["chat_id"])) if reply.get("chat_id") else chat
        message = where.find(int(wanted)) if where else None
        if message is None and not reply.get("allow_sending_without_reply"):
            raise bad("message to be replied not found")
        return message

    def _thread(self, params: Params, chat: Chat) -> int | None:
        thread = params.number("message_thread_id")
        if thread is None or thread == 0:
            return None
        # The general topic has no thread id, nor have replies outside forums one to send to.
        if thread not in chat.topics:
            raise bad("message thread not found")
        if chat.topics[thread].closed and chat.bot_status != "administrator":
            raise bad("TOPIC_CLOSED")
        return thread

    def _edited(
        self, message: Message, content: dict[str, Any], keyboard: Keyboard | None
    ) -> dict[str, Any]:
        if content == message.content and keyboard == message.keyboard:
            raise bad(
                "message is not modified: specified new message content and reply markup are "
                "exactly the same as a current content and reply markup of the message"
            )
        message.content, message.keyboard = content, keyboard
        message.edit_date = self._server.date()
        message.chat.show("edited", message.text, message)
        return message.json()

    def _uploaded(self, params: Params, name: str) -> tuple[str, bytes]:
        """A file that came with the form, in the field itself or under the name it attaches."""
        attached = params.files.get(params.text(name).removeprefix("attach://") or name)
        if attached is None:
            raise bad("wrong remote file identifier specified")
        if len(attached[1]) > 50 * 1024 * 1024:
            raise ApiError(413, "Request Entity Too Large")
        return attached

    def _scope(self, params: Params) -> tuple[tuple[Any, ...], str]:
        """Where a menu of commands stands: its scope, and its language."""
        scope = params.value("scope") or {"type": "default"}
        language = params.text("language_code")
        if language and not re.fullmatch("[a-z]{2}", language):
            raise bad("invalid language code specified")
        if "chat_id" not in scope:
            return (scope["type"],), language
        chat = self._server.chat(str(scope["chat_id"]))
        if chat is None:
            raise bad("chat not found")
        user: User | None = None
        if "user_id" in scope:
            user = self._server.users.get(int(scope["user_id"]))
            if user is None:
                raise bad("user not found")
        return (scope["type"], chat.id, *([user.id] if user else [])), language
