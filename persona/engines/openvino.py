"""The CPU engine: OpenVINO GenAI's continuous batching over a Q8_0 graph.

Facts met on the way: run-time LoRA does not bind to a graph built from GGUF, so adapters are
merged before (persona/weights.py); the graph that the library builds from a GGUF can be kept and
loads in a second where building takes eight; a request takes token ids as they are; a step holds
Python's lock, so that the pipeline lives in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from persona.engines.base import (
    Delta,
    EngineError,
    EngineStats,
    ModelThread,
    Request,
    Sampling,
    TextStream,
    without_engine,
)
from persona.engines.openvino_worker import Opening, Output, Step, Stepped
from persona.tokenizer import ChatTokenizer

log = logging.getLogger(__name__)


def build_graph(gguf: Path, folder: Path) -> None:
    """Turns a Q8_0 GGUF into the graph files that `load` reads, in `folder`. Raises EngineError.

    The library writes them beside the GGUF, so that the two must share the folder.
    """
    genai = _library()
    config = genai.SchedulerConfig()
    config.num_kv_blocks = 1
    try:
        genai.ContinuousBatchingPipeline(str(gguf), config, "CPU", {"enable_save_ov_model": True})
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot build a graph from {gguf}: {error}") from error
    if not (folder / "openvino_model.xml").is_file():
        raise EngineError(f"OpenVINO wrote no graph into {folder}")


class OpenVINOEngine:
    """Serves a folder made by persona/weights.py: openvino_model.xml, .bin and tokenizer.json."""

    def __init__(self, cache_tokens: int, max_chats: int) -> None:
        self._cache_tokens = cache_tokens
        self._max_chats = max_chats
        self._thread: ModelThread | None = None
        self._worker: _Worker | None = None
        self.tokenizer: ChatTokenizer | None = None
        self._last: Stepped | None = None
        self._opening: Opening | None = None
        self._starting = asyncio.Lock()

    async def load(self, base: Path, adapter: Path | None = None) -> None:
        if adapter is not None:
            raise EngineError("the CPU engine serves merged weights; it takes no adapter beside")
        _library()
        self.tokenizer = ChatTokenizer.load(base / "tokenizer.json")
        stops = (self.tokenizer.im_end, self.tokenizer.end_of_text)
        # The worker runs in another folder than the bot may.
        folder = str(await asyncio.to_thread(base.resolve))
        self._opening = Opening(folder, self._cache_tokens, self._max_chats, stops)
        await self._start(self._opening)

    async def _start(self, opening: Opening) -> ModelThread:
        self._worker = await asyncio.to_thread(_Worker, opening)
        self._thread = ModelThread("openvino", self._serve)
        self._thread.start()
        return self._thread

    async def _alive(self) -> ModelThread:
        """The model's thread; a new one, with a new process, where the last one failed."""
        async with self._starting:
            if self._thread is None or self._opening is None:
                raise EngineError("the engine is not loaded")
            if self._thread.failure is None:
                return self._thread
            log.warning("OpenVINO is started again after: %s", self._thread.failure)
            if self._worker:
                await asyncio.to_thread(self._worker.close)
            return await self._start(self._opening)

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        if len(token_ids) + sampling.max_new_tokens > self._cache_tokens:
            raise EngineError(
                f"a prompt of {len(token_ids)} tokens does not fit [model] cache_tokens"
            )
        thread = await self._alive()
        async with aclosing(thread.generate(token_ids, sampling)) as deltas:
            async for delta in deltas:
                yield delta

    def stats(self) -> EngineStats:
        detail = {}
        if self._last is not None:
            detail = {
                "cache_bytes": self._last.cache_bytes,
                "cache_used_percent": self._last.cache_used_percent,
            }
        return EngineStats("openvino", "CPU", self._thread.running if self._thread else 0, detail)

    async def close(self) -> None:
        if self._thread:
            await self._thread.stop()
        if self._worker:
            await asyncio.to_thread(self._worker.close)
        self._thread = self._worker = None

    def _serve(self, inbox: queue.SimpleQueue[Request | None]) -> None:
        """The model's thread: takes requests, has the batch stepped, hands out what it made."""
        assert self._worker is not None
        assert self.tokenizer is not None
        worker, tokenizer = self._worker, self.tokenizer
        numbers = itertools.count()
        active: dict[int, tuple[Request, TextStream]] = {}
        busy = False
        while True:
            step = Step()
            # A cancelled request leaves the scheduler in the step after: idle only without any.
            for request in _arrivals(inbox, wait=not active and not busy):
                if request is None:
                    return
                if not request.cancelled.is_set():
                    number = next(numbers)
                    step.arrivals.append((number, list(request.ids), request.sampling))
                    active[number] = request, TextStream(tokenizer.full)
            for number, (request, _) in list(active.items()):
                if request.cancelled.is_set():
                    step.cancelled.append(number)
                    del active[number]
            self._last = stepped = worker.step(step)
            busy = stepped.busy
            for number, output in stepped.outputs.items():
                if number in active and _hand_out(*active[number], output, tokenizer):
                    del active[number]


class _Worker:
    """The pipeline's process, seen from the model's thread. Raises EngineError."""

    def __init__(self, opening: Opening) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "persona.engines.openvino_worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # the screen belongs to the conversation
                cwd=Path(__file__).parents[2],
                # Ctrl-C is the bot's to handle: out of the terminal's group none reaches it. It
                # ends when the connection does, however the bot ends.
                process_group=0,
            )
        self._connection = Connection(ours.detach())
        refusal = self._ask(opening)
        if refusal is not None:
            self.close()
            raise EngineError(f"OpenVINO cannot load {opening.folder}: {refusal}")

    def step(self, step: Step) -> Stepped:
        stepped = self._ask(step)
        if not isinstance(stepped, Stepped):
            raise EngineError(str(stepped).splitlines()[0])
        return stepped

    def _ask(self, question: Opening | Step) -> Stepped | str | None:
        try:
            self._connection.send(question)
            answer: Stepped | str | None = self._connection.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise EngineError(f"OpenVINO's process ended with code {code}") from error
        return answer

    def close(self) -> None:
        """Ends the process: at once where it does not end by itself within seconds."""
        self._connection.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _arrivals(inbox: queue.SimpleQueue[Request | None], wait: bool) -> Iterator[Request | None]:
    """What has come in; with `wait`, not before something has."""
    if wait:
        yield inbox.get()
    while True:
        try:
            yield inbox.get_nowait()
        except queue.Empty:
            return


def _hand_out(request: Request, text: TextStream, output: Output, tokenizer: ChatTokenizer) -> bool:
    """Passes on a request's new tokens; true when it is over."""
    stops = (tokenizer.im_end, tokenizer.end_of_text)
    for ids, finish in output.pieces:
        request.emit(Delta(text.push([i for i in ids if i not in stops]), len(ids), finish))
        if finish:
            return True
    if output.ended:
        # The scheduler gives up on a request whose cache cannot be had.
        request.emit(EngineError("the engine dropped the request: its KV cache is full"))
    return output.ended


def _library() -> Any:
    try:
        import openvino_genai
    except ImportError as error:
        raise without_engine("openvino-genai", "chat") from error
    return openvino_genai
