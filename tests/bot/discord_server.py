"""Discord's gateway and REST over real sockets, for faults that are about the connection.

    async with DiscordServer() as server:
        with server.in_place():
            ...  # the real library talks to it

simcord stands in for what people do on Discord; this one drops sockets, ends sessions, asks to
reconnect, replays, refuses and limits. It knows one server with its channels, and private chats.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from unittest import mock

import discord
import yarl
from aiohttp import WSMsgType, web
from discord.gateway import DiscordWebSocket

from tests.bot.discord_rest import (
    APPLICATION,
    BY_TOKEN,
    GUILD,
    HEARS,
    ME,
    Fault,
    Limits,
    Place,
    Rest,
    person,
)

TOKEN = "not.a.secret"
PATIENCE = 30.0
"""Seconds after which what is waited for is given up."""
_HEARTBEAT = 45.0
_CONTENT = 1 << 15
"""The Message Content Intent."""


@dataclass(slots=True)
class _Planned:
    method: str
    path: re.Pattern[str]
    fault: Fault
    times: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it came, at the server's clock in seconds, and the status of its answer."""

    at: float
    method: str
    path: str
    body: Any
    status: int


@dataclass
class _Session:
    """What was told in it, so that it can be told again; and the socket, where one is open."""

    id: str
    told: list[dict[str, Any]] = field(default_factory=list)
    request: web.Request | None = None
    socket: web.WebSocketResponse | None = None


