"""Reading a model's weights, from GGUF or safetensors, a block of rows at a time.

Both readers name tensors as Hugging Face does and give float32, whatever the file holds, so that
what merges, converts or checks weights needs to know neither format. Memory stays at one block
of rows: the embedding of a 0.5B model alone is 544 MB in float32.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
ROWS_PER_BLOCK = 8192

# A decoder block's tensors, Hugging Face name -> GGUF name. Qwen2 has the biases, Qwen3 the norms
# of q and k; neither permutes its rotary dimensions, so rows go over as they are.
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class CheckpointError(Exception):
    """A weights file that cannot be used; the message says which file and why."""


class Checkpoint(Protocol):
    """A model's weights and shape.

    `config` holds the fields of a Hugging Face config.json. `blocks` yields float32 arrays that,
    joined along the first axis, are the tensor.
    """

    config: dict[str, Any]

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def blocks(self, name: str) -> Iterator[Float]: ...


def to_gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor. Raises CheckpointError where there is none."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{kind}"
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    if layer and layer[2] in _LAYER_NAMES:
        return f"blk.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{kind}"
    raise CheckpointError(f"no GGUF name is known for the tensor {name!r}")


def to_hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor. Raises CheckpointError where there is none."""
    stem, _, kind = name.rpartition(".")
    for hf, gguf_name in _TOP_NAMES.items():
        if stem == gguf_name:
            return f"{hf}.{kind}"
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
    if layer:
        for hf, gguf_name in _LAYER_NAMES.items():
            if layer[2] == gguf_name:
                return f"model.layers.{layer[1]}.{hf}.{kind}"
    raise CheckpointError(f"the tensor {name!r} belongs to no architecture known here")


def dequantize_rows(tensor: Any, start: int, end: int) -> Float:
    """Rows `start` to `end` of a gguf.ReaderTensor, as float32."""
    from gguf.quants import dequantize

    rows = dequantize(tensor.data[start:end], tensor.tensor_type)
    return np.asarray(rows, dtype=np.float32)


