"""Opening the database: one bot at a time, checked, brought to today's schema, damage kept aside.

All of that is the bot's to do. Whoever opens it beside a bot changes nothing on the way: what is
missing, of another version or damaged is told and left as it is.

SQLite runs in WAL with `synchronous=FULL`: what was acknowledged survives a power loss. A write
transaction begins as IMMEDIATE, since one that starts as a read and then writes meets BUSY in
spite of the timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

import aiosqlite
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from filelock import FileLock, Timeout
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_MIGRATIONS = Path(__file__).parent / "migrations"


class StoreError(Exception):
    """The database cannot be opened; one line for the owner, with what to do next."""


class NoDatabase(StoreError):
    """There is none yet: the first bot makes it."""


class OldDatabase(StoreError):
    """It is of an older version: the next bot to start brings it to today's."""


_LEAVING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Database:
    """An open database. `lock` keeps other bots out; `threads` are its SQLite connections'."""

    engine: AsyncEngine
    lock: FileLock | None
    connections: WeakSet[aiosqlite.Connection]
    threads: list[Thread]

    async def close(self) -> None:
        await self.engine.dispose()
        # One that a task was cancelled over while it was made is nobody's, and open.
        for connection in list(self.connections):
            with contextlib.suppress(sqlite3.Error, ValueError):
                await connection.close()
        # A cancelled task leaves its connection to a thread that reports to this loop once more.
        for thread in self.threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, _LEAVING_SECONDS)
        if self.lock:
            self.lock.release()


async def open_database(url: str, busy_timeout: float, exclusive: bool) -> Database:
    """The database, ready: checked, and of today's schema.

    Raises StoreError; where it is not `exclusive`, NoDatabase and OldDatabase too.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"[store] url: {error}") from error
    sqlite = parsed.get_backend_name() == "sqlite"
    in_memory = parsed.database in (None, "", ":memory:")
    path = Path(parsed.database or "") if sqlite and not in_memory else None
    lock, threads, connections = None, list[Thread](), WeakSet[aiosqlite.Connection]()
    if path and exclusive:
        lock = _prepare(path)
    elif path:
        await asyncio.to_thread(_inspect, path)
    try:
        connect_args: dict[str, Any] = {}
        if sqlite:
            creator = partial(_connect, connections, threads)
            connect_args = {"timeout": busy_timeout, "async_creator_fn": creator}
        # An error that told its parameters would put people's words into the log.
        engine = create_async_engine(parsed, connect_args=connect_args, hide_parameters=True)
    except BaseException as error:
        if lock:
            lock.release()
        if isinstance(error, ImportError | SQLAlchemyError):
            raise StoreError(f"[store] url: {error}") from error
        raise
    if sqlite:
        _configure_sqlite(engine)
    database = Database(engine, lock, connections, threads)
    await _bring_up(database, path or parsed.render_as_string(), exclusive)
    return database


async def _bring_up(database: Database, where: Path | str, exclusive: bool) -> None:
    try:
        if exclusive:
            async with database.engine.begin() as connection:
                if isinstance(where, Path):
                    await _check(connection)
                await connection.run_sync(_migrate)
        else:
            reading = database.engine.execution_options(sqlite_begin="BEGIN")
            async with reading.connect() as connection:
                require_version(await connection.run_sync(_version), where)
    except BaseException as error:
        await database.close()
        if exclusive and isinstance(where, Path) and _is_damage(error):
            aside = _put_aside(where)
            raise StoreError(
                f"the database {where} is damaged ({reason(error)}); it was kept as {aside}. "
                "Restore a backup, or repair it with sqlite3's .recover, then start again"
            ) from error
        if isinstance(error, SQLAlchemyError | sqlite3.Error | OSError):
            raise StoreError(f"the database {where}: {reason(error)}") from error
        if isinstance(error, CommandError):
            raise StoreError(f"the database {where} is of another version: {error}") from error
        raise


def _prepare(path: Path) -> FileLock:
    """Makes the database's folder and keeps other bots out."""
    try:
        _refuse_to_begin_over(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"another bot is running on {path}; stop it, or set [paths] var to another folder"
        ) from error
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    if path.exists() and path.stat().st_size == 0 and not Path(f"{path}-wal").exists():
        # SQLite would take it for a new one. Only the lock's holder may judge: a database that
        # another process is just making is empty too.
        lock.release()
        aside = _put_aside(path)
        raise StoreError(
            f"the database {path} is empty where it should hold something; it was kept as {aside}. "
            f"Restore a backup to {path}, or move that file elsewhere to begin anew"
        )
    return lock


