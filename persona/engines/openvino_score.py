"""How likely the CPU engine's own weights find given text: what an adapter is judged by.

A request that echoes its prompt with the probability of each token gives that. A cached beginning
would not be computed and so not be told, which is why serving, with its prefix cache, cannot do it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persona.child import ChildError, Report, in_child
from persona.engines.base import EngineError

_AT_ONCE = 16


def score(
    folder: Path, sequences: Sequence[tuple[Sequence[int], int]], report: Report
) -> list[list[float]]:
    """For each (ids, first): log p, in nats, of each of ids[first:] after those before it.

    `folder` is what the engine loads; `first` is at least 1. Raises EngineError, CheckpointError.
    """
    if not sequences:
        return []
    with tempfile.TemporaryDirectory() as temporary:
        asked, told = Path(temporary) / "asked.json", Path(temporary) / "told.json"
        asked.write_text(json.dumps([[list(ids), first] for ids, first in sequences]), "utf-8")
        try:
            in_child(report, _score, folder, asked, told)
        except ChildError as error:
            raise EngineError(f"OpenVINO cannot score with {folder}: {error}") from error
        scores: list[list[float]] = json.loads(told.read_text("utf-8"))
    return scores


def _score(report: Report, folder: Path, asked: Path, told: Path) -> None:
    import openvino_genai as genai

    sequences = json.loads(asked.read_text("utf-8"))
    longest = max(len(ids) for ids, _ in sequences)
    config = genai.SchedulerConfig()
    config.num_kv_blocks = 2 + _AT_ONCE * -(-(longest + 1) // 32)
    config.max_num_batched_tokens = 256
    config.dynamic_split_fuse = True
    config.enable_prefix_caching = False
    try:
        pipeline = genai.ContinuousBatchingPipeline(str(folder), config, "CPU")
        scores: list[list[float]] = []
        for start in range(0, len(sequences), _AT_ONCE):
            scores += _batch(genai, pipeline, sequences[start : start + _AT_ONCE])
            report("score", len(scores) / len(sequences))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"OpenVINO cannot score with {folder}: {reason}") from error
    told.write_text(json.dumps(scores), "utf-8")


def _batch(genai: Any, pipeline: Any, sequences: list[tuple[list[int], int]]) -> list[list[float]]:
    import numpy as np
    import openvino

    config = genai.GenerationConfig()
    config.max_new_tokens = 1
    config.echo = True
    config.logprobs = 1
    # Nothing ends a reply of one token, yet the library wants it said; not every graph says it.
    config.set_eos_token_id(0)
    config.stop_token_ids = {0}
    handles = [
        pipeline.add_request(number, openvino.Tensor(np.asarray([ids], dtype=np.int64)), config)
        for number, (ids, _) in enumerate(sequences)
    ]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    scores = []
    for handle, (ids, first) in zip(handles, sequences, strict=True):
        (output,) = handle.read_all()
        told = output.generated_log_probs
        if list(output.generated_ids[: len(ids)]) != list(ids):
            raise EngineError("OpenVINO did not echo what it was asked to score")
        scores.append([float(p) for p in told[first : len(ids)]])
    return scores
