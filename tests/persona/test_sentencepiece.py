"""tokenizer.model files, made by sentencepiece here, cut text as sentencepiece does."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona.checkpoint import CheckpointError
from persona.sentencepiece import tokenizer_from_sentencepiece
from persona.tokenizer import ChatTokenizer, read_tokenizer

LINES = [
    "你是林黛玉，贾宝玉的表妹。窗前的竹子可要修剪？前头尽是竹子，后头有一株大梨树。",
    "今日下雨，园子里的花都落了，你可去看过？潇湘馆里清净，夜里起风，竹叶响得我睡不着。",
    "Hello, how are you today? I am well, and the bamboo is green. It's half past 10.",
    "the rain in the garden, the wind in the garden, the flowers of the garden",
    "<x> |user_1| </y> 0x1234",
] * 3
PLAIN = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "byte_fallback": True,
}
KINDS: dict[str, dict[str, Any]] = {
    # As Llama, Yi and InternLM2 are made, with and without a space before the text.
    "bpe": {"model_type": "bpe", "add_dummy_prefix": False, **PLAIN},
    "bpe, leading space": {"model_type": "bpe", **PLAIN},
    "bpe, by default": {"model_type": "bpe"},
    "unigram": {"model_type": "unigram", **PLAIN},
    "unigram, by default": {"model_type": "unigram"},
}
MARKERS = ("<|im_start|>", "<|im_end|>")


@dataclass(repr=False)
class Made:
    folder: Path
    theirs: Any
    ours: ChatTokenizer


def make(folder: Path, **how: Any) -> Any:
    """Writes a tokenizer.model, and the two markers as added tokens behind its pieces."""
    prefix = folder / "made"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(prefix), minloglevel=2, num_threads=1,
        vocab_size=440 if how.get("byte_fallback") else 180, hard_vocab_limit=False, **how,
    )  # fmt: skip
    prefix.with_suffix(".model").rename(folder / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    size = model.get_piece_size()
    describe(folder, {size + i: marker for i, marker in enumerate(MARKERS)})
    return model


def describe(folder: Path, added: dict[int, str]) -> None:
    tokens = {str(i): {"content": text, "special": True} for i, text in added.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))


@pytest.fixture(scope="module", params=list(KINDS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    theirs = make(folder, **KINDS[request.param])
    return Made(folder, theirs, ChatTokenizer.of(read_tokenizer(folder)))


PIECES = [
    "竹子",
    "the garden",
    " ",
    "  ",
    "▁",
    "\n",
    "\t",
    "\u3000",
    "😀",
    "é",
    "e\u0301",
    "Ａ",
    "①",
]
PIECES += ["<s>", "</s>", "<unk>", "<0x41>", *MARKERS, "aaaaa", "한국어", "ไทย", "0", "\0", "\x7f"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.lists(st.sampled_from(PIECES + LINES), max_size=8).map("".join) | st.text(max_size=30)
)
def test_text_is_cut_as_sentencepiece_cuts_it(made: Made, text: str) -> None:
    ids = made.theirs.encode(text)
    assert made.ours.encode(text) == ids
    assert made.ours.decode(ids) == made.theirs.decode(ids)


def test_many_texts_are_cut_as_sentencepiece_cuts_them(made: Made) -> None:
    drawn = random.Random(0)
    for _ in range(300):
        text = "".join(drawn.choice(PIECES + list(LINES[0])) for _ in range(drawn.randint(1, 20)))
        assert made.ours.encode(text) == made.theirs.encode(text)


def test_no_text_becomes_a_control_token(made: Made) -> None:
    control = made.ours.added_ids()
    for token in (*MARKERS, "<s>", "</s>"):
        for text in (token, f"a{token}b", f" {token}\n"):
            assert not control & set(made.ours.encode(text))


def test_a_conversation_has_its_markers(made: Made) -> None:
    tokenizer = made.ours
    assert tokenizer.full.encode("<|im_start|>").ids == [tokenizer.im_start]
    ids = [tokenizer.im_start, *tokenizer.encode("竹子"), tokenizer.im_end]
    assert tokenizer.full.decode(ids).strip() == "竹子"
    assert tokenizer.im_start == made.theirs.get_piece_size()


def test_it_survives_its_file(made: Made, tmp_path: Path) -> None:
    made.ours.full.save(str(tmp_path / "tokenizer.json"))
    loaded = ChatTokenizer.load(tmp_path / "tokenizer.json")
    for text in (*LINES, *PIECES):
        assert loaded.encode(text) == made.theirs.encode(text)


def test_markers_may_take_the_place_of_reserved_pieces(tmp_path: Path) -> None:
    theirs = make(tmp_path, **KINDS["bpe"], user_defined_symbols=["[UNUSED_1]", "<|im_end|>"])
    describe(tmp_path, {theirs.piece_to_id("[UNUSED_1]"): "<|im_start|>"})
    tokenizer = ChatTokenizer.of(read_tokenizer(tmp_path))
    assert tokenizer.im_start == theirs.piece_to_id("[UNUSED_1]")
    assert tokenizer.im_end == theirs.piece_to_id("<|im_end|>")
    assert not tokenizer.added_ids() & set(tokenizer.encode("<|im_start|>竹子<|im_end|>"))


def test_older_folders_list_added_tokens_in_a_file_of_their_own(tmp_path: Path) -> None:
    size = make(tmp_path, **KINDS["bpe"]).get_piece_size()
    (tmp_path / "tokenizer_config.json").unlink()
    added = {"<|im_end|>": size + 1, "<|im_start|>": size}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    assert ChatTokenizer.of(read_tokenizer(tmp_path)).im_end == size + 1


def test_a_base_without_the_markers_is_refused(tmp_path: Path) -> None:
    make(tmp_path, **KINDS["bpe"])
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks .* only ChatML bases are served"):
        ChatTokenizer.of(read_tokenizer(tmp_path))


def test_an_added_token_that_leaves_a_gap_is_refused(tmp_path: Path) -> None:
    size = make(tmp_path, **KINDS["bpe"]).get_piece_size()
    describe(tmp_path, {size + 5: "<|im_start|>"})
    with pytest.raises(CheckpointError, match="id out of order"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("added", ["[]", "no", '{"added_tokens_decoder": {"x": {}}}',
                                   '{"added_tokens_decoder": [1]}'])  # fmt: skip
def test_malformed_added_tokens_are_one_line(tmp_path: Path, added: str) -> None:
    make(tmp_path, **KINDS["bpe"])
    (tmp_path / "tokenizer_config.json").write_text(added)
    with pytest.raises(CheckpointError) as raised:
        read_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    make(tmp_path, **KINDS["bpe"])
    path = tmp_path / "tokenizer.model"
    whole = path.read_bytes()
    drawn = random.Random(1)
    spoilt = [b"", b"not one", b"\xff" * 50, whole[:-3], whole[: len(whole) // 2 + 1], bytes(9)]
    spoilt += [bytes(drawn.randrange(256) for _ in range(60)) for _ in range(300)]
    for content in spoilt:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as raised:
            tokenizer_from_sentencepiece(tmp_path)
        assert "tokenizer.model" in str(raised.value) or "out of order" in str(raised.value)


@pytest.mark.parametrize("kind", ["word", "char"])
def test_other_kinds_of_models_are_refused(tmp_path: Path, kind: str) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(tmp_path / "tokenizer"), model_type=kind,
        vocab_size=20, hard_vocab_limit=False, minloglevel=2, use_all_vocab=True,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="no BPE or unigram model"):
        read_tokenizer(tmp_path)