class DiscordServer:
    """The server. `hears` is whether the bot may have the Message Content Intent; `limits`,
    whether Discord's limits are kept.

    `down`: nothing can be had from it. `may_resume`: a session that is still there is taken up.
    `replay_from` is the event after which a resumed session is told again; None is where the
    client says. `on_identify` is called once a new session was told all about the server.
    """

    def __init__(self, *, hears: bool = True, limits: bool = False) -> None:
        self.token = TOKEN
        self.down = False
        self.may_resume = True
        self.replay_from: int | None = None
        self.on_identify: Callable[[], object] = lambda: None
        self.calls: list[Call] = []
        self.identified = self.resumed = 0
        self.grants = hears
        """Whether the gateway grants the intent; `hears` is what the application is told of it."""
        self._rest = Rest(self.tell)
        self._rest.hears = hears
        self._limits = Limits() if limits else None
        self._planned: list[_Planned] = []
        self._session: _Session | None = None
        self._sending: set[asyncio.Future[None]] = set()

    async def __aenter__(self) -> DiscordServer:
        app = web.Application()
        app.router.add_get("/gateway", self._gateway)
        app.router.add_route("*", "/{path:.*}", self._call)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def gateway(self) -> str:
        return f"ws://127.0.0.1:{self.port}/gateway"

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the library finds this server where it looks for Discord."""
        with (
            mock.patch.object(discord.http.Route, "BASE", self.base),
            mock.patch.object(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(self.gateway)),
        ):
            yield

    # ── what people do ──

    def channel(self) -> Place:
        return self._rest.place(private=False)

    def private(self) -> Place:
        return self._rest.place(private=True)

    def say(self, place: Place, text: str) -> str:
        """A person says something, in a channel to her; the message's id."""
        return str(
            self._rest.write(place, text, person("100"), [] if place.private else [ME])["id"]
        )

    def command(self, place: Place, name: str, **options: str) -> dict[str, Any]:
        """A person uses a slash command; the event that tells of it."""
        event = self._rest.command(place, name, options)
        self.tell("INTERACTION_CREATE", event)
        return event

    def acknowledge_elsewhere(self, event: dict[str, Any]) -> None:
        """Another program with the same token takes a command up."""
        self._rest.acknowledge(event["id"])

    def tell(self, event: str, data: Any) -> None:
        """Tells the session of an event; where its socket is gone, it is kept for the replay."""
        if session := self._session:
            told = {"op": 0, "s": len(session.told) + 1, "t": event, "d": data}
            session.told.append(told)
            self._send(session, told)

    # ── what goes wrong ──

    def fail(self, method: str, path: str, fault: Fault, times: int | None = 1) -> None:
        """The next `times` calls of a method whose path holds the pattern go wrong."""
        self._planned.append(_Planned(method, re.compile(path), fault, times))

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        self._planned.clear()

    def drop(self) -> None:
        """Cuts the socket without a word, as a network does."""
        if (session := self._session) and session.request and session.request.transport:
            session.socket = None
            session.request.transport.abort()

    def reconnect(self) -> None:
        """Op 7: asks the client to come back."""
        self._last_word({"op": 7, "d": None})

    def invalidate(self, *, resumable: bool) -> None:
        """Op 9. Where it cannot be resumed, whatever comes meanwhile is told to nobody."""
        self._last_word({"op": 9, "d": resumable})
        if not resumable:
            self._session = None

    def _last_word(self, payload: dict[str, Any]) -> None:
        if session := self._session:
            self._send(session, payload)
            session.socket = None

    async def close(self, code: int) -> None:
        if self._session and self._session.socket:
            await self._session.socket.close(code=code)

    def forget(self) -> None:
        """Loses the session without a word: the client learns it when it tries to resume."""
        self.drop()
        self._session = None

    # ── what came of it ──

    @property
    def connected(self) -> bool:
        return bool(self._session and self._session.socket)

    def made(self, method: str, path: str) -> list[Call]:
        """Calls of a method whose path holds the pattern."""
        return [c for c in self.calls if c.method == method and re.search(path, c.path)]

    async def until(self, true: Callable[[], object]) -> None:
        """Waits until something becomes true; fails where it does not."""
        async with asyncio.timeout(PATIENCE):
            while not true():  # noqa: ASYNC110 - what is waited for knows nothing of the tests
                await asyncio.sleep(0.005)

    # ── the gateway ──

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": int(_HEARTBEAT * 1000)}})
        session: _Session | None = None
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                break
            payload = json.loads(frame.data)
            if payload["op"] == 1:
                await socket.send_json({"op": 11, "d": None})
            elif payload["op"] == 2:
                session = await self._identify(request, socket, payload["d"])
            elif payload["op"] == 6:
                session = await self._resume(request, socket, payload["d"])
        if session and session.socket is socket:
            session.socket = None
        return socket

    async def _identify(
        self, request: web.Request, socket: web.WebSocketResponse, asked: dict[str, Any]
    ) -> _Session | None:
        if asked["token"] != self.token:
            await socket.close(code=4004)
            return None
        if asked["intents"] & _CONTENT and not self.grants:
            await socket.close(code=4014)
            return None
        self.identified += 1
        self._session = session = _Session(f"s{self.identified}", request=request, socket=socket)
        self.tell("READY", {
            "v": 10, "user": ME, "guilds": [{"id": GUILD, "unavailable": True}], "shard": [0, 1],
            "session_id": session.id, "resume_gateway_url": self.gateway,
            "application": {"id": APPLICATION, "flags": HEARS if self._rest.hears else 0},
        })  # fmt: skip
        self.tell("GUILD_CREATE", self._rest.guild())
        self.on_identify()
        return session

    async def _resume(
        self, request: web.Request, socket: web.WebSocketResponse, asked: dict[str, Any]
    ) -> _Session | None:
        session = self._session
        if not self.may_resume or session is None or session.id != asked["session_id"]:
            await socket.send_json({"op": 9, "d": False})
            return None
        self.resumed += 1
        session.request, session.socket = request, socket
        after = asked["seq"] if self.replay_from is None else self.replay_from
        for told in session.told[after:]:
            self._send(session, told)
        self.tell("RESUMED", {})
        return session

    def _send(self, session: _Session, payload: dict[str, Any]) -> None:
        if session.socket is None or session.socket.closed:
            return
        # In the order of the calls: a frame this small is written at once.
        sending = asyncio.ensure_future(session.socket.send_json(payload))
        self._sending.add(sending)
        sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Future[None]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled():
            sending.exception()  # the socket was gone: the session keeps what it was

    # ── REST ──

    async def _call(self, request: web.Request) -> web.Response:
        method, path = request.method, request.path
        body = await _body(request) if request.can_read_body else None
        fault = self._fault(method, path)
        done = None if fault and not fault.late else self._done(request, body)
        answer = fault or done
        assert answer
        self.calls.append(Call(time.monotonic(), method, path, body, answer.status))
        if not answer.status:
            assert request.transport
            request.transport.abort()
        if answer.status in (0, 204):
            return web.Response(status=204, headers=answer.headers)
        # The library reads as JSON what says no more than that it is.
        headers = {"Content-Type": "application/json"} | answer.headers
        return web.Response(
            body=json.dumps(answer.body).encode(), status=answer.status, headers=headers
        )

    def _done(self, request: web.Request, body: Any) -> Fault:
        method, path = request.method, request.path
        if self.down:
            return Fault(503, {"code": 0, "message": "down"})
        if request.headers.get("Authorization") != f"Bot {self.token}" and not BY_TOKEN.search(
            path
        ):
            return Fault(401, {"code": 0, "message": "401: Unauthorized"})
        if self._limits and (over := self._limits.over(method, path)):
            return over
        status, answer = self._rest.answer(method, path, body, request.query, self.gateway)
        return Fault(status, answer, self._limits.headers(method, path) if self._limits else {})

    def _fault(self, method: str, path: str) -> Fault | None:
        for planned in self._planned:
            if planned.method == method and planned.path.search(path) and planned.times != 0:
                planned.times = planned.times and planned.times - 1
                return planned.fault
        return None


async def _body(request: web.Request) -> Any:
    """What is said of it; a file that comes with it is left aside."""
    if request.content_type == "application/json":
        return await request.json()
    return json.loads(str((await request.post())["payload_json"]))
