"""Putting a copy of the database in the place of the one that is there."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy.engine import URL

from data.backup import BackupError, Contents, copy_database, look_through
from data.database import StoreError, open_database
from data.since import Carried, Since, carry_over, newest_turns, read_since
from data.transactions import StoreUnavailable, Transactions


@dataclass(frozen=True, slots=True)
class Restored:
    """`aside` is where that is kept which was there; `since` what it knew and `carried` what of it
    is known on; all three None where there was none."""

    contents: Contents
    aside: Path | None
    since: Since | None
    carried: Carried | None


async def restore(copy: Path, path: Path) -> Restored:
    """Replaces the database by a copy, which is looked through and made ready beside it first.

    Whatever ends it before its last step leaves what was there. Raises BackupError.
    """
    contents = look_through(copy)
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise BackupError(f"a bot is running on {path}; stop it first") from error
    except OSError as error:
        raise BackupError(f"{path.parent} cannot be written ({error.strerror})") from error
    part = path.with_name(f"{path.name}.part")
    try:
        _remove(part)
        copy_database(copy, part)
        since, carried = await _make_ready(part, _known_before(path))
        look_through(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        aside = _keep_aside(path)
        part.replace(path)
    except (StoreError, StoreUnavailable) as error:
        raise BackupError(f"the copy could not be made ready: {error}") from error
    except OSError as error:
        raise BackupError(f"the copy could not be put back: {error}") from error
    finally:
        _remove(part)
        lock.release()
    return Restored(contents, aside, since, carried)


def _known_before(path: Path) -> Path | None:
    """What there is to learn of erasures from: the database, or the damaged one kept aside."""
    if path.exists():
        return path
    return max(path.parent.glob(f"{path.name}.damaged-*Z"), default=None)


async def _make_ready(part: Path, before: Path | None) -> tuple[Since | None, Carried | None]:
    """Brings a copy up to today's schema, and has it know what the database knew."""
    url = URL.create("sqlite+aiosqlite", database=str(part)).render_as_string()
    database = await open_database(url, 10.0, exclusive=True)
    try:
        if before is None:
            return None, None
        async with Transactions(database.engine).write() as connection:
            newest = await newest_turns(connection)
            since = await asyncio.to_thread(read_since, before, newest)
            return since, await carry_over(connection, since)
    finally:
        await database.close()


def _keep_aside(path: Path) -> Path | None:
    """Keeps what is there under another name too. Of a whole one the log goes into the file."""
    if not path.exists():
        return None
    aside = path.with_name(f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    try:
        copy_database(path, aside)
    except BackupError:  # damaged: as it is
        aside.unlink(missing_ok=True)
        shutil.copy2(path, aside)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                shutil.copy2(f"{path}{suffix}", f"{aside}{suffix}")
    for suffix in ("-wal", "-shm"):  # SQLite would take them for the copy's
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    return aside


def _remove(part: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
        Path(f"{part}{suffix}").unlink(missing_ok=True)
