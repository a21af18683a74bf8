"""The one path of a message: admit, context, reply stream, log. No platform in it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict
from functools import partial
from typing import Literal

from bot.config import BotSettings
from bot.feedback import RATING
from bot.forgetting import Forgetting
from bot.metrics import End, Metrics
from bot.platforms.base import Choice, Incoming, Kind, Said
from bot.texts import say
from data.messages import Answered, Turn
from data.store import Conversation, Store, Withdrawn
from data.transactions import StoreUnavailable
from persona.admission import Busy, Late
from persona.engines.base import EngineError
from persona.prompt import Exchange, PromptTooLong
from persona.reply import Outcome
from persona.service import InferenceService

log = logging.getLogger(__name__)

State = Literal["done", "failed", "cancelled"]
"""How a turn is closed."""

_DEADLINE = "deadline"
_EDITED = "edited: waits until its answer is asked for"
_UNSEEN: dict[Kind, str] = {
    "picture": "unseen_picture",
    "sticker": "unseen_sticker",
    "voice": "unseen_voice",
    "file": "unseen_file",
    "place": "unseen_place",
    "card": "unseen_card",
    "poll": "unseen_poll",
    "forward": "unseen_forward",
    "missed": "missed",
}


class Answer:
    """An answer on its way: iterate it for the whole text so far.

    `turn_id` is the turn that it belongs to; None where nothing was logged. `sent` are the ids of
    the messages that hold it: those of an earlier try, which are edited, and then those sent now.
    `turned_away`: too many wait, and nothing was begun.
    """

    def __init__(self, texts: Callable[[Answer], AsyncGenerator[Said]]) -> None:
        self.turn_id: int | None = None
        self.turned_away = False
        self.sent: list[str] = []
        self._texts = texts(self)

    def __aiter__(self) -> AsyncGenerator[Said]:
        return self._texts


class Conversations:
    """Answers messages: keeps the context, asks the service, logs every turn."""

    def __init__(
        self,
        store: Store,
        service: InferenceService,
        settings: BotSettings,
        forgetting: Forgetting,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._service = service
        self._settings = settings
        self._forgetting = forgetting
        self._metrics = metrics

    async def lang(self, incoming: Incoming) -> str:
        """The interface's language in a chat; the default where the store cannot tell."""
        try:
            return self._lang(incoming, await self._of(incoming))
        except StoreUnavailable:
            return self._lang(incoming)

    def _lang(self, incoming: Incoming, conversation: Conversation | None = None) -> str:
        chosen = conversation.lang if conversation else None
        return chosen or incoming.lang or self._settings.lang

    async def _of(self, incoming: Incoming) -> Conversation:
        return await self._store.conversation(
            incoming.platform, incoming.chat_id, incoming.thread_id, incoming.is_group
        )

    def reply(self, incoming: Incoming) -> Answer:
        """The answer to a message."""
        if incoming.edited:
            return Answer(lambda _: self._edited(incoming))
        if incoming.kind in _UNSEEN and not clean(incoming.text):
            return self.remark(incoming, _UNSEEN[incoming.kind])
        return Answer(lambda answer: self._reply(incoming, answer))

    def retry(self, incoming: Incoming, message_id: str = "") -> Answer:
        """Another answer to the last message, or to that one; the old one is kept beside it."""
        return Answer(lambda answer: self._reply(incoming, answer, message_id))

    def remark(self, incoming: Incoming, key: str, **fields: object) -> Answer:
        """What she says that no model writes."""

        async def texts(_: Answer) -> AsyncGenerator[Said]:
            yield Said(say(await self.lang(incoming), key, **fields))

        return Answer(texts)

    async def _edited(self, incoming: Incoming) -> AsyncGenerator[Said]:
        """Keeps what a message reads now, and asks whether to answer that."""
        text = clean(incoming.text)
        if incoming.message_id is None or self._refusal(text) or text.startswith("/"):
            return
        try:
            conversation = await self._of(incoming)
            place = (incoming.platform, incoming.chat_id, incoming.message_id)
            before = await self._store.messages.answered(*place)
            if before is None or before.turn.user_id != incoming.user_id:
                return
            turn = before.turn
            if turn.text != text:
                kept = await self._store.begin_turn(
                    conversation.id,
                    turn.user_id,
                    turn.user_name,
                    text,
                    incoming.message_id,
                    turn,
                    partial(self._forgetting.covers, incoming),
                )
                await self._store.close_turn(kept, "cancelled", error=_EDITED)
            elif not incoming.again:  # something else about it has changed
                return
        except Withdrawn:
            return
        except StoreUnavailable as error:
            log.error("the store failed: %s", error)
            return
        lang = self._lang(incoming, conversation)
        again = Choice(say(lang, "answer_again"), f"/retry {incoming.message_id}")
        yield Said(say(lang, "edited"), hers=False, choices=((again,),))

    async def _reply(
        self, incoming: Incoming, answer: Answer, again: str | None = None
    ) -> AsyncGenerator[Said]:
        """`again` asks for another answer: to the last message, or to that one."""
        if again is None and (refusal := self._refusal(clean(incoming.text))):
            limit = self._settings.max_message
            yield Said(say(await self.lang(incoming), refusal, limit=limit))
            return
        place = (incoming.platform, incoming.chat_id, incoming.thread_id)
        try:
            # Before anything else is awaited: a chat's messages keep the order they came in.
            async with (
                self._service.admit(place, known=incoming.again) as deadline,
                aclosing(self._admitted(incoming, answer, again, deadline)) as texts,
            ):
                async for shown in texts:
                    yield shown
        except Busy as busy:
            answer.turned_away = True
            self._metrics.turned_away(incoming.platform, "refused")
            seconds = max(1, round(busy.seconds))
            lang = await self.lang(incoming)
            yield Said(say(lang, "busy", waiting=busy.waiting, seconds=seconds))
        except Late:
            if answer.turn_id is None:
                self._metrics.turned_away(incoming.platform, "late")
            yield Said(say(await self.lang(incoming), "late"))
        except Withdrawn:
            log.info("a message is not answered: its person was forgotten meanwhile")
        except StoreUnavailable as error:
            log.error("the store failed: %s", error)
            yield Said(say(await self.lang(incoming), "store_failed"))

    def _refusal(self, text: str) -> str | None:
        if not text:
            return "empty"
        return "too_long" if len(text) > self._settings.max_message else None

    async def _admitted(
        self, incoming: Incoming, answer: Answer, again: str | None, deadline: asyncio.Timeout
    ) -> AsyncGenerator[Said]:
        if self._forgetting.covers(incoming):  # while it waited: nothing of it is to be kept
            raise Withdrawn
        conversation = await self._of(incoming)
        lang = self._lang(incoming, conversation)
        retry_of = None
        if before := await self._before(incoming):
            answer.sent += before.sent
            retry_of = before.turn
            if retry_of.state == "done":  # all that is missing is that the person sees it
                answer.turn_id = retry_of.id
                yield Said(retry_of.reply, choices=RATING)
                return
        elif again is not None:
            retry_of = await self._to_retry(incoming, conversation, again)
            if retry_of is None:
                yield Said(say(lang, "nothing_to_retry"), hers=False)
                return
        turn = self._turn(incoming, conversation, answer, retry_of, lang, deadline)
        async with aclosing(turn) as texts:
            async for shown in texts:
                yield shown

    async def _before(self, incoming: Incoming) -> Answered | None:
        """What a process that ended too early had made of this message."""
        if not incoming.again or incoming.message_id is None:
            return None
        place = (incoming.platform, incoming.chat_id, incoming.message_id)
        return await self._store.messages.answered(*place)

    async def _to_retry(
        self, incoming: Incoming, conversation: Conversation, message_id: str
    ) -> Turn | None:
        # Of a button it is the reply above it that is to be said anew.
        about = message_id or (incoming.reply_to if incoming.in_place else None)
        if about:
            place = (incoming.platform, incoming.chat_id, about)
            if turn := await self._store.messages.turn_of(*place):
                return turn
        return None if message_id else await self._store.last_turn(conversation)

    async def _turn(
        self,
        incoming: Incoming,
        conversation: Conversation,
        answer: Answer,
        retry_of: Turn | None,
        lang: str,
        deadline: asyncio.Timeout,
    ) -> AsyncGenerator[Said]:
        """One turn, written down before it is generated and closed after, whatever happens."""
        started = time.monotonic()
        text = retry_of.text if retry_of else clean(incoming.text)
        # Who said it, whoever asks for another answer.
        user_id = retry_of.user_id if retry_of else incoming.user_id
        user_name = retry_of.user_name if retry_of else clean(incoming.user_name)
        forgotten = partial(self._forgetting.covers, incoming, user_id)
        begun = asyncio.ensure_future(
            self._store.begin_turn(
                conversation.id, user_id, user_name, text, incoming.message_id, retry_of, forgotten
            )
        )
        try:
            turn_id = await asyncio.shield(begun)
        except asyncio.CancelledError as cancelled:
            # It is written down all the same, and must not stay open until the next start.
            why = _why(cancelled, deadline)
            seconds = time.monotonic() - started
            with suppress(Withdrawn):
                await self._close(await begun, incoming.platform, *why, Outcome(), seconds)
            raise
        answer.turn_id = turn_id
        before = retry_of.first_turn if retry_of else turn_id
        state: State = "cancelled"
        error: str | None = "nobody waits for it any more"
        reply = None
        shows = False
        try:
            if answer.sent:
                await self._store.messages.link_reply(turn_id, answer.sent)
            past = await self._store.history(conversation, self._settings.history, before)
            reply = self._service.reply(
                text,
                [_exchange(turn, incoming.is_group) for turn in past],
                speaker=user_name if incoming.is_group else None,
                turn=turn_id,
                place=(incoming.platform, incoming.chat_id),
                rejected=[retry_of.reply] if retry_of else [],
            )
            async with aclosing(aiter(reply)) as texts:
                async for shown in texts:
                    # Its turn is erased, and nothing of it will be stored. What is half said
                    # already is said to its end.
                    if not shows and forgotten():
                        return
                    shows = True
                    yield Said(shown)
            state, error = "done", None
            if reply.outcome.text and (shows or not forgotten()):
                yield Said(reply.outcome.text, choices=() if forgotten() else RATING)
        except asyncio.CancelledError as cancelled:
            state, error = _why(cancelled, deadline)
            raise
        except PromptTooLong as too_long:
            state, error = "failed", str(too_long)
            yield Said(say(lang, "too_long", limit=_round(too_long.characters)))
        except EngineError as engine_error:
            state, error = "failed", str(engine_error)
            log.error("turn %d: %s", turn_id, engine_error, extra={"turn": turn_id})
            yield Said(say(lang, "failed"))
        except StoreUnavailable as unavailable:
            state, error = "failed", str(unavailable)
            raise
        except Exception as unforeseen:
            state, error = "failed", repr(unforeseen)
            log.exception("turn %d failed", turn_id, extra={"turn": turn_id})
            yield Said(say(lang, "failed"))
        finally:
            outcome = reply.outcome if reply else Outcome()
            seconds = time.monotonic() - started
            closing = asyncio.ensure_future(
                self._close(turn_id, incoming.platform, state, error, outcome, seconds)
            )
            # A cancelled task still closes its turn: the write goes on beside it.
            await asyncio.shield(closing)

    async def _close(
        self,
        turn_id: int,
        platform: str,
        state: State,
        error: str | None,
        outcome: Outcome,
        seconds: float,
    ) -> None:
        end: End = "late" if error == _DEADLINE else state
        self._metrics.turn(platform, end, outcome, seconds)
        log.info("turn %d: %s after %.1f s", turn_id, end, seconds, extra={"turn": turn_id})
        facts = {
            "adapter": outcome.version or None,
            "engine": outcome.engine or None,
            "sampling": asdict(self._service.sampling),
            "exemplars": list(outcome.exemplars),
            "guarded": outcome.guarded,
            "prompt_tokens": outcome.prompt_tokens,
            "reply_tokens": outcome.reply_tokens,
            "first_token_seconds": outcome.first_token,
            "seconds": seconds,
        }
        for pause in (0.2, 1.0, None):
            try:
                await self._store.close_turn(turn_id, state, outcome.text, error, facts)
                return
            except StoreUnavailable as unavailable:
                log.error("turn %d could not be closed: %s", turn_id, unavailable)
                if pause is not None:
                    await asyncio.sleep(pause)


def _exchange(turn: Turn, is_group: bool) -> Exchange:
    return Exchange(turn.text, turn.reply, str(turn.id), turn.user_name if is_group else None)


def _why(cancelled: asyncio.CancelledError, deadline: asyncio.Timeout) -> tuple[State, str]:
    """State and error of a turn that was cancelled."""
    if deadline.expired():
        return "failed", _DEADLINE
    # A platform gives its person's wish as the reason; a shutdown gives none.
    return "cancelled", str(cancelled) or "the bot ended"


def _round(characters: int) -> int:
    """A limit that can be told: in tens, rounded down."""
    return characters // 10 * 10 or characters


def clean(text: str) -> str:
    """What was said, without what no person types: NULs and lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
