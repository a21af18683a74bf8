"""Nights: the whole loop each day at an hour, beside a bot that goes on talking.

The clock, its child and its lines are here, and need no torch: a process that waits all day holds
little memory, and a night that dies takes nothing but itself along.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time as clock
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from persona.registry import LINEAGE_FILE, Registry, RegistryError, Version, read_version
from persona.serving import Served

Say = Callable[[str], None]

_NAP = 30.0
"""Seconds after which the time is looked at again."""
_PATIENCE = 60.0
"""Seconds that a night is given to end when it is asked to."""
_LOWEST = 19


class NothingNew(Exception):
    """All that may be learned was learned already; one line."""


def time_of_day(text: str) -> time:
    """`03:30` as a time. Raises ValueError."""
    return datetime.strptime(text, "%H:%M").time()


def due_on(day: date, at: time) -> datetime:
    """That local time on a day: where the clock skips it, as much later; where it comes twice, the
    first."""
    # Not `astimezone` at once: of an hour that the clock skips it makes an earlier one.
    return datetime.fromtimestamp(datetime.combine(day, at).timestamp()).astimezone()


def next_due(after: datetime, at: time) -> datetime:
    """The first moment after another that has this local time."""
    today = after.astimezone().date()
    days = (today + timedelta(days=number) for number in range(3))
    return next(due for day in days if (due := due_on(day, at)) > after)


def each_night(
    at: time,
    run: Callable[[], str],
    say: Say,
    now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    sleep: Callable[[float], None] = clock.sleep,
) -> None:
    """Runs at this local time, day after day, and says a line of each; ends on KeyboardInterrupt.

    However many nights the machine slept through, it runs once when it wakes.
    """
    try:
        due = next_due(now(), at)
        say(f"waiting for {due:%Y-%m-%d %H:%M}")
        while True:
            # In naps: the clock that they are counted by stands still while the machine sleeps.
            while (left := (due - now()).total_seconds()) > 0:
                sleep(min(left, _NAP))
            begun = now()
            say(f"{begun:%Y-%m-%d %H:%M}: {run()}")
            due = next_due(now(), at)
    except KeyboardInterrupt:
        say("stopped")


def trainer_command(config: Path) -> list[str]:
    """The loop as a night runs it."""
    return [sys.executable, "-m", "trainer", "--config", str(config), "--nice", "--if-new"]


def night(command: Sequence[str], registry: Registry, log: Path) -> str:
    """Runs a command to its end and tells in one line what came of it; what it said is in `log`.

    Interrupted, it ends the command first.
    """
    try:
        before = {version.name for version in registry.versions()}
        log.parent.mkdir(parents=True, exist_ok=True)
        # In a session of its own: what the system shares out by session it can then yield too, and
        # Ctrl-C reaches it through here alone.
        with (
            log.open("wb") as said,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Its last line is to stand last, whichever stream it went to.
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            ) as child,
        ):
            try:
                code = child.wait()
            except BaseException:
                _end(child)
                raise
        made = [version for version in registry.versions() if version.name not in before]
        if made and code in (0, 2):
            return _of_version(made[-1], registry.current())
        last = _last_line(log)
    except (OSError, RegistryError) as error:
        return f"failed: {error}"
    if code == 0:
        return last
    if code < 0:
        memory = "; perhaps memory ran out" if code == -signal.SIGKILL else ""
        last = f"ended by signal {-code}{memory}"
    return f"failed: {last} ({log})"


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:  # what it writes, it writes whole or not at all
        child.kill()


def _of_version(version: Version, current: Version | None) -> str:
    report = version.gate() or {}
    if not report.get("passed"):
        return f"{version.name} did not pass: {'; '.join(report.get('reasons', []))}"
    served = current is not None and current.name == version.name
    return f"{version.name} passed" + (" and is served" if served else "; read its samples.md")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("daiyu: ") if lines else "it said nothing"


def only_news(registry: Registry, served: Served) -> Callable[[dict[str, Any]], None]:
    """Refuses, by raising NothingNew, a training whose facts are those of the version in service.

    Nor is trained anew what was held against that version already, and was no better.
    """

    def look(facts: dict[str, Any]) -> None:
        earlier = [v for v in registry.versions() if v.lineage.get("parent") == served.version]
        if served.adapter is not None and (served.adapter / LINEAGE_FILE).is_file():
            earlier.append(read_version(served.adapter))
        for version in reversed(earlier):
            if all(version.lineage.get(name) == fact for name, fact in facts.items()):
                name = version.lineage.get("name", version.name)
                raise NothingNew(f"nothing new to learn since {name}")

    return look


def lower_priority() -> None:
    """Yields processor and disk to all others, as far as the system lets it; call it early."""
    with suppress(AttributeError, OSError):  # a system without priorities
        # Each thread has its own, and some libraries have made theirs by now.
        threads = [int(path.name) for path in Path("/proc/self/task").glob("*")]
        for thread in threads or [0]:
            os.setpriority(os.PRIO_PROCESS, thread, _LOWEST)
        # Linux may share the processor out by session first; one's own may be lowered.
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text(str(_LOWEST))
    if ionice := shutil.which("ionice"):
        idle = [ionice, "-c", "3", "-p", str(os.getpid())]
        subprocess.run(idle, capture_output=True, check=False)
