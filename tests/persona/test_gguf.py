"""GGUF and safetensors: what is read, written and merged is what the libraries have."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persona.checkpoint import (
    CheckpointError,
    Float,
    GGUFCheckpoint,
    SafetensorsCheckpoint,
    SafetensorsFile,
    open_checkpoint,
    to_gguf_name,
    to_hf_name,
)
from persona.gguf import Adapter, write_gguf, write_safetensors
from persona.tokenizer import ChatTokenizer, tokenizer_from_gguf

QUANTIZED = 0.0046
"""Q8_0 rounds to 1/127 of its block's largest number and keeps that step as float16."""


class Held:
    """A checkpoint in memory."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Float]) -> None:
        self.config = config
        self.tensors = tensors

    @classmethod
    def copy(cls, base: SafetensorsCheckpoint) -> Held:
        return cls(dict(base.config), {name: whole(base, name) for name in base.names()})

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def blocks(self, name: str) -> Iterator[Float]:
        yield self.tensors[name]


def whole(base: Any, name: str) -> Float:
    return np.concatenate(list(base.blocks(name)))


def assert_quantized(found: Float, expected: Float) -> None:
    """`found` is `expected` within what Q8_0 can hold, block by block."""
    assert found.shape == expected.shape
    largest = np.abs(expected.reshape(-1, 32)).max(axis=1, keepdims=True)
    wrong = np.abs(found - expected).reshape(-1, 32)
    assert (wrong <= QUANTIZED * largest + 1e-7).all()


def write_header(path: Path, header: object, body: bytes = b"") -> Path:
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    return path


def altered(adapter: Path, goal: Path, change: Any) -> Path:
    """A copy of an adapter whose tensors went through `change`, a function on their dict."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, goal)
    tensors = load_file(goal / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, goal / "adapter_model.safetensors")
    return goal


def test_a_gguf_gives_back_what_was_written(qwen: Path, gguf: Path) -> None:
    before, after = open_checkpoint(qwen), open_checkpoint(gguf)

    assert isinstance(after, GGUFCheckpoint)
    assert sorted(after.names()) == sorted(before.names())
    for name in before.names():
        if len(before.shape(name)) == 1:
            np.testing.assert_array_equal(whole(after, name), whole(before, name))
        else:
            assert_quantized(whole(after, name), whole(before, name))


def test_a_gguf_tells_the_shape_of_its_model(qwen: Path, gguf: Path) -> None:
    told, true = GGUFCheckpoint(gguf).config, SafetensorsCheckpoint(qwen).config
    same = (
        "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings",
        "vocab_size", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
        "hidden_act",
    )  # fmt: skip
    assert {key: told[key] for key in same} == {key: true[key] for key in same}
    assert told["rope_theta"] == true["rope_parameters"]["rope_theta"]


