"""The commands on versions: which there are, what each is, which one is served."""

from __future__ import annotations

import argparse
from datetime import datetime

from persona.registry import Registry, RegistryError, Version
from trainer.config import Settings


def _registry(settings: Settings) -> Registry:
    return Registry(settings.paths.var / "adapters")


def list_versions(settings: Settings, _: argparse.Namespace) -> int:
    """Prints a line of each version; marks the one in service and the one on trial."""
    registry = _registry(settings)
    current = registry.current()
    versions, trial = registry.versions(), registry.trial()
    for version in versions:
        mark = "*" if current and version.name == current.name else " "
        mark = "~" if trial and version.name == trial.version else mark
        rows = version.lineage.get("dataset", {}).get("rows", "?")
        print(f"{mark} {version.name}  {version.base}  {rows} rows  {_judged(version)}")
    if trial:
        print(f"~ is on trial in {trial.share:.0%} of the chats until {_local(trial.ends)}")
    if not versions:
        print("no versions yet; `python -m trainer` makes one")
    return 0


def _judged(version: Version) -> str:
    report = version.gate()
    if report is None:
        return "not judged"
    return "gate passed" if report.get("passed") else "gate not passed"


def show(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints a version's model card, what became of it, and what people had said of which its gate
    asked."""
    from trainer.recall import recalled

    registry = _registry(settings)
    version = registry.version(arguments.version) if arguments.version else registry.current()
    if version is None:
        raise RegistryError("no version was promoted; name one of `list`")
    print((version.path / "README.md").read_text("utf-8"))
    for promotion in registry.promotions():
        if promotion["version"] == version.name:
            when = _local(datetime.fromisoformat(promotion["at"]))
            forced = ", forced" if promotion["forced"] else ""
            print(f"promoted {when}{forced}: {promotion['reason']}")
    for ended in registry.ended_trials():
        if ended.trial.version == version.name:
            tried = f"on trial from {_local(ended.trial.begun)} to {_local(ended.at)}"
            print(f"{tried}, then {ended.outcome}: {ended.why}")
            for side, counts in ended.figures.items():
                print(f"  {side}: " + ", ".join(f"{key} {n}" for key, n in counts.items()))
    for line in recalled(settings, version.gate() or {}):
        print(line)
    return 0


def _local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


def promote(settings: Settings, arguments: argparse.Namespace) -> int:
    """Has a version served, on trial first. Raises RegistryError where its gate forbids it."""
    from trainer.introduce import introduce

    registry = _registry(settings)
    version = registry.version(arguments.version)
    report = version.gate()
    passed = bool(report and report.get("passed"))
    forced = arguments.force is not None
    if forced and not arguments.force.strip():
        raise RegistryError("--force needs a reason, which is recorded")
    if not passed and not forced:
        reasons = "; ".join(report.get("reasons", [])) if report else "it was not judged"
        raise RegistryError(
            f"{version.name} did not pass its gate ({reasons}); "
            'to serve it all the same: --force "<reason>"'
        )
    reason = arguments.force if forced else "by hand"
    if arguments.whole:
        registry.promote(version, reason, forced=forced)
        print(f"{version.name} is served now")
    else:
        print(introduce(settings, registry, version, reason, forced=forced))
    return 0


def rollback(settings: Settings, _: argparse.Namespace) -> int:
    """Takes back the trial, or the last promotion."""
    previous = _registry(settings).rollback()
    print(f"{previous.name if previous else 'the adapter that ships'} is served now")
    return 0