def _inspect(path: Path) -> None:
    """Looks whether there is a whole database, and touches nothing, not even its log."""
    try:
        _refuse_to_begin_over(path)
        if not path.exists():
            folder = next(folder for folder in path.absolute().parents if folder.exists())
            if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
                raise _unwritable(path, f"{folder} takes none")
            raise NoDatabase(f"there is no database {path} yet; the bot makes it at its start")
        if path.stat().st_size == 0 and not Path(f"{path}-wal").exists():
            raise StoreError(
                f"the database {path} is empty: a bot is just making it, or what it held is lost"
            )
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        ) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
    except sqlite3.Error as error:
        state = "is damaged" if _is_damage(error) else "cannot be read"
        raise StoreError(f"the database {path} {state} ({reason(error)})") from error


def _refuse_to_begin_over(path: Path) -> None:
    """Raises StoreError where a damaged database was kept and none took its place."""
    kept = [p for p in path.parent.glob(f"{path.name}.damaged-*") if p.name.endswith("Z")]
    if kept and not path.exists():
        # Beginning anew by itself would silently forget consents and erasures.
        raise StoreError(
            f"{path} was damaged and kept as {max(kept)}; restore a backup to {path}, "
            "or move the damaged file elsewhere to begin with an empty database"
        )


def _unwritable(path: Path, why: str | None) -> StoreError:
    return StoreError(
        f"{path.parent} cannot be written ({why}); set [paths] var to a folder that can"
    )


def _connect(
    connections: WeakSet[aiosqlite.Connection],
    threads: list[Thread],
    *arguments: Any,
    **options: Any,
) -> aiosqlite.Connection:
    """A connection about to be made, noted with its thread: one that fails reports to the loop."""
    connection = aiosqlite.connect(*arguments, **options)
    connections.add(connection)
    thread = connection._thread  # aiosqlite tells it nowhere else
    thread.daemon = True
    threads[:] = [*(t for t in threads if t.is_alive()), thread]
    return connection


def _configure_sqlite(engine: AsyncEngine) -> None:
    """Sets up each connection as it is made."""

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "invalidate")
    def given_up(connection: Any, _: Any, __: BaseException | None) -> None:
        # A cancelled task gives its connection up. Closed with a cursor still held somewhere,
        # SQLite would keep it, and with it the write lock, until that cursor is collected.
        with contextlib.suppress(sqlite3.Error, ValueError):
            connection.rollback()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get("sqlite_begin", "BEGIN IMMEDIATE"))


async def _check(connection: AsyncConnection) -> None:
    """Raises sqlite3.DatabaseError where the file's pages contradict each other."""
    found = await connection.scalar(text("PRAGMA quick_check(1)"))
    if found != "ok":
        raise sqlite3.DatabaseError(str(found))


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _migrate(connection: Connection) -> None:
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    """The schema's version; None where there is no schema."""
    return MigrationContext.configure(connection).get_current_revision()


def require_version(found: str | None, where: Path | str) -> None:
    """Raises NoDatabase, OldDatabase or StoreError unless that schema is today's."""
    scripts = ScriptDirectory.from_config(_alembic())
    today = scripts.get_current_head()
    if found is None:
        raise NoDatabase(f"the database {where} holds nothing yet; start the bot once")
    if found in {script.revision for script in scripts.walk_revisions()} - {today}:
        raise OldDatabase(
            f"the database {where} is of another version, {found}; this program's is {today}: "
            "start the bot once"
        )
    if found != today:
        raise StoreError(
            f"the database {where} is of another version, {found}, which this program does not "
            "know: update it"
        )


def _is_damage(error: BaseException) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.OperationalError):
        return "disk image is malformed" in str(original)
    # Its subclasses blame the statement: a migration that breaks a constraint is no damage.
    return type(original) is sqlite3.DatabaseError


def _put_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    for suffix in ("-wal", "-shm"):
        companion = Path(f"{path}{suffix}")
        if companion.exists():
            companion.rename(f"{aside}{suffix}")
    path.rename(aside)
    return aside


def reason(error: BaseException) -> str:
    """The driver's own words for an error, in one line."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return (str(original) or type(original).__name__).splitlines()[0]