def test_progress_ends_at_the_whole(qwen: Path, bpe: ChatTokenizer, tmp_path: Path) -> None:
    told: list[float] = []
    write_gguf(SafetensorsCheckpoint(qwen), bpe.full, tmp_path / "m.gguf", None, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_safetensors_hold_the_dequantized_numbers_rounded_as_torch_rounds(
    gguf: Path, bpe: ChatTokenizer, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    base = GGUFCheckpoint(gguf)
    write_safetensors(base, tokenizer_from_gguf(base), tmp_path)
    written: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)

    direct = Qwen2ForCausalLM(Qwen2Config(**base.config)).float().eval()
    state = {
        name: torch.from_numpy(whole(base, name)).to(torch.bfloat16).float()
        for name in base.names()
    }
    direct.load_state_dict(state, strict=False)
    ids = torch.tensor([bpe.encode("窗前的竹子可要修剪？")])
    with torch.no_grad():
        torch.testing.assert_close(written(ids).logits, direct(ids).logits, rtol=0, atol=1e-5)
    own = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("窗前的竹子", "<|im_start|>user\nhello<|im_end|>\n<tool_call>"):
        assert own(text, add_special_tokens=False)["input_ids"] == bpe.full.encode(text).ids


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft's, of transformers
def test_an_adapter_is_merged_as_peft_merges_it(
    qwen: Path, adapter: Path, bpe: ChatTokenizer, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    expected = {name: weight.numpy() for name, weight in model.state_dict().items()}
    base, lora = SafetensorsCheckpoint(qwen), Adapter(adapter)
    write_gguf(base, bpe.full, tmp_path / "merged.gguf", lora)
    quantized = GGUFCheckpoint(tmp_path / "merged.gguf")

    changed = 0
    for name in base.names():
        merged = np.concatenate(list(lora.merged(name, base.blocks(name))))
        np.testing.assert_allclose(merged, expected[name], rtol=1e-5, atol=1e-6)
        changed += not np.array_equal(merged, whole(base, name))
        if merged.ndim > 1:
            assert_quantized(whole(quantized, name), merged)
    assert changed == 14


def test_merging_in_blocks_is_merging_at_once(
    qwen: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora = SafetensorsCheckpoint(qwen), Adapter(adapter)
    name = "model.layers.1.mlp.gate_proj.weight"
    at_once = np.concatenate(list(lora.merged(name, base.blocks(name))))
    monkeypatch.setattr("persona.checkpoint.ROWS_PER_BLOCK", 7)
    blocks = list(lora.merged(name, base.blocks(name)))
    assert len(blocks) > 10
    np.testing.assert_allclose(np.concatenate(blocks), at_once, rtol=1e-6)


def test_of_two_embeddings_that_are_one_the_finer_serves_as_both(
    qwen: Path, bpe: ChatTokenizer, tmp_path: Path
) -> None:
    held = Held.copy(SafetensorsCheckpoint(qwen))
    fine = held.tensors["model.embed_tokens.weight"]
    held.config["tie_word_embeddings"] = False
    held.tensors["lm_head.weight"] = fine
    noise = np.random.default_rng(0).standard_normal(fine.shape).astype(np.float32)
    held.tensors["model.embed_tokens.weight"] = fine + noise * (0.05 * fine.std())
    write_gguf(held, bpe.full, tmp_path / "m.gguf")

    read = GGUFCheckpoint(tmp_path / "m.gguf")

    assert read.config["tie_word_embeddings"]
    assert "lm_head.weight" not in read.names()
    assert_quantized(whole(read, "model.embed_tokens.weight"), fine)


def test_two_embeddings_that_differ_stay_two(
    qwen: Path, bpe: ChatTokenizer, tmp_path: Path
) -> None:
    held = Held.copy(SafetensorsCheckpoint(qwen))
    held.config["tie_word_embeddings"] = False
    held.tensors["lm_head.weight"] = -held.tensors["model.embed_tokens.weight"]
    write_gguf(held, bpe.full, tmp_path / "m.gguf")

    read = GGUFCheckpoint(tmp_path / "m.gguf")

    assert not read.config["tie_word_embeddings"]
    assert_quantized(whole(read, "lm_head.weight"), held.tensors["lm_head.weight"])


@pytest.mark.parametrize(
    ("hf", "gguf_name"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.11.self_attn.q_proj.bias", "blk.11.attn_q.bias"),
        ("model.layers.0.self_attn.k_norm.weight", "blk.0.attn_k_norm.weight"),
        ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
    ],
)
def test_names_go_over_and_come_back(hf: str, gguf_name: str) -> None:
    assert to_gguf_name(hf) == gguf_name
    assert to_hf_name(gguf_name) == hf


def test_a_tensor_of_another_architecture_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'model.layers.0.mlp.experts.0.weight'"):
        to_gguf_name("model.layers.0.mlp.experts.0.weight")
    with pytest.raises(CheckpointError, match="no architecture known here"):
        to_hf_name("blk.0.ffn_gate_exps.weight")


def test_an_architecture_without_gguf_form_is_told_where_to_go(
    bpe: ChatTokenizer, tmp_path: Path
) -> None:
    base = Held({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, {})
    with pytest.raises(CheckpointError, match=r'llama model cannot.*engine = "transformers"'):
        write_gguf(base, bpe.full, tmp_path / "m.gguf")


def test_rows_that_q8_cannot_cut_are_refused(
    qwen: Path, bpe: ChatTokenizer, tmp_path: Path
) -> None:
    held = Held.copy(SafetensorsCheckpoint(qwen))
    held.tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((8, 33), np.float32)
    with pytest.raises(CheckpointError, match=r"rows of 33, no multiple of 32"):
        write_gguf(held, bpe.full, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", b"GGUF", b"GGUF\3\0\0\0" + b"\0" * 9]
)
def test_what_is_no_gguf_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.gguf is not a readable GGUF file"):
        open_checkpoint(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_gguf_cut_short_is_refused(gguf: Path, share: float, tmp_path: Path) -> None:
    content = gguf.read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"model\.gguf"):
        open_checkpoint(path)


def test_a_missing_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        open_checkpoint(tmp_path / "nowhere.gguf")


def test_safetensors_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    numbers = torch.randn(9, 4) * 100
    tensors = {
        str(kind): numbers.to(kind).contiguous()
        for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "m.safetensors")
    assert file.metadata == {"format": "pt"}
    assert sorted(file.names()) == sorted(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(file.tensor(name), tensor.float().numpy())


@pytest.mark.parametrize(
    "content", [b"", b"\1", b"\0" * 8, b"\xff" * 8, b"\3" + b"\0" * 7 + b"{x}"]
)
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors is not a readable safetensors file"):
        SafetensorsFile(path)


def test_safetensors_cut_short_are_refused(qwen: Path, tmp_path: Path) -> None:
    content = (qwen / "model.safetensors").read_bytes()
    for size in (len(content) - 1, len(content) // 2):
        (tmp_path / "m.safetensors").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="cut short"):
            SafetensorsFile(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}},
        {"a": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}},
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(header: object, tmp_path: Path) -> None:
    path = write_header(tmp_path / "m.safetensors", header, b"\0" * 8)
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        SafetensorsFile(path)


def test_a_folder_that_lacks_a_shard_is_refused(qwen: Path, tmp_path: Path) -> None:
    shutil.copytree(qwen, tmp_path, dirs_exist_ok=True)
    index = {"weight_map": {"model.norm.weight": "x", "model.layers.2.absent": "y"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors, 'model.layers.2.absent' first"):
        open_checkpoint(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        open_checkpoint(tmp_path)


# --- adapters ---


def test_an_adapter_that_fits_is_accepted(qwen: Path, adapter: Path) -> None:
    Adapter(adapter).check(SafetensorsCheckpoint(qwen))


def test_an_adapter_for_a_wider_base_is_refused(qwen: Path, adapter: Path, tmp_path: Path) -> None:
    def widen(tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            if "q_proj.lora_A" in name:
                tensors[name] = tensor.repeat(1, 2)

    other = Adapter(altered(adapter, tmp_path / "a", widen))
    with pytest.raises(CheckpointError, match=r"64×128.*base's 64×64.*for another base"):
        other.check(SafetensorsCheckpoint(qwen))


def test_an_adapter_for_a_deeper_base_is_refused(
    qwen: Path, adapter: Path, bpe: ChatTokenizer, tmp_path: Path
) -> None:
    def deepen(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[name.replace(".layers.1.", ".layers.9.")] = tensors.pop(name)

    other = Adapter(altered(adapter, tmp_path / "a", deepen))
    with pytest.raises(CheckpointError, match=r"'model\.layers\.9\..*which the base lacks"):
        write_gguf(SafetensorsCheckpoint(qwen), bpe.full, tmp_path / "m.gguf", other)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_adapter_with_numbers_that_are_none_is_refused(
    adapter: Path, number: float, tmp_path: Path
) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        next(iter(tensors.values()))[0, 0] = number

    with pytest.raises(CheckpointError, match="not finite"):
        Adapter(altered(adapter, tmp_path / "a", spoil))


def test_an_adapter_that_lacks_one_half_is_refused(adapter: Path, tmp_path: Path) -> None:
    def forget(half: str) -> Any:
        return lambda tensors: tensors.pop(next(n for n in tensors if half in n))

    for half in ("lora_A", "lora_B"):
        with pytest.raises(CheckpointError, match=r"has no lora_[AB] beside it"):
            Adapter(altered(adapter, tmp_path / half, forget(half)))


def test_an_adapter_with_other_weights_is_refused(adapter: Path, tmp_path: Path) -> None:
    def add(tensors: dict[str, Any]) -> None:
        tensors["base_model.model.lm_head.weight"] = next(iter(tensors.values())).clone()

    with pytest.raises(CheckpointError, match=r"lm_head\.weight' is no LoRA weight"):
        Adapter(altered(adapter, tmp_path / "a", add))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("use_rslora", True),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
    ],
)
def test_an_adapter_that_is_more_than_plain_lora_is_refused(
    adapter: Path, key: str, value: object, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=f"{key} is set; only plain LoRA"):
        Adapter(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"r": 0, "lora_alpha": 8}', '{"r": 4}'])
def test_an_adapter_with_a_broken_config_is_refused(
    adapter: Path, content: str, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        Adapter(tmp_path)


def test_a_folder_without_safetensors_is_no_adapter(adapter: Path, tmp_path: Path) -> None:
    shutil.copy(adapter / "adapter_config.json", tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle would lie here")
    with pytest.raises(CheckpointError, match=r"lacks adapter_model\.safetensors"):
        Adapter(tmp_path)
