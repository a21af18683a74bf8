"""A step in a process of its own: its progress and its errors arrive here."""

from __future__ import annotations

import os

import pytest

from persona.checkpoint import CheckpointError
from persona.child import Report, in_child
from persona.engines.base import EngineError


def tell(report: Report, share: float) -> None:
    report("convert", share)
    report("convert", 1.0)


def fail(report: Report, error: Exception) -> None:
    report("convert", 0.5)
    raise error


def die(report: Report) -> None:
    os._exit(9)


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


def test_a_process_that_dies_is_told_with_its_code() -> None:
    with pytest.raises(CheckpointError, match="ended with code 9; 2 GB of free memory"):
        in_child(lambda *_: None, die)


def test_an_error_in_the_listener_ends_the_process() -> None:
    def stop(what: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_child(stop, tell, 0.5)
