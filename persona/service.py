"""The inference service: from a message and its context to a guarded, streamed reply.

It admits turns, one at a time per conversation and so many in all, chooses exemplars, builds the
prompt, runs the engine, and lets nothing out that the guard refuses.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import deque
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field

from persona import guard
from persona.admission import Admission
from persona.engines.base import Delta, Engine, EngineStats, Finish, Sampling
from persona.exemplars import ExemplarIndex
from persona.guard import Alarm, AuthoredReplies
from persona.prompt import Exchange, Prompt, PromptBuilder

_ENDINGS = "。！？!?…～~”」』）)."
_CLAUSE_ENDINGS = _ENDINGS + "，,；;：:、\n"
_ATTEMPTS = 2
_REMEMBERED = 5
_STRETCH = 10
"""Characters of an earlier reply, said again, that make a reply be generated anew."""


@dataclass(slots=True)
class Outcome:
    """What is known of a reply; complete once its iterator has ended.

    Times are in seconds. `guarded` names the alarm for which an authored reply was spoken,
    `version` the adapter that was asked.
    """

    text: str = ""
    prompt_tokens: int = 0
    reply_tokens: int = 0
    first_token: float | None = None
    engine_seconds: float = 0.0
    exemplars: tuple[str, ...] = ()
    dropped: int = 0
    attempts: int = 0
    guarded: Alarm | None = None
    finish: Finish | None = None
    version: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """Of the last hundred turns: median and 95th percentile of the time to the first token."""

    waiting: int
    running: int
    turns: int
    first_token_p50: float
    first_token_p95: float
    tokens_per_second: float
    engine: EngineStats


@dataclass(slots=True)
class _Recent:
    first: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    rate: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    turns: int = 0


@dataclass(slots=True)
class _Serving:
    """An engine with a version's weights in it, and how many replies it is busy with."""

    engine: Engine
    builder: PromptBuilder
    version: str
    replies: int = 0
    retired: bool = False


class InferenceService:
    """Answers messages in the persona's voice. Make it, use it inside one event loop, close it."""

    def __init__(
        self,
        engine: Engine,
        builder: PromptBuilder,
        exemplars: ExemplarIndex,
        authored: AuthoredReplies,
        sampling: Sampling,
        *,
        exemplar_count: int = 3,
        max_chats: int = 32,
        queue: int = 64,
        deadline: float = 120.0,
        version: str = "",
    ) -> None:
        self.sampling = sampling
        self._serving = _Serving(engine, builder, version)
        self._closings: set[asyncio.Task[None]] = set()
        self.exemplars = exemplars
        """What is chosen from; another one may take its place at any time."""
        self._authored = authored
        self._exemplar_count = exemplar_count
        self._slots = asyncio.Semaphore(max_chats)
        self._admission = Admission(queue, deadline)
        self._running = 0
        self._recent = _Recent()

    @property
    def version(self) -> str:
        """The version that answers new turns."""
        return self._serving.version

    def swap(self, engine: Engine, builder: PromptBuilder, version: str) -> None:
        """Has new turns answered by another engine; the old one ends with its last reply."""
        old, self._serving = self._serving, _Serving(engine, builder, version)
        old.retired = True
        self._release(old)

    def _take(self) -> _Serving:
        self._serving.replies += 1
        return self._serving

    def _leave(self, serving: _Serving) -> None:
        serving.replies -= 1
        self._release(serving)

    def _release(self, serving: _Serving) -> None:
        """Closes a retired engine that no reply needs any more, beside what goes on."""
        if serving.retired and not serving.replies:
            closing = asyncio.get_running_loop().create_task(serving.engine.close())
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)

    def admit(self, conversation: Hashable) -> AbstractAsyncContextManager[asyncio.Timeout]:
        """A turn of a conversation, in its order; see Admission.admit."""
        return self._admission.admit(conversation)

    def reply(
        self,
        text: str,
        history: Sequence[Exchange] = (),
        *,
        speaker: str | None = None,
        turn: int = 0,
        place: Hashable = None,
    ) -> Reply:
        """The reply to a message: iterate it for the text so far; then see `outcome`.

        `turn` numbers the turn, which picks among authored replies. `place` is the chat: what was
        learned in it and is not yet for everyone is an exemplar there. Iterating raises
        PromptTooLong or EngineError.
        """
        return Reply(self, text, history, speaker, turn, place)

    def stats(self) -> ServiceStats:
        first = sorted(self._recent.first) or [0.0]
        return ServiceStats(
            waiting=self._admission.admitted - self._running,
            running=self._running,
            turns=self._recent.turns,
            first_token_p50=statistics.median(first),
            first_token_p95=first[math.ceil(0.95 * len(first)) - 1],
            tokens_per_second=statistics.median(self._recent.rate or [0.0]),
            engine=self._serving.engine.stats(),
        )

    async def close(self) -> None:
        await self._serving.engine.close()
        await asyncio.gather(*self._closings)

    def _prompt(
        self,
        builder: PromptBuilder,
        text: str,
        history: Sequence[Exchange],
        speaker: str | None,
        place: Hashable,
    ) -> Prompt:
        chosen = self.exemplars.nearest(text, self._exemplar_count, place=place)
        return builder.build(text, history, chosen, speaker)

    async def _generate(
        self, engine: Engine, prompt: Prompt, sampling: Sampling
    ) -> AsyncGenerator[Delta]:
        async with self._slots:
            self._running += 1
            stream = engine.generate(prompt.ids, sampling)
            try:
                async for delta in stream:
                    yield delta
            finally:
                self._running -= 1
                # Closing it now, not when it is collected, is what frees the engine's slot.
                await stream.aclose()

    def _note(self, outcome: Outcome, seconds: float) -> None:
        recent = self._recent
        recent.turns += 1
        self._admission.note(seconds)
        if outcome.first_token is not None:
            recent.first.append(outcome.first_token)
            decoding = outcome.engine_seconds - outcome.first_token
            if outcome.reply_tokens > 1 and decoding > 0:
                recent.rate.append((outcome.reply_tokens - 1) / decoding)


