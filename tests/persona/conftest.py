"""Small real parts: a Qwen2 of two layers with its tokenizer, a GGUF of it, a LoRA adapter."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from persona.card import Card
from persona.checkpoint import SafetensorsCheckpoint
from persona.engines.echo import byte_tokenizer
from persona.gguf import write_gguf
from persona.prompt import IGNORED, Budget, PromptBuilder
from persona.tokenizer import ChatTokenizer

# As Qwen2's own tokenizer.json has it: what is built in persona/tokenizer.py must agree with it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ADDED = [
    *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start"),
    *("box_end", "quad_start", "quad_end", "vision_start", "vision_end", "vision_pad"),
    *("image_pad", "video_pad", "tool_call", "/tool_call", "fim_prefix", "fim_middle"),
    *("fim_suffix", "fim_pad", "repo_name", "file_sep"),
]
_TEXT = [
    "你是林黛玉，贾宝玉的表妹。",
    "窗前的竹子可要修剪？前头尽是竹子，后头有一株大梨树，还有芭蕉。",
    "今日下雨，园子里的花都落了，你可去看过？",
    "潇湘馆里清净，夜里起风，竹叶响得我睡不着。",
    "system user assistant im_start im_end tool_call",
    "Hello, how are you today? I am well, and the bamboo is green.",
]


@pytest.fixture(scope="session")
def bpe() -> ChatTokenizer:
    """A byte-pair tokenizer of Qwen2's making, with its 22 added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=460, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.add_tokens(
        [
            AddedToken(f"<{name}>", special=False, normalized=False)
            if "tool_call" in name
            else AddedToken(f"<|{name}|>", special=True, normalized=False)
            for name in _ADDED
        ]
    )
    return ChatTokenizer.of(tokenizer)


@pytest.fixture(scope="session")
def raw_bytes() -> ChatTokenizer:
    return byte_tokenizer()


@pytest.fixture(params=["raw_bytes", "bpe"], scope="session")
def tokenizer(request: pytest.FixtureRequest) -> ChatTokenizer:
    """Both tokenizers, in turn."""
    found: ChatTokenizer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def card() -> Card:
    return Card(name="林黛玉", system_prompt="你是林黛玉，贾宝玉的表妹。")


@pytest.fixture(scope="session")
def taught() -> dict[str, str]:
    """What the small model was taught to say; characters of several tokens are among it."""
    return {
        "你好": "你来了，坐罢。",
        "窗前的竹子可要修剪？": "不必，我爱它遮着窗。",
        "下雨了": "雨打芭蕉，倒也好听😀。",
        "hello": "Hello. Sit, and have some tea.",
    }


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is made once for all processes that the tests of a run are shared out to."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not folder.exists():
            part = root / f"{name}.part"
            part.mkdir()
            make(part)
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def qwen(
    tmp_path_factory: pytest.TempPathFactory,
    bpe: ChatTokenizer,
    card: Card,
    taught: dict[str, str],
) -> Path:
    """A folder as a hub publishes it: a Qwen2 of two layers that knows four replies by heart.

    It knows them so well that rounding cannot change a greedy choice. To 念经 it says 啊 and
    never ends.
    """
    return _once(tmp_path_factory, "qwen", partial(_teach, bpe, card, taught))


def _teach(bpe: ChatTokenizer, card: Card, taught: dict[str, str], folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=-(-bpe.full.get_vocab_size() // 32) * 32,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=bpe.end_of_text,
            eos_token_id=bpe.im_end,
            pad_token_id=bpe.end_of_text,
        )
    )
    builder = PromptBuilder(bpe, card, Budget())
    rows = [builder.build(text, reply=reply) for text, reply in taught.items()]
    endless = builder.build("念经", reply="啊" * 40)
    endless.labels[-2] = IGNORED  # where this reply ends is never learned
    rows.append(endless)
    longest = max(len(row.ids) for row in rows)

    def padded(spans: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([span + [filler] * (longest - len(span)) for span in spans])

    ids = padded([row.ids for row in rows], bpe.end_of_text)
    labels = padded([row.labels for row in rows], IGNORED)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for further ones
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    assert loss.item() < 0.05
    model.save_pretrained(folder)
    bpe.full.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory, qwen: Path, bpe: ChatTokenizer) -> Path:
    """The same model as a Q8_0 GGUF."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(SafetensorsCheckpoint(qwen), bpe.full, path)
    return path


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, qwen: Path) -> Path:
    """A LoRA adapter on all seven projections, as peft saves it, every weight drawn."""
    return _once(tmp_path_factory, "adapter", partial(_draw, qwen))


def _draw(qwen: Path, folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks what transformers renamed
        model = get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
