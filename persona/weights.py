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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tokenizers import Tokenizer

from persona.checkpoint import (
    CheckpointError,
    GGUFCheckpoint,
    SafetensorsCheckpoint,
    open_checkpoint,
)
from persona.child import Report, in_child
from persona.engines.base import EngineError
from persona.gguf import Adapter, write_gguf, write_safetensors
from persona.sources import SourceError, fetch_gguf, fetch_repository
from persona.tokenizer import tokenizer_from_gguf

EMBEDDED = "embedded"
_ENGINE_FORMAT = 1
"""Part of an engine folder's name: raise it when the files made for a base and adapter change."""
_GIGABYTE = 1 << 30


class WeightsError(Exception):
    """No usable model: one line for the person who runs the bot, with what to do next."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this disk. `path` is a GGUF file or a folder of safetensors."""

    name: str
    path: Path
    fingerprint: str


class Weights:
    """The models under `folder`, fetched and converted on demand."""

    def __init__(self, folder: Path, sources: list[str], report: Report = lambda *_: None) -> None:
        self._folder = folder
        self._sources = sources
        self._report = report

    def has(self, name: str) -> bool:
        """Whether a base is on this disk. Raises WeightsError for a local path that is not."""
        if _local(name):
            return True
        goal = self._folder / "bases" / name.replace("/", "--")
        return (goal / ("model.gguf" if name == EMBEDDED else "config.json")).is_file()

    def base(self, name: str) -> Base:
        """The base of that name: `embedded`, a local path, or a hub's `owner/model`.

        Raises WeightsError.
        """
        if local := _local(name):
            return Base(name, local, _fingerprint(local))
        goal = self._folder / "bases" / name.replace("/", "--")
        with self._exclusively():
            if name == EMBEDDED:
                path = goal / "model.gguf"
                if not path.is_file():
                    self._fetch(goal, fetch_gguf)
                return Base(name, path, _fingerprint(path))
            if not (goal / "config.json").is_file():
                self._fetch(
                    goal, lambda part, source, report: fetch_repository(name, part, source, report)
                )
            return Base(name, goal, _fingerprint(goal))

    def _fetch(self, goal: Path, fetch: Callable[[Path, str, Report], None]) -> None:
        """Tries the sources in order; what one has begun, it resumes at the next start."""
        refusals = []
        for source in self._sources:
            # A part belongs to one source: they cut the model differently.
            part = goal.with_name(f"{goal.name}.{source}.part")
            try:
                part.mkdir(parents=True, exist_ok=True)
                _require_space(part, 1.2)
                fetch(part, source, self._report)
                part.rename(goal)
            except SourceError as error:
                refusals.append(f"{source}: {error}")
            except OSError as error:
                raise WeightsError(f"{goal.parent}: {error.strerror or error}") from error
            else:
                return
        raise WeightsError(
            "the model could not be fetched ("
            + "; ".join(refusals)
            + "); check the network, or set [model] base to a model on this disk"
        )

    def for_openvino(self, base: Base, adapter: Path | None = None) -> Path:
        """The folder that the CPU engine loads: adapter merged, Q8_0, graph and tokenizer.

        It is a cache: made once, used again, and the two used last are kept. Raises WeightsError.
        """

        def make(part: Path) -> None:
            # Each step in a process of its own: what it needed is given back before the next.
            in_child(self._report, _write_gguf, base, adapter, part)
            in_child(self._report, _build_graph, part)

        return self._made("openvino", base, adapter, 1.2, make)

    def for_transformers(self, base: Base) -> Path:
        """The folder that `from_pretrained` loads, without an adapter. Raises WeightsError."""
        if base.path.is_dir():
            if not (base.path / "tokenizer.json").is_file():
                raise WeightsError(f"{base.path} has no tokenizer.json")
            return base.path

        def make(part: Path) -> None:
            in_child(self._report, _write_safetensors, base, part)

        return self._made("transformers", base, None, 1.1, make)

    def _made(
        self,
        kind: str,
        base: Base,
        adapter: Path | None,
        gigabytes: float,
        make: Callable[[Path], None],
    ) -> Path:
        key = hashlib.sha256(f"{_ENGINE_FORMAT}:{base.fingerprint}".encode())
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
                    _require_space(part, gigabytes)
                    make(part)
                    _flush(part)
                    part.rename(goal)
                os.utime(goal)
                self._forget_old(kind)
        except (CheckpointError, EngineError) as error:
            raise WeightsError(str(error)) from error
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
        lock = FileLock(self._folder / ".lock", timeout=1800)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise WeightsError(
                f"another process has been busy in {self._folder} for long"
            ) from error
        except OSError as error:
            raise WeightsError(
                f"{self._folder} cannot be written ({error.strerror}); "
                "set [paths] var to a folder that can"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _local(name: str) -> Path | None:
    """The path that a base names; None for `embedded` and for a hub's name."""
    path = Path(name).expanduser()
    if name == EMBEDDED or not (path.exists() or name.startswith((".", "/", "~"))):
        return None
    if not path.exists():
        raise WeightsError(f"[model] base: there is nothing at {path}")
    return path


def _open(base: Base) -> tuple[GGUFCheckpoint | SafetensorsCheckpoint, Tokenizer]:
    checkpoint = open_checkpoint(base.path)
    if isinstance(checkpoint, GGUFCheckpoint):
        return checkpoint, tokenizer_from_gguf(checkpoint)
    path = base.path / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{base.path} has no tokenizer.json")
    return checkpoint, Tokenizer.from_file(str(path))


def _write_gguf(report: Report, base: Base, adapter: Path | None, folder: Path) -> None:
    checkpoint, tokenizer = _open(base)
    merged = Adapter(adapter) if adapter else None
    write_gguf(
        checkpoint, tokenizer, folder / "model.gguf", merged, lambda done: report("convert", done)
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _build_graph(report: Report, folder: Path) -> None:
    from persona.engines.openvino import build_graph

    report("build", 0.0)
    build_graph(folder / "model.gguf", folder)
    (folder / "model.gguf").unlink()
    report("build", 1.0)


def _write_safetensors(report: Report, base: Base, folder: Path) -> None:
    checkpoint, tokenizer = _open(base)
    assert isinstance(checkpoint, GGUFCheckpoint)
    write_safetensors(checkpoint, tokenizer, folder, lambda done: report("convert", done))


def _fingerprint(path: Path) -> str:
    """Tells one set of weights from another without reading gigabytes at each start.

    The content was verified when it was fetched; after that size and time of change suffice.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _require_space(folder: Path, gigabytes: float) -> None:
    free = shutil.disk_usage(folder).free
    if free < gigabytes * _GIGABYTE:
        raise WeightsError(
            f"{folder} has {free / _GIGABYTE:.1f} GB free and {gigabytes:.1f} GB are needed; "
            "free some, or set [paths] var to another disk"
        )


def _flush(folder: Path) -> None:
    """Puts a folder's files on the disk, so that the rename after it never outlives them."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