class GGUFCheckpoint:
    """Weights in a GGUF file of the Qwen2 or Qwen3 architecture."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            self.reader = GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is not a readable GGUF file: {error}") from error
        self._tensors = {to_hf_name(t.name): t for t in self.reader.tensors}
        self.tied = self._tie_head()
        self.config = self._config()

    def _tie_head(self) -> bool:
        """Whether input and output embeddings are one; if so the finer copy serves as both.

        Quantizers write a tied model's embedding twice, the copy named `output` with more bits.
        """
        head = self._tensors.get("lm_head.weight")
        if head is None:
            return True
        embedding = self._tensors["model.embed_tokens.weight"]
        a, b = (dequantize_rows(t, 0, 256) for t in (embedding, head))
        if a.shape != b.shape or np.linalg.norm(a - b) > 0.2 * np.linalg.norm(b):
            return False
        self._tensors["model.embed_tokens.weight"] = self._tensors.pop("lm_head.weight")
        return True

    def field(self, key: str) -> Any:
        """The value of a metadata key. Raises CheckpointError where the file has none."""
        if key not in self.reader.fields:
            raise CheckpointError(f"{self.path} lacks the metadata key {key!r}")
        return self.reader.fields[key].contents()

    def _config(self) -> dict[str, Any]:
        arch = self.field("general.architecture")
        if arch not in ("qwen2", "qwen3"):
            raise CheckpointError(
                f"{self.path} holds the architecture {arch!r}; GGUF is read for qwen2 and qwen3"
            )
        heads = int(self.field(f"{arch}.attention.head_count"))
        width = int(self.field(f"{arch}.embedding_length"))
        head_key = f"{arch}.attention.key_length"
        head = int(self.field(head_key)) if head_key in self.reader.fields else width // heads
        return {
            "architectures": ["Qwen2ForCausalLM" if arch == "qwen2" else "Qwen3ForCausalLM"],
            "model_type": arch,
            "hidden_size": width,
            "intermediate_size": int(self.field(f"{arch}.feed_forward_length")),
            "num_hidden_layers": int(self.field(f"{arch}.block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(self.field(f"{arch}.attention.head_count_kv")),
            "head_dim": head,
            "rms_norm_eps": round(float(self.field(f"{arch}.attention.layer_norm_rms_epsilon")), 9),
            "rope_theta": float(self.field(f"{arch}.rope.freq_base")),
            "max_position_embeddings": int(self.field(f"{arch}.context_length")),
            "vocab_size": self.shape("model.embed_tokens.weight")[0],
            "tie_word_embeddings": self.tied,
            "bos_token_id": int(self.field("tokenizer.ggml.bos_token_id")),
            "eos_token_id": int(self.field("tokenizer.ggml.eos_token_id")),
            "pad_token_id": int(self.field("tokenizer.ggml.padding_token_id")),
            "hidden_act": "silu",
            "dtype": "bfloat16",
        }

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        # GGUF states the fastest dimension first.
        return tuple(int(n) for n in reversed(self._tensors[name].shape))

    def blocks(self, name: str) -> Iterator[Float]:
        tensor = self._tensors[name]
        for start in range(0, len(tensor.data), ROWS_PER_BLOCK):
            yield dequantize_rows(tensor, start, start + ROWS_PER_BLOCK)


class SafetensorsFile:
    """One safetensors file: a length, a JSON header, then the raw tensors.

    Source of the layout: https://github.com/huggingface/safetensors. Read here rather than with
    its library, whose numpy side knows no bfloat16.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                size = path.stat().st_size
                if not 0 < length <= min(size - 8, 100_000_000):
                    raise ValueError("its header is longer than the file")
                header = json.loads(file.read(length))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
        if not isinstance(header, dict):
            raise CheckpointError(
                f"{path} is not a readable safetensors file: its header is no object"
            )
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._header: dict[str, Any] = header
        self._start = 8 + length
        for name, entry in header.items():
            try:
                begin, end = entry["data_offsets"]
                count = math.prod(entry["shape"])
                dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
                fits = dtype is None or 0 <= begin == end - count * np.dtype(dtype).itemsize
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{path}: tensor {name!r} is not described: {error}"
                ) from error
            if dtype is None:
                raise CheckpointError(f"{path}: tensor {name!r} has the type {entry['dtype']}")
            if not fits:
                raise CheckpointError(f"{path}: tensor {name!r} has another size than its shape")
            if self._start + end > size:
                raise CheckpointError(f"{path} is cut short: tensor {name!r} ends after the file")

    def names(self) -> list[str]:
        return list(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def blocks(self, name: str) -> Iterator[Float]:
        entry = self._header[name]
        dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        count = (end - begin) // dtype.itemsize
        flat = np.frombuffer(self._map, dtype=dtype, count=count, offset=self._start + begin)
        array = flat.reshape(entry["shape"])
        for start in range(0, len(array), ROWS_PER_BLOCK):
            rows = array[start : start + ROWS_PER_BLOCK]
            if entry["dtype"] == "BF16":
                yield (rows.astype(np.uint32) << 16).view(np.float32)
            else:
                yield rows.astype(np.float32)

    def tensor(self, name: str) -> Float:
        """The whole tensor as float32; for small ones, such as an adapter's."""
        return np.concatenate(list(self.blocks(name)))


class SafetensorsCheckpoint:
    """Weights in a folder as the hubs publish them: config.json and *.safetensors."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.config, wanted = read_folder(folder)
        files = sorted(folder.glob("*.safetensors"))
        self._files: dict[str, SafetensorsFile] = {}
        for path in files:
            file = SafetensorsFile(path)
            self._files.update(dict.fromkeys(file.names(), file))
        missing = sorted(wanted - set(self._files))
        if missing:
            raise CheckpointError(f"{folder} lacks {len(missing)} tensors, {missing[0]!r} first")

    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].shape(name)

    def blocks(self, name: str) -> Iterator[Float]:
        return self._files[name].blocks(name)


def read_folder(folder: Path) -> tuple[dict[str, Any], set[str]]:
    """The config of a published folder, and the tensors that its index names, none without one.

    Raises CheckpointError where either is malformed, or there are no weights.
    """
    config = folder / "config.json"
    try:
        if not config.is_file() or not any(folder.glob("*.safetensors")):
            raise CheckpointError(f"{folder} lacks config.json or a *.safetensors file")
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}") from error
    index = folder / "model.safetensors.index.json"
    weight_map = read_object(index).get("weight_map") if index.is_file() else {}
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    return read_object(config), set(weight_map)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises CheckpointError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found


def open_checkpoint(path: Path) -> GGUFCheckpoint | SafetensorsCheckpoint:
    """Opens a GGUF file or a folder of safetensors. Raises CheckpointError."""
    return SafetensorsCheckpoint(path) if path.is_dir() else GGUFCheckpoint(path)
