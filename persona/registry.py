"""The adapter registry: versions, what each was made of, and which one speaks.

    adapters/<UTC time>-<short hash>/   one version, never changed after it is there
    adapters/current.json               which one is served, and how that came about; which one is
                                        on trial, and how earlier trials ended

Both the trainer, which adds and promotes, and the bot, which watches `current` and ends trials, go
through here: whoever changes the pointer holds a lock from reading it to replacing it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from persona.checkpoint import Checkpoint, CheckpointError, SafetensorsFile, read_object
from persona.gguf import Adapter
from persona.pointer import Pointer
from persona.trial import EndedTrial, Outcome, Trial

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
LINEAGE_FILE = "lineage.json"
_REQUIRED = frozenset({ADAPTER_FILE, CONFIG_FILE, LINEAGE_FILE})
_ALLOWED = _REQUIRED | {"gate.json", "samples.md", "README.md", "loss.png"}

_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
"""Of a version that the trainer made; a folder of another name somebody has put there."""
_WAIT_SECONDS = 10.0


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
        try:
            held = {path.name for path in self.path.iterdir()}
        except OSError as error:  # removed since it was read
            raise RegistryError(f"{self.path}: {error.strerror or error}") from error
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
        found = []
        for path in self._folders():
            try:
                found.append(read_version(path))
            except RegistryError:
                if path.exists():  # else it was removed in this very moment
                    raise
        return found

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [
            path
            for path in sorted(self.folder.iterdir())
            if (path / LINEAGE_FILE).is_file() and path.suffix != ".part"
        ]

    def version(self, name: str) -> Version:
        """The version of that name. Raises RegistryError."""
        path = self.folder / name
        named = name not in ("", ".", "..") and "/" not in name and path.suffix != ".part"
        if not (named and (path / LINEAGE_FILE).is_file()):
            raise RegistryError(f"there is no version {name!r}; `list` shows those that are")
        return read_version(path)

    def trained_on(self, turns: Collection[int]) -> list[Version]:
        """The versions that learned from any of these turns, oldest first. Raises RegistryError."""
        wanted = set(turns)
        return [version for version in self.versions() if not wanted.isdisjoint(version.turns)]

    def current(self) -> Version | None:
        """The version that is served; None where nothing was promoted. Raises RegistryError."""
        name = self._read().current
        return None if name is None else self.version(name)

    def needed(self) -> list[Version]:
        """The versions that are served or on trial, and the one that a rollback would serve.

        One that was removed by hand is passed over. Raises RegistryError.
        """
        pointer = self._read()
        there = [name for name in pointer.before if name and (self.folder / name).is_dir()]
        names = [*there[-1:], pointer.current, pointer.trial and pointer.trial.version]
        found = dict.fromkeys(name for name in names if name and (self.folder / name).is_dir())
        return [self.version(name) for name in found]

    def promotions(self) -> list[dict[str, Any]]:
        """What was promoted when and why, oldest first; `version` is None for none."""
        return self._read().promotions

    def trial(self) -> Trial | None:
        """The trial that runs. Raises RegistryError."""
        return self._read().trial

    def ended_trials(self) -> list[EndedTrial]:
        """How earlier trials ended, oldest first. Raises RegistryError."""
        return self._read().ended

    def promote(self, version: Version, reason: str, *, forced: bool = False) -> None:
        """Makes a version the one that is served, in all chats: a trial ends with that.

        Raises RegistryError for one that is unfit.
        """
        with self._changing() as pointer:
            version.check()  # within: until here it may have been removed
            tried = pointer.trial is not None and pointer.trial.version == version.name
            why = reason if tried else f"{version.name} was promoted meanwhile: {reason}"
            pointer = pointer.ending("promoted" if tried else "dropped", why, {})
            self._point(pointer.promoting(version.name, reason, forced=forced))

    def begin_trial(
        self, version: Version, share: float, hours: float, reason: str, *, forced: bool = False
    ) -> Trial:
        """Serves a version in a share of the chats; a trial that runs gives way to it.

        Raises RegistryError for a version that is unfit.
        """
        trial = Trial(version.name, share, datetime.now(UTC), hours, reason, forced)
        with self._changing() as pointer:
            version.check()  # within: until here it may have been removed
            pointer = pointer.ending("dropped", f"{version.name} took its place", {})
            self._point(replace(pointer, trial=trial))
        return trial

    def end_trial(self, trial: Trial, outcome: Outcome, why: str, figures: dict[str, Any]) -> bool:
        """Promotes a version on trial whole, or drops it; false where that trial runs no more.

        Raises RegistryError where it is to be promoted and is unfit.
        """
        if outcome == "promoted":
            self.version(trial.version).check()
        with self._changing() as pointer:
            if pointer.trial != trial:
                return False
            ended = pointer.ending(outcome, why, figures)
            if outcome == "promoted":
                reason = f"{trial.reason}; {why}"
                ended = ended.promoting(trial.version, reason, forced=trial.forced)
            self._point(ended)
        return True

    def rollback(self, reason: str = "rollback") -> Version | None:
        """Serves what was served before the current version; None where that was none.

        While a version is on trial it is that one alone which is taken back. Raises RegistryError
        where there is nothing to go back from.
        """
        with self._changing() as pointer:
            if pointer.trial is not None:
                self._point(pointer.ending("dropped", reason, {}))
                return self.current()
            if pointer.current is None:
                raise RegistryError("no version is served; there is nothing to roll back")
            # What was removed by hand is gone back past.
            there = (n for n in reversed(pointer.before) if n is None or (self.folder / n).is_dir())
            previous = next(there, None)
            found = None if previous is None else self.version(previous)
            self._point(pointer.promoting(previous, reason, rollback=True))
        return found

    def prune(self, keep: int) -> list[str]:
        """Removes the versions that the trainer made but for the newest `keep` and those that the
        pointer may ask for, as many rollbacks back; their names.

        Each is gone at once, and then deleted: to be called where nobody else writes versions.
        Raises RegistryError, OSError.
        """
        with self._changing() as pointer:  # nothing is promoted or put on trial meanwhile
            made = [path for path in self._folders() if _NAME.fullmatch(path.name)]
            needed = pointer.needed(keep)
            gone = [path for path in made[:-keep] if path.name not in needed]
            parts = [path.rename(f"{path}.{os.getpid()}.part") for path in gone]
        for part in parts:
            shutil.rmtree(part)
        return [path.name for path in gone]

    def _read(self) -> Pointer:
        try:
            return Pointer.read(json.loads(self.pointer.read_text("utf-8")))
        except FileNotFoundError:
            return Pointer()
        except OSError as error:
            raise RegistryError(f"{self.pointer}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{self.pointer} is damaged ({error!r}); restore it, or delete it to serve the "
                "adapter that ships"
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[Pointer]:
        """What the pointer holds, while nobody else changes it. A killed process frees the lock."""
        lock = FileLock(self.folder / ".lock", timeout=_WAIT_SECONDS)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise RegistryError(f"{self.pointer}: another process keeps changing it") from error
        except OSError as error:
            raise RegistryError(f"{self.pointer}: {error.strerror or error}") from error
        try:
            yield self._read()
        finally:
            lock.release()

    def _point(self, pointer: Pointer) -> None:
        part = self.pointer.with_name(f"{self.pointer.name}.{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                json.dump(pointer.written(), file, ensure_ascii=False, indent=2)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.pointer)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RegistryError(f"{self.pointer}: {error.strerror or error}") from error
