"""The engine for CUDA and MPS, and for any base: transformers' continuous batching, with PEFT.

Facts met on the way: its batching knows temperature, top_k and top_p per request, and drops the
repetition and presence penalties; the library's own thread owns the model.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.engines.base import (
    Delta,
    EngineError,
    EngineStats,
    Finish,
    Sampling,
    TextStream,
    without_engine,
)
from persona.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.continuous_api import (
        ContinuousBatchingManager,
    )

_PAGE = 32
_ALL = 100_000


class TransformersEngine:
    """Serves a folder that `from_pretrained` loads, a PEFT adapter merged into it when given."""

    def __init__(self, device: str, cache_tokens: int, max_chats: int) -> None:
        self._wanted = device
        self._device = device
        self._cache_tokens = cache_tokens
        self._max_chats = max_chats
        self._manager: ContinuousBatchingManager | None = None
        self.tokenizer: ChatTokenizer | None = None
        self._numbers = itertools.count()
        self._running = 0

    async def load(self, base: Path, adapter: Path | None = None) -> None:
        self.tokenizer = ChatTokenizer.load(base / "tokenizer.json")
        self._manager = await asyncio.to_thread(self._open, base, adapter)

    def _open(self, base: Path, adapter: Path | None) -> ContinuousBatchingManager:
        try:
            import torch
            from transformers import AutoModelForCausalLM, GenerationConfig
            from transformers.generation.configuration_utils import ContinuousBatchingConfig
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise without_engine("transformers", "test") from error
        assert self.tokenizer is not None
        self._device = _device(torch, self._wanted)
        disable_progress_bar()
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                base,
                dtype=torch.bfloat16,
                attn_implementation="sdpa",
                local_files_only=True,
                use_safetensors=True,
            )
            if adapter is not None:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, adapter, local_files_only=True)
                model = model.merge_and_unload()
            model = model.to(self._device).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"transformers cannot load {base}: {error}") from error
        manager = model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=True,
                # Other values than the neutral ones, or the library leaves the processor out.
                temperature=0.7,
                top_p=0.9,
                top_k=_ALL,
                eos_token_id=[self.tokenizer.im_end, self.tokenizer.end_of_text],
                pad_token_id=self.tokenizer.end_of_text,
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE,
                num_blocks=-(-self._cache_tokens // _PAGE) + 1,
                max_batch_tokens=max(256, self._max_chats),
                max_requests_per_batch=self._max_chats,
                per_request_processors=True,
            ),
        )
        manager.start()
        return manager

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        manager, tokenizer = self._manager, self.tokenizer
        if manager is None or tokenizer is None:
            raise EngineError("the engine is not loaded")
        if not manager.is_running():
            raise EngineError("transformers' batching thread has ended")
        number = f"daiyu-{next(self._numbers)}"
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        manager.register_result_handler(number, outputs.put_nowait)
        greedy = sampling.temperature <= 0
        self._running += 1
        finished = False
        try:
            manager.add_request(
                list(token_ids),
                request_id=number,
                max_new_tokens=sampling.max_new_tokens,
                streaming=True,
                temperature=1.0 if greedy else sampling.temperature,
                top_p=1.0 if greedy else sampling.top_p,
                # One candidate left is the greedy choice.
                top_k=1 if greedy else _ALL,
            )
            text, seen = TextStream(tokenizer.full), 0
            while not finished:
                output = await _next(outputs, manager)
                if output.error:
                    finished = True
                    raise EngineError(f"transformers failed: {output.error}")
                new = list(output.generated_tokens[seen:])
                seen += len(new)
                finished = output.is_finished()
                stopped = bool(new) and new[-1] in (tokenizer.im_end, tokenizer.end_of_text)
                ending = (Finish.STOP if stopped else Finish.LENGTH) if finished else None
                yield Delta(text.push(new[:-1] if stopped else new), len(new), ending)
        finally:
            self._running -= 1
            if not finished:
                manager.cancel_request(number)

    def stats(self) -> EngineStats:
        return EngineStats("transformers", self._device, self._running)

    async def close(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            # A hard stop: open requests fail at once, as with every engine, and are not waited for.
            await asyncio.to_thread(manager.stop, timeout=30.0, hard_stop=True)


async def _next(outputs: asyncio.Queue[Any], manager: ContinuousBatchingManager) -> Any:
    """The next output. A thread that ends just as a request comes in never answers it."""
    while True:
        try:
            async with asyncio.timeout(1.0):
                return await outputs.get()
        except TimeoutError:
            if outputs.empty() and not manager.is_running():
                raise EngineError("transformers' batching thread has ended") from None


def _device(torch: Any, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
