"""Updates on their way to the bot: the queue, long polling with offsets, the webhook."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from tests.fakes.limits import ApiError, bad

if TYPE_CHECKING:
    from tests.fakes.bot_api import BotAPI
    from tests.fakes.methods import Params

RETENTION = 24 * 3600
"""Seconds that an update waits for a bot."""

_UNASKED = ("chat_member", "message_reaction", "message_reaction_count")
"""Kinds that come only where `allowed_updates` names them."""


@dataclass(frozen=True)
class Delivery:
    """One try to bring an update to a webhook; `status` is None where nobody answered."""

    at: float
    update_id: int
    status: int | None


@dataclass
class Webhook:
    url: str
    secret: str
    max_connections: int
    error: str | None = None
    error_date: int = 0


@dataclass(eq=False)
class _Waiting:
    """An update that the bot has not confirmed."""

    update: dict[str, Any]
    since: float
    out_of_order: bool
    """Its id is not above those before it: no offset confirms it before it was given out."""
    given: bool = False

    @property
    def id(self) -> int:
        return int(self.update["update_id"])


class Updates:
    def __init__(self, server: BotAPI, *, webhook_retry: float) -> None:
        self._server = server
        self.next_id = random.randint(10_000_000, 900_000_000)
        self.allowed: list[str] = []
        """As the bot last stated it; empty is Telegram's default."""
        self.webhook: Webhook | None = None
        self.webhook_retry = webhook_retry
        self.proxy: dict[str, str] = {}
        """A reverse proxy: the start of a public address → the start of the one behind it."""
        self.deliveries: list[Delivery] = []
        self._waiting: deque[_Waiting] = deque()
        self._last_id = 0
        self._poll: asyncio.Future[None] | None = None
        self._closing = False
        self.methods: dict[str, Callable[[Params], Any]] = {
            "setwebhook": self._set_webhook,
            "deletewebhook": self._delete_webhook,
            "getwebhookinfo": self._webhook_info,
        }

    @property
    def pending(self) -> list[dict[str, Any]]:
        """What the bot has not confirmed, oldest first."""
        return [waiting.update for waiting in self._waiting]

    @property
    def polled(self) -> bool:
        """Whether a long poll waits now."""
        return self._poll is not None

    async def confirmed(self, timeout: float = 20.0) -> None:
        """Waits until the bot has confirmed every update."""
        await self._server.until(
            lambda: not self._waiting, timeout, lambda: f"not confirmed: {self.pending}"
        )

    def push(
        self, kind: str, body: dict[str, Any], *, update_id: int | None = None
    ) -> dict[str, Any] | None:
        """Makes an update, of any kind; None where `allowed_updates` leaves it out."""
        if kind not in self.allowed if self.allowed else kind in _UNASKED:
            return None
        if update_id is None:
            update_id = self.next_id
            self.next_id += 1
        # Through JSON, so that what is edited later stays in the update as it was.
        update: dict[str, Any] = json.loads(json.dumps({"update_id": update_id, kind: body}))
        self._enqueue(update)
        return update

    def repeat(self, update: dict[str, Any]) -> None:
        """Brings an update once more, as after a confirmation that was lost."""
        self._enqueue(update)

    def restart_ids(self, at: int | None = None) -> None:
        """Goes on from another id, as after a week with no updates."""
        self.next_id = random.randint(10_000_000, 900_000_000) if at is None else at

    def close(self) -> None:
        self._closing = True
        self._end_poll()

    def _enqueue(self, update: dict[str, Any]) -> None:
        update_id = update["update_id"]
        out_of_order = update_id <= self._last_id
        self._last_id = update_id
        self._waiting.append(_Waiting(update, self._server.now(), out_of_order))
        self._end_poll()
        self._server.changed()

    def _expire(self) -> None:
        while self._waiting and self._waiting[0].since < self._server.now() - RETENTION:
            self._waiting.popleft()

    def _end_poll(self, error: ApiError | None = None) -> None:
        poll, self._poll = self._poll, None
        if poll is not None and not poll.done():
            if error is None:
                poll.set_result(None)
            else:
                poll.set_exception(error)

    # ── long polling ──

    async def get(self, params: Params) -> list[dict[str, Any]]:
        """getUpdates."""
        if self.webhook is not None:
            raise ApiError(
                409,
                "Conflict: can't use getUpdates method while webhook is active; "
                "use deleteWebhook to delete the webhook first",
            )
        # The newer poller goes on; the one that waited learns of it.
        self._end_poll(
            ApiError(
                409,
                "Conflict: terminated by other getUpdates request; "
                "make sure that only one bot instance is running",
            )
        )
        self._allow(params)
        self._expire()
        self._confirm(params.number("offset") or 0)
        limit = min(params.number("limit") or 100, 100)
        timeout = min(params.number("timeout") or 0, 50)
        if not self._waiting and timeout > 0 and not self._closing:
            poll = self._poll = asyncio.get_running_loop().create_future()
            self._server.changed()
            try:
                await asyncio.wait_for(poll, timeout)
            except TimeoutError:
                self._poll = None if self._poll is poll else self._poll
        given = list(itertools.islice(self._waiting, limit))
        for waiting in given:
            waiting.given = True
        return [waiting.update for waiting in given]

    def _confirm(self, offset: int) -> None:
        """Forgets what lies before the offset; a negative one counts from the end."""
        if offset < 0:
            while len(self._waiting) > -offset:
                self._waiting.popleft()
        elif any(one.given and one.id == offset - 1 for one in self._waiting):
            # Ids may have gone back since: what was given before this one is confirmed with it.
            last = max(
                index
                for index, one in enumerate(self._waiting)
                if one.given and one.id == offset - 1
            )
            for _ in range(last + 1):
                self._waiting.popleft()
        elif offset <= max((one.id for one in self._waiting), default=0) + 10:
            # An offset far beyond the last id is older than a restart of ids, and is ignored.
            self._waiting = deque(
                one
                for one in self._waiting
                if one.id >= offset or (one.out_of_order and not one.given)
            )
        self._server.changed()

    def _allow(self, params: Params) -> None:
        """Remembers `allowed_updates`; a call without it leaves it as it was."""
        if "allowed_updates" in params:
            allowed = params.value("allowed_updates") or []
            if not isinstance(allowed, list):
                raise bad("can't parse allowed updates JSON object")
            self.allowed = allowed

    # ── the webhook ──

    def _set_webhook(self, params: Params) -> bool:
        url = params.text("url")
        if not url:
            return self._delete_webhook(params)
        parts = urlsplit(url)
        if not self._server.local and parts.scheme != "https":
            raise bad("bad webhook: An HTTPS URL must be provided for webhook")
        if not self._server.local and (parts.port or 443) not in (80, 88, 443, 8443):
            raise bad("bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443")
        secret = params.text("secret_token")
        if not all(char.isascii() and (char.isalnum() or char in "_-") for char in secret):
            raise bad("secret token contains unallowed characters")
        if len(secret) > 256:
            raise bad("secret token is too long")
        self._allow(params)
        if params.flag("drop_pending_updates"):
            self._waiting.clear()
        self.webhook = Webhook(url, secret, params.number("max_connections") or 40)
        self._end_poll(ApiError(409, "Conflict: terminated by setWebhook request"))
        self._server.changed()
        return True

    def _delete_webhook(self, params: Params) -> bool:
        self.webhook = None
        if params.flag("drop_pending_updates"):
            self._waiting.clear()
        self._server.changed()
        return True

    def _webhook_info(self, _: Params) -> dict[str, Any]:
        info: dict[str, Any] = {
            "url": "",
            "has_custom_certificate": False,
            "pending_update_count": len(self._waiting),
        }
        if self.webhook is not None:
            info |= {"url": self.webhook.url, "max_connections": self.webhook.max_connections}
            if self.webhook.error is not None:
                info["last_error_date"] = self.webhook.error_date
                info["last_error_message"] = self.webhook.error
        if self.allowed:
            info["allowed_updates"] = self.allowed
        return info

    async def deliver(self) -> None:
        """Brings updates to the webhook for ever, in order, each until it is taken."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            while True:
                self._expire()
                if self.webhook is None or not self._waiting:
                    await self._server.next_change()
                    continue
                waiting, webhook = self._waiting[0], self.webhook
                error = await self._post(session, webhook, waiting.update)
                if error is not None:
                    webhook.error, webhook.error_date = error, self._server.date()
                    await asyncio.sleep(self.webhook_retry)
                elif waiting in self._waiting:
                    self._waiting.remove(waiting)
                self._server.changed()

    async def _post(
        self, session: aiohttp.ClientSession, webhook: Webhook, update: dict[str, Any]
    ) -> str | None:
        """Why the webhook did not take the update; None where it did."""
        url = webhook.url
        for public, behind in self.proxy.items():
            if url.startswith(public):
                url = behind + url.removeprefix(public)
        headers = {"X-Telegram-Bot-Api-Secret-Token": webhook.secret} if webhook.secret else {}
        status: int | None = None
        try:
            async with session.post(url, json=update, headers=headers) as response:
                status = response.status
                why = f"Wrong response from the webhook: {status} {response.reason}"
        except (aiohttp.ClientError, TimeoutError) as failed:
            why = f"Connection failed: {type(failed).__name__}"
        self.deliveries.append(Delivery(self._server.now(), update["update_id"], status))
        return None if status is not None and 200 <= status < 300 else why
