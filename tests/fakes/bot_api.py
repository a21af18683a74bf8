"""A Bot API server over a real socket, for the real python-telegram-bot and the whole bot.

    async with BotAPI() as server:
        app = Application.builder().token(server.token).base_url(server.base_url).build()
        chat = server.private(server.user("宝玉"))
        await chat.say(chat.user, "你好")
        await chat.until(lambda place: place.from_bot)

It refuses what Telegram refuses, in its words, and goes wrong on demand: `fail`. Leaving it fails
where an answer held the token, or where the server itself broke.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from aiohttp import web

from tests.fakes.chats import Chat, Place, Press
from tests.fakes.limits import ApiError, Fault, Planned, Rates, taken
from tests.fakes.messages import User
from tests.fakes.methods import Methods, Params
from tests.fakes.updates import Updates

T = TypeVar("T")

TOKEN = "110201543:" + "not-a-secret".ljust(35, "x")

QUERY_LIFE = 15.0
"""Seconds in which a callback query can be answered."""

_HTML = "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
_REASONS = {500: "500 Internal Server Error", 502: "502 Bad Gateway", 504: "504 Gateway Time-out"}


@dataclass(eq=False)
class Request:
    """A call as it came; `status` is None while it runs, and where no answer was given."""

    at: float
    """The server's clock, in seconds."""
    method: str
    """As the client wrote it."""
    params: Params
    chat: int | None
    status: int | None = None
    answer: Any = None


