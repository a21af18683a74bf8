"""What the commands do, once, for all platforms."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

from bot.conversation import Answer, Conversations, clean
from bot.feedback import rate
from bot.platforms.base import Incoming, Said
from bot.texts import LANGUAGES, say
from data.store import Conversation, Store, Turn
from data.transactions import StoreUnavailable
from persona.card import Card
from persona.service import InferenceService

log = logging.getLogger(__name__)

_Command = Callable[[Incoming, Conversation, str, str], Awaitable[str]]


class Commands:
    """Answers what begins with a slash."""

    def __init__(
        self,
        store: Store,
        service: InferenceService,
        conversations: Conversations,
        card: Card,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store = store
        self._service = service
        self._conversations = conversations
        self._card = card
        self._trouble = trouble
        self._commands: dict[str, _Command] = {
            "start": self._start,
            "help": self._help,
            "reset": self._reset,
            "undo": self._undo,
            "feedback": self._feedback,
            "lang": self._lang,
            "status": self._status,
        }

    def answer(self, incoming: Incoming) -> Answer | None:
        """The answer to a command; None for what is not one."""
        text = clean(incoming.text)
        if not text.startswith("/") or text.startswith("//"):
            return None
        # Telegram writes /help@name in groups.
        name, argument = [*text[1:].split(None, 1), "", ""][:2]
        name = name.partition("@")[0].casefold()
        if name == "retry":
            return self._conversations.retry(incoming)
        return Answer(lambda _: self._run(incoming, name, argument.strip()))

    async def _run(self, incoming: Incoming, name: str, argument: str) -> AsyncGenerator[Said]:
        lang = await self._conversations.lang(incoming)
        command = self._commands.get(name)
        if command is None:
            yield Said(say(lang, "unknown_command", command=f"/{name}"[:40]), hers=False)
            return
        try:
            conversation = await self._store.conversation(
                incoming.platform, incoming.chat_id, incoming.thread_id
            )
            yield Said(await command(incoming, conversation, argument, lang), hers=False)
        except StoreUnavailable as error:
            log.error("the store failed: %s", error)
            yield Said(say(lang, "store_failed"))

    async def _start(self, _: Incoming, __: Conversation, ___: str, lang: str) -> str:
        said = say(lang, "start", name=self._card.name)
        return f"{said}\n\n{self._card.fill(self._card.first_mes)}".strip()

    async def _help(self, _: Incoming, __: Conversation, ___: str, lang: str) -> str:
        return say(lang, "help")

    async def _reset(self, _: Incoming, conversation: Conversation, __: str, lang: str) -> str:
        await self._store.reset(conversation.id)
        return say(lang, "reset")

    async def _undo(self, _: Incoming, conversation: Conversation, __: str, lang: str) -> str:
        turn = await self._store.last_turn(conversation)
        if turn is None:
            return say(lang, "nothing_to_undo")
        await self._store.undo(turn)
        return say(lang, "undone")

    async def _feedback(
        self, incoming: Incoming, conversation: Conversation, argument: str, lang: str
    ) -> str:
        turn = await self._rated(incoming, conversation)
        return await rate(self._store, incoming, turn, argument, lang)

    async def _rated(self, incoming: Incoming, conversation: Conversation) -> Turn | None:
        """The turn that a rating is about: the message answered, else the last one."""
        if incoming.reply_to is not None:
            return await self._store.turn_of_message(
                incoming.platform, incoming.chat_id, incoming.reply_to
            )
        return await self._store.last_turn(conversation, "done")

    async def _lang(self, _: Incoming, conversation: Conversation, argument: str, lang: str) -> str:
        argument = argument.casefold()
        if argument not in LANGUAGES:
            return say(lang, "lang_usage")
        await self._store.set_lang(conversation.id, argument)
        return say(argument, "lang_set")

    async def _status(self, _: Incoming, __: Conversation, ___: str, lang: str) -> str:
        counts, stats = await self._store.counts(), self._service.stats()
        told = say(
            lang,
            "status",
            version=self._service.version,
            engine=stats.engine.name,
            device=stats.engine.device,
            running=stats.running,
            waiting=stats.waiting,
            turns=stats.turns,
            first=stats.first_token_p50,
            first95=stats.first_token_p95,
            rate=stats.tokens_per_second,
            conversations=counts["conversations"],
            done=counts["turns"],
            ratings=counts["ratings"],
        )
        trouble = self._trouble()
        return told + (say(lang, "status_trouble", trouble=trouble) if trouble else "")
