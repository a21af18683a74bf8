"""Running a memory-hungry step in a process of its own, so that all it needed is given back."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from persona.checkpoint import CheckpointError
from persona.engines.base import EngineError

Report = Callable[[str, float], None]
"""Told what is being done and the share done, 0 to 1."""


def in_child(report: Report, step: Callable[..., None], *arguments: object) -> None:
    """Runs step(report, *arguments) in a fresh process and raises here what it raises there."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_step, args=(sender, step, arguments), daemon=True)
    child.start()
    sender.close()
    try:
        while True:
            message = receiver.recv()
            if isinstance(message, BaseException):
                raise message
            report(*message)
    except EOFError:
        child.join()
        if child.exitcode:
            raise CheckpointError(
                f"converting the model ended with code {child.exitcode}; "
                "2 GB of free memory are needed"
            ) from None
    finally:
        child.kill()
        child.join()
        receiver.close()


def _run_step(sender: Connection, step: Callable[..., None], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    try:
        step(lambda *message: sender.send(message), *arguments)
    except (CheckpointError, EngineError, OSError) as error:
        sender.send(error)
    except Exception as error:  # a malformed model fails in ways of its own
        sender.send(CheckpointError(f"the model cannot be converted: {error!r}"))
