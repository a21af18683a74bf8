"""A step in a process of its own: its progress and its errors arrive here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from persona.checkpoint import CheckpointError
from persona.child import ChildError, Report, Stopped, in_child
from persona.engines.base import EngineError


def tell(report: Report, share: float) -> None:
    report("convert", share)
    report("convert", 1.0)


def fail(report: Report, error: Exception) -> None:
    report("convert", 0.5)
    raise error


def die(report: Report, how: int) -> None:
    if how > 0:
        os._exit(how)
    os.kill(os.getpid(), -how)


def give(report: Report, value: object) -> object:
    return value


def take_long(report: Report) -> None:
    report("pid", os.getpid())
    time.sleep(60)


def ask_for_an_end(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    report("convert", 1.0)


def be_loud(report: Report) -> None:
    print("a bar")  # noqa: T201
    os.write(2, b"a warning")
    subprocess.run([sys.executable, "-c", "print('from afar')"], check=True)


def test_progress_is_told_in_order() -> None:
    told: list[tuple[str, float]] = []
    in_child(lambda what, share: told.append((what, share)), tell, 0.5)
    assert told == [("convert", 0.5), ("convert", 1.0)]


@pytest.mark.parametrize(
    "error", [CheckpointError("torn"), EngineError("torn"), OSError(28, "torn")]
)
def test_an_error_there_is_raised_here(error: Exception) -> None:
    with pytest.raises(type(error), match="torn") as raised:
        in_child(lambda *_: None, fail, error)
    assert raised.value.args == error.args


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (9, "the step's process ended with code 9"),
        (-signal.SIGSEGV, "the step's process was ended by SIGSEGV"),
        (-signal.SIGKILL, "the step's process was killed: there was not enough memory; "
         "2 GB of it free are needed"),
    ],
)  # fmt: skip
def test_a_process_that_dies_is_told_with_its_way(how: int, told: str) -> None:
    with pytest.raises(ChildError) as raised:
        in_child(lambda *_: None, die, how)
    assert str(raised.value) == told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "there was not enough memory; 2 GB of it free are needed"),
        (KeyError("num_hidden_layers"), "KeyError('num_hidden_layers')"),
    ],
)
def test_an_error_of_any_other_kind_is_one_line(error: Exception, told: str) -> None:
    with pytest.raises(ChildError) as raised:
        in_child(lambda *_: None, fail, error)
    assert str(raised.value) == told


def test_the_result_is_given_back() -> None:
    assert in_child(lambda *_: None, give, ["config.json", 2]) == ["config.json", 2]
    assert in_child(lambda *_: None, give, None) is None


def test_a_stopped_step_is_ended_at_once() -> None:
    stopped = threading.Event()
    pids: list[float] = []

    def report(what: str, pid: float) -> None:
        pids.append(pid)
        stopped.set()

    begun = time.monotonic()
    with pytest.raises(Stopped):
        in_child(report, take_long, stopped=stopped)
    assert time.monotonic() - begun < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids[0]), 0)


def test_what_is_raised_meanwhile_ends_the_process() -> None:
    def give_up() -> None:
        raise TimeoutError("no byte has come")

    with pytest.raises(TimeoutError, match="no byte"):
        in_child(lambda *_: None, take_long, meanwhile=give_up)


def test_signals_to_the_whole_group_are_the_parents_to_answer() -> None:
    told: list[str] = []
    in_child(lambda what, _: told.append(what), ask_for_an_end)
    assert told == ["convert"]


def test_a_step_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    in_child(lambda *_: None, be_loud)
    assert capfd.readouterr() == ("", "")


def test_an_error_in_the_listener_ends_the_process() -> None:
    def stop(what: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_child(stop, tell, 0.5)
