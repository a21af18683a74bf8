"""The process that owns OpenVINO's pipeline: `python -m persona.engines.openvino_worker FD`.

The library holds Python's lock for a whole step, a fifth of a second when many chats are read in.
In the bot's own process that would halt its event loop, so that store and platforms would get
their turn between two steps only. It ends by itself when the bot's end of the connection closes.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from persona.engines.base import Finish, Sampling

TOKENS_PER_BLOCK = 32
"""The size of a KV-cache block on CPU."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The first message: what to load. Answered with None, or with the reason why not."""

    folder: str
    cache_tokens: int
    max_chats: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Asks for one step of the batch, after requests were taken in and others cancelled.

    Answered with Stepped, or with the reason why the pipeline is broken.
    """

    arrivals: list[tuple[int, list[int], Sampling]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Output:
    """What a step made for one request. `ended` is also set where the scheduler gave it up."""

    pieces: list[tuple[list[int], Finish | None]]
    ended: bool


@dataclass(frozen=True, slots=True)
class Stepped:
    """The answer to a Step. `busy` is whether the scheduler still holds anything."""

    outputs: dict[int, Output]
    busy: bool
    cache_bytes: float
    cache_used_percent: float


def serve(connection: Connection) -> None:
    """Loads, then steps as it is asked to, until the connection closes."""
    import openvino_genai as genai

    opening: Opening = connection.recv()
    try:
        pipeline = _open(genai, opening)
    except RuntimeError as error:
        connection.send(str(error))
        return
    connection.send(None)
    handles: dict[int, Any] = {}
    while True:
        try:
            step: Step = connection.recv()
        except EOFError:
            break
        try:
            for number, ids, sampling in step.arrivals:
                handles[number] = pipeline.add_request(
                    number, _tensor(ids), _config(genai, sampling, opening.stop_ids)
                )
            for number in step.cancelled:
                if number in handles:
                    handles.pop(number).cancel()
            if pipeline.has_non_finished_requests():
                pipeline.step()
        except RuntimeError as error:
            connection.send(str(error))
            return
        outputs = {number: _output(genai, handle) for number, handle in handles.items()}
        handles = {n: handle for n, handle in handles.items() if not outputs[n].ended}
        metrics = pipeline.get_metrics()
        busy = pipeline.has_non_finished_requests()
        cache = float(metrics.kv_cache_size_in_bytes), float(metrics.cache_usage)
        try:
            connection.send(Stepped(outputs, busy, *cache))
        except BrokenPipeError:
            break
    # The library complains of requests that are left in its scheduler.
    for handle in handles.values():
        handle.cancel()
    while pipeline.has_non_finished_requests():
        pipeline.step()


def _open(genai: Any, opening: Opening) -> Any:
    config = genai.SchedulerConfig()
    config.num_kv_blocks = -(-opening.cache_tokens // TOKENS_PER_BLOCK)
    config.max_num_seqs = opening.max_chats
    # Prompts are cut into pieces of this size, so that a long one halts nobody's stream.
    config.max_num_batched_tokens = 256
    config.dynamic_split_fuse = True
    config.enable_prefix_caching = True
    return genai.ContinuousBatchingPipeline(opening.folder, config, "CPU")


def _output(genai: Any, handle: Any) -> Output:
    ended = bool(handle.get_status() != genai.GenerationStatus.RUNNING)
    finishes = {
        genai.GenerationFinishReason.LENGTH: Finish.LENGTH,
        genai.GenerationFinishReason.STOP: Finish.STOP,
    }
    pieces: list[tuple[list[int], Finish | None]] = []
    while handle.can_read():
        for made in handle.read().values():
            pieces.append((list(made.generated_ids), finishes.get(made.finish_reason)))  # noqa: PERF401
    return Output(pieces, ended or any(finish for _, finish in pieces))


def _tensor(ids: Sequence[int]) -> Any:
    import openvino

    return openvino.Tensor(np.asarray([ids], dtype=np.int64))


def _config(genai: Any, sampling: Sampling, stop_ids: tuple[int, ...]) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens = sampling.max_new_tokens
    config.set_eos_token_id(stop_ids[0])
    config.stop_token_ids = set(stop_ids)
    config.repetition_penalty = sampling.repetition_penalty
    config.presence_penalty = sampling.presence_penalty
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        # The library draws every request from this seed: left alone, a second try says the same.
        config.rng_seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
    return config


if __name__ == "__main__":
    # As the module that the bot knows, so that both ends name the messages' classes alike.
    from persona.engines import openvino_worker

    openvino_worker.serve(Connection(int(sys.argv[1])))
