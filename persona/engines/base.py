"""The Engine protocol, and what is said through it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class EngineError(Exception):
    """The engine cannot load or go on; the message is for the person who runs the bot."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    `repetition_penalty` counts the prompt's tokens as well in every engine here, the exemplars'
    among them; `presence_penalty` counts the reply's alone. `temperature` 0 is greedy. A `seed`
    makes a reply repeatable where the engine allows it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.2
    presence_penalty: float = 0.0
    seed: int | None = None

    def again(self, attempt: int) -> Sampling:
        """The same, with another seed: for a second attempt that must differ."""
        return self if self.seed is None else replace(self, seed=self.seed + attempt)


class Finish(StrEnum):
    """Why a reply ended: she stopped, or the token limit came."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply: whole characters. The last one of a reply carries `finish`."""

    text: str
    tokens: int = 1
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """`running` requests are being decoded or wait for a place in the batch."""

    name: str
    device: str
    running: int = 0
    detail: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """A language model that answers many prompts at once.

    `generate` may be called any number of times concurrently; the engine batches the calls. Its
    iterator ends with the reply; closing it early cancels the request and frees its cache. An
    error inside the engine is raised from the iterator, as EngineError.
    """

    async def load(self, base: Path, adapter: Path | None = None) -> None: ...

    def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]: ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None: ...


class TextStream:
    """Token ids in, text out, never half a character: bytes wait until they make one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, ids: Sequence[int]) -> str:
        """The text that these further ids complete; may be empty."""
        pieces = (self._stream.step(self._tokenizer, i) for i in ids)
        return "".join(piece for piece in pieces if piece)


@dataclass(slots=True)
class Request:
    """One `generate` call on its way through the model's thread."""

    ids: Sequence[int]
    sampling: Sampling
    emit: Callable[[Delta | BaseException], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class ModelThread(threading.Thread):
    """The one thread that owns a model.

    `serve(inbox)` runs in it until it takes None from the inbox; whatever it raises reaches every
    open request and all later ones, as EngineError.
    """

    def __init__(self, name: str, serve: Callable[[queue.SimpleQueue[Request | None]], None]):
        super().__init__(name=name, daemon=True)
        self.inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.failure: EngineError | None = None
        self._requests: dict[int, Request] = {}
        self._lock = threading.Lock()
        self._serve = serve

    def run(self) -> None:
        try:
            self._serve(self.inbox)
            self.failure = EngineError("the engine is closed")
        except Exception as error:
            self.failure = EngineError(f"the engine failed: {error}")
            self.failure.__cause__ = error
        with self._lock:
            left, self._requests = list(self._requests.values()), {}
        for request in left:
            request.emit(self.failure)

    @property
    def running(self) -> int:
        return len(self._requests)

    async def generate(self, ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        """Hands a request to the thread and yields what comes back."""
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta | BaseException] = asyncio.Queue()

        def emit(item: Delta | BaseException) -> None:
            try:
                loop.call_soon_threadsafe(deltas.put_nowait, item)
            except RuntimeError:
                request.cancelled.set()  # the loop is gone: nobody listens any more

        request = Request(ids, sampling, emit)
        with self._lock:
            if self.failure:
                raise self.failure
            self._requests[id(request)] = request
        self.inbox.put(request)
        try:
            while True:
                item = await deltas.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finish:
                    return
        finally:
            request.cancelled.set()
            with self._lock:
                self._requests.pop(id(request), None)

    async def stop(self) -> None:
        """Ends the thread; open requests fail."""
        self.inbox.put(None)
        await asyncio.to_thread(self.join, 30.0)


def without_engine(package: str, target: str) -> EngineError:
    """The error for an engine whose library is not installed."""
    return EngineError(f"the engine needs the package {package}, which `make {target}` installs")
