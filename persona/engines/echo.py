"""An engine without a model: it repeats what it was told, or says what a test queued.

It answers through the same protocol, prompt and tokenizer path as the real ones, needs no download
and is what tests, demonstrations and a first look at the bot run on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from persona.engines.base import Delta, EngineError, EngineStats, Finish, Sampling, TextStream
from persona.tokenizer import ChatTokenizer


def byte_tokenizer() -> ChatTokenizer:
    """A ChatML tokenizer of 256 byte tokens and the markers; made in no time, from nothing."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=special, normalized=False)
            for token, special in (
                ("<|endoftext|>", True),
                ("<|im_start|>", True),
                ("<|im_end|>", True),
                ("<tool_call>", False),
                ("</tool_call>", False),
            )
        ]
    )
    return ChatTokenizer.of(tokenizer)


class EchoEngine:
    """Says the queued replies in order; with none queued, the last user message.

    `delay` is seconds between tokens. A queued exception is raised in its place; a queued
    (text, exception) speaks the text first.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer | None = None,
        replies: Iterable[str | Exception | tuple[str, Exception]] = (),
        delay: float = 0.0,
    ) -> None:
        self.tokenizer = tokenizer or byte_tokenizer()
        self.replies = deque(replies)
        self.delay = delay
        self.prompts: list[str] = []
        self.running = 0
        self.cancelled = 0
        self.adapter: Path | None = None

    async def load(self, base: Path, adapter: Path | None = None) -> None:
        self.adapter = adapter

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        prompt = self.tokenizer.decode(list(token_ids))
        self.prompts.append(prompt)
        reply = self.replies.popleft() if self.replies else _last_message(prompt)
        text, error = _spoken(reply)
        self.running += 1
        finished = False
        try:
            stream = TextStream(self.tokenizer.full)
            ids = self.tokenizer.encode(text)
            for token in ids[: sampling.max_new_tokens]:
                await asyncio.sleep(self.delay)
                yield Delta(stream.push([token]))
            if error:
                raise error if isinstance(error, EngineError) else EngineError(str(error))
            finished = True
            limit = len(ids) > sampling.max_new_tokens
            yield Delta("", 0, Finish.LENGTH if limit else Finish.STOP)
        finally:
            self.running -= 1
            self.cancelled += not finished and error is None

    def stats(self) -> EngineStats:
        return EngineStats("echo", "none", self.running)

    async def close(self) -> None:
        return None


def _spoken(reply: str | Exception | tuple[str, Exception]) -> tuple[str, Exception | None]:
    if isinstance(reply, tuple):
        return reply
    return ("", reply) if isinstance(reply, Exception) else (reply, None)


def _last_message(prompt: str) -> str:
    return prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
