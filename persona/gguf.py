"""Writing a checkpoint, an adapter merged into it, as a Q8_0 GGUF or as bf16 safetensors.

The CPU engine loads the first, the trainer and the transformers engine the second. Tensors go
through one by one, so that a conversion needs about one tensor's memory, never a model's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from persona.checkpoint import (
    Checkpoint,
    CheckpointError,
    Float,
    GGUFCheckpoint,
    SafetensorsFile,
    to_gguf_name,
)

Progress = Callable[[float], None]
"""Told the share done, from 0 to 1."""

_SERVED = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
_Q8_BLOCK, _Q8_BLOCK_BYTES = 32, 34


class Adapter:
    """A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors.

    Raises CheckpointError for what cannot be merged exactly.
    """

    def __init__(self, folder: Path) -> None:
        weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
        if not weights.is_file() or not config.is_file():
            raise CheckpointError(f"{folder} lacks {weights.name} or {config.name}")
        try:
            self.config: dict[str, Any] = json.loads(config.read_text("utf-8"))
            self._scale = float(self.config["lora_alpha"]) / float(self.config["r"])
        except ValueError as error:
            raise CheckpointError(f"{config} is not JSON: {error}") from error
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(f"{config} states no usable r and lora_alpha") from error
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save"):
            if self.config.get(key):
                raise CheckpointError(f"{config}: {key} is set; only plain LoRA can be merged")
        file = SafetensorsFile(weights)
        self._pairs: dict[str, tuple[Float, Float]] = {}
        for name in file.names():
            if name.endswith(".lora_B.weight"):
                if name.replace(".lora_B.", ".lora_A.") not in file.names():
                    raise CheckpointError(f"{weights}: {name!r} has no lora_A beside it")
                continue
            if not name.endswith(".lora_A.weight"):
                raise CheckpointError(f"{weights}: {name!r} is no LoRA weight")
            stem = name.removesuffix(".lora_A.weight")
            target = stem.removeprefix("base_model.model.") + ".weight"
            try:
                self._pairs[target] = file.tensor(name), file.tensor(f"{stem}.lora_B.weight")
            except KeyError as error:
                raise CheckpointError(f"{weights}: {name!r} has no lora_B beside it") from error
            if not all(np.isfinite(m).all() for m in self._pairs[target]):
                raise CheckpointError(f"{weights}: {stem!r} holds numbers that are not finite")

    def check(self, base: Checkpoint) -> None:
        """Raises CheckpointError unless every pair fits a tensor of the base."""
        names = set(base.names())
        for target, (a, b) in self._pairs.items():
            if target not in names:
                raise CheckpointError(f"the adapter changes {target!r}, which the base lacks")
            if (b.shape[0], a.shape[1]) != base.shape(target) or a.shape[0] != b.shape[1]:
                raise CheckpointError(
                    f"the adapter's {target!r} is {b.shape[0]}×{a.shape[1]}, "
                    f"the base's {'×'.join(map(str, base.shape(target)))}: it is for another base"
                )

    def merged(self, name: str, blocks: Iterator[Float]) -> Iterator[Float]:
        """The blocks of a base tensor with this adapter's change added."""
        pair = self._pairs.get(name)
        row = 0
        for block in blocks:
            if pair is None:
                yield block
                continue
            a, b = pair
            yield block + self._scale * (b[row : row + len(block)] @ a)
            row += len(block)


def _blocks(base: Checkpoint, adapter: Adapter | None, name: str) -> Iterator[Float]:
    blocks = base.blocks(name)
    return adapter.merged(name, blocks) if adapter else blocks


