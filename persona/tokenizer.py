"""Tokenizers: the plain one that text is encoded with, and the ids of the control tokens.

`tokenizers` is all that serving needs; nothing here imports transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from persona.checkpoint import CheckpointError, GGUFCheckpoint
from persona.sentencepiece import tokenizer_from_sentencepiece

# How Qwen2 and Qwen3 cut text before byte-pair merging; a GGUF names the pattern, it lacks it.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """A tokenizer in two halves, so that text can never become a control token.

    `plain` encodes every span that a person, a card or a model wrote: it knows no added token, so
    `<|im_start|>` in a message becomes the ordinary characters that it looks like. `full` decodes,
    and tells the ids of the markers that only the chat template may write.
    """

    full: Tokenizer
    plain: Tokenizer
    im_start: int
    im_end: int
    end_of_text: int

    @classmethod
    def of(cls, full: Tokenizer) -> ChatTokenizer:
        """Splits a ChatML tokenizer. Raises CheckpointError where a marker is missing."""
        added = {token.content: i for i, token in full.get_added_tokens_decoder().items()}
        ids: list[int] = []
        for marker in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
            found = added.get(marker)
            if found is None and marker == "<|endoftext|>":
                found = ids[1]  # bases without it stop, and pad, at <|im_end|>
            if found is None:
                raise CheckpointError(f"the tokenizer lacks {marker}; only ChatML bases are served")
            ids.append(found)
        plain = _without_added_tokens(full)
        for token in added:
            if set(added.values()) & set(plain.encode(token, add_special_tokens=False).ids):
                raise CheckpointError(
                    f"the tokenizer would make a control token of {token} in text"
                )
        return cls(full, plain, *ids)

    @classmethod
    def load(cls, path: Path) -> ChatTokenizer:
        """Reads a tokenizer.json. Raises CheckpointError."""
        try:
            return cls.of(Tokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises bare Exception on a bad file
            raise CheckpointError(f"{path} is not a usable tokenizer: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never an added token. Lone surrogates are replaced first."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self.plain.encode(clean, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        """How many tokens a text takes."""
        return len(self.encode(text))

    def decode(self, ids: list[int]) -> str:
        """The text of ids, control tokens spelled out."""
        return str(self.full.decode(ids, skip_special_tokens=False))

    def added_ids(self) -> frozenset[int]:
        """Ids of all added tokens: none may come from text."""
        return frozenset(self.full.get_added_tokens_decoder())


def _without_added_tokens(full: Tokenizer) -> Tokenizer:
    description = json.loads(full.to_str())
    if description["model"]["type"] == "Unigram":
        # Its vocabulary holds the added tokens as well, and any piece of it may be found in text;
        # one with a space never is, because spaces are replaced before the pieces are looked for.
        for i in full.get_added_tokens_decoder():
            if i < len(description["model"]["vocab"]):
                description["model"]["vocab"][i][0] = f" {i}"
    description["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(description))


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a published folder, from tokenizer.json or else from tokenizer.model.

    Raises CheckpointError.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        if not (folder / "tokenizer.model").is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json and no tokenizer.model")
        return tokenizer_from_sentencepiece(folder)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception on a bad file
        raise CheckpointError(f"{path} is not a usable tokenizer: {error}") from error


def tokenizer_from_gguf(checkpoint: GGUFCheckpoint) -> Tokenizer:
    """Builds the tokenizer that a Qwen GGUF describes, equal to transformers' own for it."""
    pattern = checkpoint.field("tokenizer.ggml.pre")
    if pattern != "qwen2":
        raise CheckpointError(f"{checkpoint.path} cuts text as {pattern!r}; known here: 'qwen2'")
    tokens = checkpoint.field("tokenizer.ggml.tokens")
    kinds = checkpoint.field("tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in checkpoint.field("tokenizer.ggml.merges")]
    vocab = {t: i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _NORMAL}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Added tokens take the ids after the vocabulary, in the order in which they are given.
    tokenizer.add_tokens(
        [
            AddedToken(t, special=kind == _CONTROL, normalized=False)
            for t, kind in zip(tokens, kinds, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (_CONTROL, _USER_DEFINED) and tokenizer.token_to_id(token) != tokens.index(
            token
        ):
            raise CheckpointError(f"{checkpoint.path} gives {token!r} an id out of order")
    return tokenizer