class Reply:
    """One reply on its way. Iterating yields the whole text so far, each time it has grown.

    A later text need not begin with an earlier one: what the guard refuses is replaced.
    """

    def __init__(
        self,
        service: InferenceService,
        text: str,
        history: Sequence[Exchange],
        speaker: str | None,
        turn: int,
        place: Hashable,
    ) -> None:
        self.outcome = Outcome()
        self._service = service
        self._text = text
        self._history = history
        self._speaker = speaker
        self._turn = turn
        self._place = place

    async def __aiter__(self) -> AsyncGenerator[str]:
        serving = self._service._take()
        try:
            async with aclosing(self._texts(serving)) as texts:
                async for text in texts:
                    yield text
        finally:
            self._service._leave(serving)

    async def _texts(self, serving: _Serving) -> AsyncGenerator[str]:
        started = time.monotonic()
        outcome = self.outcome
        outcome.version, outcome.engine = serving.version, serving.engine.stats().name
        alarm = guard.before(self._text)
        if alarm is None:
            prompt = self._service._prompt(
                serving.builder, self._text, self._history, self._speaker, self._place
            )
            outcome.prompt_tokens = len(prompt.ids)
            outcome.exemplars, outcome.dropped = prompt.exemplars, prompt.dropped
            for attempt in range(_ATTEMPTS):
                alarm = None
                outcome.attempts = attempt + 1
                # Closed at once where it is left early: that frees the engine's slot.
                async with aclosing(self._attempt(serving.engine, prompt, attempt)) as texts:
                    async for text, alarm in texts:
                        if alarm:
                            break
                        if text != outcome.text:
                            outcome.text = text
                            yield text
                if alarm is None:
                    break
        if alarm is not None:
            outcome.guarded = alarm
            outcome.text = self._service._authored.reply(alarm, self._text, self._turn)
            yield outcome.text
        self._service._note(outcome, time.monotonic() - started)

    async def _attempt(
        self, engine: Engine, prompt: Prompt, attempt: int
    ) -> AsyncGenerator[tuple[str, Alarm | None]]:
        """Texts so far that the guard let pass; an alarm ends it.

        Only whole clauses are shown, so that a clause which breaks the role is never seen.
        """
        outcome = self.outcome
        raw, checked = "", 0
        begun = time.monotonic()
        before = outcome.engine_seconds
        sampling = self._service.sampling.again(attempt)
        stream = self._service._generate(engine, prompt, sampling)
        outcome.reply_tokens = 0
        try:
            async for delta in stream:
                raw += delta.text
                outcome.reply_tokens += delta.tokens
                outcome.engine_seconds = before + time.monotonic() - begun
                if outcome.first_token is None and delta.tokens:
                    outcome.first_token = outcome.engine_seconds
                if delta.finish:
                    outcome.finish = delta.finish
                    break
                clause = _last_clause(raw)
                if clause > checked:
                    checked = clause
                    alarm = self._alarm(raw)
                    yield raw[:clause].strip(), alarm
                    if alarm:
                        return
        finally:
            await stream.aclose()
        text = whole_sentences(raw) if outcome.finish is Finish.LENGTH else raw.strip()
        yield text, self._alarm(raw) if text else Alarm.ASSISTANT

    def _alarm(self, reply: str) -> Alarm | None:
        alarm = guard.after(reply, self._text)
        # Once: a second reply that still repeats herself is better than a stock sentence.
        if alarm is None and self.outcome.attempts < _ATTEMPTS and self._said_before(reply):
            return Alarm.REPEATS
        return alarm

    def _said_before(self, reply: str) -> bool:
        """Whether she says a stretch of one of her last replies again, word for word."""
        said = [exchange.reply for exchange in self._history[-_REMEMBERED:]]
        stretches = (reply[i : i + _STRETCH] for i in range(len(reply) - _STRETCH + 1))
        return any(stretch in earlier for stretch in stretches for earlier in said)


def whole_sentences(text: str) -> str:
    """The text up to its last sentence's end, for a reply that met the token limit.

    Where not even one sentence ended, it is closed with an ellipsis.
    """
    text = text.strip()
    end = max((text.rfind(mark) for mark in _ENDINGS), default=-1)
    if end >= 0:
        return text[: end + 1]
    return text.rstrip("，,；;：:、") + "……" if text else ""


def _last_clause(text: str) -> int:
    """Where the last finished clause ends."""
    return max(text.rfind(mark) for mark in _CLAUSE_ENDINGS) + 1
