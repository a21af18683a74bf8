"""Takes over, while the bot runs, what the registry says is to be served, and judges trials."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from bot.trial import Judged, judge
from data.transactions import StoreUnavailable
from data.trials import Trials
from persona.registry import Registry, RegistryError
from persona.service import InferenceService
from persona.serving import Served, as_served
from persona.trial import Outcome, Trial

log = logging.getLogger(__name__)

INTERVAL = 3.0
"""Seconds between two looks at the registry's pointer."""
JUDGING = 300.0
"""Seconds between two looks at what people made of a version on trial."""


class Takeover:
    """Watches the registry and swaps the engine under a service that goes on answering.

    The new engine is built beside the old one, which finishes its turns. Where that fails the old
    one stays, `failure` says why, and the next change of the pointer is tried anew. A version on
    trial gets an engine of its own for as long as that lasts; where it cannot be built, the old
    one answers everybody.
    """

    def __init__(
        self,
        registry: Registry,
        service: InferenceService,
        trials: Trials,
        wanted: Callable[[], Served],
        swap: Callable[[Served], Awaitable[None]],
        try_out: Callable[[Served, Trial], Awaitable[None]],
    ) -> None:
        self.failure: str | None = None
        self.trial_failure: str | None = None
        self._trial: Trial | None = None  # the one that was seen to last
        self._registry = registry
        self._service = service
        self._trials = trials
        self._wanted = wanted
        self._swap = swap
        self._try_out = try_out

    @property
    def trouble(self) -> str | None:
        """What could not be taken over, and why."""
        return "; ".join(filter(None, (self.failure, self.trial_failure))) or None

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        # First, so that a trial whose time went by while the bot was away is not begun once more.
        await self.judge()
        judged = time.monotonic()
        # What was promoted while the engine loaded is news too, unless it was just tried in vain.
        seen = self._stamp() if self.failure else None
        if self.failure:
            await self._look_at_trial()
        while True:
            await asyncio.sleep(INTERVAL)
            if time.monotonic() - judged >= JUDGING:
                await self.judge()
                judged = time.monotonic()
            stamp = self._stamp()
            if stamp != seen:
                seen = stamp
                await self.look()

    async def look(self) -> None:
        """Swaps if another version is wanted than the one that serves, and sees to the trial's."""
        version = "what current.json names"
        try:
            wanted = await asyncio.to_thread(self._wanted)
            version = wanted.version
            if version == self._service.trial_version:  # it is loaded: it came through its trial
                self._service.adopt_trial()
                log.info("%s answers everywhere now", version)
            elif version != self._service.version:
                log.info("taking over %s", version)
                await self._swap(wanted)
                log.info("%s answers now", version)
            self.failure = None
        except Exception as error:  # whatever is wrong with the new one, the old one answers
            self.failure = f"{version}: {_line(error)}"
            log.error("%s stays: %s", self._service.version, self.failure)
        await self._look_at_trial()

    async def _look_at_trial(self) -> None:
        """Builds the engine of a version on trial, or lets it go."""
        version = "the trial"
        try:
            trial = await asyncio.to_thread(self._registry.trial)
            if trial == self._trial:
                return
            self._trial = trial
            self._service.drop_trial()
            if trial is not None and trial.version != self._service.version:
                version = trial.version
                served = await asyncio.to_thread(lambda: as_served(self._registry.version(version)))
                await self._try_out(served, trial)
                log.info("%s is on trial in %.0f%% of the chats", version, 100 * trial.share)
            self.trial_failure = None
        except Exception as error:  # the old one answers everybody
            self._service.drop_trial()
            self.trial_failure = f"{version}: {_line(error)}"
            log.error("%s answers everybody: %s", self._service.version, self.trial_failure)

    async def judge(self) -> None:
        """Drops a version on trial that is worse; promotes another one when its time is over."""
        try:
            trial = await asyncio.to_thread(self._registry.trial)
            if trial is None:
                return
            over = _now() >= trial.ends
            beside = self._service.version
            heard = await self._trials.heard([trial.version, beside], trial.begun)
            judged = judge(heard[trial.version], heard[beside], beside, last=over)
            if judged.worse:
                await self._end(trial, "dropped", judged.worse, judged)
            elif over and self.trial_failure:
                await self._end(trial, "dropped", self.trial_failure, judged)
            elif over:
                await self._end(trial, "promoted", "its trial found it no worse", judged)
        except (RegistryError, StoreUnavailable) as error:
            log.warning("the trial could not be judged: %s", error)
        except Exception:
            log.exception("the trial could not be judged")

    async def _end(self, trial: Trial, outcome: Outcome, why: str, judged: Judged) -> None:
        end = self._registry.end_trial
        try:
            ended = await asyncio.to_thread(end, trial, outcome, why, judged.figures)
        except RegistryError as error:
            if outcome == "dropped":
                raise
            # It cannot be served, whatever was thought of it.
            outcome, why = "dropped", _line(error)
            ended = await asyncio.to_thread(end, trial, outcome, why, judged.figures)
        if ended:
            log.info("the trial of %s: %s (%s)", trial.version, outcome, why)
            await self.look()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._registry.pointer.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def _now() -> datetime:
    return datetime.now(UTC)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
