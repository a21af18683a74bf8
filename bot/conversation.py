"""The one path of a message: admit, context, reply stream, log. No platform in it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict

from bot.config import BotSettings
from bot.platforms.base import Incoming
from bot.texts import say
from data.store import Conversation, Store, StoreUnavailable, Turn
from persona.engines.base import EngineError
from persona.prompt import Exchange, PromptTooLong
from persona.service import Busy, InferenceService, Late, Outcome

log = logging.getLogger(__name__)


class Answer:
    """An answer on its way: iterate it for the whole text so far.

    `turn_id` is the turn that it belongs to; None where nothing was logged.
    """

    def __init__(self, texts: Callable[[Answer], AsyncGenerator[str]]) -> None:
        self.turn_id: int | None = None
        self._texts = texts(self)

    def __aiter__(self) -> AsyncGenerator[str]:
        return self._texts


class Conversations:
    """Answers messages: keeps the context, asks the service, logs every turn."""

    def __init__(self, store: Store, service: InferenceService, settings: BotSettings) -> None:
        self._store = store
        self._service = service
        self._settings = settings

    async def lang(self, incoming: Incoming) -> str:
        """The interface's language in a chat; the default where the store cannot tell."""
        try:
            return (await self._of(incoming)).lang or self._settings.lang
        except StoreUnavailable:
            return self._settings.lang

    async def _of(self, incoming: Incoming) -> Conversation:
        return await self._store.conversation(
            incoming.platform, incoming.chat_id, incoming.thread_id
        )

    def reply(self, incoming: Incoming) -> Answer:
        """The answer to a message."""
        return Answer(lambda answer: self._reply(incoming, answer, None))

    def retry(self, incoming: Incoming) -> Answer:
        """Another answer to the last message; the old one is kept beside it."""
        return Answer(lambda answer: self._retry(incoming, answer))

    async def _retry(self, incoming: Incoming, answer: Answer) -> AsyncGenerator[str]:
        lang = await self.lang(incoming)
        try:
            turn = await self._store.last_turn(await self._of(incoming))
        except StoreUnavailable as error:
            log.error("the store failed: %s", error)
            yield say(lang, "store_failed")
            return
        if turn is None:
            yield say(lang, "nothing_to_retry")
            return
        async with aclosing(self._reply(incoming, answer, turn)) as texts:
            async for text in texts:
                yield text

    async def _reply(
        self, incoming: Incoming, answer: Answer, retry_of: Turn | None
    ) -> AsyncGenerator[str]:
        lang = await self.lang(incoming)
        text = retry_of.text if retry_of else _clean(incoming.text)
        refusal = self._refusal(text, lang)
        if refusal:
            yield refusal
            return
        try:
            conversation = await self._of(incoming)
            async with (
                self._service.admit(conversation.id),
                aclosing(self._turn(incoming, conversation, text, answer, retry_of, lang)) as texts,
            ):
                async for shown in texts:
                    yield shown
        except Busy as busy:
            yield say(lang, "busy", waiting=busy.waiting, seconds=max(1, round(busy.seconds)))
        except Late:
            yield say(lang, "late")
        except StoreUnavailable as error:
            log.error("the store failed: %s", error)
            yield say(lang, "store_failed")

    def _refusal(self, text: str, lang: str) -> str | None:
        if not text:
            return say(lang, "empty")
        if len(text) > self._settings.max_message:
            return say(lang, "too_long", limit=self._settings.max_message)
        return None

    async def _turn(
        self,
        incoming: Incoming,
        conversation: Conversation,
        text: str,
        answer: Answer,
        retry_of: Turn | None,
        lang: str,
    ) -> AsyncGenerator[str]:
        """One turn, written down before it is generated and closed after, whatever happens."""
        started = time.monotonic()
        turn_id = await self._store.begin_turn(
            conversation.id,
            retry_of.user_id if retry_of else incoming.user_id,
            retry_of.user_name if retry_of else incoming.user_name,
            text,
            incoming.message_id,
            retry_of,
        )
        answer.turn_id = turn_id
        before = retry_of.first_turn if retry_of else turn_id
        state, error = "cancelled", None
        reply = None
        try:
            past = await self._store.history(conversation, self._settings.history, before)
            reply = self._service.reply(
                text,
                [_exchange(turn, incoming.is_group) for turn in past],
                speaker=incoming.user_name if incoming.is_group else None,
                turn=turn_id,
            )
            async with aclosing(aiter(reply)) as texts:
                async for shown in texts:
                    yield shown
            state = "done"
        except PromptTooLong as too_long:
            state, error = "failed", str(too_long)
            yield say(lang, "too_long", limit=self._settings.max_message // 4)
        except EngineError as engine_error:
            state, error = "failed", str(engine_error)
            log.error("turn %d: %s", turn_id, engine_error)
            yield say(lang, "failed")
        finally:
            outcome = reply.outcome if reply else Outcome()
            closing = asyncio.ensure_future(
                self._close(turn_id, state, error, outcome, time.monotonic() - started)
            )
            # A cancelled task still closes its turn: the write goes on beside it.
            await asyncio.shield(closing)

    async def _close(
        self, turn_id: int, state: str, error: str | None, outcome: Outcome, seconds: float
    ) -> None:
        stats = self._service.stats().engine
        facts = {
            "adapter": self._service.version,
            "engine": stats.name,
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


def _clean(text: str) -> str:
    """What was said, without what no person types: NULs and lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
