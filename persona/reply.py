"""One reply on its way: candidates are made and guarded, the likeliest to content is spoken.

A small model says sense and nonsense to the same message by turns, and cannot tell them apart
itself; their wording can (`sense.py`), and how well the exemplar fits that one leans on (`fit.py`).
Replies made together cost a CPU little more than one, since its time goes into reading the weights.
Where only one is made it is shown as it grows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from persona import guard
from persona.engines.base import Delta, Engine, Finish, Sampling
from persona.exemplars import similarity, trigrams
from persona.fit import content
from persona.guard import Alarm, AuthoredReplies
from persona.prompt import Exchange, Prompt, PromptBuilder
from persona.sense import Sense

TAUGHT = "turn:"
"""What the keys of exemplars begin with that people taught her."""

_ENDINGS = "。！？!?…～~”」』）)."
_CLAUSE_ENDINGS = _ENDINGS + "，,；;：:、\n"
_ATTEMPTS = 2
_ENOUGH = 0.5
"""Likelihood of content below which candidates are made once more."""
_REMEMBERED = 5
_STRETCH = 10
"""Characters of an earlier reply, said again, that make a reply be generated anew."""


@dataclass(slots=True)
class Outcome:
    """What is known of a reply; complete once its iterator has ended.

    Times are in seconds: `first_token` the engine's, `engine_seconds` the time spent waiting for
    it. `reply_tokens` are those of what was spoken, `candidates` how many replies it was chosen
    from. `guarded` names the alarm for which an authored reply was spoken, `version` the adapter
    that was asked.
    """

    text: str = ""
    prompt_tokens: int = 0
    reply_tokens: int = 0
    first_token: float | None = None
    engine_seconds: float = 0.0
    exemplars: tuple[str, ...] = ()
    dropped: int = 0
    attempts: int = 0
    candidates: int = 0
    guarded: Alarm | None = None
    finish: Finish | None = None
    version: str = ""
    engine: str = ""


@dataclass(slots=True)
class Serving:
    """An engine with a version's weights in it, and how many replies it is busy with."""

    engine: Engine
    builder: PromptBuilder
    version: str
    replies: int = 0
    retired: bool = False


class Host(Protocol):
    """What a reply needs of the service that makes it."""

    authored: AuthoredReplies
    sampling: Sampling
    sense: Sense | None

    def take(self, place: Hashable) -> Serving: ...
    def leave(self, serving: Serving) -> None: ...
    def candidates(self, serving: Serving) -> int: ...
    def nearest(self, text: str, said: Sequence[str], place: Hashable) -> list[Exchange]: ...
    def fit(self, text: str, exemplar: Exchange) -> float: ...
    def generate(
        self, engine: Engine, prompt: Prompt, sampling: Sampling
    ) -> AsyncGenerator[Delta]: ...
    def note(self, outcome: Outcome, seconds: float) -> None: ...


