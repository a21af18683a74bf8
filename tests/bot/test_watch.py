"""The watch: told once when disk or memory runs short, once when not, and in between by /status."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from talking import opened_chat

from bot import watch as watching
from bot.config import OperationsSettings
from bot.texts import LANGUAGES, say
from bot.watch import MEGABYTE, Watch, free_space, memory_share, resident_memory


class Machine:
    """What the watch looks at."""

    def __init__(self) -> None:
        self.free = 10_000 * MEGABYTE
        self.share = 0.5

    def watch(self, **settings: float) -> Watch:
        chosen = OperationsSettings(**settings)
        return Watch(chosen, [], lambda _: self.free, lambda: self.share)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == "bot.watch"]
    caplog.clear()
    return lines


def test_each_change_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine()
    watch = machine.watch(free_space=500, memory_share=0.9)
    watch.look()
    assert told(caplog) == []
    machine.free = 400 * MEGABYTE
    for _ in range(3):
        watch.look()
    assert told(caplog) == ["the disk has 400 MB left, less than 500: make room"]
    machine.free, machine.share = 600 * MEGABYTE, 0.95
    for _ in range(3):
        watch.look()
    assert told(caplog) == ["the disk has 600 MB left again", "95% of the memory is in use"]
    machine.share = 0.6
    for _ in range(3):
        watch.look()
    assert told(caplog) == ["60% of the memory is in use, which is well"]


def test_what_swings_about_its_bound_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine()
    watch = machine.watch(free_space=500, memory_share=0.9)
    for free, share in ((499, 0.91), (501, 0.89), (499, 0.91), (501, 0.89)):
        machine.free, machine.share = free * MEGABYTE, share
        watch.look()
    assert len(told(caplog)) == 2


def test_it_can_be_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.free, machine.share = 0, 1.0
    machine.watch(free_space=0, memory_share=1).look()
    assert told(caplog) == []


def test_disk_that_cannot_be_asked_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: object) -> int:
        raise OSError(5, "input/output error")

    watch = Watch(OperationsSettings(), [], broken, lambda: 0.1)
    watch.look()
    assert watch.free is None
    assert told(caplog) == []


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_status_tells_the_owner_and_nobody_else(tmp_path: Path, lang: str) -> None:
    short = {"operations__free_space": str(10**9), "operations__memory_share": "0.001"}
    async with opened_chat(tmp_path, **short, bot__lang=lang, telegram__owners='["u1"]') as chat:
        chat.bot.watch.look()
        chat.screen.name = "telegram"
        mine, others = await chat.say("/status"), await chat.say("/status", user_id="u2")
    free = (chat.bot.watch.free or 0) // MEGABYTE
    assert say(lang, "status_disk", free=free) in mine
    assert say(lang, "status_memory", share=f"{chat.bot.watch.share:.0%}") in mine
    assert str(free) not in others


def test_folder_that_is_yet_to_be_made_counts_as_where_it_will_be(tmp_path: Path) -> None:
    assert free_space([tmp_path / "a" / "b", Path("nowhere")]) > 0


def test_memory_of_an_engines_process_counts() -> None:
    alone = resident_memory()
    program = "held = bytearray(200_000_000); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        assert resident_memory() > alone + 150_000_000
        child.communicate(b"\n")


def test_limit_of_a_container_counts(tmp_path: Path) -> None:
    group, own = tmp_path / "system.slice" / "daiyu.service", tmp_path / "own"
    group.mkdir(parents=True)
    own.write_text("0::/system.slice/daiyu.service\n")
    (group / "memory.current").write_text("900\n")
    (group / "memory.stat").write_text("anon 700\ninactive_file 100\n")
    (group / "memory.max").write_text("1000\n")
    assert watching._share_of_limit(tmp_path, own) == 0.8
    (group / "memory.max").write_text("max\n")
    assert watching._share_of_limit(tmp_path, own) == 0.0
    assert watching._share_of_limit(tmp_path, tmp_path / "none") == 0.0
    assert 0 < memory_share() <= 1
