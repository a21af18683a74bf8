"""Base models: where they come from, and what the engines and the trainer are given.

A base is a GGUF file or a folder of safetensors. It is looked for in the sources of config.toml in
their order, fetched with resumption, checked against the hash that its publisher states, and made
into what an engine loads. Each step writes beside its goal and renames into place: a process killed
at any moment leaves a goal whole or absent, and the next start goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from persona.checkpoint import CheckpointError, read_folder
from persona.child import ChildError, Report, go_on, in_child
from persona.conversion import build_graph, link_folder, write_gguf, write_safetensors
from persona.engines.base import EngineError
from persona.network import NotAsked, SourceError
from persona.sources import Source, fetch_gguf, fetch_repository, open_source
from persona.tokenizer import ChatTokenizer, read_tokenizer

EMBEDDED = "embedded"
_ENGINE_FORMAT = 1
"""Part of an engine folder's name: raise it when the files made for a base and adapter change."""
WAIT_SECONDS = 1800.0
"""How long another process may fetch or convert before waiting for it is given up."""


class WeightsError(Exception):
    """No usable model: one line for the person who runs the bot, with what to do next.

    ├─ NoSource
    """


class NoSource(WeightsError):
    """No source could be asked for the model: whether there is such a one is not known."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this disk. `path` is a GGUF file or a folder of safetensors."""

    name: str
    path: Path
    fingerprint: str


