"""The adapter registry: versions, what each was made of, and which one speaks.

    adapters/<UTC time>-<short hash>/   one version, never changed after it is there
    adapters/current.json               which one is served, and how that came about

Both the trainer, which adds and promotes, and the bot, which watches `current`, go through here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persona.checkpoint import Checkpoint, CheckpointError, SafetensorsFile, read_object
from persona.gguf import Adapter

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
LINEAGE_FILE = "lineage.json"
_REQUIRED = frozenset({ADAPTER_FILE, CONFIG_FILE, LINEAGE_FILE})
_ALLOWED = _REQUIRED | {"gate.json", "samples.md", "README.md", "loss.png"}


class RegistryError(Exception):
    """A version or the pointer cannot be used; one line, with what to do next."""


@dataclass(frozen=True, slots=True)
class Version:
    """An adapter and its lineage. `base` is the name of the only base that it may be put on."""

    name: str
    path: Path
    lineage: dict[str, Any]

    @property
    def base(self) -> str:
        return str(self.lineage["base"]["name"])

    @property
    def base_hash(self) -> str:
        return str(self.lineage["base"]["sha256"])

    @property
    def turns(self) -> set[int]:
        """The turns of people that are in its weights: its own rows and pairs, and what the version
        that it was trained on from had learned."""
        dataset, start = self.lineage.get("dataset"), self.lineage.get("start")
        found: list[Any] = []
        if isinstance(dataset, dict):
            found += dataset.get("turns") or []
            found += [turn for pair in dataset.get("pairs") or [] for turn in pair]
        if isinstance(start, dict):
            found += start.get("turns") or []
        return {turn for turn in found if isinstance(turn, int)}

    def gate(self) -> dict[str, Any] | None:
        """The gate's report; None where it was not held against anything."""
        try:
            report = json.loads((self.path / "gate.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RegistryError(f"{self.path / 'gate.json'}: {error}") from error
        if not isinstance(report, dict):
            raise RegistryError(f"{self.path / 'gate.json'} holds no verdict")
        return report

    def check(self, base: Checkpoint | None = None) -> None:
        """Raises RegistryError unless the folder holds what a version holds and nothing else.

        That is: LoRA weights as safetensors, finite, with known shapes; with `base`, ones that fit
        it.
        """
        held = {path.name for path in self.path.iterdir()}
        if missing := sorted(_REQUIRED - held):
            raise RegistryError(f"version {self.name} lacks {', '.join(missing)}")
        if foreign := sorted(held - _ALLOWED):
            raise RegistryError(f"version {self.name} holds what is no part of one: {foreign[0]}")
        try:
            _check_shapes(self.path)
            adapter = Adapter(self.path)
            if base is not None:
                adapter.check(base)
        except CheckpointError as error:
            raise RegistryError(f"version {self.name}: {error}") from error


def _check_shapes(folder: Path) -> None:
    """Raises CheckpointError unless every tensor is a matrix of the rank that the config states."""
    config = read_object(folder / CONFIG_FILE)
    file = SafetensorsFile(folder / ADAPTER_FILE)
    for name in file.names():
        shape = file.shape(name)
        if len(shape) != 2 or 0 in shape or config.get("r") not in shape:
            raise CheckpointError(f"{ADAPTER_FILE}: {name!r} has the shape {list(shape)}")
    if not file.names():
        raise CheckpointError(f"{ADAPTER_FILE} holds no tensors")


def read_version(path: Path) -> Version:
    """The version in a folder. Raises RegistryError."""
    lineage = path / LINEAGE_FILE
    try:
        read = json.loads(lineage.read_text("utf-8"))
        str(read["base"]["name"]), str(read["base"]["sha256"])
    except OSError as error:
        raise RegistryError(f"{lineage}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{lineage} names no base, or is not JSON: {error!r}") from error
    return Version(path.name, path, read)


class Registry:
    """The versions under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pointer = folder / "current.json"

    def versions(self) -> list[Version]:
        """All versions, oldest first; a folder that is none is passed over."""
        if not self.folder.is_dir():
            return []
        return [
            read_version(path)
            for path in sorted(self.folder.iterdir())
            if (path / LINEAGE_FILE).is_file() and path.suffix != ".part"
        ]

    def version(self, name: str) -> Version:
        """The version of that name. Raises RegistryError."""
        path = self.folder / name
        if "/" in name or name in ("", ".", "..") or not (path / LINEAGE_FILE).is_file():
            raise RegistryError(f"there is no version {name!r}; `list` shows those that are")
        return read_version(path)

    def trained_on(self, turns: Collection[int]) -> list[Version]:
        """The versions that learned from any of these turns, oldest first. Raises RegistryError."""
        wanted = set(turns)
        return [version for version in self.versions() if not wanted.isdisjoint(version.turns)]

    def current(self) -> Version | None:
        """The version that is served; None where nothing was promoted. Raises RegistryError."""
        name = (self._promotions() or [{"version": None}])[-1]["version"]
        return None if name is None else self.version(name)

    def promotions(self) -> list[dict[str, Any]]:
        """What was promoted when and why, oldest first; `version` is None for none."""
        return self._promotions()

    def promote(self, version: Version, reason: str, *, forced: bool = False) -> None:
        """Makes a version the one that is served. Raises RegistryError for one that is unfit."""
        version.check()
        self._point([*self._promotions(), _promotion(version.name, reason, forced)])

    def rollback(self, reason: str = "rollback") -> Version | None:
        """Serves what was served before the current version; None where that was none.

        Raises RegistryError where there is nothing to go back from.
        """
        promotions = self._promotions()
        if not promotions or promotions[-1]["version"] is None:
            raise RegistryError("no version is served; there is nothing to roll back")
        # A rollback is not gone back to: the second one goes further back.
        stack: list[str | None] = [None]
        for promotion in promotions:
            if promotion.get("rollback"):
                while len(stack) > 1 and stack[-1] != promotion["version"]:
                    stack.pop()
            elif promotion["version"] != stack[-1]:
                stack.append(promotion["version"])
        stack.pop()
        # What was removed by hand is gone back past.
        while stack[-1] is not None and not (self.folder / stack[-1]).is_dir():
            stack.pop()
        previous = stack[-1]
        found = None if previous is None else self.version(previous)
        self._point([*promotions, _promotion(previous, reason, False) | {"rollback": True}])
        return found

    def _promotions(self) -> list[dict[str, Any]]:
        try:
            read = json.loads(self.pointer.read_text("utf-8"))["promotions"]
            if not all(isinstance(p["version"], str | None) for p in read):
                raise TypeError("a version has no name")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RegistryError(f"{self.pointer}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{self.pointer} is damaged ({error!r}); restore it, or delete it to serve the "
                "adapter that ships"
            ) from error
        return list(read)

    def _point(self, promotions: Iterable[dict[str, Any]]) -> None:
        part = self.pointer.with_name(f"{self.pointer.name}.{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                json.dump({"promotions": list(promotions)}, file, ensure_ascii=False, indent=2)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.pointer)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RegistryError(f"{self.pointer}: {error.strerror or error}") from error


def _promotion(name: str | None, reason: str, forced: bool) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"version": name, "at": now, "reason": reason, "forced": forced}
