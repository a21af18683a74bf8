"""Character cards: V2 and V3, from JSON or from the text chunks of a PNG.

Sources: https://github.com/malfoyslastname/character-card-spec-v2 and
https://github.com/kwaroran/character-card-spec-v3. Of a picture only its text chunks are read;
its pixels are never decoded, and every size is bounded before anything is kept.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_CARD_BYTES = 8 * 1024 * 1024


class CardError(Exception):
    """A card that cannot be used; the message names the file, the field and the fault."""


class _Lenient(BaseModel):
    # Cards carry fields of many frontends; those not known here are left alone.
    model_config = ConfigDict(extra="ignore", frozen=True)


def _none_as_empty(value: Any) -> Any:
    return [] if value is None else value


Strings = Annotated[list[str], BeforeValidator(_none_as_empty)]


class LoreEntry(_Lenient):
    """One lorebook entry: `content` enters the prompt when a key stands in the recent messages."""

    keys: Strings
    content: str
    enabled: bool = True
    insertion_order: float = 100
    priority: float | None = None
    secondary_keys: Strings = []
    selective: bool | None = False
    constant: bool | None = False
    case_sensitive: bool | None = False
    use_regex: bool | None = False
    name: str | None = None


class Lorebook(_Lenient):
    name: str | None = None
    scan_depth: int | None = Field(default=None, ge=0)
    token_budget: int | None = Field(default=None, ge=0)
    entries: list[LoreEntry] = []


class Card(_Lenient):
    """The `data` of a character card; every text may hold {{char}} and {{user}}."""

    name: str = Field(min_length=1)
    nickname: str | None = None
    system_prompt: str = ""
    description: str = ""
    personality: str = ""
    scenario: str = ""
    first_mes: str = ""
    alternate_greetings: Strings = []
    group_only_greetings: Strings = []
    mes_example: str = ""
    post_history_instructions: str = ""
    creator: str = ""
    creator_notes: str = ""
    character_version: str = ""
    tags: Strings = []
    character_book: Lorebook | None = None

    def fill(self, text: str, user: str = "你") -> str:
        """Replaces the card format's macros."""
        called = self.nickname or self.name
        for macro, value in (("{{char}}", called), ("<BOT>", called)):
            text = text.replace(macro, value)
        for macro in ("{{user}}", "<USER>"):
            text = text.replace(macro, user)
        return text


def read_persona_card(folder: Path) -> Card:
    """A persona's card: card.json of its folder, else card.png. Raises CardError."""
    path = folder / "card.json"
    return load_card(path if path.exists() else folder / "card.png")


def load_card(path: Path) -> Card:
    """Reads a card from a .json or .png file. Raises CardError."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise CardError(f"{path}: {size} bytes; a card may have {MAX_FILE_BYTES}")
            if file.read(len(_PNG_SIGNATURE)) == _PNG_SIGNATURE:
                text = _png_card(path, file)
            elif size > MAX_CARD_BYTES:
                raise CardError(f"{path}: {size} bytes of JSON; a card may have {MAX_CARD_BYTES}")
            else:
                file.seek(0)
                text = file.read()
    except OSError as error:
        raise CardError(f"{path}: {error.strerror or error}") from error
    try:
        parsed = json.loads(text.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CardError(f"{path}: not JSON in UTF-8: {error}") from error
    return parse_card(parsed, str(path))


def parse_card(parsed: object, source: str) -> Card:
    """Validates a decoded card; `source` names it in errors. Raises CardError."""
    if not isinstance(parsed, dict):
        raise CardError(f"{source}: the card is not a JSON object")
    spec, data = parsed.get("spec"), parsed.get("data")
    if spec not in ("chara_card_v2", "chara_card_v3"):
        raise CardError(
            f"{source}: spec is {spec!r}; accepted: 'chara_card_v2' and 'chara_card_v3'"
        )
    if not isinstance(data, dict):
        raise CardError(f"{source}: the field 'data' is missing or not an object")
    try:
        return Card.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("data", *first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CardError(f"{source}: {where}: {first['msg']}{more}") from error


def _png_card(path: Path, file: IO[bytes]) -> bytes:
    """The card's JSON in a PNG read up to its first chunk: `ccv3`, else `chara`."""
    found: dict[bytes, bytes] = {}
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise CardError(f"{path}: the PNG ends before its IEND chunk")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            break
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, 1)
            continue
        if length > MAX_CARD_BYTES * 2:
            raise CardError(f"{path}: a text chunk of {length} bytes; a card needs far less")
        body, checksum = file.read(length), file.read(4)
        if len(body) < length or len(checksum) < 4:
            raise CardError(f"{path}: the PNG ends inside a text chunk")
        if zlib.crc32(kind + body).to_bytes(4, "big") != checksum:
            raise CardError(f"{path}: a text chunk's checksum is wrong: the file is damaged")
        keyword, _, rest = body.partition(b"\0")
        if keyword in (b"chara", b"ccv3"):
            found[keyword] = _chunk_text(path, kind, rest)
    encoded = found.get(b"ccv3") or found.get(b"chara")
    if encoded is None:
        raise CardError(f"{path}: the picture holds no character card (no chara or ccv3 chunk)")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise CardError(f"{path}: the embedded card is not base64: {error}") from error


def _chunk_text(path: Path, kind: bytes, rest: bytes) -> bytes:
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _inflate(path, rest[1:])
    # iTXt: compression flag and method, language, translated keyword, text.
    compressed, rest = rest[:1] == b"\1", rest[2:]
    text = rest.split(b"\0", 2)[-1]
    return _inflate(path, text) if compressed else text


def _inflate(path: Path, data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MAX_CARD_BYTES * 2)
    except zlib.error as error:
        raise CardError(f"{path}: a compressed text chunk is damaged: {error}") from error
    if inflater.unconsumed_tail:
        raise CardError(f"{path}: a text chunk inflates to over {MAX_CARD_BYTES * 2} bytes")
    if not inflater.eof:
        raise CardError(f"{path}: a compressed text chunk is damaged: it ends too early")
    return text
