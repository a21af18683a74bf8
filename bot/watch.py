"""A watch on disk and memory: the owner is told once when either runs short, and once when not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from bot.config import OperationsSettings
from bot.texts import say

log = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two looks."""
MEGABYTE = 1_000_000
_SLACK = 0.1
"""By so much of its bound something has to get better before it counts as well again: what swings
about the bound is told once."""
_CGROUPS = Path("/sys/fs/cgroup")


def free_space(folders: Sequence[Path]) -> int:
    """Free bytes where there are the fewest; a folder that is yet to be made counts as its parent.

    Raises OSError.
    """
    return min(
        shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
        for folder in (folder.absolute() for folder in folders)
    )


def memory_share() -> float:
    """The share of memory in use, 0 to 1: the machine's, or that of the control group's limit,
    whichever is larger."""
    return max(float(psutil.virtual_memory().percent) / 100, _share_of_limit())


def resident_memory() -> int:
    """Bytes of memory of this process and of those that it started, as engines have."""
    own = psutil.Process()
    found = 0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # just ended
            found += int(process.memory_info().rss)
    return found


def _share_of_limit(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """How much of its limit the control group uses, as containers and services have one; 0 without.

    What the system would give up at once, cached files that were not used lately, is not counted.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in own.read_text().splitlines() if line.startswith("0::"))
        # Within a container the group's own folder is the root.
        group = root / line.removeprefix("0::/")
        group = group if (group / "memory.max").exists() else root
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        used = int((group / "memory.current").read_text())
        figures = dict(part.split() for part in (group / "memory.stat").read_text().splitlines())
        return (used - int(figures["inactive_file"])) / limit
    return 0.0


class Watch:
    """Looks at what is left, again and again. `free` is bytes and `share` 0 to 1, as last seen."""

    def __init__(
        self,
        settings: OperationsSettings,
        folders: Sequence[Path],
        free_space: Callable[[Sequence[Path]], int] = free_space,
        memory_share: Callable[[], float] = memory_share,
    ) -> None:
        self.free: int | None = None
        self.share = 0.0
        self._least = settings.free_space * MEGABYTE
        self._most = settings.memory_share
        self._folders = folders
        self._free_space = free_space
        self._memory_share = memory_share
        self._short_of_disk = False
        self._short_of_memory = False

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(INTERVAL)

    def look(self) -> None:
        """Takes the figures, and logs where something has become short or is so no more."""
        try:
            self.free = self._free_space(self._folders)
        except OSError as error:
            self.free = None
            log.debug("the free space is not known: %s", error)
        self.share = self._memory_share()
        short = self._is_short_of_disk()
        if short != self._short_of_disk:
            self._short_of_disk = short
            free, least = (self.free or 0) // MEGABYTE, self._least // MEGABYTE
            if short:
                log.warning("the disk has %d MB left, less than %d: make room", free, least)
            else:
                log.info("the disk has %d MB left again", free)
        short = self._is_short_of_memory()
        if short != self._short_of_memory:
            self._short_of_memory = short
            if short:
                log.warning("%.0f%% of the memory is in use", 100 * self.share)
            else:
                log.info("%.0f%% of the memory is in use, which is well", 100 * self.share)

    def _is_short_of_disk(self) -> bool:
        if self.free is None:
            return self._short_of_disk
        return self.free < self._least * (1 + _SLACK * self._short_of_disk)

    def _is_short_of_memory(self) -> bool:
        if self._most >= 1:
            return False
        return self.share > self._most * (1 - _SLACK * self._short_of_memory)

    def told(self, lang: str) -> str:
        """What runs short, for the owner; empty where nothing does."""
        said = ""
        if self._short_of_disk:
            said += say(lang, "status_disk", free=(self.free or 0) // MEGABYTE)
        if self._short_of_memory:
            said += say(lang, "status_memory", share=f"{self.share:.0%}")
        return said
