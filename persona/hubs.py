"""ModelScope and Hugging Face, through their own clients.

The clients retry for minutes, print what they like and cannot be interrupted: they run in a
process of their own (persona/child.py), and only after the hub was found to answer.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from persona.child import ChildError, Report, in_child
from persona.network import Growth, NotAsked, Probe, SourceError


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository; `sha256` is "" where the hub states none."""

    name: str
    size: int
    sha256: str = ""


class Hub:
    """One hub, `modelscope` or `huggingface`; probed from the making on."""

    def __init__(self, name: str, stopped: threading.Event) -> None:
        self._name = name
        self._stopped = stopped
        self._probe = Probe(_endpoint(name))

    def files(self, repository: str) -> list[HubFile]:
        """What a repository holds. Raises SourceError, Stopped."""
        found: list[HubFile] = self._ask(lambda _: None, Path(os.devnull), _list, repository)
        return found

    def download(
        self, repository: str, files: list[HubFile], folder: Path, progress: Callable[[int], None]
    ) -> None:
        """Brings files into `folder`, going on where an earlier try ended.

        `progress` is told the bytes in the folder. Raises SourceError, Stopped, OSError when the
        disk is full.
        """
        self._ask(progress, folder, _download, repository, files, folder)

    def _ask(
        self,
        progress: Callable[[int], None],
        folder: Path,
        step: Callable[..., list[HubFile]],
        *arguments: object,
    ) -> list[HubFile]:
        if not self._probe.answered(self._stopped):
            raise NotAsked(f"{self._probe} cannot be reached")
        try:
            return in_child(
                lambda *_: None,
                step,
                self._name,
                *arguments,
                stopped=self._stopped,
                meanwhile=Growth(folder, progress),
            )
        except ChildError as error:
            raise SourceError(str(error)) from error


def _endpoint(hub: str) -> str:
    """The address that the hub's client will ask; read here, for its import takes a second."""
    if hub == "huggingface":
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    set_to = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
    address = set_to or "www.modelscope.cn"
    return address if "//" in address else f"https://{address}"


def _list(report: Report, hub: str, repository: str) -> list[HubFile]:
    try:
        if hub == "modelscope":
            from modelscope_hub import HubApi

            found = HubApi(endpoint=_endpoint(hub)).list_repo_files(repository, "model")
            return [HubFile(f.path, f.size, f.sha256 or "") for f in found if f.type == "blob"]
        from huggingface_hub import HfApi

        info = HfApi(endpoint=_endpoint(hub)).model_info(repository, files_metadata=True)
        return [
            HubFile(f.rfilename, f.size or 0, f.lfs.sha256 if f.lfs else "")
            for f in info.siblings or []
        ]
    except Exception as error:  # both clients raise many kinds, some bare, some that pickle badly
        raise ChildError(_first_line(error)) from error


def _download(
    report: Report, hub: str, repository: str, files: list[HubFile], folder: Path
) -> list[HubFile]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    # Both clients draw bars with it. Its own lock is one between processes, and is complained of
    # when this one is killed.
    tqdm.set_lock(threading.RLock())
    try:
        for file in files:
            if hub == "modelscope":
                from modelscope_hub import HubApi

                # Without its size it comes in one stream, which needs no room for it twice.
                api = HubApi(endpoint=_endpoint(hub))
                api.download_file(repository, "model", file.name, local_dir=str(folder))
            else:
                _from_huggingface(repository, file, folder)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise ChildError(_first_line(error)) from error
    return files


def _from_huggingface(repository: str, file: HubFile, folder: Path) -> None:
    """hf_hub_download begins anew after an interruption; its own pieces can go on."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    constants.DOWNLOAD_CHUNK_SIZE = 1 << 20  # its 10 MB take a slow line longer than a stall
    part = folder / f"{file.name}.incomplete"
    with part.open("ab") as opened:
        if opened.tell() > file.size:  # of another version
            opened.truncate(0)
        http_get(
            hf_hub_url(repository, file.name, endpoint=_endpoint("huggingface")),
            opened,
            resume_size=opened.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
        )
    part.rename(folder / file.name)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
