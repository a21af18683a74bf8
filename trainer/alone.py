"""One trainer at a time: what keeps a second one out, without a library that takes long to load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What launchers of several processes set; accelerate goes by the same."""


class TrainingError(Exception):
    """Training cannot go on; one line for the person who started it, with what to do next."""


def is_main() -> bool:
    """Whether this process is the one that reads and writes, where several train together."""
    if not any(name in os.environ for name in _COUNTS):
        return True
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


@contextmanager
def only_trainer(runs: Path) -> Iterator[None]:
    """Keeps a second trainer out; the processes of one count as one, and so do steps within steps.

    The system gives the lock back when its holder dies, however that comes. Raises TrainingError.
    """
    if not is_main():
        yield
        return
    lock = FileLock(runs / ".lock", timeout=0, is_singleton=True)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise TrainingError(f"another trainer is at work in {runs}; wait until it ends") from error
    except OSError as error:
        raise TrainingError(
            f"{runs} cannot be written ({error.strerror}); set [paths] var to a folder that can"
        ) from error
    try:
        yield
    finally:
        lock.release()
