"""Copies of an SQLite database: made while a bot writes, looked through before they are trusted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from data.database import NoDatabase, OldDatabase, StoreError, reason, require_version


class BackupError(Exception):
    """A copy cannot be made or put back; one line for the owner, with what to do next."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a copy holds: the version of its schema, and how many turns."""

    schema: str
    turns: int


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing; for the thread that uses it."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)


def copy_database(path: Path, to: Path) -> None:
    """Copies one moment of a database that others may read and write meanwhile, into one file.

    Raises BackupError.
    """
    if not path.exists():
        raise BackupError(f"there is no database {path} yet; the bot makes it at its start")
    try:
        with closing(read_only(path)) as source, closing(sqlite3.connect(to)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # or a log would have to go along
    except sqlite3.Error as error:
        raise BackupError(f"the database {path} could not be copied: {reason(error)}") from error


def look_through(path: Path) -> Contents:
    """Reads all of a copy, and whether this program knows its schema. Raises BackupError."""
    try:
        with closing(read_only(path)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise BackupError(f"{path} is damaged: {found}")
            if connection.execute("PRAGMA foreign_key_check").fetchone():
                raise BackupError(f"{path} is damaged: a row in it refers to none")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if not {"alembic_version", "turns"} <= tables:
                raise BackupError(f"{path} is no database of this program")
            (schema,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            (turns,) = connection.execute("SELECT count(*) FROM turns").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise BackupError(f"{path} is no database, or is damaged ({error})") from error
    try:
        require_version(schema, path)
    except OldDatabase:  # which is brought up to date when it is put back
        pass
    except (NoDatabase, StoreError) as error:
        raise BackupError(str(error)) from error
    return Contents(schema, turns)
