"""`python -m tests.fakes.screens [FOLDER]`: two conversations on Telegram, as pictures.

The whole bot runs, in a process of its own, on the engine and the base of config.toml and on a
database of its own; people talk to it through the fake server. What they say stands below; what she
says is hers, unedited, and other words at each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from bot.config import read
from data.config import environment
from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Chat
from tests.fakes.messages import Message, User
from tests.fakes.rendering import Line, svg

REPO = Path(__file__).parents[2]
FOLDER = REPO / "docs" / "screens"
_PATIENCE = 600.0
"""Seconds for a first start, which fetches a model, and for anything else."""


class Screen:
    """What is seen of a chat: what people do there, and all that follows from it.

    `database` is the bot's: by it, all that was said is known to be dealt with.
    """

    def __init__(self, server: BotAPI, chat: Chat, database: Path) -> None:
        self.chat = chat
        self.lines: list[Line] = []
        self._server = server
        self._database = database
        self._seen: set[int] = set()

    async def say(self, user: User, text: str, *, reply_to: Message | None = None) -> Message:
        """Says something; the newest message once it was dealt with."""
        await self.chat.say(user, text, reply_to=reply_to)
        return await self._settled()

    async def show(self, user: User, kind: str) -> None:
        await self.chat.send(user, kind)
        await self._settled()

    async def press(self, message: Message, button: str, by: User) -> None:
        press = await self.chat.press(message, button, by=by)
        await self._settled()
        told = str(press.answer["text"]).partition("\n")[0] if press.answer else ""
        self.lines.append(f"〔{by.first_name} 按了 {button}〕{told}")

    async def react(self, message: Message, emoji: str, by: User) -> None:
        await self.chat.react(message, emoji, by=by)
        await self._settled()

    async def _settled(self) -> Message:
        await self._server.updates.confirmed(_PATIENCE)
        await self._server.until(lambda: not self._waiting(), _PATIENCE)
        for message in self.chat.messages:
            if message.id not in self._seen and not message.service:
                self._seen.add(message.id)
                self.lines.append(message)
        return self.chat.messages[-1]

    def _waiting(self) -> bool:
        with contextlib.closing(sqlite3.connect(self._database)) as connection:
            left = connection.execute("SELECT 1 FROM inbox WHERE done_at IS NULL LIMIT 1")
            return left.fetchone() is not None


async def talk(server: BotAPI, database: Path) -> Screen:
    """Alone with her: a talk, a picture, and a better wording, which serves the next message."""
    person = server.user("阿宁")
    screen = Screen(server, server.private(person), database)
    await screen.say(person, "外头下雨了，你在做什么")
    await screen.show(person, "photo")
    reply = await screen.say(person, "我的乌龟叫慢慢，它不肯吃菜叶")
    better = "/feedback 慢慢不吃菜叶，便切一片苹果试试。它走得慢，心里却有数。"
    asked = await screen.say(person, better, reply_to=reply)
    await screen.press(asked, "愿意", person)
    liked = await screen.say(person, "我的乌龟不肯吃东西")
    await screen.press(liked, "👍", person)
    return screen


async def company(server: BotAPI, database: Path) -> Screen:
    """In a group: she speaks when called, and asks whoever rates her first, naming nobody."""
    first, second = server.user("阿宁"), server.user("小满")
    group = server.supergroup("园中夜话", first, second, bot="administrator")
    screen = Screen(server, group, database)
    await screen.say(first, "今晚月亮真圆")
    reply = await screen.say(second, "林姑娘，今晚的月亮好看么")
    reply = await screen.say(first, "中秋你想吃什么", reply_to=reply)
    await screen.react(reply, "👍", second)
    return screen


@contextlib.asynccontextmanager
async def _bot(var: Path, server: BotAPI) -> AsyncIterator[None]:
    """The bot, on the models that are there already and on nothing else that is there."""
    models = read(REPO / "config.toml", environment()).paths.var / "models"
    models.mkdir(parents=True, exist_ok=True)
    (var / "models").symlink_to(models.resolve(), target_is_directory=True)
    env = dict(os.environ) | {
        "DAIYU_PATHS__VAR": str(var),
        "DAIYU_TELEGRAM__BASE_URL": server.base_url.removesuffix("/bot"),
        "TELEGRAM_TOKEN": server.token,
        "DISCORD_TOKEN": "",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bot", cwd=REPO, env=env)
    ended = asyncio.create_task(process.wait())
    try:
        await server.until(lambda: server.updates.polled or ended.done(), _PATIENCE)
        if ended.done():
            raise SystemExit(process.returncode)
        yield
    finally:
        if not ended.done():
            process.terminate()
        await ended


async def make() -> dict[str, str]:
    """Each conversation, as SVG, by the name of its file."""
    made = {}
    async with BotAPI(privacy=False) as server:
        with tempfile.TemporaryDirectory() as var:
            async with _bot(Path(var), server):
                for name, title, scene in (
                    ("talk", "黛玉", talk),
                    ("company", "园中夜话", company),
                ):
                    screen = await scene(server, Path(var) / "daiyu.db")
                    made[f"{name}.svg"] = svg(title, screen.lines)
    return made


def main(folder: Path) -> None:
    made = asyncio.run(make())
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in made.items():
        (folder / name).write_text(drawn, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
