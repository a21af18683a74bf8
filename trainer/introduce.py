"""How a version comes into service: first in a share of the chats, or whole."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from data.database import NoDatabase, OldDatabase
from persona.registry import Registry, Version
from trainer.config import Settings
from trainer.stored import opened

_ACTIVE = timedelta(days=7)


def introduce(
    settings: Settings,
    registry: Registry,
    version: Version,
    reason: str,
    *,
    forced: bool = False,
    waits: bool = False,
) -> str:
    """Begins a version's trial, or promotes it where a trial would tell nothing; what was done.

    With `waits` a trial that runs goes on and nothing is done: were it replaced each night, no
    version would ever come through. Raises RegistryError, StoreError, StoreUnavailable.
    """
    training, running = settings.training, registry.trial()
    if waits and running and running.ends > datetime.now(UTC):
        return (
            f"passed, and not served: {running.version} is on trial until {_local(running.ends)}; "
            f"after that `python -m trainer promote {version.name}`, or train anew"
        )
    current = registry.current()
    if training.trial_share and (current is None or current.name != version.name):
        chats = asyncio.run(_active_chats(settings))
        if chats >= training.trial_chats:
            share, hours = training.trial_share, training.trial_hours
            trial = registry.begin_trial(version, share, hours, reason, forced=forced)
            return (
                f"{version.name} is on trial in {share:.0%} of the chats until "
                f"{_local(trial.ends)}, by itself where a bot runs; `python -m trainer promote "
                f"{version.name} --whole` serves it in all of them now"
            )
    registry.promote(version, reason, forced=forced)
    return f"{version.name} is served now; a running bot takes it over by itself"


def passed_over(registry: Registry, version: Version) -> bool:
    """Whether a version passed its gate and came neither into service nor on trial: its night was
    killed before that, or another one was on trial then. Raises RegistryError."""
    seen = {promotion["version"] for promotion in registry.promotions()}
    seen |= {ended.trial.version for ended in registry.ended_trials()}
    if trial := registry.trial():
        seen.add(trial.version)
    passed = bool((version.gate() or {}).get("passed"))
    return passed and version.name not in seen and version.path.parent == registry.folder


async def _active_chats(settings: Settings) -> int:
    """The chats that a trial could be held in; none before there is a store that can tell."""
    try:
        async with opened(settings) as store:
            return await store.trials.active_chats(datetime.now(UTC) - _ACTIVE)
    except (NoDatabase, OldDatabase):
        return 0


def _local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}"
