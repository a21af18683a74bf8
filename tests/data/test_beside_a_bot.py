# ruff: noqa: ASYNC240 - nothing else runs in these loops while a small file is read
"""Opening beside a bot: what the bot has to do is told, and nothing is touched."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from test_database import GARBAGE, MIGRATIONS, filled, refusal

from data import database as opening
from data.database import NoDatabase, OldDatabase
from data.store import Store


async def test_reader_finds_no_database_and_makes_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(NoDatabase, match="no database"):
            await Store.open(f"sqlite+aiosqlite:///{folder}/daiyu.db", exclusive=False)
    assert list(tmp_path.iterdir()) == []


async def test_reader_finds_none_where_a_bot_is_just_making_it(url: str, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        with pytest.raises(NoDatabase, match="holds nothing yet"):
            await Store.open(url, exclusive=False)


async def test_reader_leaves_an_older_database_to_the_bot(
    url: str, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(url)
    later = tmp_path / "later"
    shutil.copytree(MIGRATIONS, later)
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    (later / "versions" / "9999_next.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision, branch_labels, depends_on = '9999', '{head}', None, None\n"
        "def upgrade(): op.execute('CREATE TABLE later (id INTEGER)')\n"
    )
    monkeypatch.setattr(opening, "_MIGRATIONS", later)
    before = database.read_bytes()
    bot = await Store.open(url)
    await bot.close()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (0,)

    database.write_bytes(before)
    with pytest.raises(OldDatabase, match=rf"another version, {head}.*start the bot once"):
        await Store.open(url, exclusive=False)
    assert database.read_bytes() == before
    await (await Store.open(url)).close()
    await (await Store.open(url, exclusive=False)).close()


async def test_reader_leaves_a_newer_database_alone(url: str, database: Path) -> None:
    await filled(url)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = database.read_bytes()
    assert "another version, 9999" in await refusal(url, exclusive=False)
    assert database.read_bytes() == before


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty"])
async def test_reader_leaves_a_damaged_database_where_it_is(
    url: str, database: Path, damage: str
) -> None:
    await filled(url)
    whole = database.read_bytes()
    content = {"garbage": GARBAGE, "truncated": whole[: len(whole) // 2], "empty": b""}[damage]
    database.write_bytes(content)
    line = await refusal(url, exclusive=False)
    assert str(database) in line
    assert ("empty" if damage == "empty" else "damaged") in line
    assert database.read_bytes() == content
    assert not list(database.parent.glob("*.damaged-*"))


async def test_reader_leaves_the_log_of_a_damaged_database_alone(url: str, database: Path) -> None:
    await filled(url)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE turns SET reply = 'what was written last' WHERE id = 30")
        whole, log = database.read_bytes(), Path(f"{database}-wal").read_bytes()
    half = len(whole) // 2 // 4096 * 4096
    broken = whole[:half] + b"\xff" * 8192 + whole[half + 8192 :]
    database.write_bytes(broken)
    Path(f"{database}-wal").write_bytes(log)
    assert "damaged" in await refusal(url, exclusive=False)
    assert (database.read_bytes(), Path(f"{database}-wal").read_bytes()) == (broken, log)
