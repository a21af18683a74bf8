"""Takes over, while the bot runs, the version that the registry says is to be served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from persona.registry import Registry
from persona.service import InferenceService
from persona.serving import Served

log = logging.getLogger(__name__)

INTERVAL = 3.0
"""Seconds between two looks at the registry's pointer."""


class Takeover:
    """Watches the registry and swaps the engine under a service that goes on answering.

    The new engine is built beside the old one, which finishes its turns. Where that fails the old
    one stays, `failure` says why, and the next change of the pointer is tried anew.
    """

    def __init__(
        self,
        registry: Registry,
        service: InferenceService,
        wanted: Callable[[], Served],
        swap: Callable[[Served], Awaitable[None]],
    ) -> None:
        self.failure: str | None = None
        self._registry = registry
        self._service = service
        self._wanted = wanted
        self._swap = swap

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        # What was promoted while the engine loaded is news too, unless it was just tried in vain.
        seen = self._stamp() if self.failure else None
        while True:
            await asyncio.sleep(INTERVAL)
            stamp = self._stamp()
            if stamp != seen:
                seen = stamp
                await self.look()

    async def look(self) -> None:
        """Swaps if another version is wanted than the one that serves."""
        version = "what current.json names"
        try:
            wanted = await asyncio.to_thread(self._wanted)
            version = wanted.version
            if version == self._service.version:
                self.failure = None
                return
            log.info("taking over %s", version)
            await self._swap(wanted)
        except Exception as error:  # whatever is wrong with the new one, the old one answers
            self.failure = f"{version}: {_line(error)}"
            log.error("%s stays: %s", self._service.version, self.failure)
        else:
            self.failure = None
            log.info("%s answers now", version)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._registry.pointer.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
