"""The inference service: from a message and its context to a guarded, streamed reply.

It admits turns, one at a time per conversation and so many in all, chooses exemplars, and has an
engine that can be swapped, beside it for some chats one on trial; how one reply is made stands in
`reply.py`.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from persona.admission import Admission
from persona.engines.base import Delta, Engine, EngineStats, Sampling
from persona.exemplars import ExemplarIndex
from persona.guard import AuthoredReplies
from persona.prompt import Exchange, Prompt, PromptBuilder
from persona.reply import Outcome, Reply, Serving
from persona.sense import Sense


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
        sense: Sense | None = None,
        candidates: int = 1,
        max_chats: int = 32,
        queue: int = 64,
        deadline: float = 120.0,
        version: str = "",
    ) -> None:
        self.sampling = sampling
        self._serving = Serving(engine, builder, version)
        self._trial: Serving | None = None
        self._gets: Callable[[Hashable], bool] = lambda _: False
        self._closings: set[asyncio.Task[None]] = set()
        self.exemplars = exemplars
        """What is chosen from; another one may take its place at any time."""
        self.authored = authored
        self._exemplar_count = exemplar_count
        self.sense = sense
        self._candidates = candidates
        self._together = max_chats // 2
        self._slots = asyncio.Semaphore(max_chats)
        self._admission = Admission(queue, deadline)
        self._running = 0
        self._recent = _Recent()

    @property
    def version(self) -> str:
        """The version that answers new turns, but for those of chats that have one on trial."""
        return self._serving.version

    @property
    def trial_version(self) -> str | None:
        """The version on trial; None while none is."""
        return self._trial.version if self._trial else None

    def swap(self, engine: Engine, builder: PromptBuilder, version: str) -> None:
        """Has new turns answered by another engine; the old one ends with its last reply."""
        old, self._serving = self._serving, Serving(engine, builder, version)
        self._retire(old)

    def try_out(
        self,
        engine: Engine,
        builder: PromptBuilder,
        version: str,
        gets: Callable[[Hashable], bool],
    ) -> None:
        """Has new turns of the chats that get it answered by a second engine."""
        self.drop_trial()
        self._trial, self._gets = Serving(engine, builder, version), gets

    def adopt_trial(self) -> None:
        """Has the engine on trial answer everybody; the other one ends with its last reply."""
        if self._trial:
            old, self._serving, self._trial = self._serving, self._trial, None
            self._retire(old)

    def drop_trial(self) -> None:
        """Has the first engine answer everybody again; the second ends with its last reply."""
        if self._trial:
            old, self._trial = self._trial, None
            self._retire(old)

    def take(self, place: Hashable) -> Serving:
        """What answers a turn of that place, until it is left."""
        serving = self._serving
        if self._trial and place is not None and self._gets(place):
            serving = self._trial
        serving.replies += 1
        return serving

    def leave(self, serving: Serving) -> None:
        serving.replies -= 1
        self._release(serving)

    def _retire(self, serving: Serving) -> None:
        serving.retired = True
        self._release(serving)

    def _release(self, serving: Serving) -> None:
        """Closes a retired engine that no reply needs any more, beside what goes on."""
        if serving.retired and not serving.replies:
            closing = asyncio.get_running_loop().create_task(serving.engine.close())
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)

    def admit(
        self, conversation: Hashable, *, known: bool = False
    ) -> AbstractAsyncContextManager[asyncio.Timeout]:
        """A turn of a conversation, in its order; see Admission.admit."""
        return self._admission.admit(conversation, known=known)

    def reply(
        self,
        text: str,
        history: Sequence[Exchange] = (),
        *,
        speaker: str | None = None,
        turn: int = 0,
        rejected: Sequence[str] = (),
        place: Hashable = None,
    ) -> Reply:
        """The reply to a message: iterate it for the text so far; then see `outcome`.

        `turn` numbers the turn, which picks among authored replies; `rejected` are replies to this
        message that were not liked. `place` is the chat: what was learned in it and is not yet for
        everyone is an exemplar there. Iterating raises PromptTooLong or EngineError.
        """
        return Reply(self, text, history, speaker, turn, rejected, place)

    def stats(self) -> ServiceStats:
        first = sorted(self._recent.first) or [0.0]
        # A turn may have several replies made for it at once.
        running = min(self._running, self._admission.admitted)
        return ServiceStats(
            waiting=self._admission.admitted - running,
            running=running,
            turns=self._recent.turns,
            first_token_p50=statistics.median(first),
            first_token_p95=first[math.ceil(0.95 * len(first)) - 1],
            tokens_per_second=statistics.median(self._recent.rate or [0.0]),
            engine=self._serving.engine.stats(),
        )

    async def close(self) -> None:
        """Closes every engine, those retired too; raises what the first to fail raised, then."""
        served = filter(None, (self._serving, self._trial))
        closing = [*(serving.engine.close() for serving in served), *self._closings]
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def candidates(self, serving: Serving) -> int:
        """How many replies to make at once for a message: fewer where many people wait for one."""
        # Two engines share one machine.
        working = {id(s): s.replies for s in (serving, self._serving, self._trial) if s}
        return max(1, min(self._candidates, self._together // max(1, sum(working.values()))))

    def nearest(self, text: str, said: Sequence[str], place: Hashable) -> list[Exchange]:
        return self.exemplars.nearest(text, self._exemplar_count, said=said, place=place)

    def fit(self, text: str, exemplar: Exchange) -> float:
        return self.exemplars.fit(text, exemplar)

    async def generate(
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

    def note(self, outcome: Outcome, seconds: float) -> None:
        recent = self._recent
        recent.turns += 1
        self._admission.note(seconds)
        if outcome.first_token is not None:
            recent.first.append(outcome.first_token)
            decoding = outcome.engine_seconds - outcome.first_token
            if outcome.reply_tokens > 1 and decoding > 0:
                recent.rate.append((outcome.reply_tokens - 1) / decoding)
