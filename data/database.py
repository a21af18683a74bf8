"""Opening the database: one bot at a time, checked, brought to today's schema, damage kept aside.

SQLite runs in WAL with `synchronous=FULL`: what was acknowledged survives a power loss. A write
transaction begins as IMMEDIATE, since one that starts as a read and then writes meets BUSY in
spite of the timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from filelock import FileLock, Timeout
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_MIGRATIONS = Path(__file__).parent / "migrations"


class StoreError(Exception):
    """The database cannot be opened; one line for the owner, with what to do next."""


_LEAVING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Database:
    """An open database. `lock` keeps other bots out; `threads` are its SQLite connections'."""

    engine: AsyncEngine
    lock: FileLock | None
    threads: list[Thread]

    async def close(self) -> None:
        await self.engine.dispose()
        # A cancelled task leaves its connection to a thread that reports to this loop once more.
        for thread in self.threads:
            await asyncio.to_thread(thread.join, _LEAVING_SECONDS)
        if self.lock:
            self.lock.release()


async def open_database(url: str, busy_timeout: float, exclusive: bool) -> Database:
    """The database, ready: checked, and of today's schema. Raises StoreError."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"[store] url: {error}") from error
    sqlite = parsed.get_backend_name() == "sqlite"
    in_memory = parsed.database in (None, "", ":memory:")
    path = Path(parsed.database or "") if sqlite and not in_memory else None
    lock = _prepare(path, exclusive) if path else None
    try:
        connect_args = {"timeout": busy_timeout} if sqlite else {}
        engine = create_async_engine(parsed, connect_args=connect_args)
    except BaseException as error:
        if lock:
            lock.release()
        if isinstance(error, ImportError | SQLAlchemyError):
            raise StoreError(f"[store] url: {error}") from error
        raise
    database = Database(engine, lock, _configure_sqlite(engine) if sqlite else [])
    await _bring_up(database, path or url)
    return database


async def _bring_up(database: Database, where: Path | str) -> None:
    try:
        async with database.engine.begin() as connection:
            if isinstance(where, Path):
                await _check(connection)
            await connection.run_sync(_migrate)
    except BaseException as error:
        await database.close()
        if isinstance(where, Path) and _is_damage(error):
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


def _prepare(path: Path, exclusive: bool) -> FileLock | None:
    """Makes the database's folder and, for a bot, keeps other bots out."""
    kept = [p for p in path.parent.glob(f"{path.name}.damaged-*") if p.name.endswith("Z")]
    if kept and not path.exists():
        # Beginning anew by itself would silently forget consents and erasures.
        raise StoreError(
            f"{path} was damaged and kept as {max(kept)}; restore a backup to {path}, "
            "or move the damaged file elsewhere to begin with an empty database"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not exclusive:
            return None
        lock = FileLock(f"{path}.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"another bot is running on {path}; stop it, or set [paths] var to another folder"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path.parent} cannot be written ({error.strerror}); "
            "set [paths] var to a folder that can"
        ) from error
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


def _configure_sqlite(engine: AsyncEngine) -> list[Thread]:
    """Sets up each connection as it is made; the threads that the living ones run in."""
    threads: list[Thread] = []

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        threads[:] = [t for t in threads if t.is_alive()]
        threads.append(connection.driver_connection._thread)  # aiosqlite tells it nowhere else
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

    return threads


async def _check(connection: AsyncConnection) -> None:
    """Raises sqlite3.DatabaseError where the file's pages contradict each other."""
    found = await connection.scalar(text("PRAGMA quick_check(1)"))
    if found != "ok":
        raise sqlite3.DatabaseError(str(found))


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


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
