"""The CPU engine: OpenVINO GenAI's continuous batching over a Q8_0 graph.

Facts met on the way: run-time LoRA does not bind to a graph built from GGUF, so adapters are
merged before (persona/weights.py); the graph that the library builds from a GGUF can be kept and
loads in a second where building takes eight; a request takes token ids as they are.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.engines.base import (
    Delta,
    EngineError,
    EngineStats,
    Finish,
    ModelThread,
    Request,
    Sampling,
    TextStream,
    without_engine,
)
from persona.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    import openvino_genai

TOKENS_PER_BLOCK = 32
"""The size of a KV-cache block on CPU."""


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
        self._pipeline: openvino_genai.ContinuousBatchingPipeline | None = None
        self._tokenizer: ChatTokenizer | None = None

    async def load(self, base: Path, adapter: Path | None = None) -> None:
        if adapter is not None:
            raise EngineError("the CPU engine serves merged weights; it takes no adapter beside")
        self._tokenizer = ChatTokenizer.load(base / "tokenizer.json")
        self._pipeline = await asyncio.to_thread(self._open, base)
        self._thread = ModelThread("openvino", self._serve)
        self._thread.start()

    def _open(self, base: Path) -> openvino_genai.ContinuousBatchingPipeline:
        genai = _library()
        config = genai.SchedulerConfig()
        config.num_kv_blocks = -(-self._cache_tokens // TOKENS_PER_BLOCK)
        config.max_num_seqs = self._max_chats
        # Prompts are cut into pieces of this size, so that a long one halts nobody's stream.
        config.max_num_batched_tokens = 256
        config.dynamic_split_fuse = True
        config.enable_prefix_caching = True
        try:
            return genai.ContinuousBatchingPipeline(str(base), config, "CPU")
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {base}: {error}") from error

    def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        if self._thread is None:
            raise EngineError("the engine is not loaded")
        if len(token_ids) + sampling.max_new_tokens > self._cache_tokens:
            raise EngineError(
                f"a prompt of {len(token_ids)} tokens does not fit [model] cache_tokens"
            )
        return self._thread.generate(token_ids, sampling)

    def stats(self) -> EngineStats:
        detail = {}
        if self._pipeline is not None:
            metrics: Any = self._pipeline.get_metrics()
            detail = {
                "cache_bytes": float(metrics.kv_cache_size_in_bytes),
                "cache_used_percent": float(metrics.cache_usage),
            }
        return EngineStats("openvino", "CPU", self._thread.running if self._thread else 0, detail)

    async def close(self) -> None:
        if self._thread:
            await self._thread.stop()
        self._thread = self._pipeline = None

    def _serve(self, inbox: queue.SimpleQueue[Request | None]) -> None:
        """The model's thread: takes requests, steps the batch, hands out what it made."""
        assert self._pipeline is not None
        assert self._tokenizer is not None
        pipeline, tokenizer = self._pipeline, self._tokenizer
        numbers = itertools.count()
        active: dict[int, tuple[Request, Any, TextStream]] = {}
        while True:
            # A cancelled request leaves the scheduler in the step after: idle only without any.
            idle = not active and not pipeline.has_non_finished_requests()
            for request in _arrivals(inbox, wait=idle):
                if request is None:
                    _abandon(pipeline, [handle for _, handle, _ in active.values()])
                    return
                if request.cancelled.is_set():
                    continue
                number = next(numbers)
                handle = pipeline.add_request(
                    number, _tensor(request.ids), _config(request.sampling, tokenizer)
                )
                active[number] = request, handle, TextStream(tokenizer.full)
            for number, (request, handle, _) in list(active.items()):
                if request.cancelled.is_set():
                    handle.cancel()
                    del active[number]
            if not pipeline.has_non_finished_requests():
                continue
            pipeline.step()
            for number, (request, handle, text) in list(active.items()):
                if _hand_out(request, handle, text, tokenizer):
                    del active[number]


def _abandon(pipeline: openvino_genai.ContinuousBatchingPipeline, handles: list[Any]) -> None:
    """Takes open requests out of the scheduler, which complains of what is left in it."""
    for handle in handles:
        handle.cancel()
    while pipeline.has_non_finished_requests():
        pipeline.step()


def _arrivals(inbox: queue.SimpleQueue[Request | None], wait: bool) -> Iterator[Request | None]:
    """What has come in; with `wait`, not before something has."""
    if wait:
        yield inbox.get()
    while True:
        try:
            yield inbox.get_nowait()
        except queue.Empty:
            return


def _hand_out(request: Request, handle: Any, text: TextStream, tokenizer: ChatTokenizer) -> bool:
    """Passes on a request's new tokens; true when it is over."""
    genai = _library()
    ended = bool(handle.get_status() != genai.GenerationStatus.RUNNING)
    while handle.can_read():
        for output in handle.read().values():
            ids = list(output.generated_ids)
            stops = (tokenizer.im_end, tokenizer.end_of_text)
            finish = None
            if output.finish_reason == genai.GenerationFinishReason.LENGTH:
                finish = Finish.LENGTH
            elif output.finish_reason == genai.GenerationFinishReason.STOP:
                finish = Finish.STOP
            piece = text.push([i for i in ids if i not in stops])
            request.emit(Delta(piece, len(ids), finish))
            if finish:
                return True
    if ended:
        # The scheduler gives up on a request whose cache cannot be had.
        request.emit(EngineError("the engine dropped the request: its KV cache is full"))
    return ended


def _tensor(ids: Sequence[int]) -> Any:
    import openvino

    return openvino.Tensor(np.asarray([ids], dtype=np.int64))


def _config(sampling: Sampling, tokenizer: ChatTokenizer) -> openvino_genai.GenerationConfig:
    config = _library().GenerationConfig()
    config.max_new_tokens = sampling.max_new_tokens
    config.set_eos_token_id(tokenizer.im_end)
    config.stop_token_ids = {tokenizer.im_end, tokenizer.end_of_text}
    config.repetition_penalty = sampling.repetition_penalty
    config.presence_penalty = sampling.presence_penalty
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        # The library draws every request from this seed: left alone, a second try says the same.
        config.rng_seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
    return config


def _library() -> Any:
    try:
        import openvino_genai
    except ImportError as error:
        raise without_engine("openvino-genai", "chat") from error
    return openvino_genai
