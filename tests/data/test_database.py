# ruff: noqa: ASYNC240 - nothing else runs in these loops while a small file is read
"""Opening: one bot at a time, migrated, and damage is kept, told and never begun over."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from data import database as opening
from data.database import StoreError
from data.schema import metadata
from data.store import Store

MIGRATIONS = Path(opening.__file__).with_name("migrations")
GARBAGE = b"This is not a database, but it may be somebody's only copy.\n" * 200


def config(connection: Connection) -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["connection"] = connection
    return made


def upgrade(database: Path, revision: str) -> None:
    engine = create_engine(f"sqlite:///{database}")
    with engine.begin() as connection:
        command.upgrade(config(connection), revision)
    engine.dispose()


async def refusal(url: str, **options: bool) -> str:
    with pytest.raises(StoreError) as refused:
        await Store.open(url, **options)
    line = str(refused.value)
    assert "\n" not in line
    return line


# Migrations.


async def test_migrations_from_empty_are_the_schema(url: str, database: Path) -> None:
    await (await Store.open(url)).close()
    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        for table in metadata.tables.values():
            checks = {c["name"] for c in inspect(connection).get_check_constraints(table.name)}
            wanted = {c.name for c in table.constraints if "Check" in type(c).__name__}
            assert checks == wanted, table.name
    engine.dispose()


def test_migrations_are_one_line_from_the_first() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert len(scripts.get_heads()) == 1
    assert [s.revision for s in scripts.walk_revisions()][-1] == "0001"


async def test_rows_of_the_oldest_schema_survive(url: str, database: Path) -> None:
    upgrade(database, "0001")
    day = "'2026-01-01 00:00:00'"
    rows = [
        f"INSERT INTO conversations VALUES (1, 'telegram', '7', '', 'en', 0, {day})",
        "INSERT INTO turns (id, conversation_id, first_turn, chosen, undone, user_id, user_name,"
        " text, reply, state, created_at) VALUES"
        f" (1, 1, NULL, 0, 0, 'u1', '小红', '你好', '一。', 'done', {day}),"
        f" (2, 1, 1, 1, 0, 'u1', '小红', '你好', '二。', 'done', {day})",
        "INSERT INTO messages VALUES (1, 2, 'reply', 'telegram', '7', 'b1')",
        f"INSERT INTO ratings VALUES (1, 2, 'telegram', 'u1', -1, '三。', {day}, {day})",
    ]
    with closing(sqlite3.connect(database)) as connection:
        for row in rows:
            connection.execute(row)
        connection.commit()
    store = await Store.open(url)
    try:
        conversation = await store.conversation("telegram", "7")
        assert (conversation.id, conversation.lang) == (1, "en")
        [turn] = await store.history(conversation, 9, 99)
        assert (turn.id, turn.first_turn, turn.reply, turn.user_name) == (2, 1, "二。", "小红")
        assert await store.messages.turn_of("telegram", "7", "b1") == turn
        rating = await store.rating(2, "telegram", "u1")
        assert rating is not None
        assert (rating.vote, rating.correction) == (-1, "三。")
        assert await store.counts() == {"conversations": 1, "turns": 2, "ratings": 1}
    finally:
        await store.close()


async def test_database_of_a_newer_version_is_refused_and_left_alone(
    url: str, database: Path
) -> None:
    await (await Store.open(url)).close()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = database.read_bytes()
    line = await refusal(url)
    assert "another version" in line
    assert "9999" in line
    assert database.read_bytes() == before


async def test_failed_migration_is_no_damage(
    url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await Store.open(url)).close()

    def breaks(connection: Connection) -> None:
        connection.execute(text("INSERT INTO turns (conversation_id) VALUES (NULL)"))

    monkeypatch.setattr(opening, "_migrate", breaks)
    assert "NOT NULL" in await refusal(url)
    assert database.exists()
    assert not list(database.parent.glob("*.damaged-*"))


# One bot at a time.


async def test_second_bot_is_refused_and_a_reader_is_not(url: str, database: Path) -> None:
    first = await Store.open(url)
    line = await refusal(url)
    assert "another bot" in line
    assert str(database) in line
    reader = await Store.open(url, exclusive=False)
    conversation = await reader.conversation("screen", "1")
    assert await first.conversation("screen", "1") == conversation
    await reader.close()
    await first.close()
    await (await Store.open(url)).close()


async def test_refused_opening_leaves_no_lock(url: str, database: Path) -> None:
    database.write_bytes(GARBAGE)
    await refusal(url)
    for kept in database.parent.glob("*.damaged-*"):
        kept.unlink()
    await (await Store.open(url)).close()


async def test_connection_that_a_cancelled_task_left_is_closed_at_the_end(url: str) -> None:
    opened = await opening.open_database(url, busy_timeout=1.0, exclusive=True)
    left = await opening._connect(opened.connections, opened.threads, ":memory:")
    await opened.close()
    with pytest.raises(ValueError, match=r"Connection closed|no active connection"):
        await left.execute("SELECT 1")


async def test_many_readers_open_at_once(url: str) -> None:
    bot = await Store.open(url)
    readers = await asyncio.gather(*(Store.open(url, exclusive=False) for _ in range(5)))
    for store in (*readers, bot):
        await store.close()


# Damage.


async def filled(url: str) -> None:
    store = await Store.open(url)
    conversation = await store.conversation("screen", "1")
    for i in range(30):
        turn = await store.begin_turn(conversation.id, "u1", "", f"{i}" + "雨" * 900)
        await store.close_turn(turn, "done", "好。")
    await store.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "overwritten"])
async def test_damaged_database_is_kept_and_never_begun_over(
    url: str, database: Path, damage: str
) -> None:
    if damage == "garbage":
        database.write_bytes(GARBAGE)
    else:
        await filled(url)
        whole = database.read_bytes()
        half = len(whole) // 2 // 4096 * 4096
        middle = b"\xff" * 8192 + whole[half + 8192 :] if damage == "overwritten" else b""
        database.write_bytes(whole[:half] + middle)
    before = database.read_bytes()

    line = await refusal(url)
    [kept] = database.parent.glob("daiyu.db.damaged-*Z")
    assert str(kept) in line
    assert "damaged" in line
    assert kept.read_bytes() == before
    assert not database.exists()

    line = await refusal(url)
    assert str(kept) in line
    assert "restore a backup" in line
    assert not database.exists()
    assert "damaged" in await refusal(url, exclusive=False)

    kept.rename(database.parent / "elsewhere")
    store = await Store.open(url)
    assert (await store.counts())["turns"] == 0
    await store.close()


async def test_log_of_a_damaged_database_is_not_lost(url: str, database: Path) -> None:
    await filled(url)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE turns SET reply = 'what was written last' WHERE id = 30")
        whole, log = database.read_bytes(), Path(f"{database}-wal").read_bytes()
    assert b"what was written last" in log
    half = len(whole) // 2 // 4096 * 4096
    database.write_bytes(whole[:half] + b"\xff" * 8192 + whole[half + 8192 :])
    Path(f"{database}-wal").write_bytes(log)
    await refusal(url)
    kept = list(database.parent.glob("daiyu.db.damaged-*"))
    assert any(b"what was written last" in path.read_bytes() for path in kept)


async def test_refusal_names_the_damaged_database_and_not_its_log(url: str, database: Path) -> None:
    kept = database.with_name("daiyu.db.damaged-20260101T000000Z")
    for suffix in ("", "-shm", "-wal"):
        Path(f"{kept}{suffix}").write_bytes(b"")
    assert f"{kept};" in await refusal(url)
    kept.rename(database.parent / "elsewhere")
    await (await Store.open(url)).close()


async def test_restored_backup_is_opened_though_the_damaged_file_lies_beside(
    url: str, database: Path
) -> None:
    await filled(url)
    backup = database.read_bytes()
    database.write_bytes(backup[: len(backup) // 2])
    await refusal(url)
    database.write_bytes(backup)
    store = await Store.open(url)
    assert (await store.counts())["turns"] == 30
    await store.close()


# Places that cannot hold a database.


async def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    line = await refusal(f"sqlite+aiosqlite:///{tmp_path}/file/daiyu.db")
    assert f"{tmp_path}/file" in line
    assert "[paths] var" in line


async def test_folder_in_the_place_of_the_file_is_told(url: str, database: Path) -> None:
    database.mkdir()
    line = await refusal(url)
    assert str(database) in line
    assert "unable to open" in line


@pytest.mark.parametrize(
    "url",
    ["nonsense", "sqlite+nodriver:///x.db", "unknown://host/db", "sqlite:///x.db"],
)
async def test_bad_url_is_told(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "[store] url" in await refusal(url)


async def test_folder_is_made(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b c" / "daiyu.db"
    await (await Store.open(f"sqlite+aiosqlite:///{deep}")).close()
    assert deep.exists()


async def test_an_emptied_database_is_kept_aside_and_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "daiyu.db"
    path.touch()
    for said in ("is empty", "was damaged and kept"):
        with pytest.raises(StoreError, match=said):
            await Store.open(f"sqlite+aiosqlite:///{path}")
    (kept,) = [p for p in tmp_path.iterdir() if ".damaged-" in p.name]
    assert kept.stat().st_size == 0


async def test_password_in_the_url_is_never_told() -> None:
    line = await refusal("postgresql+asyncpg://me:secret@127.0.0.1:1/daiyu")
    assert "secret" not in line


@pytest.mark.parametrize("exclusive", [True, False])
async def test_folder_that_cannot_be_entered_is_told(
    url: str, database: Path, exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "glob", forbidden)  # tests may run as root, who enters everywhere
    line = await refusal(url, exclusive=exclusive)
    assert f"{database.parent} cannot be written (Permission denied)" in line
    assert "[paths] var" in line
