"""What the commands do, once, for all platforms."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bot.access import Access
from bot.conversation import Answer, Conversations, clean
from bot.corrections import list_of, usage
from bot.feedback import consent_choices, rate, standing_choices
from bot.forgetting import Forgetting
from bot.learned import Learned
from bot.platforms.base import Choice, File, Incoming, Said
from bot.texts import LANGUAGES, say
from data.messages import Turn
from data.store import Conversation, Store
from data.transactions import StoreUnavailable
from persona.card import Card
from persona.service import InferenceService

log = logging.getLogger(__name__)

_HELP_OF = {"terminal": "help_terminal", "telegram": "help_telegram", "discord": "help_discord"}
_PRIVACY_OF = {"discord": "privacy_discord"}
_ANSWERS = {
    "yes": True, "y": True, "ok": True, "愿意": True, "同意": True, "是": True, "是的": True,
    "好": True, "好的": True, "可以": True, "确认": True,
    "no": False, "n": False, "不": False, "不愿意": False, "不同意": False, "不要": False,
    "不用": False, "算了": False, "否": False,
}  # fmt: skip

# What follows it in Chinese is a better wording that begins like it.
_LIST = re.compile(r"(?:list|列表)(?:\s+(\d{1,4})|\s+[ -~]*)?")

_Command = Callable[[Incoming, Conversation, str, str], Awaitable[str | Said]]


def is_command(incoming: Incoming) -> bool:
    text = clean(incoming.text)
    return text.startswith("/") and not text.startswith("//")


def _answer(argument: str) -> bool | None:
    return _ANSWERS.get(argument.casefold().strip(" 。.!！"))


class Commands:
    """Answers what begins with a slash."""

    def __init__(
        self,
        store: Store,
        service: InferenceService,
        conversations: Conversations,
        card: Card,
        access: Access,
        learned: Learned,
        forgetting: Forgetting,
        learners: Callable[[list[int]], Awaitable[list[str]]],
        trouble: Callable[[], str | None],
        trial: Callable[[str], Awaitable[str]],
        retention_days: int,
        watched: Callable[[str], str],
        noted: Callable[[str], None],
    ) -> None:
        """`learners` names the versions that learned from any of these turns; `trial` says in a
        language how the version on trial does, `watched` what the machine runs short of; `noted`
        hears what became of a rating."""
        self._store = store
        self._service = service
        self._conversations = conversations
        self._card = card
        self._access = access
        self._learned = learned
        self._forgetting = forgetting
        self._learners = learners
        self._trouble = trouble
        self._trial = trial
        self._retention_days = retention_days
        self._watched = watched
        self._noted = noted
        self._asked: set[tuple[str, str]] = set()
        self._commands: dict[str, _Command] = {
            "start": self._start,
            "help": self._help,
            "reset": self._reset,
            "undo": self._undo,
            "feedback": self._feedback,
            "privacy": self._privacy,
            "forget": self._forget,
            "lang": self._lang,
            "status": self._status,
        }

    def answer(self, incoming: Incoming) -> Answer | None:
        """The answer to a command; None for what is not one."""
        if not is_command(incoming):
            return None
        # Telegram writes /help@name in groups.
        name, argument = [*clean(incoming.text)[1:].split(None, 1), "", ""][:2]
        name = name.partition("@")[0].casefold()
        if name == "retry":
            return self._conversations.retry(incoming, argument.strip())
        return Answer(lambda _: self._run(incoming, name, argument.strip()))

    async def _run(self, incoming: Incoming, name: str, argument: str) -> AsyncGenerator[Said]:
        incoming = await self._in_its_thread(incoming)
        lang = await self._conversations.lang(incoming)
        command = self._commands.get(name)
        if command is None:
            if incoming.is_group:  # another bot's, perhaps
                return
            yield Said(say(lang, "unknown_command", command=f"/{name}"[:40]), hers=False)
            return
        try:
            conversation = await self._store.conversation(
                incoming.platform, incoming.chat_id, incoming.thread_id, incoming.is_group
            )
            said = await command(incoming, conversation, argument, lang)
            yield said if isinstance(said, Said) else Said(said, hers=False)
        except StoreUnavailable as error:
            log.error("the store failed: %s", error)
            yield Said(say(lang, "store_failed"))

    async def _in_its_thread(self, incoming: Incoming) -> Incoming:
        """A reaction comes without its thread; the message that it is on knows it."""
        if incoming.in_place != "reaction" or incoming.reply_to is None:
            return incoming
        place = (incoming.platform, incoming.chat_id, incoming.reply_to)
        try:
            thread_id = await self._store.messages.thread_of(*place)
        except StoreUnavailable:  # which is said of what follows
            return incoming
        return incoming if thread_id is None else replace(incoming, thread_id=thread_id)

    async def _start(self, _: Incoming, __: Conversation, ___: str, lang: str) -> str:
        said = say(lang, "start", name=self._card.name)
        return f"{said}\n\n{self._card.fill(self._card.first_mes)}".strip()

    async def _help(self, incoming: Incoming, _: Conversation, __: str, lang: str) -> str:
        more = _HELP_OF.get(incoming.platform)
        return say(lang, "help") + (f"\n{say(lang, more)}" if more else "")

    async def _reset(self, _: Incoming, conversation: Conversation, __: str, lang: str) -> str:
        await self._store.reset(conversation.id)
        return say(lang, "reset")

    async def _undo(self, incoming: Incoming, conversation: Conversation, _: str, lang: str) -> str:
        if incoming.again and await self._of_message(incoming, incoming.message_id, "user"):
            return say(lang, "undone")  # asked twice, because nobody saw the answer
        turn = await self._store.last_turn(conversation)
        if turn is None:
            return say(lang, "nothing_to_undo")
        await self._store.undo(turn, incoming.message_id)
        await self._learned.refresh()
        return say(lang, "undone")

    async def _feedback(
        self, incoming: Incoming, conversation: Conversation, argument: str, lang: str
    ) -> Said:
        if listed := _LIST.fullmatch(argument.casefold()):
            page = int(listed[1] or 1)
            told = await list_of(self._learned, self._learners, incoming, lang, page)
            return Said(told, hers=False)
        turn = await self._rated(incoming, conversation)
        return await rate(
            self._store, self._learned, self._asked, incoming, turn, argument, lang, self._noted
        )

    async def _rated(self, incoming: Incoming, conversation: Conversation) -> Turn | None:
        """The turn that a rating is about: the message answered, else the last one."""
        if incoming.reply_to is not None:
            return await self._of_message(incoming, incoming.reply_to)
        return await self._store.last_turn(conversation, "done")

    async def _of_message(
        self, incoming: Incoming, message_id: str | None, role: str = "reply"
    ) -> Turn | None:
        if message_id is None:
            return None
        place = (incoming.platform, incoming.chat_id, message_id)
        return await self._store.messages.turn_of(*place, role)

    async def _privacy(self, incoming: Incoming, _: Conversation, argument: str, lang: str) -> Said:
        """Shows what is kept and what was agreed to; `yes` and `no` change that, `ask` asks.

        The person alone is also given all of it, as a file.
        """
        person = (incoming.platform, incoming.user_id)
        if not incoming.user_id:
            return Said(say(lang, "no_vote"), hers=False)
        answer = _answer(argument)
        if argument.casefold() == "ask":
            asked = None if incoming.in_public or incoming.in_place else consent_choices(lang)
            return Said(say(lang, "consent"), hers=False, choices=asked)
        if argument and answer is None:
            return Said(say(lang, "privacy_usage"), hers=False)
        if answer is not None:
            await self._store.people.agree(*person, answer)
            await self._learned.refresh()
            told = say(lang, "agreed" if answer else "refused")
            return await self._without_question(incoming, told)
        people = self._store.people
        kept, agreed = await people.kept(*person), await people.agreed(*person)
        state = "privacy_unasked" if agreed is None else "privacy_yes" if agreed else "privacy_no"
        told = say(lang, "privacy", turns=kept.turns, ratings=kept.ratings, state=say(lang, state))
        if self._retention_days:
            told += f"\n{say(lang, 'privacy_days', days=self._retention_days)}"
        if forgotten := await people.forgotten(*person):
            told += f"\n{say(lang, 'privacy_forgotten', day=f'{forgotten:%Y-%m-%d}')}"
        if more := _PRIVACY_OF.get(incoming.platform):
            told += f"\n{say(lang, more)}"
        if incoming.in_public or incoming.in_place:
            return Said(f"{told}\n{say(lang, 'privacy_elsewhere')}", hers=False)
        file = self._file_of(await people.disclosed(*person), lang)
        told += f"\n{say(lang, 'privacy_file')}"
        return Said(told, hers=False, choices=consent_choices(lang), file=file)

    async def _without_question(self, incoming: Incoming, told: str) -> Said:
        """What is told to an answer, which takes the question away, unless it waits for others."""
        if not incoming.in_place:
            return Said(told, hers=False)
        turn = await self._of_message(incoming, incoming.reply_to)
        if turn is None:
            return Said(told, hers=False, choices=())
        choices = None
        if not (incoming.is_group and await self._store.people.undecided(turn.id)):
            choices = await standing_choices(self._store, turn, incoming.reply_to)
        if incoming.alone:
            return Said(told, hers=False, beneath=choices)
        return Said(told, hers=False, choices=choices)

    def _file_of(self, kept: dict[str, Any], lang: str) -> File:
        text = json.dumps(kept, ensure_ascii=False, indent=1)
        name = f"daiyu-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        return File(name, text.encode(), instead=say(lang, "file_failed"))

    async def _forget(self, incoming: Incoming, _: Conversation, argument: str, lang: str) -> Said:
        person = (incoming.platform, incoming.user_id)
        if not incoming.user_id:
            return Said(say(lang, "no_vote"), hers=False)
        answer = _answer(argument)
        if answer is False:
            return Said(say(lang, "forget_kept"), hers=False)
        if answer is None:
            kept = await self._store.people.kept(*person)
            told = say(lang, "forget", turns=kept.turns, ratings=kept.ratings)
            # In a group, whoever pressed it would erase what is theirs.
            sure = ((Choice(say(lang, "forget_yes"), "/forget yes"),),)
            return Said(told, hers=False, choices=None if incoming.in_public else sure)
        with self._forgetting.of(*person):
            corrected = await self._store.people.corrected(*person)
            erased = await self._store.people.erase(*person)
        await self._learned.refresh()
        self._asked.discard(person)
        told = say(lang, "forgotten", turns=len(erased))
        if names := await self._learners([*erased, *corrected]):
            told += say(lang, "forgotten_learners", versions=", ".join(names))
        choices = () if incoming.in_place else None
        return Said(told, hers=False, choices=choices)

    async def _lang(self, _: Incoming, conversation: Conversation, argument: str, lang: str) -> str:
        argument = argument.casefold()
        if argument not in LANGUAGES:
            return say(lang, "lang_usage")
        await self._store.set_lang(conversation.id, argument)
        return say(argument, "lang_set")

    async def _status(self, incoming: Incoming, _: Conversation, __: str, lang: str) -> str:
        """All of it for those who run her; for others whether she is there, and how busy."""
        stats = self._service.stats()
        if not self._access.is_owner(incoming):
            busy = dict(running=stats.running, waiting=stats.waiting, first=stats.first_token_p50)
            return say(lang, "status_short", **busy)
        counts = await self._store.counts()
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
        told += self._watched(lang) + await usage(self._store, lang) + await self._trial(lang)
        trouble = self._trouble()
        return told + (say(lang, "status_trouble", trouble=trouble) if trouble else "")
