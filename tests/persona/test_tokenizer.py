"""Tokenizers: two halves that agree on text, and one half that knows no marker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models

from persona.checkpoint import CheckpointError, GGUFCheckpoint
from persona.tokenizer import ChatTokenizer, tokenizer_from_gguf

texts = st.text(st.characters(codec="utf-8"), max_size=40)


def small(*markers: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.add_tokens([AddedToken(marker, special=True) for marker in markers])
    return tokenizer


@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_text_without_markers_is_encoded_as_the_whole_tokenizer_does(
    tokenizer: ChatTokenizer, text: str
) -> None:
    markers = (t.content for t in tokenizer.full.get_added_tokens_decoder().values())
    assume(not any(marker in text for marker in markers))
    expected = tokenizer.full.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == expected
    assert tokenizer.count(text) == len(expected)


def test_every_marker_in_text_is_ordinary_characters(tokenizer: ChatTokenizer) -> None:
    for i, token in tokenizer.full.get_added_tokens_decoder().items():
        assert tokenizer.full.encode(token.content).ids == [i]
        ids = tokenizer.encode(token.content)
        assert not tokenizer.added_ids() & set(ids)
        assert tokenizer.decode(ids) == token.content


def test_all_added_tokens_are_known_as_such(bpe: ChatTokenizer) -> None:
    assert len(bpe.added_ids()) == 22
    assert {bpe.im_start, bpe.im_end, bpe.end_of_text} <= bpe.added_ids()
    assert bpe.decode([bpe.im_start, bpe.im_end, bpe.end_of_text]) == (
        "<|im_start|><|im_end|><|endoftext|>"
    )


def test_lone_surrogates_are_replaced(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a?b"


def test_a_tokenizer_survives_its_file(bpe: ChatTokenizer, tmp_path: Path) -> None:
    bpe.full.save(str(tmp_path / "tokenizer.json"))
    loaded = ChatTokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.im_start, loaded.im_end) == (bpe.im_start, bpe.im_end)
    assert loaded.encode("窗前的<tool_call>") == bpe.encode("窗前的<tool_call>")


@pytest.mark.parametrize("missing", ["<|im_start|>", "<|im_end|>"])
def test_a_tokenizer_without_chatml_is_refused(missing: str) -> None:
    markers = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} - {missing}
    with pytest.raises(CheckpointError) as raised:
        ChatTokenizer.of(small(*sorted(markers)))
    assert str(raised.value) == f"the tokenizer lacks {missing}; only ChatML bases are served"


def test_a_base_without_end_of_text_pads_at_the_end_of_a_turn() -> None:
    tokenizer = ChatTokenizer.of(small("<|im_start|>", "<|im_end|>"))
    assert tokenizer.end_of_text == tokenizer.im_end


@pytest.mark.parametrize("content", ["", "{}", "not json", json.dumps({"model": {"type": "?"}})])
def test_a_file_that_is_no_tokenizer_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a usable tokenizer"):
        ChatTokenizer.load(path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.json"):
        ChatTokenizer.load(tmp_path / "absent.json")


@pytest.fixture(scope="module")
def rebuilt(gguf: Path) -> Tokenizer:
    return tokenizer_from_gguf(GGUFCheckpoint(gguf))


@settings(max_examples=100, deadline=None)
@given(text=texts | st.sampled_from(["it's 12, it'LL", "a  b\r\n\n c", "\u3000竹 子\t", "e\u0301"]))
def test_the_tokenizer_of_a_gguf_is_the_one_that_was_written(
    bpe: ChatTokenizer, rebuilt: Tokenizer, text: str
) -> None:
    for one in (text, f"<|im_start|>user\n{text}<|im_end|><tool_call>{text}"):
        ids = bpe.full.encode(one).ids
        assert rebuilt.encode(one).ids == ids
        for skip in (True, False):
            assert rebuilt.decode(ids, skip_special_tokens=skip) == bpe.full.decode(
                ids, skip_special_tokens=skip
            )


def test_the_tokenizer_of_a_gguf_knows_which_tokens_were_added(
    bpe: ChatTokenizer, rebuilt: Tokenizer
) -> None:
    def described(tokenizer: Tokenizer) -> dict[int, tuple[str, bool]]:
        found = tokenizer.get_added_tokens_decoder().items()
        return {i: (token.content, token.special) for i, token in found}

    assert described(rebuilt) == described(bpe.full)
    assert rebuilt.get_vocab() == bpe.full.get_vocab()


def test_a_gguf_that_cuts_text_in_another_way_is_refused(gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    name = b"tokenizer.ggml.pre" + b"\x08\0\0\0" + b"\x05\0\0\0\0\0\0\0"
    content = gguf.read_bytes()
    assert name + b"qwen2" in content
    other.write_bytes(content.replace(name + b"qwen2", name + b"llama"))
    with pytest.raises(CheckpointError, match=r"cuts text as 'llama'; known here: 'qwen2'"):
        tokenizer_from_gguf(GGUFCheckpoint(other))
