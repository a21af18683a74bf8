"""A person and a chat: what the tests talk through. Everything behind the screen is real."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import event

from bot import app, config
from bot.app import Character
from bot.bot import Bot
from bot.metrics import Metrics
from bot.platforms.base import Choices, File, Handler, Incoming, Limits, Said, SendError
from data.store import Store
from persona.card import Card
from persona.engines.base import Delta, Sampling
from persona.engines.echo import EchoEngine
from persona.guard import AuthoredReplies
from persona.prompt import Exchange
from persona.sense import Sense
from persona.service import InferenceService

REPO = Path(__file__).parents[2]
SECONDS = 10
"""How long anything here may take before it counts as stuck."""

EXCHANGES = [
    Exchange("窗前的竹子可要修剪？", "不必，我爱它遮着窗。", "garden:1"),
    Exchange("今日下雨了", "雨打芭蕉，倒也好听。", "garden:2"),
]


class ListeningEngine(EchoEngine):
    """The echo engine, which also keeps the ids that it was given.

    While `going` is not set, a reply that was begun waits, and nobody has seen anything of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[list[int]] = []
        self.going = asyncio.Event()
        self.going.set()

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        self.ids.append(list(token_ids))
        async with aclosing(super().generate(token_ids, sampling)) as deltas:
            async for delta in deltas:
                await self.going.wait()
                yield delta


class Screen:
    """A platform in memory. `seen` is every text that was ever shown, `messages` what stands.

    `hers` are the ids of what she says; what else was sent, the program does.
    """

    name = "screen"
    online = True

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits(length=2000, edit_interval=0.0)
        self.seen: list[str] = []
        self.messages: dict[str, str] = {}
        self.answers: dict[str | None, list[str]] = {}
        self.order: list[str] = []
        self.hers: set[str] = set()
        self.typed = 0
        self.stripped: list[str] = []
        self.buttons: list[Choices] = []
        self.files: list[tuple[Incoming, File]] = []
        self.takes_no_files = False
        self._ids = itertools.count(1)

    def limits(self, to: Incoming) -> Limits:
        return self._limits

    async def run(self, handle: Handler) -> None:
        await handle(Incoming(self.name, "1", "u1", "你好"))

    async def send(self, to: Incoming, said: Said) -> str:
        message_id = f"b{next(self._ids)}"
        self._show(message_id, said)
        self.answers.setdefault(to.message_id, []).append(message_id)
        self.order.append(to.text)
        return message_id

    async def edit(self, to: Incoming, message_id: str, said: Said) -> None:
        self._show(message_id, said)

    def _show(self, message_id: str, said: Said) -> None:
        self.messages[message_id] = said.text
        self.seen.append(said.text)
        if said.choices:
            self.buttons.append(said.choices)
        (self.hers.add if said.hers else self.hers.discard)(message_id)

    async def typing(self, to: Incoming) -> None:
        self.typed += 1

    async def draft(self, to: Incoming, said: Said) -> None:
        self.seen.append(said.text)

    async def hand_over(self, to: Incoming, file: File) -> None:
        if self.takes_no_files:
            raise SendError("no files here")
        self.files.append((to, file))

    async def strip(self, to: Incoming, message_id: str) -> None:
        self.stripped.append(message_id)

    def answer(self, message_id: str | None) -> str:
        """The whole answer to a message, as it stands."""
        return "".join(self.messages[i] for i in self.answers.get(message_id, []))


@dataclass
class Chat:
    """A bot at work and somebody who talks to it: `await chat.say("你好")`."""

    bot: Bot
    store: Store
    service: InferenceService
    engine: ListeningEngine
    screen: Screen
    database: Path
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def say(self, text: str, **where: Any) -> str:
        """Says something and gives what is shown in the end. `where` are fields of Incoming."""
        incoming = self.incoming(text, **where)
        async with asyncio.timeout(SECONDS):
            await self.bot.handle(self.screen, incoming)
        return self.screen.answer(incoming.message_id)

    def saying(self, text: str, **where: Any) -> asyncio.Task[str]:
        """Says it without waiting for the answer."""
        return asyncio.create_task(self.say(text, **where))

    def incoming(self, text: str, **where: Any) -> Incoming:
        values = {"chat_id": "1", "user_id": "u1", "message_id": f"m{next(self._ids)}"} | where
        return Incoming(self.screen.name, text=text, **values)

    def turns(self) -> list[dict[str, Any]]:
        """All rows of turns, oldest first."""
        return rows(self.database, "SELECT * FROM turns ORDER BY id")

    def last(self) -> dict[str, Any]:
        return self.turns()[-1]

    @property
    def shown_id(self) -> str:
        """The id of the newest message on the screen."""
        return list(self.screen.messages)[-1]

    async def mid_reply(self) -> None:
        """Waits until a reply is being generated."""
        await eventually(lambda: self.engine.running > 0)


def rows(database: Path, query: str) -> list[dict[str, Any]]:
    """What another process would read of the database."""
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


async def eventually(true: Callable[[], object]) -> None:
    """Waits until something becomes true; fails where it does not."""
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for knows nothing of the tests
            await asyncio.sleep(0.002)


@asynccontextmanager
async def full_disk(store: Store) -> AsyncGenerator[None]:
    """SQLite may not make the database larger, as on a disk that is full."""
    database = store._database.engine
    async with store._transactions.read() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()

    def fill(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {pages}")
        cursor.close()

    event.listen(database.sync_engine, "connect", fill)
    await database.dispose()
    try:
        yield
    finally:
        event.remove(database.sync_engine, "connect", fill)
        await database.dispose()


def character() -> Character:
    """Daiyu, with two dialogues instead of hundreds."""
    card = Card(
        name="林黛玉", system_prompt="你是林黛玉，贾宝玉的表妹。", first_mes="{{user}}来了，坐罢。"
    )
    lines: dict[Literal["zh", "en"], str] = {"zh": "心理援助热线12356", "en": "988"}
    guard = AuthoredReplies(REPO / "persona" / "daiyu" / "guard.toml", lines)
    return Character(card, guard, EXCHANGES, Sense(exchange.reply for exchange in EXCHANGES))


def settings(var: Path, **overrides: str) -> config.Settings:
    """The shipped settings, with the echo engine; `model__queue="1"` changes a key."""
    env = {"DAIYU_MODEL__ENGINE": "echo", "DAIYU_PATHS__VAR": str(var)}
    env |= {f"DAIYU_{key.upper()}": value for key, value in overrides.items()}
    return config.read(REPO / "config.toml", env)


@asynccontextmanager
async def opened_chat(
    var: Path, screen: Screen | None = None, metrics: Metrics | None = None, **overrides: str
) -> AsyncGenerator[Chat]:
    """A bot on the database below `var`, new or as it was left."""
    chosen, who, engine = settings(var, **overrides), character(), ListeningEngine()
    store = await Store.open(chosen.database_url, busy_timeout=chosen.store.busy_timeout)
    try:
        await store.recover()
        loaded = app.Loaded("untrained", engine, engine.tokenizer)
        service = app.make_service(chosen, who, loaded)
        takeover = app.make_takeover(chosen, who, service, store)
        if metrics:
            metrics.follow(service)
        bot = Bot(chosen, store, service, who.card, takeover, metrics)
        yield Chat(bot, store, service, engine, screen or Screen(), var / "daiyu.db")
    finally:
        await store.close()
