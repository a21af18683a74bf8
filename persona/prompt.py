"""ChatML, and the only place that knows it: a conversation to token ids and a label mask.

Serving and training call the same builder, so that a reply is learned behind exactly the ids it
will be given behind. Control tokens are written here, by id; every other span goes through the
plain tokenizer, which has none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from persona.card import Card
from persona.lore import triggered, within
from persona.tokenizer import ChatTokenizer

IGNORED = -100
"""The label of a position that is not learned (PyTorch's `ignore_index`)."""

_SENTENCE = re.compile(r"[^。！？.!?\n]*[。！？.!?\n]+|[^。！？.!?\n]+")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message and its reply. `key` names the row or the turn it comes from."""

    text: str
    reply: str
    key: str = ""
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What may enter a prompt, in tokens; `total` holds the prompt and not the reply."""

    total: int = 1024
    lore: int = 120
    exemplars: int = 250
    introduction: int = 160


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids to generate after, or to learn from.

    `labels` has the length of `ids`: the id itself where it is learned, IGNORED elsewhere.
    `exemplars` are the keys of those that fitted, `dropped` counts the exchanges of history that
    did not.
    """

    ids: list[int]
    labels: list[int]
    exemplars: tuple[str, ...]
    dropped: int


class PromptTooLong(Exception):
    """The message alone exceeds the budget; of such a text `characters` would fit."""

    def __init__(self, tokens: int, room: int, characters: int) -> None:
        super().__init__(f"the message takes {tokens} tokens; there is room for {room}")
        self.characters = characters


class PromptBuilder:
    """Builds prompts for one card with one tokenizer; holds no state between calls."""

    def __init__(self, tokenizer: ChatTokenizer, card: Card, budget: Budget) -> None:
        self.tokenizer = tokenizer
        self.card = card
        self.budget = budget
        self._newline = tokenizer.encode("\n")
        self._heads = {
            role: [tokenizer.im_start, *tokenizer.encode(f"{role}\n")]
            for role in ("system", "user", "assistant")
        }

    def build(
        self,
        text: str,
        history: Sequence[Exchange] = (),
        exemplars: Sequence[Exchange] = (),
        speaker: str | None = None,
        reply: str | None = None,
        known: Collection[str] = (),
    ) -> Prompt:
        """The prompt for a message, or, with its `reply`, the row to learn from.

        `history` is oldest first, `exemplars` nearest last; they stand after it, since a model that
        learned to lean on what stands before the message would else say its last reply again.
        Exemplars beyond their budget are left out, farthest first; then the oldest exchanges of
        history, each whole or not at all. With a reply, the replies of exemplars and history are
        learned too, but for the exemplars whose keys are `known`. Raises PromptTooLong.
        """
        lines = [e.text for e in history] + [text]
        system = self._message("system", self._system_text(lines))
        chosen = self._fitting(exemplars, self.budget.exemplars)
        message = self._message("user", _spoken(text, speaker))
        ending = self._heads["assistant"] if reply is None else []
        fixed = len(system) + len(message) + len(self._heads["assistant"])
        room = self.budget.total - fixed - sum(len(ids) for pair in chosen for ids in pair[1:])
        while room < 0 and chosen:
            room += sum(len(ids) for ids in chosen.pop(0)[1:])
        if room < 0:
            room += len(message)
            frame = len(self._message("user", _spoken("", speaker)))  # what is not the text's own
            # Some spare: where a text is cut, what was one token may become two.
            fits = len(text) * (room - frame - 3) // max(1, len(message) - frame)
            raise PromptTooLong(len(message), room, max(0, fits))
        kept = self._fitting(history, room)

        ids, labels = list(system), [IGNORED] * len(system)
        unlearned = {id(exchange) for exchange, *_ in chosen if exchange.key in known}
        for exchange, user, assistant in [*kept, *chosen]:
            self._append(ids, labels, user, learned=0)
            # Everything after the header, the final newline excepted, is hers.
            length = 0 if id(exchange) in unlearned else self._reply_length(assistant)
            self._append(ids, labels, assistant, learned=length)
        self._append(ids, labels, message, learned=0)
        if reply is None:
            self._append(ids, labels, ending, learned=0)
        else:
            own = self._message("assistant", reply)
            self._append(ids, labels, own, learned=self._reply_length(own))
        keys = tuple(exchange.key for exchange, *_ in chosen)
        return Prompt(ids, labels, keys, len(history) - len(kept))

    def _system_text(self, lines: Sequence[str]) -> str:
        card = self.card
        text = card.fill(card.system_prompt or self._introduction())
        if card.character_book:
            budget = self.budget.lore
            if card.character_book.token_budget is not None:
                budget = min(budget, card.character_book.token_budget)
            entries = triggered(card.character_book, lines)
            lore = [e.content for e in within(entries, budget, self.tokenizer.count)]
            text = "\n".join([text, *(card.fill(line) for line in lore)])
        return text

    def _introduction(self) -> str:
        """For a card without a system prompt: its name, and what of its description fits."""
        text = f"你是{self.card.name}。"
        for sentence in _SENTENCE.findall(self.card.description):
            if self.tokenizer.count(text + sentence) > self.budget.introduction:
                break
            text += sentence
        return text.strip()

    def _message(self, role: str, body: str) -> list[int]:
        end = self.tokenizer.im_end
        return [*self._heads[role], *self.tokenizer.encode(body.strip()), end, *self._newline]

    def _reply_length(self, assistant: list[int]) -> int:
        return len(assistant) - len(self._heads["assistant"]) - len(self._newline)

    def _append(self, ids: list[int], labels: list[int], span: list[int], learned: int) -> None:
        """Adds a message; of an assistant's, the `learned` ids before the newline are targets."""
        ids.extend(span)
        if not learned:
            labels.extend([IGNORED] * len(span))
            return
        start = len(self._heads["assistant"])
        labels.extend([IGNORED] * start)
        labels.extend(span[start : start + learned])
        labels.extend([IGNORED] * (len(span) - start - learned))

    def _fitting(
        self, exchanges: Sequence[Exchange], room: int
    ) -> list[tuple[Exchange, list[int], list[int]]]:
        """The last exchanges that fit `room` tokens, each whole, in their order."""
        kept: list[tuple[Exchange, list[int], list[int]]] = []
        for exchange in reversed(exchanges):
            user = self._message("user", _spoken(exchange.text, exchange.speaker))
            assistant = self._message("assistant", exchange.reply)
            room -= len(user) + len(assistant)
            if room < 0:
                break
            kept.append((exchange, user, assistant))
        return kept[::-1]


def _spoken(text: str, speaker: str | None) -> str:
    return f"{speaker.strip()}：{text.strip()}" if speaker and speaker.strip() else text.strip()
