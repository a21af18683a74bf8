"""Tokenizers that ship as sentencepiece's tokenizer.model, made into a `tokenizers.Tokenizer`.

The file is a protobuf message; the few fields that are needed are read here, so that neither
protobuf nor sentencepiece has to be installed. Source of the layout:
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from persona.checkpoint import CheckpointError, read_object

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_UNIGRAM, _BPE = 1, 2
_SPACE = "▁"


@dataclass(slots=True)
class _Piece:
    text: str = ""
    score: float = 0.0
    kind: int = _NORMAL


@dataclass(slots=True)
class _Model:
    """What a tokenizer.model says; the defaults are the format's own."""

    pieces: list[_Piece] = field(default_factory=list)
    algorithm: int = _UNIGRAM
    byte_fallback: bool = False
    space_after: bool = False
    replacements: bytes = b""
    leading_space: bool = True
    squeezes_spaces: bool = True
    escapes_spaces: bool = True


def tokenizer_from_sentencepiece(folder: Path) -> Tokenizer:
    """Builds the tokenizer of tokenizer.model and the added tokens described beside it.

    Text is cut as sentencepiece does; what it calls user-defined is an added token here. Raises
    CheckpointError.
    """
    path = folder / "tokenizer.model"
    try:
        model = _read(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except (LookupError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path} is not a sentencepiece model: {error}") from error
    if model.algorithm not in (_UNIGRAM, _BPE) or model.space_after or not model.escapes_spaces:
        raise CheckpointError(f"{path} is no BPE or unigram model of the usual kind")
    added = _added_tokens(folder)
    for i, token in added.items():
        if i < len(model.pieces):  # a publisher may have renamed what the model reserves
            model.pieces[i].text = token.content
            if model.pieces[i].kind != _UNKNOWN:
                model.pieces[i].kind = _CONTROL if token.special else _USER_DEFINED
    for i, piece in enumerate(model.pieces):
        if piece.kind in (_CONTROL, _UNKNOWN, _USER_DEFINED):
            special = piece.kind != _USER_DEFINED
            added.setdefault(i, AddedToken(piece.text, special=special, normalized=False))
        if piece.kind == _UNKNOWN and not model.byte_fallback:
            # Text becomes this one, and no text may become an added token; nor may it be found in
            # text by its name, which a space prevents. sentencepiece shows it so as well.
            del added[i]
            piece.text = " ⁇ "
    try:
        tokenizer = Tokenizer(_bpe(model) if model.algorithm == _BPE else _unigram(model))
        tokenizer.normalizer = _normalizer(model)
    except Exception as error:  # tokenizers raises bare Exception on what it cannot use
        raise CheckpointError(f"{path} is not a usable tokenizer: {error}") from error
    tokenizer.decoder = _decoder(model)
    tokenizer.add_tokens([added[i] for i in sorted(added)])
    for i, token in added.items():
        if tokenizer.token_to_id(token.content) != i:
            raise CheckpointError(f"{folder} gives {token.content!r} an id out of order")
    return tokenizer


def _bpe(model: _Model) -> models.BPE:
    """sentencepiece merges the best-scored neighbours first, whatever pieces they are."""
    normal = {p.text: (-p.score, i) for i, p in enumerate(model.pieces) if p.kind == _NORMAL}
    ranked = sorted(
        (*rank, text[:cut], text[cut:])
        for text, rank in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    )
    return models.BPE(
        vocab={piece.text: i for i, piece in enumerate(model.pieces)},
        merges=[(left, right) for _, _, left, right in ranked],
        unk_token=next((p.text for p in model.pieces if p.kind == _UNKNOWN), None),
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _unigram(model: _Model) -> models.Unigram:
    lowest = min((p.score for p in model.pieces if p.kind == _NORMAL), default=0.0)
    # The other kinds are never cut out of text: any way of normal pieces costs less.
    dear = lowest - 1000.0
    return models.Unigram(
        vocab=[(p.text, p.score if p.kind == _NORMAL else dear) for p in model.pieces],
        unk_id=next((i for i, p in enumerate(model.pieces) if p.kind == _UNKNOWN), None),
        byte_fallback=model.byte_fallback,
    )


def _normalizer(model: _Model) -> normalizers.Normalizer:
    steps: list[Any] = []
    if model.replacements:
        steps.append(normalizers.Precompiled(model.replacements))
    if model.squeezes_spaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.leading_space:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    return normalizers.Sequence(steps)


def _decoder(model: _Model) -> decoders.Decoder:
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.leading_space:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _added_tokens(folder: Path) -> dict[int, AddedToken]:
    """By id; newer folders describe them in tokenizer_config.json, older in added_tokens.json."""
    config, older = folder / "tokenizer_config.json", folder / "added_tokens.json"
    try:
        found: dict[int, AddedToken] = {}
        if older.is_file():
            for text, i in read_object(older).items():
                found[int(i)] = AddedToken(str(text), special=True, normalized=False)
        described = read_object(config).get("added_tokens_decoder", {}) if config.is_file() else {}
        for i, token in described.items():
            found[int(i)] = AddedToken(
                str(token["content"]),
                special=bool(token.get("special")),
                lstrip=bool(token.get("lstrip")),
                rstrip=bool(token.get("rstrip")),
                normalized=False,
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the added tokens are not described: {error!r}") from error
    return found


def _read(message: bytes) -> _Model:
    model = _Model()
    for number, value in _fields(message):
        if number == 1:
            piece = dict(_fields(value))
            text, score = piece.get(1, b"").decode(), piece.get(2, bytes(4))
            model.pieces.append(_Piece(text, struct.unpack("<f", score)[0], piece.get(3, _NORMAL)))
        elif number == 2:
            trainer = dict(_fields(value))
            model.algorithm = trainer.get(3, _UNIGRAM)
            model.space_after = bool(trainer.get(24, False))
            model.byte_fallback = bool(trainer.get(35, False))
        elif number == 3:
            rules = dict(_fields(value))
            model.replacements = rules.get(2, b"")
            model.leading_space = bool(rules.get(3, True))
            model.squeezes_spaces = bool(rules.get(4, True))
            model.escapes_spaces = bool(rules.get(5, True))
    if not model.pieces:
        raise ValueError("it has no pieces")
    return model


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The numbered fields of a protobuf message: integers, or bytes for all other types."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}[key & 7]
        if at + length > len(message):
            raise ValueError("it is cut short")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
