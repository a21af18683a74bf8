"""What `serve` asks of an engine, and the clock: workloads, bursts of chats, their figures."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from bot.bot import Bot
from bot.platforms.base import File, Handler, Incoming, Limits, Said
from data.store import Store
from data.triples import Triple
from persona.engines.base import Delta, Engine, EngineError, Sampling
from persona.prompt import Exchange

HISTORY = 5
"""Exchanges before each message of the *turn* workload."""


@dataclass(slots=True)
class Sample:
    """One chat's reply. Times in seconds; `first` and `seconds` run from when it was asked."""

    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    seconds: float = 0.0
    engine_seconds: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    failed: bool = False


_sample: ContextVar[Sample] = ContextVar("sample")


class Metered:
    """An engine that notes what it does in the sample of the task that asks.

    Seconds are counted as persona's Outcome.engine_seconds are: from the call to the last token.
    """

    def __init__(self, engine: Engine) -> None:
        self.load, self.stats, self.close = engine.load, engine.stats, engine.close
        self._generate = engine.generate

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        sample, begun = _sample.get(), time.perf_counter()
        sample.prompt_tokens = len(token_ids)
        before = sample.engine_seconds
        stream = self._generate(token_ids, sampling)
        try:
            async for delta in stream:
                now = time.perf_counter()
                sample.tokens += delta.tokens
                sample.engine_seconds = before + now - begun
                if delta.tokens and sample.first is None:
                    sample.first = now - sample.started
                yield delta
        except EngineError:
            sample.failed = True
            raise
        finally:
            await stream.aclose()


class Workload(Protocol):
    """What is asked. Chats are numbered and no number comes twice; `prepare` is not timed."""

    async def prepare(self, number: int) -> None: ...

    async def ask(self, number: int) -> None: ...


class EngineWorkload:
    """The same ids for every chat, straight to the engine."""

    def __init__(self, engine: Engine, ids: list[int], sampling: Sampling) -> None:
        self._engine = engine
        self._ids = ids
        self._sampling = sampling

    async def prepare(self, number: int) -> None:
        return None

    async def ask(self, number: int) -> None:
        async for _ in self._engine.generate(self._ids, self._sampling):
            pass


class SilentPlatform:
    """A platform that takes what is sent and shows it to nobody."""

    name = "bench"
    online = True

    def limits(self, to: Incoming) -> Limits:
        return Limits(4096, edit_interval=1.0)

    async def run(self, handle: Handler) -> None:
        return None

    async def send(self, to: Incoming, said: Said) -> str:
        return f"reply-{to.message_id}"

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None:
        return None

    async def draft(self, to: Incoming, said: Said) -> None:
        return None

    async def strip(self, to: Incoming, message_id: str) -> None:
        return None

    async def typing(self, to: Incoming) -> None:
        return None

    async def hand_over(self, to: Incoming, file: File) -> None:
        return None


class TurnWorkload:
    """A message of its own for every chat, after a history of its own, through the whole bot.

    `rows` are dialogues that are no exemplars; `exchanges` lengthen their histories.
    """

    def __init__(
        self, bot: Bot, store: Store, rows: Sequence[Triple], exchanges: Sequence[Exchange]
    ) -> None:
        self._bot = bot
        self._store = store
        self._rows = rows
        self._exchanges = exchanges
        self._platform = SilentPlatform()

    async def prepare(self, number: int) -> None:
        conversation = await self._store.conversation(self._platform.name, str(number))
        places = range(number * HISTORY, (number + 1) * HISTORY)
        earlier = [self._exchanges[place % len(self._exchanges)] for place in places]
        history = [(e.text, e.reply) for e in earlier] + self._row(number).history
        for message, reply in history[-HISTORY:]:
            turn = await self._store.begin_turn(conversation.id, str(number), "", message)
            await self._store.close_turn(turn, "done", reply)

    async def ask(self, number: int) -> None:
        chat, text = str(number), self._row(number).message
        incoming = Incoming(self._platform.name, chat, chat, text, message_id=chat)
        await self._bot.handle(self._platform, incoming)

    def _row(self, number: int) -> Triple:
        return self._rows[number % len(self._rows)]


@dataclass(frozen=True, slots=True)
class Figures:
    """What so many chats at once got.

    `tokens_per_second` is that of all chats together; the times are in seconds. `measured` counts
    the replies behind it. `outside_percent` is the median share of a reply's time that is not the
    engine's: bot, store and prompt, and of many chats also what these wait for; None of a queue.
    """

    chats: int
    measured: int
    failed: int
    prompt_tokens: float
    reply_tokens: float
    tokens_per_second: float
    first_p50: float
    first_p95: float
    reply_p50: float
    outside_percent: float | None


async def measure(
    asked: Workload, chats: Iterable[int], alone: int, *, serial: bool
) -> AsyncIterator[Figures]:
    """The figures for each number of chats, after one that warms up; lone chats `alone` times.

    A `serial` engine answers one chat at a time: it is measured alone, and more chats get the
    figures of the queue that these replies make, one after the other.
    """
    numbers = itertools.count()
    await _bursts(asked, numbers, 1, 1)
    lone = None
    for count in chats:
        if not serial:
            yield _figures(count, *await _bursts(asked, numbers, count, max(1, alone // count)))
            continue
        if lone is None:
            lone = await _bursts(asked, numbers, 1, alone)
        yield _figures(count, *lone, queued=count > 1)


async def _bursts(
    asked: Workload, numbers: itertools.count[int], size: int, times: int
) -> tuple[list[Sample], float]:
    """Asks in `size` chats at once, so many times: each reply, and the seconds all took."""
    samples: list[Sample] = []
    seconds = 0.0
    for _ in range(times):
        chosen = list(itertools.islice(numbers, size))
        for number in chosen:
            await asked.prepare(number)
        begun = time.perf_counter()
        samples += await asyncio.gather(*(_timed(asked, number) for number in chosen))
        seconds += time.perf_counter() - begun
    return samples, seconds


async def _timed(asked: Workload, number: int) -> Sample:
    """Runs in a task of its own, so that the sample is this chat's alone."""
    sample = Sample()
    _sample.set(sample)
    await asked.ask(number)
    sample.seconds = time.perf_counter() - sample.started
    sample.failed |= not sample.tokens
    return sample


def _figures(
    chats: int, samples: Sequence[Sample], seconds: float, *, queued: bool = False
) -> Figures:
    first = [s.first for s in samples if s.first is not None]
    whole = [s.seconds for s in samples]
    if queued:
        line = list(itertools.islice(itertools.cycle(samples), chats))
        whole = list(itertools.accumulate(s.seconds for s in line))
        first = [end - s.seconds + (s.first or 0) for end, s in zip(whole, line, strict=True)]
    shares = [1 - s.engine_seconds / s.seconds for s in samples]
    return Figures(
        chats=chats,
        measured=len(samples),
        failed=sum(s.failed for s in samples),
        prompt_tokens=statistics.mean(s.prompt_tokens for s in samples),
        reply_tokens=statistics.mean(s.tokens for s in samples),
        tokens_per_second=sum(s.tokens for s in samples) / seconds,
        first_p50=_percentile(first, 50),
        first_p95=_percentile(first, 95),
        reply_p50=_percentile(whole, 50),
        outside_percent=None if queued else 100 * statistics.median(shares),
    )


def _percentile(values: Iterable[float], percent: float) -> float:
    """By nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1] if ordered else 0.0
