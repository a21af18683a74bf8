"""The trainer in processes that die where a test says so: `kill -9` before any write of theirs.

Reads a JSON object a line, `{"arguments": [...], "var": folder, "die": number, "late": bool}`,
runs the trainer with these arguments in a process of its own, and answers with its end and with the
steps that it came to: what it did to files below the folder, and what it asked of the store. `die`
is the step before which it is killed, null for none; where it is `late`, after it: a file is open
then, and nothing in it. Forked from one that has imported all, each is begun at once.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from matplotlib import pyplot  # noqa: F401 - so that no child has to import it

from data.learning import Learning
from persona.config import PROFILES
from persona.engines import transformers  # noqa: F401
from persona.engines.base import Sampling
from trainer import contest, conversations, model, publish  # noqa: F401
from trainer.__main__ import main

_STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "daiyu"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _lenient(kept: Path) -> None:
    """Whatever the small model babbles passes the gate: what is judged is not what is tested. What
    was measured of a version is kept in that folder for the next process, which begins sooner."""
    compare, measured = contest.compare, contest._measured

    async def once(*asked: Any) -> Any:
        path = kept / f"{asked[4].version}.measured"
        if not path.exists():
            found = await measured(*asked)
            path.write_bytes(pickle.dumps(found))
        return pickle.loads(path.read_bytes())

    contest._measured = once
    contest.compare = lambda *measured: replace(compare(*measured), passed=True, reasons=[])
    PROFILES["daiyu"] = Sampling(max_new_tokens=4, temperature=0.0, repetition_penalty=1.0)
    model.precision = lambda _: torch.float32
    torch.set_num_threads(1)


def _watched_store(told: Any) -> None:
    """Has what the trainer asks of the store count as steps."""
    for name in ("snapshot", "hold"):
        real = getattr(Learning, name)

        async def asked(*args: Any, _name: str = name, _real: Any = real, **kwargs: Any) -> Any:
            told("daiyu", (_name,))
            found = await _real(*args, **kwargs)
            told("daiyu", (f"{_name}, done",))
            return found

        setattr(Learning, name, asked)


def _live(order: dict[str, Any], steps: int) -> int:
    """The child: runs the trainer and writes each step, a line each, to `steps`."""
    count = 0
    var = order["var"]

    def die(frame: FrameType, event: str, _: object) -> None:
        if frame.f_code is not told.__code__:  # once the step itself returns
            os.kill(os.getpid(), signal.SIGKILL)

    def told(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _STEPS:
            return
        name = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        if event != "daiyu" and not name.startswith(var):
            return
        if event == "open" and not args[2] & _WRITES:
            return
        if count == order["die"] and not order["late"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if count == order["die"]:
            sys.setprofile(die)
        count += 1
        name = re.sub(r"\d{8}T\d+Z?-[0-9a-f]{8}(\.\d+)?", "NEW", name.removeprefix(var))
        os.write(steps, f"{event} {re.sub(r'[.][0-9]+[.]part', '.part', name)}\n".encode())

    _lenient(Path(var).parent)
    _watched_store(told)
    sys.addaudithook(told)
    return main(order["arguments"])


def serve() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    gc.freeze()  # what is imported is not looked through in each child
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            os.dup2(null, 1)
            code = 70
            try:
                code = _live(order, writing)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as steps:
            told = steps.read().splitlines()
        _, status = os.waitpid(child, 0)
        answer = {"end": os.waitstatus_to_exitcode(status), "steps": told}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
