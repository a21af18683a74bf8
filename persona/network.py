"""Whether an address answers at all, and whether a download still moves.

The sources' own clients take from half a minute to for ever to find that there is no network.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from persona.child import go_on

PROBE_SECONDS = 2.5
STALL_SECONDS = 60.0


class SourceError(Exception):
    """This source does not have it, or cannot be reached; another one may.

    ├─ NotAsked
    """


class NotAsked(SourceError):
    """It could not be asked: it gave no answer, or keeps no models of that kind."""


class Probe:
    """Asks an address for a sign of life, from its making on, so that many are asked at once.

    Where a proxy stands before the address, the proxy is asked: `proxy`, or the environment's.
    """

    def __init__(self, url: str, proxy: str | None = None, seconds: float = PROBE_SECONDS) -> None:
        self.url = url
        self._end = time.monotonic() + seconds
        self._found = False
        # A thread that nobody waits for: looking up a name alone can take half a minute.
        self._thread = threading.Thread(
            target=self._ask, args=(proxy or _proxy(url) or url, seconds), daemon=True
        )
        self._thread.start()

    def answered(self, stopped: threading.Event | None = None) -> bool:
        """Waits for the answer, or for the end of the time. Raises Stopped."""
        while self._thread.is_alive() and (left := self._end - time.monotonic()) > 0:
            go_on(stopped)
            self._thread.join(min(0.05, left))
        return self._found

    def _ask(self, url: str, seconds: float) -> None:
        # UnicodeError: a host's name that no name can be.
        with contextlib.suppress(OSError, ValueError, UnicodeError):
            self._found = _answers(url, seconds)

    def __str__(self) -> str:
        """The address without the name and password that it may hold."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(parts.netloc.rpartition("@")[2]) else proxy


def _answers(url: str, seconds: float) -> bool:
    parts = urlsplit(url if "//" in url else f"http://{url}")
    host = parts.hostname or ""
    ports = {"https": 443, "http": 80}
    address = (host, parts.port or ports.get(parts.scheme, 1080))
    with socket.create_connection(address, timeout=seconds) as connection:
        if parts.scheme == "https":
            # Nothing is sent: whose certificate it is, the client itself will check.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with context.wrap_socket(connection, server_hostname=host):
                return True
        if parts.scheme != "http":
            return True  # a SOCKS proxy speaks no HTTP
        request = f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        connection.recv(1)  # a closed connection is an answer as well, of a strict proxy
        return True


class Growth:
    """Watches a folder that something is downloaded into.

    Each call tells `progress` its bytes; it raises SourceError once no byte has come for long.
    """

    def __init__(self, folder: Path, progress: Callable[[int], None]) -> None:
        self._folder = folder
        self._progress = progress
        self._size = -1
        self._moved = time.monotonic()

    def __call__(self) -> None:
        size = folder_size(self._folder)
        if size != self._size:
            self._size, self._moved = size, time.monotonic()
        elif time.monotonic() - self._moved > STALL_SECONDS:
            raise SourceError(f"no byte has come for {STALL_SECONDS:.0f} s")
        self._progress(size)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder that others may be changing."""
    return sum(_size(file) for file in folder.rglob("*"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0  # gone between the listing and the look
