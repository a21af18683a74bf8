"""The real bot and its real store, on a stage: people act on it at the time that the play says.

What is not real: the model, which says what a play has it say; the clock, for which `data.store`'s
own is replaced, so that accounts have an age; and the platform, which calls itself Telegram, since
of a bench nothing would be learned. Quotas by the hour are off: they go by the wall's clock.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

from benchmarks.chats import SilentPlatform
from benchmarks.crowd import START, Change, Event, Exchange, Judgement
from bot import app, config
from bot.bot import Bot
from bot.platforms.base import Incoming, Limits, Said
from data import store as store_module
from data.store import Store
from persona.engines.base import Delta, Sampling
from persona.engines.echo import EchoEngine

REPO = Path(__file__).parents[1]
_UNLIMITED = {f"DAIYU_TELEGRAM__{key}": "0" for key in ("USER_HOUR", "USER_DAY", "GROUP_HOUR",
                                                        "GROUP_DAY")}  # fmt: skip


class Telegram(SilentPlatform):
    """Takes what is sent and keeps the id of the last message; nothing is edited."""

    name = "telegram"

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self.last = ""

    def limits(self, to: Incoming) -> Limits:
        return Limits(4096, edit_interval=None)

    async def send(self, to: Incoming, said: Said) -> str:
        self.last = f"b{next(self._ids)}"
        return self.last


class PuppetEngine(EchoEngine):
    """The echo engine, which says what it is told to, however often it is asked."""

    says: str | None = None

    def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        self.replies.clear()
        if self.says is not None:
            self.replies.append(self.says)
        # A token is a byte here.
        return super().generate(token_ids, replace(sampling, max_new_tokens=4096))


@dataclass
class Stage:
    """`turns` are the turns of the exchanges that were played, `agreed` who agrees now."""

    bot: Bot
    store: Store
    engine: PuppetEngine
    refusing: frozenset[str]
    now: datetime = START
    turns: dict[int, int] = field(default_factory=dict)
    agreed: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    _platform: Telegram = field(default_factory=Telegram)
    _shown: dict[int, tuple[str, str]] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def play(self, events: Sequence[Event]) -> None:
        for event in events:
            self.now = event.at
            if isinstance(event, Exchange):
                await self._exchange(event)
            elif isinstance(event, Judgement):
                await self._judge(event)
            else:
                await self._change(event)

    async def _exchange(self, said: Exchange) -> None:
        self.engine.says = said.reply
        chat = said.chat or said.who
        await self._hand_in(said.who, chat, said.text)
        self._shown[said.number] = chat, self._platform.last
        turn = await self.store.messages.turn_of("telegram", chat, self._platform.last)
        if turn is None:
            raise SystemExit(f"daiyu: {said.text!r} was not answered; the log says why")
        self.turns[said.number] = turn.id

    async def _judge(self, judged: Judgement) -> None:
        chat, shown = self._shown[judged.exchange]
        await self._hand_in(judged.who, chat, f"/feedback {judged.verdict}", reply_to=shown)
        if judged.who not in self._asked:
            await self._consent(judged.who, chat)

    async def _consent(self, who: str, chat: str) -> None:
        """Answers what the first rating is asked; of the refusing ones half say nothing."""
        self._asked.add(who)
        if who not in self.refusing:
            await self._hand_in(who, chat, "/privacy yes")
            self.agreed.add(who)
        elif sum(map(ord, who)) % 2:
            await self._hand_in(who, chat, "/privacy no")

    async def _change(self, change: Change) -> None:
        await self._hand_in(change.who, change.who, change.command)
        self.agreed.discard(change.who)
        if change.command.startswith("/forget"):
            self.forgotten.add(change.who)
            self._asked.discard(change.who)

    async def _hand_in(self, who: str, chat: str, text: str, reply_to: str | None = None) -> None:
        incoming = Incoming(
            "telegram",
            chat,
            who,
            text,
            user_name=who,
            message_id=f"m{next(self._ids)}",
            is_group=chat != who,
            reply_to=reply_to,
            sent_at=self.now.timestamp(),
        )
        await self.bot.handle(self._platform, incoming)


@asynccontextmanager
async def opened(
    var: Path, refusing: frozenset[str], exemplars: frozenset[str]
) -> AsyncGenerator[Stage]:
    """A bot on a new database below `var`, with those of the authored exemplars that are named."""
    env = {"DAIYU_MODEL__ENGINE": "echo", "DAIYU_MODEL__CONTEXT": "8192",
           "DAIYU_PATHS__VAR": str(var), **_UNLIMITED}  # fmt: skip
    settings = config.read(REPO / "config.toml", env)
    character = app.load_character(settings)
    character = replace(character, exchanges=[e for e in character.exchanges if e.key in exemplars])
    engine = PuppetEngine()
    store = await Store.open(settings.database_url, busy_timeout=settings.store.busy_timeout)
    try:
        loaded = app.Loaded("untrained", engine, engine.tokenizer)
        service = app.make_service(settings, character, loaded)
        takeover = app.make_takeover(settings, character, service, store)
        stage = Stage(
            Bot(settings, store, service, character.card, takeover), store, engine, refusing
        )
        with patch.object(store_module, "_now", lambda: stage.now):
            yield stage
    finally:
        await store.close()
