"""A hub on this machine, for both clients: lists a repository, gives files and ranges of them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "owner/model"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Serves `files` as `owner/model`; `asked` is what was downloaded, and from which byte on."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.stated = {name: sha256(content) for name, content in files.items()}
        self.asked: list[tuple[str, int]] = []
        self.stall_after: int | None = None
        """Bytes of a file after which nothing more comes."""
        self.stalled = threading.Event()
        self.released = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A client that is killed resets its connections: that is what is tested."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def names(self) -> set[str]:
        return {name for name, _ in self.asked}


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[HubServer]:
    server = HubServer(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Answer(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._send(b"")

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == f"/api/v1/models/{REPOSITORY}/repo/files":
            self._json({"Code": 200, "Success": True, "Data": {"Files": self._modelscope()}})
        elif parts.path == f"/api/v1/models/{REPOSITORY}/repo":
            self._file(asked["FilePath"])
        elif parts.path == f"/api/models/{REPOSITORY}":
            self._json({"id": REPOSITORY, "siblings": self._huggingface()})
        elif parts.path.startswith(f"/{REPOSITORY}/resolve/main/"):
            self._file(parts.path.rpartition("/main/")[2])
        else:
            self._json({"error": "no such thing"}, status=404)

    def _modelscope(self) -> list[dict[str, Any]]:
        files: list[dict[str, Any]] = [
            {
                "Path": name,
                "Name": name.rpartition("/")[2],
                "Size": len(content),
                "Sha256": self.server.stated[name],
                "Type": "blob",
            }
            for name, content in self.server.files.items()
        ]
        return [*files, {"Path": "onnx", "Name": "onnx", "Size": 0, "Type": "tree"}]

    def _huggingface(self) -> list[dict[str, Any]]:
        return [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": "0",
                # Only what lies in LFS has a hash.
                "lfs": {"sha256": self.server.stated[name], "size": len(content), "pointerSize": 9}
                if "." in name
                else None,
            }
            for name, content in self.server.files.items()
        ]

    def _file(self, name: str) -> None:
        content = self.server.files[name]
        asked_for = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        start = int(asked_for.partition("-")[0])
        self.server.asked.append((name, start))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stall = self.server.stall_after
        if stall is not None and name.endswith(".safetensors"):
            self.wfile.write(content[start:stall])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.released.wait(30)
        else:
            self.wfile.write(content[start:])

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status)

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