class Weights:
    """The models under `folder`, fetched and converted on demand."""

    def __init__(
        self,
        folder: Path,
        sources: list[str],
        report: Report = lambda *_: None,
        stopped: threading.Event | None = None,
    ) -> None:
        self._folder = folder
        self._sources = sources
        self._report = report
        self._stopped = stopped or threading.Event()

    def stop(self) -> None:
        """Ends what is being done, from another thread: within a second it raises Stopped."""
        self._stopped.set()

    def has(self, name: str) -> bool:
        """Whether a base is on this disk. Raises WeightsError for a local path that is not."""
        if _local(name):
            return True
        try:
            return self._goal(name).is_file()
        except OSError as error:
            raise self._no_folder(error) from error

    def _goal(self, name: str) -> Path:
        """The file that is there when a fetched base is."""
        folder = self._folder / "bases" / name.replace("/", "--")
        return folder / ("model.gguf" if name == EMBEDDED else "config.json")

    def _no_folder(self, error: OSError) -> WeightsError:
        return WeightsError(
            f"{self._folder} cannot be written ({error.strerror or error}); "
            "set [paths] var to a folder that can"
        )

    def base(self, name: str) -> Base:
        """The base of that name: `embedded`, a local path, or a hub's `owner/model`.

        Raises WeightsError.
        """
        try:
            if local := _local(name):
                return Base(name, local, _fingerprint(local))
            with self._exclusively():
                goal = self._goal(name)
                if not goal.is_file():
                    self._fetch(name, goal.parent)
                path = goal if name == EMBEDDED else goal.parent
                return Base(name, path, _fingerprint(path))
        except OSError as error:
            raise WeightsError(f"the base {name}: {error.strerror or error}") from error

    def _fetch(self, name: str, goal: Path) -> None:
        """Tries the sources in order; what one has begun, it resumes at the next start."""
        refusals: list[tuple[str, SourceError]] = []
        opened: list[tuple[str, Source]] = []
        for title in self._sources:  # all at once: each that is dead takes its time to show it
            try:
                opened.append((title, open_source(title, self._stopped)))
            except SourceError as error:
                refusals.append((title, error))
        for title, source in opened:
            go_on(self._stopped)
            # A part belongs to one source: they cut the model differently.
            part = goal.with_name(f"{goal.name}.{title}.part")
            try:
                part.mkdir(parents=True, exist_ok=True)
                if name == EMBEDDED:
                    fetch_gguf(part, source, self._report, self._stopped)
                else:
                    fetch_repository(name, part, source, self._report, self._stopped)
                part.rename(goal)
            except SourceError as error:
                refusals.append((title, error))
            except OSError as error:
                raise WeightsError(f"{goal.parent}: {error.strerror or error}") from error
            else:
                return
        kind = NoSource if all(isinstance(e, NotAsked) for _, e in refusals) else WeightsError
        raise kind(
            "the model could not be fetched ("
            + "; ".join(f"{title}: {error}" for title, error in refusals)
            + "); check the network, or set [model] base to a model on this disk"
        )

    def for_openvino(self, base: Base, adapter: Path | None = None) -> Path:
        """The folder that the CPU engine loads: adapter merged, Q8_0, graph and tokenizer.

        It is a cache: made once, used again, and the two used last are kept. Raises WeightsError.
        """

        def make(part: Path) -> None:
            # Each step in a process of its own: what it needed is given back before the next.
            self._in_child(write_gguf, base.path, adapter, part)
            self._in_child(build_graph, part)

        return self._made("openvino", base, adapter, make)

    def for_transformers(self, base: Base) -> Path:
        """The folder that `from_pretrained` loads, without an adapter.

        A published folder is taken as it is where it holds a tokenizer.json. Raises WeightsError.
        """
        if base.path.is_file():
            step = write_safetensors
        else:
            try:
                read_folder(base.path)
                tokenizer = read_tokenizer(base.path)
                if (base.path / "tokenizer.json").is_file():
                    return base.path
                ChatTokenizer.of(tokenizer)
            except CheckpointError as error:
                raise WeightsError(str(error)) from error
            except OSError as error:
                raise WeightsError(f"{base.path}: {error.strerror or error}") from error
            step = link_folder
        return self._made(
            "transformers", base, None, lambda part: self._in_child(step, base.path, part)
        )

    def _in_child(self, step: Callable[..., None], *arguments: object) -> None:
        in_child(self._report, step, *arguments, stopped=self._stopped)

    def _made(
        self, kind: str, base: Base, adapter: Path | None, make: Callable[[Path], None]
    ) -> Path:
        key = hashlib.sha256(f"{_ENGINE_FORMAT}:{base.fingerprint}".encode())
        if kind == "transformers" and base.path.is_dir():
            key.update(os.fsencode(base.path.resolve()))  # it will be linked to
        if adapter:
            try:
                key.update(_fingerprint(adapter / "adapter_model.safetensors").encode())
                key.update((adapter / "adapter_config.json").read_bytes())
            except OSError as error:
                raise WeightsError(f"{adapter}: {error.strerror or error}") from error
        goal = self._folder / "engines" / f"{kind}-{key.hexdigest()[:16]}"
        try:
            with self._exclusively():
                if not goal.is_dir():
                    for left in goal.parent.glob(f"{goal.name}.*.part"):
                        shutil.rmtree(left, ignore_errors=True)
                    # A killed process may leave a child that still writes: never into this one's.
                    part = goal.with_name(f"{goal.name}.{os.getpid()}.part")
                    part.mkdir(parents=True)
                    make(part)
                    part.rename(goal)
                os.utime(goal)
                self._forget_old(kind)
        except (CheckpointError, EngineError) as error:
            raise WeightsError(str(error)) from error
        except ChildError as error:
            raise WeightsError(f"{base.path} cannot be converted: {error}") from error
        except OSError as error:
            raise WeightsError(f"{goal.parent}: {error.strerror or error}") from error
        return goal

    def _forget_old(self, kind: str) -> None:
        """Keeps the two engine folders used last: the current version's and the one before."""
        made = [p for p in (self._folder / "engines").glob(f"{kind}-*") if p.suffix != ".part"]
        for folder in sorted(made, key=lambda p: p.stat().st_mtime, reverse=True)[2:]:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """One process at a time fetches or converts."""
        lock = FileLock(self._folder / ".lock")
        end = time.monotonic() + WAIT_SECONDS
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while not lock.is_locked:
                go_on(self._stopped)
                with suppress(Timeout):
                    lock.acquire(timeout=0.2)
                if not lock.is_locked and time.monotonic() > end:
                    raise WeightsError(f"another process has been busy in {self._folder} for long")
        except OSError as error:
            raise self._no_folder(error) from error
        try:
            yield
        finally:
            lock.release()


def _local(name: str) -> Path | None:
    """The path that a base names; None for `embedded` and for a hub's name."""
    if name == EMBEDDED:
        return None
    try:
        if "\0" in name:
            raise ValueError("no path holds a zero byte")
        path = Path(name).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a folder that is closed, nobody's home
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"[model] base = {name[:80]!r}: {reason}") from error
    if there:
        return path
    if name.startswith((".", "/", "~")):
        raise WeightsError(f"[model] base: there is nothing at {path}")
    return None


def _fingerprint(path: Path) -> str:
    """Tells one set of weights from another without reading gigabytes at each start.

    The content was verified when it was fetched; after that size and time of change suffice.
    """
    patterns = ("*.safetensors", "tokenizer*", "added_tokens.json")
    files = [path]
    if path.is_dir():
        files = sorted(file for pattern in patterns for file in path.glob(pattern))
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
