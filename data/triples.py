"""The triple, in Alpaca's fields: what a dialogue is on disk, read and written line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

RICH = "rich"
"""The folder of dialogues that are shown, and learned only where the settings say so."""


class TriplesError(Exception):
    """A row that cannot be read; the message names file, line and field."""


class Triple(BaseModel):
    """One reply with what it answers; LLaMA-Factory and ms-swift read the same fields.

    `history` is oldest first, pairs of message and reply. `meta` stands on collected rows only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    instruction: str = Field(min_length=1)
    input: str = ""
    output: str = Field(min_length=1)
    system: str | None = None
    history: list[tuple[str, str]] = []
    meta: dict[str, Any] | None = None

    @property
    def message(self) -> str:
        """What the person said: instruction and, on a further line, input where there is one."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction

    @property
    def replies(self) -> list[str]:
        """All that was answered, the last reply last."""
        return [*(reply for _, reply in self.history), self.output]


def read_triples(path: Path) -> Iterator[tuple[int, Triple]]:
    """The file's rows with their line numbers, from 1. Raises TriplesError."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, parse_triple(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise TriplesError(f"{path}: {error}") from error


def read_folder(folder: Path) -> Iterator[tuple[str, Triple]]:
    """All rows of a folder's *.jsonl, each with its name `file:line`. Raises TriplesError."""
    if not folder.is_dir():
        raise TriplesError(f"{folder}: there is no such folder")
    for path in sorted(folder.glob("*.jsonl")):
        for number, triple in read_triples(path):
            yield f"{path.stem}:{number}", triple


def read_dialogues(folder: Path) -> Iterator[tuple[str, Triple]]:
    """A folder's rows and those of its folder `rich`, which are named `rich/file:line`.

    Rich rows say more between the lines than a small model can learn from: they are shown to it as
    exemplars, and learned only where the settings say so. Raises TriplesError.
    """
    yield from read_folder(folder)
    if (folder / RICH).is_dir():
        for name, triple in read_folder(folder / RICH):
            yield f"{RICH}/{name}", triple


def write_triples(path: Path, triples: Iterable[Triple]) -> int:
    """Writes rows beside the file and renames them into place; how many there were."""
    count = 0
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for triple in triples:
            row = triple.model_dump(exclude_none=True)
            if not triple.history:
                del row["history"]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    part.replace(path)
    return count


def parse_triple(line: str, where: str) -> Triple:
    """One line of a JSONL file; `where` names it in errors. Raises TriplesError."""
    try:
        return Triple.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise TriplesError(f"{where}: {field}: {first['msg']}") from error
    except ValueError as error:
        raise TriplesError(f"{where}: not JSON: {error}") from error
