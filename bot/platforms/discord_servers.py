"""What the administrators of each server on Discord have set."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bot.platforms.base import Notes
from bot.platforms.discord_calls import PLATFORM

log = logging.getLogger(__name__)

MAX_NAMES, MAX_NAME = 10, 32
_PREFIX = "server:"
_BETWEEN = re.compile(r"[\s,，、;；]+")


@dataclass(frozen=True, slots=True)
class Server:
    """A server's settings. `channels` are those where she answers everything; `lang` "" and no
    names are the bot's own. Where it is `quiet`, she answers only what is meant for her alone, and
    rings nobody."""

    channels: tuple[str, ...] = ()
    lang: str = ""
    names: tuple[str, ...] = ()
    quiet: bool = False


class Servers:
    """The settings of all servers, in memory, and in the notes for the next start."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._bot_id = ""
        self._servers: dict[str, Server] = {}

    def load(self, bot_id: str, notes: Mapping[str, str]) -> None:
        """Takes the servers over from a bot's notes."""
        self._bot_id = bot_id
        for name, value in notes.items():
            if name.startswith(_PREFIX):
                server_id = name.removeprefix(_PREFIX)
                try:
                    kept = json.loads(value)
                    lists = {key: tuple(kept[key]) for key in ("channels", "names")}
                    self._servers[server_id] = Server(**kept | lists)
                except (LookupError, TypeError, ValueError):  # another version of the program
                    log.error("the settings of server %s are in a form not known", server_id)

    def of(self, server_id: str) -> Server:
        return self._servers.get(server_id, Server())

    async def set(self, server_id: str, server: Server) -> None:
        """Keeps a server's settings. Raises what its notes raise, and then nothing is changed."""
        written = {f"{_PREFIX}{server_id}": json.dumps(asdict(server), ensure_ascii=False)}
        await self._notes.write(PLATFORM, self._bot_id, written)
        self._servers[server_id] = server


def names_in(text: str) -> tuple[str, ...] | None:
    """The names that an administrator wrote; none for "-"; None where there are too many."""
    names = tuple(dict.fromkeys(name for name in _BETWEEN.split(text) if name))
    if names == ("-",):
        return ()
    fit = 0 < len(names) <= MAX_NAMES and all(len(name) <= MAX_NAME for name in names)
    return names if fit else None