@dataclass(slots=True)
class _Candidate:
    """A reply that may be spoken. Times in seconds, from when it was asked for."""

    text: str = ""
    alarm: Alarm | None = None
    finish: Finish | None = None
    tokens: int = 0
    first_token: float | None = None
    seconds: float = 0.0
    content: float = 0.0
    read: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the engine has read the prompt."""


class _Exemplar(NamedTuple):
    """What a reply may lean on: its 3-grams, how likely it answers the message, and whether people
    taught it, which is taken to answer."""

    grams: frozenset[str]
    fit: float
    taught: bool


class Reply:
    """One reply on its way. Iterating yields the whole text so far, each time it has grown.

    A later text need not begin with an earlier one: what the guard refuses is replaced.
    """

    def __init__(
        self,
        host: Host,
        text: str,
        history: Sequence[Exchange],
        speaker: str | None,
        turn: int,
        rejected: Sequence[str],
        place: Hashable,
    ) -> None:
        self.outcome = Outcome()
        self._host = host
        self._text = text
        self._history = history
        self._speaker = speaker
        self._turn = turn
        # What she must not say again: here, and to this message.
        self._said = [*(exchange.reply for exchange in history), *rejected]
        self._place = place
        self._leaned_on: list[_Exemplar] = []

    async def __aiter__(self) -> AsyncGenerator[str]:
        serving = self._host.take(self._place)
        try:
            async with aclosing(self._texts(serving)) as texts:
                async for text in texts:
                    yield text
        finally:
            self._host.leave(serving)

    async def _texts(self, serving: Serving) -> AsyncGenerator[str]:
        started = time.monotonic()
        outcome = self.outcome
        outcome.version, outcome.engine = serving.version, serving.engine.stats().name
        alarm = guard.before(self._text)
        if alarm is None:
            prompt = self._prompt(serving)
            best: _Candidate | None = None
            for attempt in range(_ATTEMPTS):
                outcome.attempts = attempt + 1
                count = self._host.candidates(serving)
                if count == 1 and best is None:
                    made = _Candidate()
                    # Closed at once where it is left early: that frees the engine's slot.
                    async with aclosing(self._shown(serving, prompt, attempt, made)) as texts:
                        async for text in texts:
                            yield text
                    alarm = made.alarm
                    if alarm is None:
                        break
                    continue
                found = await self._several(serving, prompt, attempt, count)
                alarm = alarm or found[0].alarm
                fit = [candidate for candidate in found if candidate.alarm is None]
                best = max([*fit, *([best] if best else [])], key=lambda c: c.content, default=None)
                if best and best.content >= _ENOUGH:
                    break
            if best is not None:
                alarm = None
                outcome.text, outcome.finish = best.text, best.finish
                outcome.reply_tokens = best.tokens
                yield outcome.text
        if alarm is not None:
            outcome.guarded = alarm
            outcome.text = self._host.authored.reply(alarm, self._text, self._turn)
            yield outcome.text
        self._host.note(outcome, time.monotonic() - started)

    def _prompt(self, serving: Serving) -> Prompt:
        near = self._host.nearest(self._text, self._said, self._place)
        prompt = serving.builder.build(self._text, self._history, near, self._speaker)
        self.outcome.prompt_tokens = len(prompt.ids)
        self.outcome.exemplars, self.outcome.dropped = prompt.exemplars, prompt.dropped
        self._leaned_on = [
            _Exemplar(trigrams(e.reply), self._host.fit(self._text, e), e.key.startswith(TAUGHT))
            for e in near
            if e.key in prompt.exemplars
        ]
        return prompt

    async def _shown(
        self, serving: Serving, prompt: Prompt, attempt: int, made: _Candidate
    ) -> AsyncGenerator[str]:
        """The only candidate's texts so far, until it ends or raises an alarm."""
        outcome = self.outcome
        outcome.candidates = 1
        sampling = self._host.sampling.again(attempt)
        try:
            async with aclosing(self._attempt(serving.engine, prompt, sampling, made)) as texts:
                async for text in texts:
                    if made.alarm:
                        return
                    if text != outcome.text:
                        outcome.text = text
                        yield text
        finally:
            outcome.finish, outcome.reply_tokens = made.finish, made.tokens
            self._clock(made)

    async def _several(
        self, serving: Serving, prompt: Prompt, attempt: int, count: int
    ) -> list[_Candidate]:
        """Candidates made together, each with how likely it contents.

        The others begin when the first has had the prompt read: the engine's prefix cache spares
        them that, which costs more than the reply itself.
        """
        outcome = self.outcome
        outcome.candidates += count
        found = [_Candidate() for _ in range(count)]
        tasks = []
        try:
            for number, made in enumerate(found):
                sampling = self._host.sampling.again(attempt * count + number)
                whole = self._whole(serving.engine, prompt, sampling, made)
                tasks.append(asyncio.ensure_future(whole))
                await found[0].read.wait()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            # Whatever ended this: no candidate keeps its slot of the engine.
            await asyncio.gather(*tasks, return_exceptions=True)
        self._clock(max(found, key=lambda candidate: candidate.seconds))
        if self._host.sense:
            said = [trigrams(reply) for reply in self._said]
            for candidate in found:
                candidate.content = self._content(self._host.sense, candidate.text, said)
        return found

    def _content(self, sense: Sense, reply: str, said: Sequence[frozenset[str]]) -> float:
        """How likely the reply contents; less, the more it says again what was said."""
        own = trigrams(reply)
        near = [(similarity(own, exemplar.grams), exemplar) for exemplar in self._leaned_on]
        likeness, leaned = max(near, default=(0.0, None), key=lambda pair: pair[0])
        found = content(sense.share(reply, self._text), likeness, leaned.fit if leaned else 0.0)
        # People's own wordings are not in what sense was learned from.
        taught = (likeness for likeness, exemplar in near if exemplar.taught)
        again = max((similarity(own, reply) for reply in said), default=0.0)
        return max([found, *taught]) * (1 - again)

    async def _whole(
        self, engine: Engine, prompt: Prompt, sampling: Sampling, made: _Candidate
    ) -> None:
        async with aclosing(self._attempt(engine, prompt, sampling, made)) as texts:
            async for made.text in texts:
                if made.alarm:
                    break

    def _clock(self, made: _Candidate) -> None:
        if self.outcome.first_token is None and made.first_token is not None:
            self.outcome.first_token = self.outcome.engine_seconds + made.first_token
        self.outcome.engine_seconds += made.seconds

    async def _attempt(
        self, engine: Engine, prompt: Prompt, sampling: Sampling, made: _Candidate
    ) -> AsyncGenerator[str]:
        """Texts so far; what is known of them stands in `made`, and an alarm ends it.

        Only whole clauses are shown, so that a clause which breaks the role is never seen.
        """
        raw, checked = "", 0
        begun = time.monotonic()
        stream = self._host.generate(engine, prompt, sampling)
        try:
            async for delta in stream:
                made.read.set()
                raw += delta.text
                made.tokens += delta.tokens
                made.seconds = time.monotonic() - begun
                if made.first_token is None and delta.tokens:
                    made.first_token = made.seconds
                if delta.finish:
                    made.finish = delta.finish
                    break
                clause = _last_clause(raw)
                if clause > checked:
                    checked = clause
                    made.alarm = self._alarm(raw)
                    yield raw[:clause].strip()
                    if made.alarm:
                        return
        finally:
            made.read.set()  # or whoever waits for it would wait for ever
            await stream.aclose()
        text = whole_sentences(raw) if made.finish is Finish.LENGTH else raw.strip()
        made.alarm = self._alarm(raw) if text else Alarm.ASSISTANT
        yield text

    def _alarm(self, reply: str) -> Alarm | None:
        alarm = guard.after(reply, self._text)
        # Once: a second reply that still repeats herself is better than a stock sentence.
        if alarm is None and self.outcome.attempts < _ATTEMPTS and self._said_before(reply):
            return Alarm.REPEATS
        return alarm

    def _said_before(self, reply: str) -> bool:
        """Whether she says a stretch of one of her last replies again, word for word."""
        said = self._said[-_REMEMBERED:]
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
