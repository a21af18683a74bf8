"""Nights: at their hour whatever the clock does, one at a time, one line each, none for nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from fifty_rows import Configured
from test_conversations import talks
from village import Village, founded

from persona.registry import Registry
from trainer import __main__ as command_line
from trainer import config, loop, nightly
from trainer.__main__ import main
from trainer.alone import TrainingError, only_trainer
from trainer.publish import publish
from trainer.run import Run

REPO = Path(__file__).parents[2]
HALF_PAST_TWO = nightly.time_of_day("02:30")


@pytest_asyncio.fixture
async def village(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    (tmp_path / "var").mkdir()
    async with founded(tmp_path / "var" / "daiyu.db", monkeypatch) as made:
        yield made


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its clock leaves out 02:00 to 03:00 on 29 March 2026 and repeats it on 25 October."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("day", "due"),
    [
        (date(2026, 3, 28), "2026-03-28 01:30"),
        (date(2026, 3, 29), "2026-03-29 01:30"),  # there is no 02:30: it is 03:30 by then
        (date(2026, 3, 30), "2026-03-30 00:30"),
        (date(2026, 10, 25), "2026-10-25 00:30"),  # the first of two
        (date(2026, 10, 26), "2026-10-26 01:30"),
    ],
)
def test_hour_is_kept_where_the_clock_is_put_forward_or_back(day: date, due: str) -> None:
    found = nightly.due_on(day, HALF_PAST_TWO)
    assert f"{found.astimezone(UTC):%Y-%m-%d %H:%M}" == due
    # Once that day: the next one is the day after, also within the hour that comes twice.
    for minutes in (0, 59, 61):
        after = nightly.next_due(found + timedelta(minutes=minutes), HALF_PAST_TWO)
        assert after.date() == day + timedelta(days=1)
    assert nightly.next_due(found - timedelta(seconds=1), HALF_PAST_TWO) == found


class Watch:
    """A clock that runs while somebody sleeps. `asleep`: at that moment the machine sleeps too."""

    def __init__(self, now: datetime, until: datetime) -> None:
        self.time, self.until = now, until
        self.asleep: tuple[datetime, timedelta] | None = None

    def now(self) -> datetime:
        return self.time.astimezone()

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        if self.asleep and self.time >= self.asleep[0]:
            self.time += self.asleep[1]
            self.asleep = None
        if self.time >= self.until:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("berlin")
def test_missed_hours_are_done_once_on_waking() -> None:
    start = datetime(2026, 6, 1, 12, tzinfo=UTC)
    watch = Watch(start, start + timedelta(days=6))
    watch.asleep = (start + timedelta(hours=10), timedelta(days=3))
    ran: list[str] = []

    def run() -> str:
        ran.append(f"{watch.now():%d %H:%M}")
        return "done"

    told: list[str] = []
    nightly.each_night(HALF_PAST_TWO, run, told.append, watch.now, watch.sleep)
    assert ran == ["05 00:00", "05 02:30", "06 02:30", "07 02:30"]
    assert told[0] == "waiting for 2026-06-02 02:30"
    assert told[1:] == [f"2026-06-{when}: done" for when in ran] + ["stopped"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("print('daiyu: nothing new to learn since v1')", "nothing new to learn since v1"),
        ("import sys; print('collect ...'); sys.exit('daiyu: the disk is full')",
         "failed: the disk is full"),
        ("import sys; sys.exit(1)", "failed: it said nothing"),
        ("import os; os.kill(os.getpid(), 9)", "failed: ended by signal 9; perhaps memory ran out"),
    ],
)  # fmt: skip
def test_night_is_told_in_a_line(tmp_path: Path, code: str, line: str) -> None:
    log = tmp_path / "training" / "night.log"
    told = nightly.night(python(code), Registry(tmp_path / "adapters"), log)
    assert told == (f"{line} ({log})" if line.startswith("failed") else line)


def test_night_that_cannot_begin_is_told_and_the_next_one_tried(tmp_path: Path) -> None:
    start = datetime(2026, 6, 1, 12, tzinfo=UTC)
    watch = Watch(start, start + timedelta(days=2))
    registry = Registry(tmp_path / "adapters")
    registry.folder.mkdir()
    told: list[str] = []

    def run() -> str:
        command = [str(tmp_path / "none")] if len(told) == 1 else python("print('done')")
        if len(told) == 1:
            (registry.folder / "bad").mkdir()
            (registry.folder / "bad" / "lineage.json").write_text("{")
        else:
            (registry.folder / "bad" / "lineage.json").unlink()
        return nightly.night(command, registry, tmp_path / "log")

    nightly.each_night(HALF_PAST_TWO, run, told.append, watch.now, watch.sleep)
    assert "failed: " in told[1]
    assert told[2].endswith(": done")
    assert nightly.night([str(tmp_path / "none")], registry, tmp_path / "log").startswith("failed")


def test_stopped_scheduler_ends_well(configured: Configured) -> None:
    hour = f"{datetime.now() + timedelta(hours=12):%H:%M}"
    waiting = subprocess.Popen(
        [sys.executable, "-m", "trainer", "--config", str(configured()), "--schedule", hour],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    assert "waiting for" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGTERM)
    assert waiting.communicate(timeout=60)[1] == "stopped\n"
    assert waiting.returncode == 0


STOPPED_MIDWAY = """
import signal, sys
from datetime import datetime
from pathlib import Path
from persona.registry import Registry
from trainer import nightly
signal.signal(signal.SIGTERM, signal.default_int_handler)
night = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
log, begun = Path(sys.argv[1]), datetime.now().astimezone()
times = iter([begun, begun.replace(year=begun.year + 1), begun])
run = lambda: nightly.night(night, Registry(log.parent / "adapters"), log)
nightly.each_night(nightly.time_of_day("03:30"), run, print, lambda: next(times))
"""


def test_night_under_way_is_ended_with_the_scheduler(tmp_path: Path) -> None:
    log = tmp_path / "night.log"
    command = [*python(STOPPED_MIDWAY), str(log)]
    scheduler = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (log.is_file() and log.read_text().endswith("\n")):
        assert scheduler.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    scheduler.send_signal(signal.SIGTERM)
    told, _ = scheduler.communicate(timeout=60)
    assert scheduler.returncode == 0
    assert told.endswith("stopped\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


@pytest.mark.parametrize("arguments", [["25:00"], ["soon"], ["03:30", "train"], ["03:30", "list"]])
def test_schedule_that_means_nothing_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--schedule", *arguments])
    assert refused.value.code == 2
    assert "--schedule" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_night_runs_the_whole_loop_and_a_second_one_finds_nothing_new(
    configured: Configured, tmp_path: Path
) -> None:
    path = configured("transformers", epochs=1)
    registry, log = Registry(tmp_path / "var" / "adapters"), tmp_path / "night.log"
    command = nightly.trainer_command(path)
    told = nightly.night(command, registry, log)
    (version,) = registry.versions()
    assert told.startswith(f"{version.name} "), log.read_text()  # whatever its gate said
    assert "\n" not in told
    told = nightly.night(command, registry, log)
    assert told == f"nothing new to learn since {version.name}", log.read_text()
    assert registry.versions() == [version]
    assert len(list((tmp_path / "var" / "training").glob("*-*"))) == 1


async def test_news_are_learned_and_nothing_else(
    village: Village, configured: Configured, tmp_path: Path
) -> None:
    await talks(village)
    path = configured()
    runs = tmp_path / "var" / "training"

    async def trained() -> int:
        """How many runs a further night adds."""
        before = len(list(runs.glob("*-*")))
        arguments = ["--config", str(path), "--if-new", "train"]
        assert await asyncio.to_thread(main, arguments) == 0
        return len(list(runs.glob("*-*"))) - before

    assert await trained() == 1
    # As it is published, and served.
    registry = loop.registry(config.read(path, {}))
    registry.promote(publish(Run.unpublished(runs), registry, "untrained", None, ""), "a test")
    assert await trained() == 0
    # Another vote for what is learned already, and talk that nobody rated, are no news.
    await village.rate("乙", 1, -1)
    await village.say("丁", "蟹肥了", "吃一点子夹子肉罢。")
    assert await trained() == 0
    late = await village.say("丁", "雪停了么", "停了，阶上还白着。")
    await village.rate("丁", late)
    assert await trained() == 0
    await village.agree("丁")
    assert await trained() == 1
    # Held against the one in service and not promoted: it is not tried every night.
    name = registry.versions()[0].name
    publish(Run.unpublished(runs), registry, name, None, "")
    assert await trained() == 0
    path = configured(epochs=2)
    assert await trained() == 1


async def test_promotion_alone_is_no_news_to_go_on_from(
    village: Village, configured: Configured, tmp_path: Path
) -> None:
    turn = (await talks(village))[0]
    path = configured(start="incumbent", preference=1.0)
    runs = tmp_path / "var" / "training"
    arguments = ["--config", str(path), "--if-new", "train"]
    registry = loop.registry(config.read(path, {}))
    for number in range(2):
        assert await asyncio.to_thread(main, arguments) == 0
        run = Run.unpublished(runs)
        assert (run.facts["start"] is None) == (number == 0)
        registry.promote(publish(run, registry, "untrained", None, ""), "a test")
        # What it would start from and compare with is another one now; what it would learn is not.
        assert await asyncio.to_thread(main, arguments) == 0
        assert len(list(runs.glob("*-*"))) == number + 1
        await village.rate("甲", turn, better="檐下有燕子，我舍不得关窗。")


def test_loop_keeps_others_out_from_training_to_publishing(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "var" / "training"
    refusals: list[str] = []

    def other() -> None:
        try:
            with only_trainer(runs):
                pass
        except TrainingError as error:
            refusals.append(str(error))

    def step(*_: object) -> int:
        with only_trainer(runs):
            pass
        second = threading.Thread(target=other)
        second.start()
        second.join()
        return 0

    monkeypatch.setattr(command_line, "_train", step)
    monkeypatch.setattr(command_line, "_gate", step)
    assert main(["--config", str(configured())]) == 0
    assert ["another trainer is at work" in line for line in refusals] == [True, True]
    other()
    assert len(refusals) == 2


HELD = """
import sys, time
from pathlib import Path
from trainer.alone import only_trainer
with only_trainer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_killed_trainer_keeps_no_night_away(configured: Configured, tmp_path: Path) -> None:
    path, runs = configured(), tmp_path / "var" / "training"
    registry, log = Registry(tmp_path / "var" / "adapters"), tmp_path / "night.log"
    byhand = subprocess.Popen(
        [*python(HELD), str(runs)], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    assert byhand.stdout is not None
    assert byhand.stdout.readline() == "held\n"
    told = nightly.night(nightly.trainer_command(path), registry, log)
    assert told.startswith("failed: another trainer is at work")
    byhand.kill()
    byhand.communicate()
    with only_trainer(runs):
        pass


def test_low_priority_is_that_of_all_threads_and_of_the_disk() -> None:
    code = (
        "import os, threading\nfrom pathlib import Path\nfrom trainer.nightly import lower_priority"
        "\nlast = threading.Event()\nthreading.Thread(target=last.wait).start()\nlower_priority()\n"
        "for task in Path('/proc/self/task').glob('*'):\n"
        "    print(os.getpriority(os.PRIO_PROCESS, int(task.name)))\nlast.set()"
    )
    done = subprocess.run(python(code), cwd=REPO, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) >= 2
    assert set(done.stdout.splitlines()) == {"19"}


def test_training_computes_with_the_threads_of_the_settings(configured: Configured) -> None:
    before = torch.get_num_threads()
    try:
        assert main(["--config", str(configured(threads=2)), "train"]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
