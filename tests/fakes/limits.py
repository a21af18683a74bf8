"""What the server refuses: its errors, its rates, and faults that a test asks for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class ApiError(Exception):
    """A call's refusal, as its JSON states it."""

    def __init__(self, code: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = parameters

    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "ok": False,
            "error_code": self.code,
            "description": self.description,
        }
        return {**body, "parameters": self.parameters} if self.parameters else body


def bad(why: str, **parameters: Any) -> ApiError:
    return ApiError(400, f"Bad Request: {why}", **parameters)


def forbidden(why: str) -> ApiError:
    return ApiError(403, f"Forbidden: {why}")


def too_many(seconds: float) -> ApiError:
    return ApiError(429, f"Too Many Requests: retry after {seconds:g}", retry_after=seconds)


@dataclass
class Rates:
    """How often a bot may send, edits included; `scale` makes the server's minutes shorter.

    At scale 1 `retry_after` is whole seconds, as Telegram states it; at another it is their part.
    """

    scale: float = 1.0
    per_chat: float = 1.0
    """Messages a second in one chat, once `burst` of them are spent."""
    burst: int = 3
    per_group: int = 20
    """Sends and edits in a group in any 60 seconds."""
    overall: int = 30
    """A second, of everything that is shown to anyone."""
    _spent: dict[object, float] = field(default_factory=dict)
    _group: dict[int, deque[float]] = field(default_factory=dict)

    def admit(self, now: float, chat: int, *, group: bool, counted: bool) -> None:
        """Counts one call, or refuses it. What is not `counted` in its chat counts overall only."""
        now *= self.scale
        waits = [self._wait("overall", now, self.overall, self.overall)]
        if counted:
            waits.append(self._wait(chat, now, self.per_chat, self.burst))
        window = self._group.setdefault(chat, deque())
        while window and window[0] <= now - 60:
            window.popleft()
        if counted and group and len(window) >= self.per_group:
            waits.append(window[0] + 60 - now)
        if max(waits) > 1e-6:  # what is less comes of rounding
            seconds = max(math.ceil(max(waits)), 1)
            raise too_many(seconds if self.scale == 1 else seconds / self.scale)
        self._spend("overall", now, self.overall)
        if counted:
            self._spend(chat, now, self.per_chat)
            window.append(now)

    # A bucket is kept as the moment at which it will be full again.
    def _wait(self, key: object, now: float, rate: float, size: int) -> float:
        return max(self._spent.get(key, now), now) + 1 / rate - now - size / rate

    def _spend(self, key: object, now: float, rate: float) -> None:
        self._spent[key] = max(self._spent.get(key, now), now) + 1 / rate


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a call. `effect`: the call is carried out all the same."""

    effect: bool = False
    drop: bool = False
    """The connection ends with no answer."""
    delay: float = 0.0
    """Seconds before the answer, or its lack."""
    error: ApiError | None = None
    html: int | None = None
    """A status that a proxy answers with, in HTML."""


DROP_BEFORE = Fault(drop=True)
DROP_AFTER = Fault(drop=True, effect=True)
BLOCKED = Fault(error=forbidden("bot was blocked by the user"))
DEACTIVATED = Fault(error=forbidden("user is deactivated"))
KICKED = Fault(error=forbidden("bot was kicked from the supergroup chat"))
NO_CHAT = Fault(error=bad("chat not found"))
MUTED = Fault(error=bad("not enough rights to send text messages to the chat"))
TOPIC_CLOSED = Fault(error=bad("TOPIC_CLOSED"))
NO_TOPIC = Fault(error=bad("message thread not found"))


def slow(seconds: float) -> Fault:
    """The call takes effect at once, its answer comes late."""
    return Fault(effect=True, delay=seconds)


def html(status: int) -> Fault:
    return Fault(html=status)


def flood(seconds: int) -> Fault:
    return Fault(error=too_many(seconds))


def migrated(to: int) -> Fault:
    return Fault(
        error=bad("group chat was upgraded to a supergroup chat", migrate_to_chat_id=to),
    )


@dataclass(eq=False)
class Planned:
    """A fault that waits for its calls; `left` of None is for ever."""

    method: str
    fault: Fault
    chat: int | None
    left: int | None

    def meets(self, method: str, chat: int | None) -> bool:
        if self.left == 0 or (self.chat is not None and self.chat != chat):
            return False
        # A long poll is always under way: "*" would mostly hit that.
        return method == self.method.lower() or (self.method == "*" and method != "getupdates")

    def end(self) -> None:
        self.left = 0


def taken(planned: list[Planned], method: str, chat: int | None) -> Fault | None:
    """The first planned fault that meets the call, used up by one."""
    met: Iterator[Planned] = (plan for plan in planned if plan.meets(method, chat))
    plan = next(met, None)
    if plan is None:
        return None
    if plan.left is not None:
        plan.left -= 1
    return plan.fault