class BotAPI:
    """The server. `privacy` is the bot's privacy mode.

    `mentions_pass` is whether privacy mode lets a bare @mention through, on which reports differ.
    `local` allows what one's own Bot API server does: webhooks over plain HTTP, on any port.
    """

    def __init__(
        self,
        *,
        token: str = TOKEN,
        privacy: bool = True,
        mentions_pass: bool = False,
        rates: Rates | None = None,
        local: bool = False,
        username: str = "daiyu_bot",
        webhook_retry: float = 0.05,
    ) -> None:
        self.token = token
        self.privacy, self.mentions_pass, self.local = privacy, mentions_pass, local
        self.rates = rates
        self.revoked = False
        """Whether the token was revoked: every call is Unauthorized then."""
        self.query_life = QUERY_LIFE

        self.bot = User(int(token.partition(":")[0]), "黛玉", username, None, is_bot=True)
        self.users = {self.bot.id: self.bot}
        self.chats: dict[int, Chat] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.commands: dict[tuple[tuple[Any, ...], str], list[dict[str, Any]]] = {}
        """By scope, as ("chat", its id), and language."""
        self.queries: dict[str, Press] = {}

        self.requests: list[Request] = []
        self.updates = Updates(self, webhook_retry=webhook_retry)

        self._numbers = itertools.count(1)
        self._message_ids = itertools.count(1)
        self._planned: list[Planned] = []
        self._change = asyncio.Event()
        self._skew = 0.0
        self._closing = False
        self._wrong: list[Exception] = []
        self._methods = Methods(self)

    async def __aenter__(self) -> BotAPI:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        self._delivering = asyncio.create_task(self.updates.deliver())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self.updates.close()
        self._delivering.cancel()
        await asyncio.gather(self._delivering, return_exceptions=True)
        await self._runner.cleanup()
        if self._wrong and error is None:
            raise self._wrong[0]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/bot"

    @property
    def base_file_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/file/bot"

    # ── people and chats ──

    def user(
        self,
        name: str,
        username: str | None = None,
        *,
        language_code: str | None = "zh-hans",
        is_bot: bool = False,
    ) -> User:
        user = User(5_000_000_000 + next(self._numbers), name, username, language_code, is_bot)
        self.users[user.id] = user
        return user

    def private(self, user: User, *, started: bool = True) -> Chat:
        """The chat with a person, always the same; not `started`, the bot may not write first."""
        if user.id not in self.chats:
            chat = self._add(Chat(self, user.id, "private", "", [user]))
            chat.started = started
        return self.chats[user.id]

    def group(self, title: str, *people: User, bot: str = "member") -> Chat:
        """A basic group; the first of its people made it."""
        return self._add(
            Chat(self, -4_000_000_000 - next(self._numbers), "group", title, people, bot=bot)
        )

    def supergroup(
        self,
        title: str,
        *people: User,
        bot: str = "member",
        username: str | None = None,
        forum: bool = False,
    ) -> Chat:
        chat_id = -1_002_000_000_000 - next(self._numbers)
        kind = "supergroup"
        return self._add(
            Chat(self, chat_id, kind, title, people, bot=bot, username=username, forum=forum)
        )

    def channel(
        self, title: str, *, bot: str = "administrator", username: str | None = None
    ) -> Chat:
        chat_id = -1_002_000_000_000 - next(self._numbers)
        return self._add(Chat(self, chat_id, "channel", title, [], bot=bot, username=username))

    def chat(self, name: str) -> Chat | None:
        """A chat by its id or its @username."""
        if name.startswith("@"):
            named = (one for one in self.chats.values() if one.username == name[1:])
            return next(named, None)
        return self.chats.get(int(name)) if name.lstrip("-").isdigit() else None

    def file(self, content: bytes, kind: str = "document") -> str:
        """Something that was uploaded; its file_id."""
        number = next(self._numbers)
        file_id = f"{kind}-{number}"
        self.files[file_id] = (f"{kind}s/file_{number}", content)
        return file_id

    def query(self, data: str) -> Press:
        press = Press(str(10**17 + next(self._numbers)), data, self.now())
        self.queries[press.id] = press
        return press

    # ── time, faults, what happened ──

    def now(self) -> float:
        return time.monotonic() + self._skew

    def date(self) -> int:
        return int(time.time() + self._skew)

    def advance(self, seconds: float) -> None:
        """Moves the server's clock: drafts, queries, rates and old updates see it."""
        self._skew += seconds
        self.changed()

    def fail(
        self,
        method: str,
        fault: Fault,
        *,
        chat: Place | None = None,
        times: int | None = 1,
    ) -> Planned:
        """Plans a fault for the next calls of a method; "*" is any but getUpdates."""
        plan = Planned(method, fault, chat.chat.id if chat else None, times)
        self._planned.append(plan)
        return plan

    def calls(self, method: str, chat: Place | None = None) -> list[Request]:
        """What was called, in order; whatever came of it."""
        return [
            request
            for request in self.requests
            if request.method.lower() == method.lower()
            and (chat is None or request.chat == chat.chat.id)
        ]

    async def until(
        self,
        predicate: Callable[[], T],
        timeout: float = 20.0,
        why: Callable[[], str] = lambda: "in vain",
    ) -> T:
        """What the predicate gives once it is true."""
        end = time.monotonic() + timeout
        while not (value := predicate()):
            left = end - time.monotonic()
            assert left > 0, why()
            try:
                # The clock changes things too: look again now and then.
                await asyncio.wait_for(self._change.wait(), min(left, 0.05))
            except TimeoutError:
                continue
        return value

    def changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def next_change(self) -> None:
        await self._change.wait()

    def next_message_id(self) -> int:
        return next(self._message_ids)

    # ── the socket ──

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        head, _, rest = http.path.removeprefix("/").partition("/")
        if head == "file":
            head, _, rest = rest.partition("/")
            return self._give_file(head.removeprefix("bot"), rest)
        token = head.removeprefix("bot")
        if not head.startswith("bot") or not token.partition(":")[0].isdigit() or "/" in rest:
            return self._answer(ApiError(404, "Not Found").json(), 404)
        params = await _params(http)
        chat = self.chat(params.text("chat_id"))
        request = Request(self.now(), rest, params, chat.id if chat else None)
        self.requests.append(request)
        if self.revoked or token != self.token:
            return self._close(request, ApiError(401, "Unauthorized"))
        fault = taken(self._planned, rest.lower(), request.chat)
        answer: ApiError | dict[str, Any] = {}
        if fault is None or fault.effect:
            answer = await self._carry_out(rest.lower(), params)
        if fault is not None:
            await asyncio.sleep(fault.delay)
            if fault.html is not None:
                request.status = fault.html
                page = _HTML.format(_REASONS.get(fault.html, fault.html))
                return self._checked(page.encode(), fault.html, "text/html")
            answer = fault.error or answer
        if self._closing or (fault is not None and fault.drop):
            if http.transport is not None:
                http.transport.abort()
            return web.Response()
        return self._close(request, answer)

    async def _carry_out(self, method: str, params: Params) -> ApiError | dict[str, Any]:
        handler = self.updates.methods.get(method) or self._methods.find(method)
        try:
            if method == "getupdates":
                return {"ok": True, "result": await self.updates.get(params)}
            if handler is None:
                raise ApiError(404, "Not Found: method not found")
            return {"ok": True, "result": handler(params)}
        except ApiError as refused:
            return refused
        except Exception as broken:
            # Ours, not the bot's: it must not pass for an answer of Telegram.
            self._wrong.append(broken)
            return ApiError(500, "Internal Server Error")

    def _close(self, request: Request, answer: ApiError | dict[str, Any]) -> web.Response:
        status = answer.code if isinstance(answer, ApiError) else 200
        body = answer.json() if isinstance(answer, ApiError) else answer
        request.status, request.answer = status, body
        self.changed()
        return self._answer(body, status)

    def _answer(self, body: dict[str, Any], status: int) -> web.Response:
        return self._checked(json.dumps(body).encode(), status, "application/json")

    def _checked(self, body: bytes, status: int, kind: str) -> web.Response:
        if self.token.partition(":")[2].encode() in body:
            self._wrong.append(AssertionError(f"the token is in an answer: {body.decode()}"))
        return web.Response(body=body, status=status, content_type=kind)

    def _give_file(self, token: str, path: str) -> web.Response:
        if self.revoked or token != self.token:
            return self._answer(ApiError(401, "Unauthorized").json(), 401)
        content = next((data for name, data in self.files.values() if name == path), None)
        if content is None:
            return self._answer(ApiError(404, "Not Found").json(), 404)
        return web.Response(body=content, content_type="application/octet-stream")

    def _add(self, chat: Chat) -> Chat:
        self.chats[chat.id] = chat
        return chat


async def _params(http: web.Request) -> Params:
    params = Params(http.query)
    if http.content_type == "application/json":
        return Params(params | await http.json())
    form = await http.post()
    params.update({name: value for name, value in form.items() if isinstance(value, str)})
    params.files = {
        name: (value.filename, value.file.read())
        for name, value in form.items()
        if isinstance(value, web.FileField)
    }
    return params
