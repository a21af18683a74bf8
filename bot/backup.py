"""`python -m bot backup` and `restore`: all that cannot be made again, in one folder.

    PATH/daiyu.db             the database, one file
    PATH/adapters/            current.json, and the versions that it leads to
    PATH/backup.json          when it was made, of what, and the hash of every file

Models and engine files are fetched and built anew, runs of the trainer are done with, and the log
is for reading. What is set (config.toml, tokens in .env) is not under [paths] var and not in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from bot.config import Settings
from data.backup import BackupError, copy_database, look_through
from data.restore import Restored, restore
from persona.registry import Registry, RegistryError

_DATABASE, _ADAPTERS, _MANIFEST = "daiyu.db", "adapters", "backup.json"
_FORM = 1

Say = Callable[[str], None]


def back_up(settings: Settings, to: Path, say: Say) -> None:
    """Copies the state into a new folder, while a bot may be running. Raises BackupError."""
    database = _database(settings)
    if to.exists():
        raise BackupError(f"{to} is there already; name a folder that is not")
    part = to.with_name(f"{to.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # what a killed one left
        part.mkdir(mode=0o700, parents=True)  # people's words are in it
        copy_database(database, part / _DATABASE)
        contents = look_through(part / _DATABASE)
        versions = _copy_adapters(Registry(settings.paths.var / "adapters"), part / _ADAPTERS, say)
        hashes = {str(path.relative_to(part)): _settled(path) for path in _files(part)}
        manifest = {
            "form": _FORM,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "schema": contents.schema,
            "turns": contents.turns,
            "files": hashes,
        }
        (part / _MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        _settled(part / _MANIFEST)
        part.rename(to)
    except OSError as error:
        raise BackupError(f"{part} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f"{to}: {contents.turns} turns and {versions} adapter versions, looked through")


def put_back(settings: Settings, backup: Path, say: Say) -> None:
    """Puts a backup in place, or a bare copy of the database. Raises BackupError."""
    database = _database(settings)
    made = ""
    copy = backup
    if backup.is_dir():
        made = f" of {_checked(backup)}"
        copy = backup / _DATABASE
    elif not backup.exists():
        raise BackupError(f"there is no {backup}")
    with _no_trainer(settings.paths.var / "training"):
        done = asyncio.run(restore(copy, database))
        say(f"{database} is the copy{made}, with {done.contents.turns} turns in it")
        if done.aside:
            say(f"what was there is kept as {done.aside}")
        say(_of_erasures(done))
        if backup.is_dir():
            _put_back_adapters(backup / _ADAPTERS, Registry(settings.paths.var / "adapters"), say)


def _database(settings: Settings) -> Path:
    if settings.database is None:
        raise BackupError(
            "[store] url names no SQLite file; copy that database with its own tools (pg_dump)"
        )
    return settings.database


def _of_erasures(done: Restored) -> str:
    """The one line on what an older copy brings back."""
    since, carried = done.since, done.carried
    if since is None or carried is None:
        return (
            "there was no database to learn from who was forgotten since: whoever was is back, and "
            "has to be forgotten again"
        )
    again = (
        f"{carried.people} people and {carried.turns} turns that were erased since are erased "
        f"again, {carried.consents} newer answers about consent hold"
    )
    if not since.whole:
        return (
            f"{again}; but not all of the database that was there could be read: somebody who was "
            "forgotten since may be back"
        )
    if not since.kin:
        return f"{again}; what was there is of another history, of which turn numbers tell nothing"
    return again


def _copy_adapters(registry: Registry, to: Path, say: Say) -> int:
    """Copies the pointer and what it leads to; how many versions. Raises OSError."""
    if not registry.pointer.exists():
        return 0
    try:
        to.mkdir()
        shutil.copy2(registry.pointer, to / registry.pointer.name)
        versions = registry.needed()
    except RegistryError as error:
        say(f"without adapters, since these cannot be read: {error}")
        shutil.rmtree(to)
        return 0
    for version in versions:
        shutil.copytree(version.path, to / version.name)
    return len(versions)


def _put_back_adapters(held: Path, registry: Registry, say: Say) -> None:
    """Adds the versions that are not there; the pointer that is there stays. Raises BackupError."""
    if not held.is_dir():
        return
    try:
        registry.folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(path for path in held.iterdir() if path.is_dir()):
            if (registry.folder / folder.name).exists():
                continue
            part = registry.folder / f"{folder.name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(folder, part)
            part.rename(part.with_suffix(""))
        if registry.pointer.exists():
            say(f"{registry.pointer} stays: the version in service is another matter than the copy")
            return
        part = registry.pointer.with_suffix(".part")
        shutil.copy2(held / registry.pointer.name, part)
        part.replace(registry.pointer)
    except OSError as error:
        raise BackupError(f"the adapters could not be put back: {error}") from error


@contextmanager
def _no_trainer(runs: Path) -> Iterator[None]:
    """Keeps a trainer out meanwhile, which would write into the database that goes."""
    lock = FileLock(runs / ".lock", timeout=0)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise BackupError(f"a trainer is at work in {runs}; wait until it ends") from error
    except OSError as error:
        raise BackupError(f"{runs} cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def _checked(backup: Path) -> str:
    """When a backup was made; that every file is as it was then is looked at."""
    try:
        manifest = json.loads((backup / _MANIFEST).read_text("utf-8"))
        made, hashes = str(manifest["made"]), dict(manifest["files"])
        if manifest["form"] != _FORM:
            raise BackupError(f"{backup} is of a form that this program does not know: update it")
        for name, digest in hashes.items():
            if _hash(backup / name) != digest:
                raise BackupError(f"{backup / name} is not as it was when it was copied")
        if _DATABASE not in hashes:
            raise ValueError(f"no {_DATABASE}")
    except FileNotFoundError as error:
        raise BackupError(f"{backup} is no whole backup: {error.filename} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{backup} is no backup ({error})") from error
    return made


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _settled(path: Path) -> str:
    """The hash of a file that is on the disk for certain."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _hash(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
