"""What stands on the Discord of the tests, and what REST says of it."""

from __future__ import annotations

import itertools
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import discord

ME = {"id": "7", "username": "daiyu", "discriminator": "0", "avatar": None, "bot": True}
GUILD, APPLICATION = "9", "8"
HEARS = 1 << 19
"""The flag of an application that may have the Message Content Intent."""
BY_TOKEN = re.compile(r"/t\d+")
"""The part of a path that stands for an interaction, which needs no other authorization."""
_LENGTH = 2000
_PER_SECOND = 50
_PER_CHANNEL, _SECONDS = 5, 5.0

Answer = tuple[int, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """How a call goes wrong. `late`: it is done all the same, and only the answer goes wrong.

    With status 0 there is no answer: the connection breaks.
    """

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    late: bool = False


def refusal(status: int, code: int) -> Fault:
    """Discord's own refusals, by their number."""
    return Fault(status, {"code": code, "message": f"refused with {code}"})


def flood(seconds: float, *, everywhere: bool = False) -> Fault:
    """Too many calls: of one kind, or of all together."""
    body = {"message": "You are being rate limited.", "retry_after": seconds, "global": everywhere}
    scope = "global" if everywhere else "user"
    headers = {"Retry-After": str(seconds), "Via": "1.1 google", "X-RateLimit-Scope": scope}
    return Fault(429, body, headers)


@dataclass
class Place:
    """A channel, or a private chat. `messages` are what stands there, oldest first."""

    id: str
    private: bool
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def hers(self) -> list[str]:
        """What the bot has said."""
        return [m["content"] for m in self.messages.values() if m["author"]["id"] == ME["id"]]

    @property
    def payload(self) -> dict[str, Any]:
        last = next(reversed(self.messages), None)
        if self.private:
            return {"id": self.id, "type": 1, "recipients": [], "last_message_id": last}
        return {
            "id": self.id, "type": 0, "name": f"c{self.id}", "position": 0, "parent_id": None,
            "permission_overwrites": [], "nsfw": False, "last_message_id": last,
        }  # fmt: skip

    def page(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Its history, newest first."""
        before, after = int(query.get("before", 2**63)), int(query.get("after", 0))
        found = [m for m in self.messages.values() if after < int(m["id"]) < before]
        return found[::-1][: int(query.get("limit", 50))]


class Rest:
    """Answers calls, and tells the gateway what came of them."""

    def __init__(self, tell: Callable[[str, Any], None]) -> None:
        self.hears = True
        self.places: dict[str, Place] = {}
        self._tell = tell
        self._acknowledged: set[str] = set()
        self._asked_in: dict[str, Place] = {}
        """By the token of an interaction, where it was."""
        self._originals: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def place(self, *, private: bool) -> Place:
        place = Place(self.snowflake(), private)
        self.places[place.id] = place
        return place

    def guild(self) -> dict[str, Any]:
        role = {
            "id": GUILD, "name": "@everyone", "color": 0, "hoist": False, "position": 0,
            "managed": False, "mentionable": False, "flags": 0,
            "permissions": str(discord.Permissions.all_channel().value),
            "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        }  # fmt: skip
        channels = [place.payload for place in self.places.values() if not place.private]
        return {
            "id": GUILD, "name": "大观园", "owner_id": "1", "unavailable": False, "large": False,
            "member_count": 2, "members": [_member(ME)], "channels": channels, "threads": [],
            "roles": [role], "emojis": [], "stickers": [], "features": [], "voice_states": [],
            "presences": [], "stage_instances": [], "guild_scheduled_events": [],
            "soundboard_sounds": [],
        }  # fmt: skip

    def command(self, place: Place, name: str, options: Mapping[str, str]) -> dict[str, Any]:
        """The event of a slash command."""
        number = self.snowflake()
        self._asked_in[f"t{number}"] = place
        who = person("100")
        where: dict[str, Any] = {"user": who, "context": 1}
        if not place.private:
            rights = {"permissions": str(discord.Permissions.all_channel().value)}
            where = {"member": _member(who) | rights, "guild_id": GUILD, "guild_locale": "zh-CN"}
            where["context"] = 0
        return where | {
            "id": number, "application_id": APPLICATION, "type": 2, "token": f"t{number}",
            "version": 1, "channel_id": place.id, "channel": place.payload,
            "locale": "zh-CN", "entitlements": [], "authorizing_integration_owners": {},
            "attachment_size_limit": 1, "app_permissions": "0",
            "data": {
                "id": "5", "name": name, "type": 1,
                "options": [{"name": k, "value": v, "type": 3} for k, v in options.items()],
            },
        }  # fmt: skip

    def write(
        self, place: Place, text: str, author: dict[str, Any], mentions: list[Any], **more: Any
    ) -> dict[str, Any]:
        """Puts a message there."""
        message = {
            "id": self.snowflake(), "channel_id": place.id, "author": author, "content": text,
            "timestamp": discord.utils.utcnow().isoformat(), "edited_timestamp": None, "type": 0,
            "tts": False, "mention_everyone": False, "mentions": mentions, "mention_roles": [],
            "attachments": [], "embeds": [], "pinned": False, "flags": 0, "components": [], **more,
        }  # fmt: skip
        place.messages[message["id"]] = message
        self._tell("MESSAGE_CREATE", message | _where(place, author))
        return message

    def snowflake(self) -> str:
        now = discord.utils.time_snowflake(discord.utils.utcnow())
        return str(now + next(self._numbers))

    def answer(
        self, method: str, path: str, body: Any, query: Mapping[str, str], gateway: str
    ) -> Answer:
        if path == "/users/@me":
            return 200, ME
        if path == "/oauth2/applications/@me":
            return 200, self._application()
        if path == "/gateway/bot":
            starts = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1}
            return 200, {"url": gateway, "shards": 1, "session_start_limit": starts}
        if path.endswith("/commands"):
            about = {"application_id": APPLICATION, "version": "1", "description": ""}
            return 200, [about | one | {"id": str(n)} for n, one in enumerate(body, 1)]
        if found := re.fullmatch(r"/interactions/(\d+)/t\d+/callback", path):
            return self.acknowledge(found[1])
        if found := re.fullmatch(r"/webhooks/8/(t\d+)(?:/messages/(.+))?", path):
            return self._follow_up(method, found[1], found[2], body)
        if found := re.fullmatch(r"/channels/(\d+)/(typing|messages)(?:/(\d+))?(/.*)?", path):
            place = self.places.get(found[1])
            if place is None:
                return 404, {"code": 10003, "message": "Unknown Channel"}
            if found[2] == "typing" or found[4]:
                return 204, None
            return self._messages(method, place, found[3], body, query)
        return 404, {"code": 0, "message": "404: Not Found"}

    def _application(self) -> dict[str, Any]:
        return {
            "id": APPLICATION, "name": "daiyu", "icon": None, "description": "", "team": None,
            "bot_public": True, "bot_require_code_grant": False, "verify_key": "0", "owner": ME,
            "flags": HEARS if self.hears else 0, "bot": ME,
        }  # fmt: skip

    def _messages(
        self, method: str, place: Place, number: str | None, body: Any, query: Mapping[str, str]
    ) -> Answer:
        if method == "GET":
            return 200, place.page(query)
        if method == "POST":
            return self._post(place, body)
        message = place.messages.get(number or "")
        if message is None:
            return 404, {"code": 10008, "message": "Unknown Message"}
        if method == "DELETE":
            del place.messages[message["id"]]
            gone = {"id": message["id"], "channel_id": place.id}
            self._tell("MESSAGE_DELETE", gone | _where(place))
            return 204, None
        message |= {key: body[key] for key in ("content", "components") if key in body}
        self._tell("MESSAGE_UPDATE", message | _where(place))
        return 200, message

    def _post(self, place: Place, body: Any) -> Answer:
        if not 0 < len(body["content"]) <= _LENGTH:
            return 400, {"code": 50035, "message": "Invalid Form Body"}
        if body.get("enforce_nonce"):
            for message in place.messages.values():
                if message.get("nonce") == body["nonce"]:
                    return 200, message
        more = {"nonce": body.get("nonce"), "components": body.get("components", [])}
        return 200, self.write(place, body["content"], ME, [], **more)

    def acknowledge(self, number: str) -> Answer:
        if number in self._acknowledged:
            return 400, {"code": 40060, "message": "Interaction has already been acknowledged."}
        self._acknowledged.add(number)
        return 200, {"interaction": {"id": number, "type": 2, "response_message_loading": True}}

    def _follow_up(self, method: str, token: str, number: str | None, body: Any) -> Answer:
        """What is said to an interaction: the original completes what is waited for."""
        place = self._asked_in[token]
        if token.removeprefix("t") not in self._acknowledged:
            return 404, {"code": 10015, "message": "Unknown Webhook"}
        if number is None:
            return 200, self.write(place, body.get("content") or "", ME, [])
        if number != "@original":
            return self._messages(method, place, number, body, {})
        if original := self._originals.get(token):
            return self._messages(method, place, original, body, {})
        if method == "DELETE":
            return 204, None
        message = self.write(place, body["content"], ME, [])
        self._originals[token] = message["id"]
        return 200, message


class Limits:
    """Discord's: 50 calls a second; in a channel 5 messages and 5 edits in 5 seconds."""

    def __init__(self) -> None:
        self._spent: dict[tuple[str, str], deque[float]] = defaultdict(deque)

    def over(self, method: str, path: str) -> Fault | None:
        """Counts a call, or says that it is one too many."""
        if BY_TOKEN.search(path):
            return None
        now = time.monotonic()
        everything = self._window(("", ""), now, 1.0)
        if len(everything) >= _PER_SECOND:
            return flood(everything[0] + 1.0 - now, everywhere=True)
        everything.append(now)
        if key := _bucket(method, path):
            spent = self._window(key, now, _SECONDS)
            if len(spent) >= _PER_CHANNEL:
                return flood(spent[0] + _SECONDS - now)
            spent.append(now)
        return None

    def headers(self, method: str, path: str) -> dict[str, str]:
        """What Discord tells of its limit, so that a client need not run into it."""
        key = _bucket(method, path)
        if key is None:
            return {}
        now = time.monotonic()
        spent = self._window(key, now, _SECONDS)
        return {
            "X-RateLimit-Bucket": key[0], "X-RateLimit-Limit": str(_PER_CHANNEL),
            "X-RateLimit-Remaining": str(_PER_CHANNEL - len(spent)),
            "X-RateLimit-Reset-After": f"{spent[0] + _SECONDS - now if spent else 0.0:.3f}",
        }  # fmt: skip

    def _window(self, key: tuple[str, str], now: float, seconds: float) -> deque[float]:
        spent = self._spent[key]
        while spent and spent[0] <= now - seconds:
            spent.popleft()
        return spent


def _bucket(method: str, path: str) -> tuple[str, str] | None:
    found = re.match(r"/channels/(\d+)/messages", path)
    return (method, found[1]) if found and method in ("POST", "PATCH") else None


def person(number: str) -> dict[str, Any]:
    return {
        "id": number, "username": f"p{number}", "global_name": "宝玉", "discriminator": "0",
        "avatar": None,
    }  # fmt: skip


def _member(user: dict[str, Any]) -> dict[str, Any]:
    return {
        "user": user, "roles": [], "joined_at": None, "deaf": False, "mute": False, "flags": 0,
    }  # fmt: skip


def _where(place: Place, author: dict[str, Any] | None = None) -> dict[str, Any]:
    """What an event tells beside the message itself."""
    if place.private:
        return {}
    return {"guild_id": GUILD} | ({"member": _member(author)} if author else {})
