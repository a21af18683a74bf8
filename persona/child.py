"""Running a step in a process of its own: all that it needed is given back, and it can be ended.

For what takes much memory (conversions), and for libraries that cannot be interrupted (the hubs'
clients). The process is silent: the screen belongs to whoever started it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from persona.checkpoint import CheckpointError
from persona.engines.base import EngineError

Report = Callable[[str, float], None]
"""Told what is being done and the share done, 0 to 1."""
Result = TypeVar("Result")

_POLL_SECONDS = 0.1
_OUT_OF_MEMORY = "there was not enough memory; 2 GB of it free are needed"


class Stopped(Exception):
    """The work was asked to end and has ended; what is whole is kept, the next start goes on."""


class ChildError(Exception):
    """The step failed in a way of its own, or its process died; one line."""


def go_on(stopped: threading.Event | None) -> None:
    """Raises Stopped once the event is set. Long work calls it at least ten times a second."""
    if stopped is not None and stopped.is_set():
        raise Stopped


def in_child(
    report: Report,
    step: Callable[..., Result],
    *arguments: object,
    stopped: threading.Event | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Result:
    """Runs step(report, *arguments) in a fresh process; gives its result, raises its error.

    `meanwhile` is called while nothing is heard of it; what that raises ends the process. Raises
    CheckpointError, EngineError and OSError as the step did, ChildError for all else, Stopped.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_step, args=(sender, step, arguments), daemon=True)
    child.start()
    sender.close()
    try:
        while True:
            go_on(stopped)
            if not receiver.poll(_POLL_SECONDS):
                meanwhile()
                continue
            message = receiver.recv()
            if isinstance(message, _Done):
                result: Result = message.result
                return result
            if isinstance(message, BaseException):
                raise message
            report(*message)
    except EOFError:
        child.join()
        raise ChildError(_end(child.exitcode or 0)) from None
    finally:
        child.kill()
        child.join()
        receiver.close()


@dataclass(frozen=True, slots=True)
class _Done:
    result: Any


def _end(code: int) -> str:
    """How a process ended that gave no result."""
    if code == -signal.SIGKILL:  # what the system does to the largest when memory runs out
        return f"the step's process was killed: {_OUT_OF_MEMORY}"
    if code < 0:
        return f"the step's process was ended by {signal.Signals(-code).name}"
    return f"the step's process ended with code {code}"


def _run_step(
    sender: Connection, step: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the parent ends it
        signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        sender.send(_Done(step(lambda *message: sender.send(message), *arguments)))
    except (CheckpointError, EngineError, ChildError, OSError) as error:
        sender.send(error)
    except MemoryError:
        sender.send(ChildError(_OUT_OF_MEMORY))
    except Exception as error:  # a malformed model fails in ways of its own
        sender.send(ChildError(f"{error!r}"[:300]))
