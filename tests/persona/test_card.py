"""Cards: V2 and V3, from JSON and from pictures, and what is said of a broken one."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from persona import card as module
from persona.card import CardError, load_card, parse_card

ROOT = Path(__file__).parents[2]
V2: dict[str, Any] = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {
        "name": "黛玉",
        "system_prompt": "你是{{char}}。",
        "first_mes": "你来了。",
        "tags": ["红楼"],
        "extensions": {"other": {"frontend": 1}},
        "character_book": {
            "scan_depth": 4,
            "extensions": {},
            "entries": [{"keys": ["竹"], "content": "竹子", "insertion_order": 1, "enabled": True}],
        },
    },
}
V3: dict[str, Any] = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {
        "name": "林黛玉",
        "nickname": "颦儿",
        "group_only_greetings": [],
        "character_book": {"entries": []},
        "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
    },
}


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + checksum


def png(*chunks: bytes) -> bytes:
    """A picture of one pixel with further chunks in it."""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0"),
            chunk(b"tEXt", b"Comment\0drawn by nobody"),
            *chunks,
            chunk(b"IDAT", zlib.compress(b"\0\0")),
            chunk(b"IEND", b""),
        )
    )


def encoded(card: object) -> bytes:
    return base64.b64encode(json.dumps(card, ensure_ascii=False).encode())


def text_chunk(keyword: bytes, text: bytes) -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + text)


def packed_chunk(keyword: bytes, text: bytes) -> bytes:
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(text))


def international_chunk(keyword: bytes, text: bytes) -> bytes:
    return chunk(b"iTXt", keyword + b"\0\0\0en\0" + "标题".encode() + b"\0" + text)


def packed_international_chunk(keyword: bytes, text: bytes) -> bytes:
    return chunk(b"iTXt", keyword + b"\0\1\0\0\0" + zlib.compress(text))


def written(path: Path, content: bytes | object) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def said_of(path: Path) -> str:
    """The error for a card, its path left out: one line."""
    with pytest.raises(CardError) as raised:
        load_card(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def test_a_v2_card_is_read_from_json(tmp_path: Path) -> None:
    card = load_card(written(tmp_path / "card.json", V2))
    assert (card.name, card.first_mes, card.tags) == ("黛玉", "你来了。", ["红楼"])
    assert card.character_book is not None
    assert card.character_book.scan_depth == 4
    assert card.character_book.entries[0].keys == ["竹"]


def test_a_v3_card_is_read_from_json(tmp_path: Path) -> None:
    card = load_card(written(tmp_path / "card.json", V3))
    assert (card.name, card.nickname) == ("林黛玉", "颦儿")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(V2).encode()
    assert load_card(written(tmp_path / "card.json", content)).name == "黛玉"


def test_lists_that_are_null_are_empty(tmp_path: Path) -> None:
    data = {**V2["data"], "tags": None, "alternate_greetings": None}
    card = load_card(written(tmp_path / "card.json", {**V2, "data": data}))
    assert (card.tags, card.alternate_greetings) == ([], [])


def test_macros_are_filled_with_the_name_she_is_called_by() -> None:
    card = parse_card(V3, "card")
    assert card.fill("{{char}}见了{{user}}，<BOT>、<USER>") == "颦儿见了你，颦儿、你"
    assert parse_card(V2, "card").fill("{{char}}", user="湘云") == "黛玉"


@pytest.mark.parametrize(
    "put",
    [text_chunk, packed_chunk, international_chunk, packed_international_chunk],
)
@pytest.mark.parametrize(("keyword", "card"), [(b"chara", V2), (b"ccv3", V3)])
def test_a_card_is_read_from_every_kind_of_text_chunk(
    put: Any, keyword: bytes, card: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path / "card.png", png(put(keyword, encoded(card))))
    assert load_card(path).name == card["data"]["name"]


@pytest.mark.parametrize("first", [b"chara", b"ccv3"])
def test_the_v3_chunk_wins_in_either_order(first: bytes, tmp_path: Path) -> None:
    chunks = [text_chunk(b"chara", encoded(V2)), text_chunk(b"ccv3", encoded(V3))]
    path = tmp_path / "card.png"
    written(path, png(*(chunks if first == b"chara" else chunks[::-1])))
    assert load_card(path).name == "林黛玉"


def test_a_picture_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    path = written(tmp_path / "card.json", png(text_chunk(b"chara", encoded(V2))))
    assert load_card(path).name == "黛玉"


@pytest.mark.parametrize("spec", [None, "chara_card_v1", 2])
def test_a_card_of_no_known_spec_is_told_what_is_accepted(spec: object, tmp_path: Path) -> None:
    path = written(tmp_path / "card.json", {"spec": spec, "data": V2["data"]})
    assert said_of(path) == (f"spec is {spec!r}; accepted: 'chara_card_v2' and 'chara_card_v3'")


def test_a_v1_card_without_spec_is_refused(tmp_path: Path) -> None:
    assert said_of(written(tmp_path / "card.json", V2["data"])).startswith("spec is None")


@pytest.mark.parametrize("data", [None, [], "text"])
def test_a_card_without_data_is_refused(data: object, tmp_path: Path) -> None:
    path = written(tmp_path / "card.json", {"spec": "chara_card_v2", "data": data})
    assert said_of(path) == "the field 'data' is missing or not an object"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "data.name: String should have at least 1 character"),
        ({"name": 5}, "data.name: Input should be a valid string"),
        ({"tags": "a"}, "data.tags: Input should be a valid list"),
        ({"tags": ["a", 1]}, "data.tags.1: Input should be a valid string"),
        (
            {"character_book": {"scan_depth": -1}},
            "data.character_book.scan_depth: Input should be greater than or equal to 0",
        ),
        (
            {"character_book": {"entries": [{"keys": ["a"], "content": "b"}, {"keys": 3}]}},
            "data.character_book.entries.1.keys: Input should be a valid list (and 1 more)",
        ),
    ],
)
def test_a_field_of_the_wrong_type_is_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    card = {**V2, "data": {**V2["data"], **change}}
    assert said_of(written(tmp_path / "card.json", card)) == message


def test_a_missing_name_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "card.json", {"spec": "chara_card_v3", "data": {}})
    assert said_of(path) == "data.name: Field required"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"name: x"])
def test_what_is_not_json_is_said_so(content: bytes, tmp_path: Path) -> None:
    assert said_of(written(tmp_path / "card.json", content)).startswith("not JSON in UTF-8: ")


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    assert said_of(written(tmp_path / "card.json", b"[1]")) == "the card is not a JSON object"


def test_a_missing_card_is_said_so(tmp_path: Path) -> None:
    assert said_of(tmp_path / "card.json") == "No such file or directory"
    assert said_of(tmp_path) == "Is a directory"


def test_a_picture_without_a_card_is_said_so(tmp_path: Path) -> None:
    path = written(tmp_path / "card.png", png())
    assert said_of(path) == "the picture holds no character card (no chara or ccv3 chunk)"


def test_a_picture_cut_short_is_said_so(tmp_path: Path) -> None:
    whole = png(text_chunk(b"chara", encoded(V2)))
    for size in range(8, len(whole) - 12):
        message = said_of(written(tmp_path / "card.png", whole[:size]))
        assert message in (
            "the PNG ends before its IEND chunk",
            "the PNG ends inside a text chunk",
        )


def test_a_wrong_checksum_is_said_so(tmp_path: Path) -> None:
    content = png(text_chunk(b"chara", encoded(V2))).replace(b"chara\0e", b"chara\0f")
    path = written(tmp_path / "card.png", content)
    assert said_of(path) == "a text chunk's checksum is wrong: the file is damaged"


@pytest.mark.parametrize("text", [b"!!!", b"abc", "中文".encode(), b"e30=\n%"])
def test_what_is_not_base64_is_said_so(text: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "card.png", png(text_chunk(b"ccv3", text)))
    assert said_of(path).startswith("the embedded card is not base64: ")


def test_base64_of_something_else_is_said_so(tmp_path: Path) -> None:
    path = written(tmp_path / "card.png", png(text_chunk(b"ccv3", base64.b64encode(b"hello"))))
    assert said_of(path).startswith("not JSON in UTF-8: ")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_that_inflates_without_end_is_stopped(
    kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CARD_BYTES", 50_000)
    bomb = zlib.compress(b"A" * 10_000_000, 9)
    head = b"chara\0\0" if kind == b"zTXt" else b"chara\0\1\0\0\0"
    path = written(tmp_path / "card.png", png(chunk(kind, head + bomb)))
    assert said_of(path) == "a text chunk inflates to over 100000 bytes"


def test_a_damaged_compression_is_said_so(tmp_path: Path) -> None:
    path = written(tmp_path / "card.png", png(chunk(b"zTXt", b"chara\0\0not zlib")))
    assert said_of(path).startswith("a compressed text chunk is damaged: ")


def test_a_compression_cut_short_is_said_so(tmp_path: Path) -> None:
    short = zlib.compress(encoded(V2))[:-20]
    path = written(tmp_path / "card.png", png(chunk(b"zTXt", b"chara\0\0" + short)))
    assert said_of(path).startswith("a compressed text chunk is damaged: ")


def test_a_chunk_too_long_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CARD_BYTES", 1000)
    path = written(tmp_path / "card.png", png(text_chunk(b"chara", b"A" * 3000)))
    assert said_of(path) == "a text chunk of 3006 bytes; a card needs far less"


@pytest.mark.parametrize("content", [b" " * 2000, png() + b"\0" * 2000])
def test_a_file_too_large_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CARD_BYTES", 1000)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1500)
    path = written(tmp_path / "card.json", content)
    assert said_of(path) == f"{len(content)} bytes; a card may have 1500"


def test_json_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CARD_BYTES", 1000)
    path = written(tmp_path / "card.json", b" " * 1001)
    assert said_of(path) == "1001 bytes of JSON; a card may have 1000"


def test_the_card_that_ships_is_daiyu() -> None:
    card = load_card(ROOT / "persona" / "daiyu" / "card.json")
    assert card.system_prompt.startswith("你是林黛玉，贾宝玉的表妹。")
    assert len(card.system_prompt) <= 80
    assert card.first_mes
    assert len(card.alternate_greetings) >= 5
    assert card.character_book is not None
    assert len(card.character_book.entries) >= 60
    assert all(entry.keys and entry.content for entry in card.character_book.entries)
