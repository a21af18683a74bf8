"""Transactions: many readers, and writers that queue fairly within this process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from data.database import reason


class StoreUnavailable(Exception):
    """A read or a write failed for now: no disk space, a lock held too long."""


class Transactions:
    """Hands out connections; each block is one transaction. Both raise StoreUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(sqlite_begin="BEGIN")
        # SQLite's own waiting polls and is unfair: on a busy machine some writers wait for ever.
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Commits at the end of the block, rolls back where it raises."""
        try:
            async with self._writing, self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreUnavailable(reason(error)) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One snapshot for the whole block."""
        try:
            async with self._reading.connect() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreUnavailable(reason(error)) from error
