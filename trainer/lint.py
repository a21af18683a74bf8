"""`python -m trainer lint`: faults of authored rows, each with its file and line.

A dataset states what its character never says in lint.toml beside its rows; what holds for any
character (schema, near-duplicates, assistant talk) needs no file.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data.triples import RICH, Triple, TriplesError, parse_triple
from persona import guard
from persona.exemplars import SAME, similarity, trigrams

_OPENING = 4
_LATIN_WIDTH = 3
"""Letters that say about as much as one Chinese character."""
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf]")
_MARKUP = re.compile(r"^\s*(?:[-*#>]|\d+[.、)）])\s*|\*\*|`|\n", re.MULTILINE)
_ENDINGS = "。！？!?….”’」』"


class LintError(Exception):
    """The rules or the folder cannot be read."""


class Rules(BaseModel):
    """lint.toml: what a dataset's replies must and must not be. Lengths are in characters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_reply: int = 2
    max_reply: int = 400
    max_message: int = 500
    max_opening: float = 1.0
    """Share of replies that may begin with the same four characters."""
    forbidden: list[str] = []
    """Regular expressions that no reply may match."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row and where it stands."""

    path: Path
    line: int
    triple: Triple

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"


def lint(folder: Path) -> tuple[int, list[str]]:
    """Checks a folder's rows and those below it; how many there are, and one line a fault.

    Rows in a folder `eval` below are held against all others: they must not be near to them.
    Raises LintError.
    """
    if not folder.is_dir():
        raise LintError(f"{folder}: there is no such folder")
    rules = read_rules(folder)
    faults: list[str] = []
    trained = [
        row
        for place in (folder, folder / RICH)
        for row in _read(sorted(place.glob("*.jsonl")), faults)
    ]
    held = list(_read(sorted((folder / "eval").glob("*.jsonl")), faults))
    if not trained and not faults:
        raise LintError(f"{folder}: there are no rows in it")
    for row in [*trained, *held]:
        faults += [f"{row.where}: {fault}" for fault in _row_faults(row.triple, rules)]
    faults += _near(trained, trained)
    faults += _near(held, held)
    faults += _near(held, trained, replies=False)
    faults += _openings(trained, rules)
    return len(trained) + len(held), faults


def read_rules(folder: Path) -> Rules:
    """A dataset's lint.toml; the mildest rules where it has none. Raises LintError."""
    path = folder / "lint.toml"
    if not path.is_file():
        return Rules()
    try:
        rules = Rules.model_validate(tomllib.loads(path.read_text("utf-8")))
        for pattern in rules.forbidden:
            re.compile(pattern)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise LintError(f"{path}: {key}: {first['msg']}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, re.error) as error:
        raise LintError(f"{path}: {error}") from error
    return rules


def _read(paths: Sequence[Path], faults: list[str]) -> Iterator[Row]:
    """The rows that can be read; of the others, the fault."""
    for path in paths:
        try:
            # Not splitlines(), which also cuts at what a string in JSON may hold.
            lines = path.read_text("utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{path}: {error}")
            continue
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield Row(path, number, parse_triple(line, f"{path}:{number}"))
            except TriplesError as error:
                faults.append(str(error))


def _row_faults(triple: Triple, rules: Rules) -> Iterator[str]:
    if len(triple.message) > rules.max_message:
        yield f"the message has {len(triple.message)} characters, {rules.max_message} may be"
    message = triple.message
    for said, reply in [*triple.history, (message, triple.output)]:
        yield from _reply_faults(said, reply, rules)
    if [reply for _, reply in triple.history].count(triple.output):
        yield "the reply stands in its own history already"


def _reply_faults(message: str, reply: str, rules: Rules) -> Iterator[str]:
    most = rules.max_reply if _CHINESE.search(reply) else rules.max_reply * _LATIN_WIDTH
    if not rules.min_reply <= len(reply) <= most:
        may = f"{rules.min_reply} to {most} may be"
        yield f"a reply of {len(reply)} characters, {may}: {reply[:20]!r}"
    if reply != reply.strip() or not reply.endswith(tuple(_ENDINGS)):
        yield f"a reply does not end as a sentence does: {reply[-10:]!r}"
    if found := _MARKUP.search(reply):
        yield f"a reply holds markup: {found[0]!r}"
    if found := _EMOJI.search(reply):
        yield f"a reply holds an emoji: {found[0]!r}"
    for pattern in rules.forbidden:
        if found := re.search(pattern, reply):
            yield f"a reply holds {found[0]!r}"
    if alarm := guard.after(reply, message):
        yield f"the guard would refuse the reply ({alarm}): {reply[:30]!r}"
    if not _CHINESE.search(reply) and _CHINESE.search(message):
        yield "a Chinese message is answered without a Chinese word"


def _near(rows: Sequence[Row], others: Sequence[Row], replies: bool = True) -> Iterator[str]:
    """Rows near to an earlier one: by their message, where neither has a history, or by their
    reply."""
    yield from _near_texts("message", rows, others, _alone)
    if replies:
        yield from _near_texts("reply", rows, others, lambda row: row.triple.output)


def _alone(row: Row) -> str:
    return "" if row.triple.history else row.triple.message


def _near_texts(
    kind: str, rows: Sequence[Row], others: Sequence[Row], text_of: Callable[[Row], str]
) -> Iterator[str]:
    grams = [trigrams(text) if (text := text_of(other)) else frozenset() for other in others]
    places: defaultdict[str, list[int]] = defaultdict(list)
    for number, found in enumerate(grams):
        for gram in found:
            places[gram].append(number)
    for number, row in enumerate(rows):
        text = text_of(row)
        own = trigrams(text) if text else frozenset()
        near = [
            other
            for other in sorted({place for gram in own for place in places[gram]})
            if (rows is not others or other < number) and similarity(own, grams[other]) >= SAME
        ]
        if near:
            yield f"{row.where}: the {kind} is near to that of {others[near[0]].where}"


def _openings(rows: Sequence[Row], rules: Rules) -> Iterable[str]:
    openings = Counter(row.triple.output[:_OPENING] for row in rows)
    for opening, count in openings.most_common():
        if count <= 3 or count <= rules.max_opening * len(rows):
            return
        yield (
            f"{rows[0].path.parent}: {count} of {len(rows)} replies begin with {opening!r}; "
            f"{rules.max_opening:.1%} may"
        )