def write_gguf(
    base: Checkpoint,
    tokenizer: Tokenizer,
    path: Path,
    adapter: Adapter | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Writes a GGUF whose matrices are Q8_0 and whose vectors are float32.

    Raises CheckpointError where the architecture has no such form, OSError from the disk.
    """
    from gguf import GGMLQuantizationType as Kind
    from gguf import GGUFWriter
    from gguf.quants import quantize

    if adapter:
        adapter.check(base)
    writer = GGUFWriter(path, _architecture(base))
    _write_metadata(writer, base.config, tokenizer)
    names = _written(base)
    for name in names:
        shape = base.shape(name)
        if len(shape) == 1:
            writer.add_tensor_info(
                to_gguf_name(name), shape, np.dtype(np.float32), _gguf_bytes(name, shape)
            )
            continue
        row_bytes = shape[-1] // _Q8_BLOCK * _Q8_BLOCK_BYTES
        writer.add_tensor_info(
            to_gguf_name(name),
            (*shape[:-1], row_bytes),
            np.dtype(np.uint8),
            _gguf_bytes(name, shape),
            raw_dtype=Kind.Q8_0,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(math.prod(base.shape(name)) for name in names)
    done = 0
    for name in names:
        blocks = _blocks(base, adapter, name)
        if len(base.shape(name)) > 1:
            writer.write_tensor_data(np.concatenate([quantize(b, Kind.Q8_0) for b in blocks]))
        else:
            writer.write_tensor_data(np.concatenate(list(blocks)))
        done += math.prod(base.shape(name))
        progress(done / total)
    writer.close()


def gguf_size(base: Checkpoint) -> int:
    """Bytes of the weights that `write_gguf` would write. Raises CheckpointError as it does."""
    _architecture(base)
    return sum(_gguf_bytes(name, base.shape(name)) for name in _written(base))


def safetensors_size(base: Checkpoint) -> int:
    """Bytes of the weights that `write_safetensors` would write."""
    return sum(math.prod(base.shape(name)) * 2 for name in _written(base))


def _architecture(base: Checkpoint) -> str:
    named = base.config.get("architectures") or ["?"]
    if named[0] not in _SERVED:
        raise CheckpointError(
            f"a {base.config.get('model_type')} model cannot be served as GGUF here "
            '(Qwen2, Qwen2.5 and Qwen3 can); set [model] engine = "transformers"'
        )
    return _SERVED[named[0]]


def _written(base: Checkpoint) -> list[str]:
    tied = base.config.get("tie_word_embeddings")
    return [name for name in base.names() if not (tied and name == "lm_head.weight")]


def _gguf_bytes(name: str, shape: tuple[int, ...]) -> int:
    if len(shape) == 1:
        return shape[0] * 4
    if shape[-1] % _Q8_BLOCK:
        raise CheckpointError(f"{name!r} has rows of {shape[-1]}, no multiple of {_Q8_BLOCK}")
    return math.prod(shape) // _Q8_BLOCK * _Q8_BLOCK_BYTES


def _write_metadata(writer: Any, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    from gguf import TokenType

    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_file_type(7)  # "mostly Q8_0" in GGUF's own numbering
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    by_id = {i: token for token, i in vocabulary.items()}
    added = tokenizer.get_added_tokens_decoder()
    tokens, kinds = [], []
    for i in range(config["vocab_size"]):
        tokens.append(by_id.get(i, f"[PAD{i}]"))
        if i in added:
            kinds.append(TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED)
        else:
            kinds.append(TokenType.NORMAL if i in by_id else TokenType.UNUSED)
    merges = json.loads(tokenizer.to_str())["model"].get("merges")
    if merges is None:
        raise CheckpointError("a GGUF is written with a byte-pair tokenizer only")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    end = tokenizer.token_to_id("<|im_end|>")
    pad = tokenizer.token_to_id("<|endoftext|>")
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(pad if pad is not None else end)
    writer.add_pad_token_id(pad if pad is not None else end)
    writer.add_add_bos_token(False)


def write_safetensors(
    base: GGUFCheckpoint,
    tokenizer: Tokenizer,
    folder: Path,
    progress: Progress = lambda _: None,
) -> None:
    """Writes a folder that `from_pretrained` loads: bf16 weights, config and tokenizer."""
    names = _written(base)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        size = math.prod(base.shape(name)) * 2
        header[name] = {
            "dtype": "BF16",
            "shape": list(base.shape(name)),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            for block in base.blocks(name):
                file.write(_to_bfloat16(block).tobytes())
            progress(header[name]["data_offsets"][1] / offset)
    (folder / "config.json").write_text(json.dumps(base.config, indent=2), "utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    if "tokenizer.chat_template" in base.reader.fields:  # not every publisher writes one
        described["chat_template"] = base.field("tokenizer.chat_template")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(described, ensure_ascii=False, indent=2), "utf-8"
    )


def _to_bfloat16(block: Float) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Round to nearest even, as torch does."""
    bits = np.ascontiguousarray(block).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
