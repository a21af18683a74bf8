# ruff: noqa: ASYNC240 - nothing else runs in these loops while a small file is read
"""A copy is one moment of the database; put back, it brings back nobody who was forgotten since."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import create_engine

from data.backup import BackupError, copy_database, look_through
from data.database import _MIGRATIONS
from data.people import hash_of
from data.restore import Restored, restore
from data.store import Store


@asynccontextmanager
async def opened(database: Path) -> AsyncIterator[Store]:
    store = await Store.open(f"sqlite+aiosqlite:///{database}")
    try:
        yield store
    finally:
        await store.close()


async def said(store: Store, user: str, text: str, chat: str = "") -> int:
    """A turn of a person in their private chat, or in that group."""
    conversation = await store.conversation("screen", chat or user, is_group=bool(chat))
    turn = await store.begin_turn(conversation.id, user, user, text)
    await store.close_turn(turn, "done", f"答{text}")
    return turn


def dump(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


Then = Callable[[Store], Awaitable[None]]


async def restored(database: Path, copy: Path, *then: Then) -> Restored:
    """Puts back a copy of a database in which these things happened after it was made."""
    copy_database(database, copy)
    async with opened(database) as store:
        for what in then:
            await what(store)
    return await restore(copy, database)


async def test_copy_is_one_moment_of_a_database_in_use(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "先说的")
        conversation = await store.conversation("screen", "u1")

        async def talk() -> None:
            for number in range(200):
                await store.begin_turn(conversation.id, "u1", "", f"第{number}句")

        talking = asyncio.create_task(talk())
        for number in range(5):
            some = copy.with_name(f"{number}.db")
            await asyncio.to_thread(copy_database, database, some)
            assert look_through(some).turns == len(turns(some))
            assert not some.with_name(f"{number}.db-wal").exists()
        await talking
    copy_database(database, copy)
    assert look_through(copy).turns == 201


def turns(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM turns ORDER BY id")]


async def test_what_is_no_copy_is_refused_and_changes_nothing(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "留着")
    before = database.read_bytes()
    for content, why in ((b"garbage " * 999, "damaged"), (b"", "no database")):
        copy.write_bytes(content)
        with pytest.raises(BackupError, match=why):
            await restore(copy, database)
    copy_database(database, copy)
    whole = copy.read_bytes()
    half = len(whole) // 2 // 4096 * 4096
    copy.write_bytes(whole[:half] + b"\xff" * 8192 + whole[half + 8192 :])
    with pytest.raises(BackupError, match="damaged"):
        await restore(copy, database)
    copy.write_bytes(whole)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(BackupError, match=r"9999.*update"):
        await restore(copy, database)
    assert database.read_bytes() == before
    assert not list(database.parent.glob("*.part*"))
    assert not list(database.parent.glob("*.replaced-*"))


async def test_restore_refuses_while_a_bot_runs(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "还在说")
        copy_database(database, copy)
        with pytest.raises(BackupError, match="a bot is running"):
            await restore(copy, database)
        assert await store.counts() == {"conversations": 1, "turns": 1, "ratings": 0}


async def test_copy_takes_the_place_and_what_was_there_is_kept(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "先说的")

    async def more(store: Store) -> None:
        await said(store, "u1", "后说的")

    done = await restored(database, copy, more)
    assert turns(database) == ["先说的"]
    assert done.aside
    assert turns(done.aside) == ["先说的", "后说的"]
    assert done.contents.turns == 1


async def test_damaged_database_gives_way_and_is_kept(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "先说的")
    copy_database(database, copy)
    database.write_bytes(b"garbage " * 999)
    done = await restore(copy, database)
    assert done.since
    assert not done.since.whole
    assert turns(database) == ["先说的"]
    assert done.aside
    assert done.aside.read_bytes() == b"garbage " * 999


async def test_nobody_who_was_forgotten_since_comes_back(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "只我说过", "g")
        theirs = await said(store, "u2", "别人的话", "g")
        await store.rate(theirs, "screen", "u1", -1, "只我写过的说法")
        await store.people.agree("screen", "u1", True)
        await store.inbox.put("screen", "bot", 7, "u1", "只我发过的")

    async def forget(store: Store) -> None:
        await store.people.erase("screen", "u1")

    done = await restored(database, copy, forget)
    assert done.carried
    assert (done.carried.people, done.carried.turns) == (1, 1)
    assert "只我" in dump(copy)
    assert "只我" not in dump(database)
    assert "只我".encode() not in database.read_bytes()  # nor in what SQLite calls free
    assert turns(database) == ["别人的话"]
    async with opened(database) as store:
        assert await store.people.agreed("screen", "u1") is None
        assert await store.people.forgotten("screen", "u1") is not None
        assert await store.people.erased() == {1}


async def test_forgotten_before_and_come_back_by_themselves_they_stay(
    database: Path, copy: Path
) -> None:
    async with opened(database) as store:
        await said(store, "u1", "从前的话")
        await store.people.erase("screen", "u1")
        await said(store, "u1", "又来说话")
    done = await restored(database, copy)
    assert done.carried
    assert done.carried.people == 0
    assert turns(database) == ["又来说话"]


async def test_forgotten_once_more_they_are_gone_once_more(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "从前的话")
        await store.people.erase("screen", "u1")
        await said(store, "u1", "又来说话")
        await store.rate(await said(store, "u2", "别人的话"), "screen", "u1", -1, "只我写过的")

    async def again(store: Store) -> None:
        await store.people.erase("screen", "u1")
        await said(store, "u1", "第三回来")

    await restored(database, copy, again)
    assert turns(database) == ["别人的话"]
    assert "只我" not in dump(database)


async def test_whoever_spoke_on_is_not_looked_for_among_the_forgotten(
    database: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def counting(platform: str, user_id: str, salt: bytes) -> bytes:
        tried.append(user_id)
        return await hash_of(platform, user_id, salt)

    monkeypatch.setattr("data.since.hash_of", counting)  # each costs 50 ms
    async with opened(database) as store:
        for user in ("u1", "u2", "u3"):
            await said(store, user, f"{user}的话")

    async def forget(store: Store) -> None:
        await store.people.erase("screen", "u1")

    await restored(database, copy, forget)
    assert tried == ["u1"]


async def test_what_expired_since_stays_erased(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "旧话")
        await said(store, "u1", "新话")

    async def expire(store: Store) -> None:
        async with store._transactions.write() as connection:
            await connection.exec_driver_sql(
                "UPDATE turns SET created_at = '2020-01-01 00:00:00' WHERE id = 1"
            )
        await store.people.expire(timedelta(days=30))

    await restored(database, copy, expire)
    assert turns(database) == ["新话"]


async def test_last_word_on_consent_counts(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        for user in ("u1", "u2", "u3"):
            await said(store, user, f"{user}的话")
        await store.people.agree("screen", "u1", True)
        await store.people.agree("screen", "u2", True)

    async def change(store: Store) -> None:
        await store.people.agree("screen", "u1", False)
        await store.people.agree("screen", "u3", True)

    done = await restored(database, copy, change)
    assert done.carried
    assert done.carried.consents == 2
    async with opened(database) as store:
        agreed = [await store.people.agreed("screen", user) for user in ("u1", "u2", "u3")]
    assert agreed == [False, True, True]


async def test_no_number_of_a_lost_turn_is_given_anew(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        assert await said(store, "u1", "先说的") == 1

    async def more(store: Store) -> None:
        assert await said(store, "u1", "后说的") == 2

    await restored(database, copy, more)
    async with opened(database) as store:
        assert await said(store, "u2", "再说的") == 3
        assert 2 in await store.people.erased()


async def test_what_was_dealt_with_since_is_not_answered_again(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "先说的")
        await store.inbox.put("screen", "bot", 1, "u1", "一")
        await store.notes.write("screen", "bot", {"seen": "1"})

    async def go_on(store: Store) -> None:
        await store.inbox.done("screen", "bot", 1)
        await store.inbox.put("screen", "bot", 2, "u1", "二")
        await store.notes.write("screen", "bot", {"seen": "2"})

    await restored(database, copy, go_on)
    async with opened(database) as store:
        assert [w.payload for w in await store.inbox.waiting("screen", "bot")] == ["二"]
        assert await store.notes.read("screen", "bot") == {"seen": "2"}
        assert not await store.inbox.put("screen", "bot", 1, "u1", "一")


async def test_moved_to_a_new_machine_what_waits_is_still_answered(
    database: Path, copy: Path, tmp_path: Path
) -> None:
    async with opened(database) as store:
        await said(store, "u1", "先说的")
        await store.inbox.put("screen", "bot", 1, "u1", "一")
    copy_database(database, copy)
    elsewhere = tmp_path / "elsewhere" / "daiyu.db"
    done = await restore(copy, elsewhere)
    assert (done.aside, done.since) == (None, None)
    async with opened(elsewhere) as store:
        assert len(await store.inbox.waiting("screen", "bot")) == 1


async def test_numbers_of_another_history_erase_nothing(
    database: Path, copy: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    async with opened(other) as store:
        for number in range(3):
            await said(store, f"o{number}", "别处的话")
        await store.people.erase("screen", "o0")
        await store.people.erase("screen", "u2")  # who asked there, though they said nothing
    async with opened(database) as store:
        await said(store, "u1", "第一句")
        await said(store, "u2", "第二句")
        await said(store, "u3", "第三句")
    copy_database(database, copy)
    done = await restore(copy, other)
    assert done.since
    assert not done.since.kin
    assert turns(other) == ["第一句", "第三句"]


async def test_kept_aside_as_damaged_it_is_read_for_erasures(database: Path, copy: Path) -> None:
    async with opened(database) as store:
        await said(store, "u1", "只我说过")
        await said(store, "u2", "别人的话")
    copy_database(database, copy)
    async with opened(database) as store:
        await store.people.erase("screen", "u1")
    database.rename(f"{database}.damaged-20260101T000000Z")
    await restore(copy, database)
    assert turns(database) == ["别人的话"]


async def test_copy_of_an_older_schema_is_brought_up_to_date(database: Path, copy: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    engine = create_engine(f"sqlite:///{copy}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    assert look_through(copy).schema == "0001"
    await restore(copy, database)
    async with opened(database) as store:
        await said(store, "u1", "说得了")


async def test_killed_before_the_last_step_it_leaves_what_was_there(
    database: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database) as store:
        await said(store, "u1", "先说的")

    async def more(store: Store) -> None:
        await said(store, "u1", "后说的")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.restore._keep_aside", full)
    with pytest.raises(BackupError, match="No space left"):
        await restored(database, copy, more)
    assert turns(database) == ["先说的", "后说的"]
    assert not database.with_name("daiyu.db.part").exists()
    with FileLock(f"{database}.lock", timeout=0):
        pass
